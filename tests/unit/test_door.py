"""The door: a head in time and within bounds, or nothing is built for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from chatd.transport.door import HEAD_BYTES_MAX, Door

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Inside(asyncio.Protocol):
    """What the door leads to: it notes what it gets, and answers "in"."""

    def __init__(self, made: list[Inside]) -> None:
        self.data = b""
        made.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        assert isinstance(self.transport, asyncio.WriteTransport)
        self.transport.write(b"in")


class Rig:
    """A listening door. ``made``: the protocols behind it."""

    def __init__(self) -> None:
        self.made: list[Inside] = []
        self.doors: set[Door] = set()
        self.arrived = asyncio.Event()
        self.port = 0

    async def listen(self, head_s: float) -> asyncio.Server:
        def door() -> Door:
            self.arrived.set()
            return Door(lambda: Inside(self.made), head_s=head_s, doors=self.doors)

        server = await asyncio.get_running_loop().create_server(door, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    one = Rig()
    async with await one.listen(30.0):
        yield one


async def test_a_head_in_any_pieces_goes_inside_whole_with_what_follows_it(rig: Rig) -> None:
    reader, writer = await rig.connect()
    for i in range(len(HEAD) - 1):
        writer.write(HEAD[i : i + 1])
        await writer.drain()
    assert rig.made == []
    writer.write(HEAD[-1:] + b"body")
    assert await reader.readexactly(2) == b"in"
    assert rig.made[0].data == HEAD + b"body"
    assert rig.doors == set()
    writer.write(b"more")
    assert await reader.readexactly(2) == b"in"
    assert rig.made[0].data == HEAD + b"bodymore"
    writer.close()


async def test_a_head_that_never_ends_is_answered_408_in_time() -> None:
    rig = Rig()
    async with await rig.listen(0.05):
        reader, writer = await rig.connect()
        writer.write(HEAD[:-1])
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()
    assert rig.made == []
    assert rig.doors == set()


async def test_a_head_that_is_too_long_is_answered_431(rig: Rig) -> None:
    reader, writer = await rig.connect()
    writer.write(b"GET / HTTP/1.1\r\nX: " + b"y" * HEAD_BYTES_MAX)
    assert (await reader.readline()).startswith(b"HTTP/1.1 431 ")
    writer.close()
    assert rig.made == []


async def test_who_leaves_before_its_head_leaves_nothing(rig: Rig) -> None:
    reader, writer = await rig.connect()
    writer.write(b"GET")
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    assert (rig.made, rig.doors) == ([], set())


async def test_the_end_of_the_server_cuts_who_stands_in_the_door(rig: Rig) -> None:
    reader, writer = await rig.connect()
    writer.write(b"GET")
    async with asyncio.timeout(10):
        await rig.arrived.wait()
    for door in list(rig.doors):
        door.cut()
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    writer.close()


async def test_what_a_router_has_read_of_the_head_comes_first() -> None:
    rig = Rig()
    given = [HEAD + b"body", HEAD[:4]]

    def door() -> Door:
        return Door(lambda: Inside(rig.made), head_s=30.0, doors=rig.doors, head=given.pop(0))

    async with await asyncio.get_running_loop().create_server(door, "127.0.0.1", 0) as server:
        rig.port = server.sockets[0].getsockname()[1]
        reader, whole = await rig.connect()
        assert await reader.readexactly(2) == b"in"
        assert rig.made[0].data == HEAD + b"body"
        reader, part = await rig.connect()
        part.write(HEAD[4:])
        assert await reader.readexactly(2) == b"in"
        assert rig.made[1].data == HEAD
        whole.close()
        part.close()
    assert rig.doors == set()
