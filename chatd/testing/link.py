"""One connection through the proxy: two lanes of bytes between two sockets, and what can be done to them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Coroutine
from typing import Any, Literal, TypeAlias, get_args

Direction: TypeAlias = Literal["to_server", "to_client"]
Side: TypeAlias = Literal["server", "client"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

CHUNK_BYTES_MAX = 4096
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # linger on, for 0 s


class _Lane:
    """One direction of a connection: what is under way, and its faults."""

    def __init__(self, buffer_bytes_max: int) -> None:
        # (loop time of arrival, bytes); b"" is the end. An item has at most CHUNK_BYTES_MAX.
        self.queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(max(1, buffer_bytes_max // CHUNK_BYTES_MAX))
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.delay_s = 0.0
        self.byte_at_a_time = False
        self.bytes_left: int | None = None
        self.bytes_forwarded = 0


class Link:
    """One proxied connection. Faults act at once and return at once."""

    def __init__(self, client: socket.socket, buffer_bytes_max: int) -> None:
        self._client = client
        self._buffer_bytes_max = buffer_bytes_max
        self._server: socket.socket | None = None
        self._lanes: dict[Direction, _Lane] = {d: _Lane(buffer_bytes_max) for d in DIRECTIONS}
        self._tasks: list[asyncio.Task[Any]] = []
        self._gone: Side | None = None
        self._reset = False

    def cut(self) -> None:
        """Reset the connection on both sides; what is under way is lost."""
        self._reset = True
        self._stop()

    def half_open(self, gone: Side) -> None:
        """Reset the connection of one side. The other is not told: what it sends is taken and goes nowhere."""
        self._gone = gone
        self._stop()

    def stall(self, direction: Direction | None = None) -> None:
        """Stop forwarding, in both directions if none is named. The sockets stay open."""
        for lane in self._named(direction):
            lane.flowing.clear()

    def resume(self, direction: Direction | None = None) -> None:
        """End a stall: everything that waited is forwarded."""
        for lane in self._named(direction):
            lane.flowing.set()

    def byte_at_a_time(self, on: bool) -> None:
        """Forward each byte in a write of its own."""
        for lane in self._named(None):
            lane.byte_at_a_time = on

    def delay_ms(self, ms: float) -> None:
        """Forward what arrives so much later, each way. Order and, up to the buffer, throughput stay."""
        for lane in self._named(None):
            lane.delay_s = ms / 1000

    def cut_after_bytes(self, n: int | None, direction: Direction) -> None:
        """Cut once n more bytes went that way; None takes it back."""
        self._lanes[direction].bytes_left = n
        if n == 0:
            self.cut()

    def bytes_forwarded(self, direction: Direction) -> int:
        """How many bytes went that way."""
        return self._lanes[direction].bytes_forwarded

    def _named(self, direction: Direction | None) -> list[_Lane]:
        return [lane for d, lane in self._lanes.items() if direction in (None, d)]

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def run(self, target: tuple[str, int]) -> None:
        """Connect and forward until both ways have ended, or a fault ended them. The caller owns this task."""
        try:
            if not self._stopped:
                await self._together(self._connect(target))
            if self._server is not None and not self._stopped:
                up, down = self._lanes["to_server"], self._lanes["to_client"]
                await self._together(
                    self._fill(self._client, up),
                    self._drain(up, self._server),
                    self._fill(self._server, down),
                    self._drain(down, self._client),
                )
            if self._gone is not None and not self._reset:
                gone, left = self._server, self._client
                if self._gone == "client":
                    gone, left = left, gone
                close_socket(gone, reset=True)
                if left is not None:
                    await self._together(self._swallow(left))
        finally:
            self.close(reset=self._reset)

    def close(self, *, reset: bool) -> None:
        """Close both sockets, if they are open; only when `run` does not use them."""
        close_socket(self._client, reset=reset)
        close_socket(self._server, reset=reset)

    @property
    def _stopped(self) -> bool:
        return self._reset or self._gone is not None

    async def _together(self, *parts: Coroutine[Any, Any, None]) -> None:
        """Run the parts until all have ended or one has failed; no socket is in use when this returns."""
        self._tasks = [asyncio.create_task(part) for part in parts]
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self._stop()
            ends = await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks = []
        for end in ends:
            if isinstance(end, OSError):  # a side reset, or is not there: the other learns it the same way
                self._reset = True
            elif isinstance(end, Exception):
                raise end

    async def _connect(self, target: tuple[str, int]) -> None:
        server = tcp_socket(self._buffer_bytes_max)
        try:
            await asyncio.get_running_loop().sock_connect(server, target)
        except BaseException:
            server.close()
            raise
        self._server = server

    async def _fill(self, source: socket.socket, lane: _Lane) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data = await loop.sock_recv(source, CHUNK_BYTES_MAX)
            await lane.queue.put((loop.time(), data))
            if not data:
                return

    async def _drain(self, lane: _Lane, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            arrived_s, data = await lane.queue.get()
            if (wait_s := arrived_s + lane.delay_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            await lane.flowing.wait()
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            while data:
                await lane.flowing.wait()
                size = 1 if lane.byte_at_a_time else len(data)
                if lane.bytes_left is not None:
                    size = min(size, lane.bytes_left)
                    lane.bytes_left -= size
                await loop.sock_sendall(sink, data[:size])
                lane.bytes_forwarded += size
                if lane.bytes_left == 0:
                    self.cut()
                data = data[size:]
                await asyncio.sleep(0)  # a cut takes effect here; and single bytes do not leave as one

    async def _swallow(self, side: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while await loop.sock_recv(side, CHUNK_BYTES_MAX):
            pass


def tcp_socket(buffer_bytes_max: int) -> socket.socket:
    """A socket that holds back neither small writes nor, beyond its buffers, its peer."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # set before listen and connect: accepted sockets inherit it, and the window follows it
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes_max)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes_max)
    return sock


def close_socket(sock: socket.socket | None, *, reset: bool) -> None:
    """Close it if it is open; ``reset``: the peer gets an error and no end of file."""
    if sock is None or sock.fileno() < 0:
        return
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()
