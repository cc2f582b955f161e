"""The hand-over: a router gives an accepted socket, with the bytes it has read, to a worker process on the same host.

Over a unix socket that keeps messages apart (SOCK_SEQPACKET; Linux). The worker listens, and any number of routers
connect. One message is one thing:

- worker → router: ``ready`` – send me connections; said each second, or the worker counts as stuck. ``draining`` –
  send no more, and hang up.
- router → worker: ``C`` and the bytes read so far, with one file descriptor – a connection; ``R`` and JSON
  ``{"me": name, "ring": {name: weight}}`` – who is ready now, so that a worker can send home who belongs elsewhere.

The end of a router's socket means that the router is gone: connections that were handed over stay. The end of a
worker's socket means that the worker is gone, and what it had not taken yet with it: those clients come back.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

READY, DRAINING = b"ready", b"draining"
CONNECTION, RING = b"C", b"R"
MESSAGE_BYTES_MAX = 32_768
"""Linux splits a longer message into several."""
TURN_CONNECTIONS_MAX = 64
WAITING_CONNECTIONS_MAX = 1_024
RETRY_S = 0.05
READY_EVERY_S = 1.0
SILENT_S_MAX = 5.0
"""A worker that is silent for so long gets no more connections until it says ``ready`` again."""
SEND_BUFFER_BYTES = 1_048_576
DESCRIPTORS_BYTES = socket.CMSG_SPACE(array.array("i").itemsize)
_BACKLOG = 16

log = structlog.get_logger("chatd.handover")


@dataclass(eq=False)
class Client:
    """An accepted connection on its way. ``head``: all that was read; ``tried``: targets that could not take it."""

    socket: socket.socket
    head: bytes
    tried: set[str] = field(default_factory=set)


class View(msgspec.Struct):
    """What a router tells a worker: its name on the ring, and which nodes are ready, with their weights."""

    me: str
    ring: dict[str, int]


class Link:
    """The router's end: one worker that listens at ``path``, connected to again and again as long as it `run`s.

    ``retry`` gets a client back whom the worker did not take after all; ``on_change`` is called when `ready` changed.
    ``heard_at_s``: when the worker last said that it is ready, on the loop's clock.
    At WAITING_CONNECTIONS_MAX clients that wait for a busy worker, `take` refuses further ones.
    """

    def __init__(
        self, name: str, path: Path, *, retry: Callable[[Client], None], on_change: Callable[[], None]
    ) -> None:
        self.name = name
        self.ready = False
        self.heard_at_s = float("-inf")
        self._path = path
        self._retry = retry
        self._on_change = on_change
        self._waiting: deque[Client] = deque()
        self._socket: socket.socket | None = None
        self._view: View | None = None
        self._gone: asyncio.Future[None] | None = None
        self._heard = False

    async def run(self) -> None:
        """Connect, wait for the end of the connection, and again, until cancelled."""
        try:
            while True:
                if self._connect():
                    await self._listen()
                await asyncio.sleep(RETRY_S)
        finally:
            self._hang_up()

    def take(self, client: Client) -> bool:
        """Hand a client over, now or when the worker has room. False: it stays the caller's."""
        link = self._socket
        if not self.ready or link is None or len(self._waiting) >= WAITING_CONNECTIONS_MAX:
            return False
        if self._waiting or not self._hand(link, client):
            if self._socket is not link:  # it went away in between
                return False
            if not self._waiting:
                asyncio.get_running_loop().add_writer(link, self._writable)
            self._waiting.append(client)
        return True

    def tell(self, view: View) -> None:
        """Tell the worker who is ready; one that is too busy to hear it is told with the next connection."""
        self._view = view
        if self._socket is not None:
            self._tell(self._socket)

    def _connect(self) -> bool:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link.setblocking(False)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        try:
            link.connect(str(self._path))
        except OSError:  # it does not listen yet, or any more
            link.close()
            return False
        self._socket = link
        asyncio.get_running_loop().add_reader(link, self._readable, link)
        return True

    async def _listen(self) -> None:
        """Until the connection ends; meanwhile, notice a worker that has become silent."""
        self._gone = asyncio.get_running_loop().create_future()
        while not self._gone.done():
            self._heard = False
            await asyncio.wait([self._gone], timeout=SILENT_S_MAX)
            if self.ready and not self._heard:
                log.warning("worker_silent", worker=self.name, for_s=SILENT_S_MAX)
                self.ready = False
                self._on_change()
                self._give_back()

    def _readable(self, link: socket.socket) -> None:
        try:
            word = link.recv(64)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        if word == READY:
            self._heard = True
            self.heard_at_s = asyncio.get_running_loop().time()
            if not self.ready:
                self.ready = True
                self._on_change()
        else:
            self._hang_up()

    def _hand(self, link: socket.socket, client: Client) -> bool:
        if self._view is not None and not self._tell(link):
            return False
        try:
            socket.send_fds(link, [CONNECTION, client.head], [client.socket.fileno()])
        except BlockingIOError:
            return False
        except OSError as exc:
            log.warning("hand_over_failed", worker=self.name, error=str(exc))
            self._hang_up()
            return False
        client.socket.close()
        return True

    def _tell(self, link: socket.socket) -> bool:
        try:
            link.send(RING + msgspec.json.encode(self._view))
        except OSError:  # full, or gone: its reader will see which
            return False
        self._view = None
        return True

    def _writable(self) -> None:
        while self._waiting and self._socket is not None and self._hand(self._socket, self._waiting[0]):
            self._waiting.popleft()
        if not self._waiting and self._socket is not None:
            asyncio.get_running_loop().remove_writer(self._socket)

    def _hang_up(self) -> None:
        link, self._socket = self._socket, None
        if link is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(link)
        loop.remove_writer(link)
        link.close()
        was_ready, self.ready = self.ready, False
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        if was_ready:
            self._on_change()
        self._give_back()

    def _give_back(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for client in waiting:
            self._retry(client)


class Handover:
    """The worker's end: listens at ``path`` and makes of each connection what ``factory`` makes of its first bytes.

    ``factory(head)`` is a protocol for which ``head`` is what came first. ``on_view`` hears who is ready. Raises from
    `listen`: OSError – the path cannot be used.
    """

    def __init__(
        self,
        path: Path,
        factory: Callable[[bytes], asyncio.Protocol],
        *,
        on_view: Callable[[str, Mapping[str, int]], None] = lambda me, ring: None,
    ) -> None:
        self._path = path
        self._factory = factory
        self._on_view = on_view
        self._loop = asyncio.get_running_loop()
        self._listening: socket.socket | None = None
        self._routers: set[socket.socket] = set()
        self._entering: set[asyncio.Task[None]] = set()
        self._alone: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def listen(self) -> None:
        """Listen, and tell every router that connects ``ready``, again and again.

        What an earlier process left at the path goes.
        """
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            listening.setblocking(False)
            listening.bind(str(self._path))
            self._path.chmod(0o600)
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
        self._listening = listening
        self._loop.add_reader(listening, self._accept, listening)
        self._say_ready()

    async def drain(self, timeout_s: float) -> None:
        """Tell the routers to send no more, and serve what is under way until they have hung up."""
        if self._timer is not None:
            self._timer.cancel()
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
        self._tell_all(DRAINING)
        if self._routers:
            self._alone = self._loop.create_future()
            await asyncio.wait([self._alone], timeout=timeout_s)
        for router in list(self._routers):
            self._forget(router)
        if self._entering:
            await asyncio.wait(self._entering)

    def _accept(self, listening: socket.socket) -> None:
        try:
            router, _ = listening.accept()
        except OSError:  # it went away in between
            return
        router.setblocking(False)
        self._routers.add(router)
        self._loop.add_reader(router, self._take, router)
        self._tell(router, READY)

    def _say_ready(self) -> None:
        self._tell_all(READY)
        self._timer = self._loop.call_later(READY_EVERY_S, self._say_ready)

    def _tell_all(self, word: bytes) -> None:
        for router in list(self._routers):
            self._tell(router, word)

    def _tell(self, router: socket.socket, word: bytes) -> None:
        try:
            router.send(word)
        except OSError:  # it does not read what it is told, or it is gone
            self._forget(router)

    def _take(self, router: socket.socket) -> None:
        """Take what has been handed over, at most TURN_CONNECTIONS_MAX in one turn of the loop."""
        for _ in range(TURN_CONNECTIONS_MAX):
            try:
                data, descriptor = _receive(router)
            except BlockingIOError:
                return
            except OSError:
                data, descriptor = b"", None
            if not data:
                self._forget(router)
                return
            if data[:1] == CONNECTION and descriptor is not None:
                task = self._loop.create_task(self._enter(socket.socket(fileno=descriptor), data[1:]))
                self._entering.add(task)
                task.add_done_callback(self._entering.discard)
            elif data[:1] == RING:
                view = msgspec.json.decode(data[1:], type=View)
                self._on_view(view.me, view.ring)

    async def _enter(self, client: socket.socket, head: bytes) -> None:
        client.setblocking(False)
        try:
            # The head goes in with the factory: fed afterwards, it could come behind what the socket has for us.
            await self._loop.connect_accepted_socket(lambda: self._factory(head), client)
        except OSError:  # it went away on its way
            client.close()

    def _forget(self, router: socket.socket) -> None:
        if router in self._routers:
            self._routers.discard(router)
            self._loop.remove_reader(router)
            router.close()
        if not self._routers and self._alone is not None and not self._alone.done():
            self._alone.set_result(None)


def _receive(router: socket.socket) -> tuple[bytes, int | None]:
    """One message, and the file descriptor that came with it. Raises: BlockingIOError, OSError."""
    data, ancillary, _, _ = router.recvmsg(MESSAGE_BYTES_MAX, DESCRIPTORS_BYTES, socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return data, array.array("i", payload[: array.array("i").itemsize])[0]
    return data, None
