"""A worker on another host: whose address it is told, and what a client cannot do through the router."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from router_rig import PATIENCE_S, routing

from chatd.cli.process import loop_factory
from chatd.routing import proxying
from chatd.routing.proxying import forwarded

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
UPGRADE = b"GET /v1/ws?user=alice HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def _fields(*lines: str, address: str = "192.0.2.1") -> list[str]:
    head = "\r\n".join(("GET / HTTP/1.1", *lines, "", "")).encode()
    changed = forwarded(head, address)
    assert changed is not None
    return changed[0].decode().removesuffix("\r\n\r\n").split("\r\n")[1:]


def test_a_plain_request_names_the_client_and_asks_to_close() -> None:
    assert _fields("Host: x", "Connection: keep-alive") == [
        "Host: x",
        "X-Forwarded-For: 192.0.2.1",
        "Connection: close",
    ]


def test_the_client_is_appended_to_the_hops_that_are_there() -> None:
    given = ("X-Forwarded-For: 203.0.113.9", "Host: x", "x-forwarded-FOR:198.51.100.1, 198.51.100.2 ")
    hops = "X-Forwarded-For: 203.0.113.9, 198.51.100.1, 198.51.100.2, 2001:db8::1"
    assert _fields(*given, address="2001:db8::1") == ["Host: x", hops, "Connection: close"]


def test_an_upgrade_stays_one_and_what_is_behind_is_kept_apart() -> None:
    changed = forwarded(UPGRADE + b"behind", "192.0.2.1")
    assert changed is not None
    assert changed[0].endswith(b"\r\nUpgrade: websocket\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: Upgrade\r\n\r\n")
    assert changed[1:] == (b"behind", True)


@pytest.mark.parametrize("line", [b"X: y\nX-Forwarded-For: 1.2.3.4", b"X: y\rZ: 1", b"X: y\n\r"])
def test_a_head_that_two_readers_could_read_differently_is_refused(line: bytes) -> None:
    assert forwarded(b"GET / HTTP/1.1\r\n" + line + b"\r\n\r\n", "192.0.2.1") is None


@asynccontextmanager
async def _node(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    async def whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    async with await asyncio.start_server(whole, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_bytes_go_both_ways_and_each_end_is_told() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"X-Forwarded-For: 127.0.0.1\r\n" in head
        writer.write(SWITCH)
        writer.write(b"<" + await reader.read() + b">")  # to the client's end

    async with _node(serve) as url, routing([], [url]) as rig:
        reader, writer = await rig.connect()
        writer.write(UPGRADE + b"one ")
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readuntil(b"\r\n\r\n") == SWITCH
            writer.write(b"two")
            writer.write_eof()
            assert await reader.read() == b"<one two>"
        writer.close()


async def test_nothing_is_heard_behind_an_upgrade_that_was_refused() -> None:
    heard = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.write_eof()
        heard.set_result(await reader.read())

    async with _node(serve) as url, routing([], [url]) as rig:
        second = b"GET / HTTP/1.1\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"
        answer = await rig.refused(UPGRADE + second)
        assert answer.startswith("HTTP/1.1 403 ")
        async with asyncio.timeout(PATIENCE_S):
            assert await heard == b""


async def test_a_head_that_is_not_clear_is_answered_400() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""

    async with _node(serve) as url, routing([], [url]) as rig:
        assert (await rig.refused(b"GET / HTTP/1.1\nX: y\r\n\r\n")).startswith("HTTP/1.1 400 ")


async def test_a_client_that_does_not_read_holds_the_node_back() -> None:
    written = 0
    stopped = asyncio.Event()
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH)
        try:
            while True:
                writer.write(b"x" * 65_536)
                written += 65_536
                draining = asyncio.ensure_future(writer.drain())
                await asyncio.wait([draining], timeout=1.0)
                if not draining.done():
                    stopped.set()
                await draining
        except ConnectionError:
            ended.set()

    async with _node(serve) as url, routing([], [url]) as rig:
        client = socket.create_connection(("127.0.0.1", rig.router.port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.sendall(UPGRADE)
        async with asyncio.timeout(PATIENCE_S):
            await stopped.wait()
            # The kernel's buffers of two connections, and the router's own.
            assert written < 40_000_000
            client.close()
            await ended.wait()


async def test_a_node_that_cannot_be_reached_is_passed_over_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    async with routing(["a"], [url]) as rig:
        user = next(u for n in range(100) if rig.router.ring.place(u := f"user-{n}") == url)
        assert (await rig.ask(f"/v1/ws?user={user}"))["worker"] == "a"
        assert not rig.router.ready(url)
        assert (await rig.ask(f"/v1/ws?user={user}"))["worker"] == "a"
    monkeypatch.setattr(proxying, "DOWN_S", 0.0)
    async with routing([], [url]) as rig:
        assert (await rig.refused(UPGRADE)).startswith("HTTP/1.1 503 ")
        assert rig.router.ready(url)


async def test_too_many_connections_of_a_node_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCH)
        await reader.read()

    monkeypatch.setattr(proxying, "CONNECTIONS_MAX", 1)
    async with _node(serve) as url, routing([], [url]) as rig:
        reader, writer = await rig.connect()
        writer.write(UPGRADE)
        async with asyncio.timeout(PATIENCE_S):
            await reader.readuntil(b"\r\n\r\n")
        assert (await rig.refused(UPGRADE)).startswith("HTTP/1.1 503 ")
        writer.close()


def test_a_client_that_goes_while_the_node_thinks_is_no_fault() -> None:
    """In the loop that servers run in: uvloop tells of a closed connection in its own way."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        assert runner.run(_gone_while_the_node_thinks()) == []


async def _gone_while_the_node_thinks() -> list[str]:
    faults: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(str(context)))
    asked, told = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await told.wait()
        writer.write(SWITCH)

    async with asyncio.timeout(PATIENCE_S), _node(serve) as url, routing([], [url]) as rig:
        node = rig.router._nodes[url]
        _, writer = await rig.connect()
        writer.write(UPGRADE)
        await asked.wait()
        client = writer.get_extra_info("socket")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        writer.transport.abort()
        while not writer.transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(0)
        for _ in range(20):  # turns in which the router hears of it
            await asyncio.sleep(0.005)
        told.set()
        while not node.idle:  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0)
    gc.collect()  # a task whose exception nobody took says so when it goes
    return faults
