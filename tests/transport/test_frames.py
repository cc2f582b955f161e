"""Frames on a real socket: whole, in pieces, many at once, and wrong."""

from __future__ import annotations

import asyncio
import json
from unittest.mock import patch

import pytest
from raw_socket import PATIENCE_S, library, library_until, live, text, upgraded

from chatd.protocol import new_message_id
from chatd.testing import ChatServer
from chatd.testing.hostile import frame
from chatd.testing.hostile.corpus import BINARY, CLOSE, CONTINUATION, PING, TEXT

PING_FRAME = json.dumps({"type": "ping", "ref": 1}).encode()


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frame(TEXT, PING_FRAME, key=None), 1002),
        (frame(TEXT, PING_FRAME, reserved=0x40), 1002),
        (frame(0x3, PING_FRAME), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(CONTINUATION, b"x"), 1002),
        (frame(CLOSE, (1005).to_bytes(2, "big")), 1002),
        (frame(BINARY, PING_FRAME), 1003),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"x" * 65_537), 1009),
        (frame(TEXT, b"x" * 4_000_000), 1009),
        (frame(TEXT, b"x" * 40_000, fin=False) + frame(CONTINUATION, b"x" * 40_000), 1009),
        (frame(TEXT, b"[]"), 4400),
        (frame(TEXT, b"{"), 4400),
    ],
)
async def test_what_is_wrong_ends_the_connection_with_its_code(wire: bytes, code: int) -> None:
    async with ChatServer(users=["alice"]) as server, live(server, "alice") as raw:
        raw.write(wire)
        assert await raw.close_code() == code
        raw.writer.write_eof()
        await raw.ended()
        assert list(server.server.delivery.connected("alice")) == []


async def test_a_broken_frame_while_the_hello_is_under_way() -> None:
    async with ChatServer(users=["alice"]) as server, upgraded(server) as raw:
        raw.write(text({"type": "hello", "token": await server.token("alice")}), frame(TEXT, b"x", key=None))
        assert await raw.close_code() == 1002  # and no coroutine is left unawaited: warnings are errors


async def test_nothing_of_what_comes_behind_a_broken_frame_is_performed() -> None:
    async with ChatServer(users=["alice", "bob"]) as server, live(server, "alice") as raw:
        send = text({"type": "send", "id": new_message_id(), "to": "bob", "body": "x"})
        raw.write(frame(BINARY, b""), send)
        assert await raw.close_code() == 1003
        raw.write(send)
        raw.writer.write_eof()
        await raw.ended()
        assert (await server.server.store.counts()).messages == 0


async def test_a_message_in_fragments_with_a_ping_between_them() -> None:
    async with ChatServer(users=["alice"]) as server, live(server, "alice") as raw:
        raw.write(
            frame(TEXT, PING_FRAME[:5], fin=False),
            frame(PING, b"are you there"),
            frame(CONTINUATION, b"", fin=False),
            frame(CONTINUATION, PING_FRAME[5:]),
        )
        assert (await raw.until("pong"))["ref"] == 1
        assert raw.pongs == [b"are you there"]


async def test_one_byte_at_a_time() -> None:
    async with ChatServer(users=["alice", "bob"]) as server, live(server, "alice") as raw:
        for byte in text({"type": "send", "id": new_message_id(), "to": "bob", "body": "slow"}):
            raw.write(bytes([byte]))
            await raw.writer.drain()
            await asyncio.sleep(0)
        assert (await raw.until("sent"))["seq"] == 1


async def test_the_largest_frame_in_every_length_form() -> None:
    async with ChatServer(users=["alice"]) as server, live(server, "alice") as raw:
        for size in (125, 126, 65_535, 65_536):
            payload = b'{"type":"ping","ref":2}'.ljust(size)
            raw.write(frame(TEXT, payload))
            assert (await raw.json())["type"] == "pong"


async def test_many_frames_at_once_are_answered_in_order() -> None:
    async with ChatServer(users=["alice", "bob"]) as server, live(server, "alice") as raw:
        frames = [text({"type": "ping", "ref": i}) for i in range(3_000)]
        raw.write(*frames)
        assert [(await raw.json())["ref"] for _ in frames] == list(range(3_000))


async def test_frames_behind_one_that_waits_keep_their_order() -> None:
    async with ChatServer(users=["alice", "bob"]) as server, live(server, "alice") as raw:
        frames: list[bytes] = []
        for i in range(200):
            frames.append(text({"type": "history", "conv": "alice:bob", "limit": 1, "ref": 2 * i}))
            frames.append(text({"type": "ping", "ref": 2 * i + 1}))
        raw.write(*frames)
        assert [(await raw.json())["ref"] for _ in frames] == list(range(400))


async def test_a_burst_of_one_client_lets_the_others_have_their_turn() -> None:
    """A frame of Bob's is answered before a burst that Alice sent earlier is through."""
    async with (
        ChatServer(users=["alice", "bob"]) as server,
        live(server, "alice") as alice,
        live(server, "bob") as bob,
    ):
        burst = b"".join(text({"type": "ping", "ref": i}) for i in range(2_000))
        alice.writer.write(burst)
        async with asyncio.timeout(PATIENCE_S):
            while not server.server.metrics.frames_received > 10:
                await alice.writer.drain()
                await asyncio.sleep(0)
        bob.write(text({"type": "ping", "ref": "b"}))
        assert (await bob.json())["ref"] == "b"
        assert server.server.metrics.frames_received < 2_000


async def test_what_is_written_in_one_tick_leaves_as_one_write() -> None:
    async with ChatServer(users=["alice"]) as server, live(server, "alice") as raw:
        (socket,) = server.server.sockets._all
        with patch.object(socket._transport, "write", wraps=socket._transport.write) as write:
            raw.write(*(text({"type": "ping", "ref": i}) for i in range(50)))
            for i in range(50):
                assert (await raw.json())["ref"] == i
        assert write.call_count == 1


async def test_a_client_that_does_not_read_is_not_read() -> None:
    """Pings whose pongs nobody takes fill the buffers, and then no more is taken from that client."""
    async with ChatServer(users=["alice"]) as server, live(server, "alice") as raw:
        (socket,) = server.server.sockets._all
        burst = frame(PING, b"x" * 125) * 1_000
        async with asyncio.timeout(PATIENCE_S):
            while socket._transport.is_reading():
                raw.writer.write(burst)
                await asyncio.sleep(0)
        owed = socket._transport.get_write_buffer_size()
        assert owed < 3 * server.settings.limits.write_buffer_bytes_max
        while len(raw.pongs) < 1_000:  # it reads again: everything goes on
            raw.write(text({"type": "ping", "ref": 1}))
            assert (await raw.json())["ref"] == 1
        assert socket._transport.is_reading()


async def test_both_close_handshakes() -> None:
    async with ChatServer(users=["alice"]) as server:
        async with library(server, "alice") as socket:
            await socket.close(4000, "done")
            assert socket.close_code == 4000
        async with live(server, "alice") as raw:
            raw.write(frame(CLOSE))
            assert await raw.close_code() == 1000
            await raw.ended()
        async with library(server, "alice") as socket:
            server.server.sockets.end_all(1012, "the server restarts")
            with pytest.raises(Exception, match="1012"):
                await library_until(socket, "never")
            assert (socket.close_code, socket.close_reason) == (1012, "the server restarts")
        async with live(server, "alice") as raw:
            server.server.sockets.end_all(1012, "the server restarts")
            assert await raw.close_code() == 1012
            raw.write(frame(CLOSE, (1012).to_bytes(2, "big")))
            await raw.ended()


async def test_who_does_not_answer_a_close_is_cut() -> None:
    with patch("chatd.transport.sockets.CLOSE_S_MAX", 0.05):
        async with ChatServer(users=["alice"]) as server, live(server, "alice") as raw:
            server.server.sockets.end_all(1012, "the server restarts")
            assert await raw.close_code() == 1012
            await raw.ended()
            assert len(server.server.sockets) == 0
