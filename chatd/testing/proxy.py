"""A TCP proxy that breaks things: between a client and the server, its faults switched at run time.

::

    async with Proxy("127.0.0.1", server_port) as proxy:
        ...                      # clients connect to proxy.port
        proxy.stall("to_client") # nothing moves that way, the sockets stay open
        proxy.links[-1].cut()    # a reset on one connection, now

A fault on the proxy holds for all open connections, and for later ones until it is taken back; one on a `Link` for
that connection alone. The bytes between are bounded: what is full is not read, so a stall is felt by the sender.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from types import TracebackType

from chatd.testing.link import DIRECTIONS, Direction, Link, Side, close_socket, tcp_socket


class Proxy:
    """Listens on ``host:port`` (0: a free one) and forwards to the target. Use it as an async context manager.

    ``buffer_bytes_max``: bytes held for one direction of one connection, and as much again in each socket.
    ``links``: the open connections, oldest first.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        buffer_bytes_max: int = 65_536,
    ) -> None:
        self._target = (target_host, target_port)
        self._host, self._buffer_bytes_max = host, buffer_bytes_max
        self.port = port
        self.links: list[Link] = []
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._standing: dict[str, Callable[[Link], None]] = {}

    async def __aenter__(self) -> Proxy:
        """Listen. Raises: OSError – the port is taken."""
        listener = tcp_socket(self._buffer_bytes_max)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self.port))
            listener.listen()
        except OSError:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)
        self._listener = listener
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening and reset what is open."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        self.cut()
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        for end in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(end, Exception):
                raise end

    def retarget(self, port: int) -> None:
        """Later connections go to this port; the open ones stay where they are."""
        self._target = (self._target[0], port)

    def refuse(self, on: bool) -> None:
        """Reset new connections at once; the open ones live on."""
        self._refusing = on

    def cut(self) -> None:
        """Reset every open connection."""
        for link in self.links:
            link.cut()

    def half_open(self, gone: Side) -> None:
        """`Link.half_open` on every open connection."""
        for link in self.links:
            link.half_open(gone)

    def stall(self, direction: Direction | None = None) -> None:
        """`Link.stall` on every connection, and on later ones until `resume`."""
        for one in DIRECTIONS if direction is None else (direction,):
            self._hold(f"stall {one}", partial(Link.stall, direction=one))

    def resume(self, direction: Direction | None = None) -> None:
        """`Link.resume` on every connection."""
        for one in DIRECTIONS if direction is None else (direction,):
            self._hold(f"stall {one}", partial(Link.resume, direction=one))

    def byte_at_a_time(self, on: bool) -> None:
        """`Link.byte_at_a_time` on every connection, and on later ones."""
        self._hold("byte", partial(Link.byte_at_a_time, on=on))

    def delay_ms(self, ms: float) -> None:
        """`Link.delay_ms` on every connection, and on later ones."""
        self._hold("delay", partial(Link.delay_ms, ms=ms))

    def cut_after_bytes(self, n: int | None, direction: Direction) -> None:
        """`Link.cut_after_bytes` on every connection, each with its own count, and on later ones until None."""
        self._hold(f"cut {direction}", partial(Link.cut_after_bytes, n=n, direction=direction))

    def _hold(self, name: str, fault: Callable[[Link], None]) -> None:
        """Put a fault on every link, and on every later one until another of this name takes its place."""
        self._standing[name] = fault
        for link in self.links:
            fault(link)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it was gone before it was taken
        if self._refusing:
            close_socket(client, reset=True)
            return
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(client, self._buffer_bytes_max)
        for fault in self._standing.values():
            fault(link)
        self.links.append(link)
        task = asyncio.create_task(link.run(self._target))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, link))

    def _ended(self, link: Link, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.links.remove(link)
        link.close(reset=True)  # a task that was cancelled before its first step has closed nothing
