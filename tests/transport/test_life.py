"""The life of a connection: heartbeats, tokens that end, devices that come again, the server's end."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from unittest.mock import patch

import pytest
from raw_socket import PATIENCE_S, RawSocket, library, library_until, live, text, upgraded
from websockets.exceptions import ConnectionClosed

from chatd.protocol import new_message_id
from chatd.testing import ChatServer

SHORT = {"timing.heartbeat_s": 1, "timing.pong_s": 1}


def send(to: str, body: str, **more: Any) -> dict[str, Any]:
    return {"type": "send", "id": new_message_id(), "to": to, "body": body, **more}


async def test_who_never_pongs_is_timed_out_and_who_does_is_not() -> None:
    async with (
        ChatServer(users=["alice", "bob"], settings=SHORT) as server,
        library(server, "bob") as bob,
        live(server, "alice") as silent,
    ):
        assert await silent.close_code() == 4408
        assert silent.pings >= 1
        await bob.send(json.dumps({"type": "ping", "ref": "alive"}))
        assert (await library_until(bob, "pong"))["ref"] == "alive"


@patch("chatd.transport.sockets.CLOSE_S_MAX", 2.2)
async def test_a_socket_that_is_closing_gets_no_more_pings() -> None:
    async with ChatServer(users=["alice"], settings=SHORT) as server, live(server, "alice") as raw:
        server.server.sockets.end_all(1012, "the server restarts")
        assert await raw.close_code() == 1012
        await raw.ended()  # cut after its time: no frame came behind the close


async def test_the_same_device_again_takes_the_place_of_the_older_connection() -> None:
    async with (
        ChatServer(users=["alice", "bob"]) as server,
        live(server, "alice") as old,
        live(server, "alice") as new,
        live(server, "alice", "other") as other,
    ):
        assert await old.close_code() == 4409
        async with live(server, "bob") as bob:
            bob.write(text(send("alice", "to the new one")))
            for raw in (new, other):
                assert (await raw.until("messages"))["messages"][0]["body"] == "to the new one"


async def test_revoked_disabled_and_deleted() -> None:
    async with ChatServer(users=["alice", "bob", "carol"]) as server:
        accounts = server.server.accounts
        async with live(server, "alice", "one") as one, live(server, "alice", "two") as two:
            one.write(text({"type": "ping"}))
            await one.until("pong")
            device = next(d.device for d in await accounts.devices("alice") if d.name == "one")
            await accounts.revoke("alice", device)
            assert await one.close_code() == 4401
            two.write(text({"type": "ping"}))
            assert (await two.json())["type"] == "pong"
            await accounts.disable("alice")
            assert await two.close_code() == 4403
        async with upgraded(server) as again:
            again.write(text({"type": "hello", "token": await server.token("alice", "two")}))
            assert (await again.json())["code"] == "forbidden"
            assert await again.close_code() == 4403
        async with live(server, "carol") as carol:
            await accounts.delete_user("carol")
            assert await carol.close_code() == 4401


async def test_a_token_that_ends() -> None:
    async with ChatServer(users=["alice"]) as server:
        services = server.server.sockets.services
        token = await server.server.accounts.issue_token("alice", "short", 1)
        async with upgraded(server) as raw:
            raw.write(text({"type": "hello", "token": token}))
            await raw.until("caught_up")
            (socket,) = server.server.sockets._all
            session = socket._connection.session
            assert session.deadline_s == pytest.approx(services.now_s() + 86_400, abs=60)
            session.renewed(services.now_s() + 0.05)
            assert await raw.close_code() == 4401


async def test_auth_renews_a_session_and_only_its_own() -> None:
    async with ChatServer(users=["alice", "bob"]) as server, live(server, "alice") as raw:
        raw.write(text({"type": "auth", "token": await server.token("alice"), "ref": 1}))
        assert await raw.json() == {"type": "ok", "ref": 1}
        for token in (await server.token("bob"), await server.token("alice", "other")):
            raw.write(text({"type": "auth", "token": token, "ref": 2}))
            assert (await raw.json())["code"] == "forbidden"
        raw.write(text({"type": "auth", "token": "no token", "ref": 3}))
        assert (await raw.json())["code"] == "unauthenticated"
        raw.write(text({"type": "ping", "ref": 4}))
        assert (await raw.json())["ref"] == 4


async def test_the_end_of_the_server_is_told_and_loses_nothing_that_was_sent() -> None:
    async with ChatServer(users=["alice", "bob"], store="sqlite") as server, library(server, "alice") as alice:
        for i in range(50):
            await alice.send(json.dumps(send("bob", str(i), ref=i)))
        while (await library_until(alice, "sent"))["ref"] != 49:
            pass
        stopping = asyncio.create_task(server.server.stop(drain_s=PATIENCE_S))
        goaway = await library_until(alice, "goaway")
        assert goaway["reconnect_ms"] > 0
        with pytest.raises(ConnectionClosed):
            await library_until(alice, "never")
        assert alice.close_code == 1012
        async with asyncio.timeout(PATIENCE_S):
            await stopping
        assert len(server.server.sockets) == 0


async def test_two_chat_through_an_independent_client() -> None:
    async with (
        ChatServer(users=["alice", "bob"]) as server,
        library(server, "alice") as alice,
        library(server, "bob") as bob,
    ):
        for i in range(1, 21):
            await alice.send(json.dumps(send("bob", f"nr {i}", n=i)))
        seqs: list[int] = []
        while len(seqs) < 20:
            seqs += [entry["seq"] for entry in (await library_until(bob, "messages"))["messages"]]
            await bob.send(json.dumps({"type": "read", "conv": "alice:bob", "seq": seqs[-1]}))
        assert seqs == list(range(1, 21))
        while (receipt := await library_until(alice, "receipt"))["read"] < 20:
            pass
        assert receipt["delivered"] == 20


async def test_a_slow_device_lags_within_its_window_and_then_gets_all() -> None:
    settings = {"limits.window_messages_max": 5}
    async with (
        ChatServer(users=["alice", "bob"], settings=settings) as server,
        live(server, "bob") as bob,
        live(server, "alice") as alice,
    ):
        alice.write(*(text(send("bob", str(i))) for i in range(1, 31)))
        for _ in range(30):
            await alice.until("sent")
        got: list[int] = []
        while len(got) < 30:
            entries = (await bob.until("messages"))["messages"]
            got += [entry["seq"] for entry in entries]
            assert got == list(range(1, len(got) + 1))
            if len(got) % 5 == 0:
                await _quiet(bob)
                bob.write(text({"type": "ack", "conv": "alice:bob", "seq": len(got)}))
        assert got[-1] == 30


async def _quiet(raw: RawSocket) -> None:
    """Nothing more comes before the answer to a ping: the window is closed."""
    raw.write(text({"type": "ping", "ref": "quiet"}))
    assert (await raw.json())["type"] == "pong"
