"""Each fault of the proxy over real sockets, between a client and an echo server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chatd.testing.link import DIRECTIONS, Direction, Side
from chatd.testing.proxy import Proxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """Sends back what it gets, with a prefix; counts what it got and how each of its connections ended."""

    def __init__(self, prefix: bytes = b"") -> None:
        self.prefix = prefix
        self.port = 0
        self.sizes: list[int] = []
        self.ends: asyncio.Queue[str] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Echo:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while data := await reader.read(65_536):
                self.sizes.append(len(data))
                writer.write(self.prefix + data)
            self.ends.put_nowait("eof")
        except ConnectionError:
            self.ends.put_nowait("reset")
        writer.close()


@asynccontextmanager
async def dial(proxy: Proxy) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def say(streams: Streams, data: bytes) -> bytes:
    """Send, and what comes back."""
    reader, writer = streams
    writer.write(data)
    async with asyncio.timeout(10):
        return await reader.readexactly(len(data))


async def expect_reset(streams: Streams) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionError):
            await read_to_end(streams[0])


async def read_to_end(reader: asyncio.StreamReader) -> None:
    while await reader.read(65_536):
        pass


async def dial_and_read(proxy: Proxy) -> None:
    """For a connection that is reset at once: while it connects or when it reads, either may come first."""
    async with asyncio.timeout(10), dial(proxy) as (reader, _):
        await read_to_end(reader)


async def no_links(proxy: Proxy) -> None:
    async with asyncio.timeout(10):
        while proxy.links:  # noqa: ASYNC110 - the proxy tells nobody when the last one is over
            await asyncio.sleep(0.001)


async def end_of(echo: Echo) -> str:
    async with asyncio.timeout(10):
        return await echo.ends.get()


async def test_forwards_both_ways_and_passes_on_the_end() -> None:
    async with Echo() as echo, Proxy("127.0.0.1", echo.port) as proxy, dial(proxy) as client:
        body = bytes(range(256)) * 4096
        assert await say(client, body) == body
        assert proxy.links[0].bytes_forwarded("to_server") == len(body)
        assert proxy.links[0].bytes_forwarded("to_client") == len(body)
        client[1].write_eof()
        assert await client[0].read() == b""
        assert await end_of(echo) == "eof"
        await no_links(proxy)
        assert echo.ends.empty()


async def test_cut_resets_both_sides_of_every_connection() -> None:
    async with Echo() as echo, Proxy("127.0.0.1", echo.port) as proxy, dial(proxy) as one, dial(proxy) as two:
        assert await say(one, b"1") + await say(two, b"2") == b"12"
        proxy.cut()
        await expect_reset(one)
        await expect_reset(two)
        assert [await end_of(echo), await end_of(echo)] == ["reset", "reset"]


async def test_cut_of_one_link_leaves_the_others() -> None:
    async with Echo() as echo, Proxy("127.0.0.1", echo.port) as proxy, dial(proxy) as one:
        assert await say(one, b"1") == b"1"
        async with dial(proxy) as two:
            assert await say(two, b"2") == b"2"
            proxy.links[0].cut()
            await expect_reset(one)
            assert await say(two, b"still") == b"still"


@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_a_stalled_direction_waits_until_resumed(direction: Direction) -> None:
    async with Echo() as echo, Proxy("127.0.0.1", echo.port) as proxy, dial(proxy) as client:
        assert await say(client, b"warm") == b"warm"
        link = proxy.links[0]
        link.stall(direction)
        async with dial(proxy) as other:
            answer = asyncio.create_task(say(client, b"held"))
            for _ in range(10):  # ten full round trips of another connection, and nothing moved on this one
                assert await say(other, b"quick") == b"quick"
            assert link.bytes_forwarded("to_client") == len(b"warm")
            assert not answer.done()
            link.resume(direction)
            assert await answer == b"held"


async def test_a_stall_is_bounded_and_loses_nothing() -> None:
    size = 16 * 1024 * 1024
    async with Echo() as echo, Proxy("127.0.0.1", echo.port, buffer_bytes_max=16_384) as proxy:
        proxy.stall("to_server")
        async with dial(proxy) as (reader, writer):
            writer.write(b"x" * size)
            unsent, before = size, size + 1
            while unsent < before:  # until it no longer moves
                before = unsent
                for _ in range(100):
                    await asyncio.sleep(0)
                unsent = writer.transport.get_write_buffer_size()
            assert unsent > size / 2
            assert echo.sizes == []
            proxy.resume()
            async with asyncio.timeout(60):
                await reader.readexactly(size)
            assert sum(echo.sizes) == size


@pytest.mark.parametrize("gone", ["server", "client"])
async def test_half_open_tells_one_side_only(gone: Side) -> None:
    async with Echo() as echo, Proxy("127.0.0.1", echo.port) as proxy, dial(proxy) as client:
        assert await say(client, b"warm") == b"warm"
        proxy.half_open(gone)
        if gone == "server":
            assert await end_of(echo) == "reset"
        else:
            await expect_reset(client)
        async with dial(proxy) as other:
            if gone == "server":
                client[1].write(b"into nowhere")
            for _ in range(10):
                assert await say(other, b"quick") == b"quick"
            if gone == "server":
                assert not client[0].at_eof()
                assert client[0].exception() is None
                assert not client[1].is_closing()
                assert sum(echo.sizes) == len(b"warm") + 10 * len(b"quick")
            else:
                assert echo.ends.empty()
            proxy.links[0].cut()
            if gone == "server":
                await expect_reset(client)
            else:
                assert await end_of(echo) == "reset"


async def test_a_half_open_link_ends_with_the_side_that_was_left() -> None:
    async with Echo() as echo, Proxy("127.0.0.1", echo.port) as proxy, dial(proxy) as client:
        assert await say(client, b"warm") == b"warm"
        proxy.half_open("server")
        assert await end_of(echo) == "reset"
        client[1].close()
        await no_links(proxy)
        assert proxy.links == []


async def test_byte_at_a_time() -> None:
    async with Echo() as echo, Proxy("127.0.0.1", echo.port) as proxy:
        proxy.byte_at_a_time(True)
        async with dial(proxy) as client:
            assert await say(client, b"y" * 300) == b"y" * 300
            assert len(echo.sizes) > 100  # a receiver may find a few bytes at once, never a whole frame
            assert max(echo.sizes) < 30
            echo.sizes.clear()
            proxy.byte_at_a_time(False)
            assert await say(client, b"z" * 300) == b"z" * 300
            assert echo.sizes == [300]


async def test_delay_each_way() -> None:
    loop = asyncio.get_running_loop()
    async with Echo() as echo, Proxy("127.0.0.1", echo.port) as proxy, dial(proxy) as client:
        assert await say(client, b"warm") == b"warm"
        proxy.delay_ms(40)
        start_s = loop.time()
        assert await say(client, b"late") == b"late"
        assert loop.time() - start_s >= 0.080


async def test_refuse_resets_new_connections_only() -> None:
    async with Echo() as echo, Proxy("127.0.0.1", echo.port) as proxy, dial(proxy) as old:
        assert await say(old, b"1") == b"1"
        proxy.refuse(True)
        with pytest.raises(ConnectionError):
            await dial_and_read(proxy)
        assert await say(old, b"2") == b"2"
        proxy.refuse(False)
        async with dial(proxy) as new:
            assert await say(new, b"3") == b"3"


async def test_retarget_moves_later_connections() -> None:
    async with Echo() as first, Echo(b">") as second, Proxy("127.0.0.1", first.port) as proxy, dial(proxy) as old:
        assert await say(old, b"a") == b"a"
        proxy.retarget(second.port)
        async with dial(proxy) as new:
            assert await say(new, b"b") == b">"
        assert await say(old, b"c") == b"c"


async def test_cut_after_bytes_counts_for_each_connection_until_taken_back() -> None:
    async with Echo() as echo, Proxy("127.0.0.1", echo.port) as proxy:
        proxy.cut_after_bytes(10, "to_client")
        for _ in range(2):
            async with dial(proxy) as (reader, writer):
                writer.write(b"0123456789abcdef")
                assert await reader.readexactly(10) == b"0123456789"
                await expect_reset((reader, writer))
        proxy.cut_after_bytes(None, "to_client")
        async with dial(proxy) as client:
            assert await say(client, b"0123456789abcdef") == b"0123456789abcdef"


async def test_cut_after_bytes_to_the_server() -> None:
    async with Echo() as echo, Proxy("127.0.0.1", echo.port) as proxy, dial(proxy) as client:
        assert await say(client, b"warm") == b"warm"
        proxy.links[0].cut_after_bytes(3, "to_server")
        client[1].write(b"abcdef")
        await expect_reset(client)
        assert await end_of(echo) == "reset"
        assert sum(echo.sizes) == len(b"warm") + 3


async def test_a_dead_target_resets_the_client() -> None:
    async with Echo() as echo:
        port = echo.port
    async with Proxy("127.0.0.1", port) as proxy:
        with pytest.raises(ConnectionError):
            await dial_and_read(proxy)
        await no_links(proxy)


async def test_a_server_that_resets_resets_the_client() -> None:
    async with Proxy("127.0.0.1", 1) as proxy, Echo() as echo, Proxy("127.0.0.1", echo.port) as behind:
        proxy.retarget(behind.port)
        async with dial(proxy) as client:
            assert await say(client, b"warm") == b"warm"
            behind.cut()
            await expect_reset(client)
            assert await end_of(echo) == "reset"


async def test_exit_ends_every_connection_and_task() -> None:
    async with Echo() as echo:
        before = asyncio.all_tasks()
        async with Proxy("127.0.0.1", echo.port) as proxy, dial(proxy) as one, dial(proxy) as two:
            assert await say(one, b"1") == b"1"
            assert await say(two, b"2") == b"2"
            proxy.stall()
            await proxy.__aexit__(None, None, None)
            await expect_reset(one)
            await expect_reset(two)
            assert [await end_of(echo), await end_of(echo)] == ["reset", "reset"]
            assert asyncio.all_tasks() - before == set()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", proxy.port)


async def test_a_taken_port_is_an_error() -> None:
    async with Echo() as echo, Proxy("127.0.0.1", echo.port) as proxy:
        with pytest.raises(OSError, match="in use"):
            await Proxy("127.0.0.1", echo.port, port=proxy.port).__aenter__()
        assert proxy.port != echo.port
