"""The router: reads the head of each new connection, and gives the connection to the worker that its user belongs to.

It knows no secret and keeps nothing: the user comes from the hint in ``GET /v1/ws?user=…``, and whoever gives a wrong
one is served as well, by another worker. Connections without a hint take turns. A worker that is away is stood in for
by the next one of the user's preference; the connection is the worker's own afterwards and costs the router nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs

import structlog

from chatd.errors import BadFrame, ConfigError, StartError, TooLarge, Unavailable
from chatd.limits import Network, peer_address
from chatd.model import is_user
from chatd.protocol import WS_PATH
from chatd.refusing import answer
from chatd.routing.handover import Client, Link, View
from chatd.routing.proxying import Proxied
from chatd.routing.ring import Ring
from chatd.security import SecurityLog

HEAD_BYTES_MAX = 16_384
HEADS_MAX = 8_192
"""Connections whose head is not complete; beyond, the one that has waited longest is answered 408."""
ACCEPTS_MAX = 64
BACKLOG = 4_096
LINGER_S = 1.0
SILENT_S = 1
"""A connection is accepted when its first bytes are there (mostly the whole head), or after about so long."""
OUT_OF_FILES_S = 0.5
_END = b"\r\n\r\n"
_PLAIN = re.compile(rb"GET %s\?user=([^\x00-\x20&%%+;#\x7f-\xff]+) HTTP/" % re.escape(WS_PATH.encode()))
"""What nearly all clients send; anything else is taken apart."""

BROKEN = {
    408: answer(BadFrame("the request did not come in time"), 408),
    431: answer(TooLarge(f"a request head has {HEAD_BYTES_MAX} bytes at most"), 431),
}
NO_WORKER = answer(Unavailable("no worker is ready", retry_after_ms=1_000))

log = structlog.get_logger("chatd.router")


class Target(Protocol):
    """Where a connection can go."""

    name: str

    @property
    def ready(self) -> bool:
        """Whether it is worth trying."""

    def take(self, client: Client) -> bool:
        """Take the client over. False: it stays the caller's."""

    async def run(self) -> None:
        """Keep in touch, until cancelled."""


def user_of(head: bytes) -> str | None:
    """The user that a request head hints at, or None: another path, no hint, or what is no user name."""
    if plain := _PLAIN.match(head):
        user = plain[1].decode("ascii")
        return user if is_user(user) else None
    line, _, _ = head.partition(b"\r\n")
    method, _, rest = line.partition(b" ")
    target, _, _ = rest.partition(b" ")
    path, _, query = target.partition(b"?")
    if method != b"GET" or path != WS_PATH.encode():
        return None
    try:
        named = parse_qs(query.decode("ascii"), max_num_fields=16, errors="strict").get("user", [])
    except ValueError:  # no ASCII, no UTF-8 behind the percent signs, or too many fields
        return None
    return named[0] if len(named) == 1 and is_user(named[0]) else None


class Router:
    """Listens, and places connections on ``workers`` (unix sockets of this host) and ``nodes`` (http://host:port).

    ``workers``: name on the ring → path of its hand-over socket. A node's name is its URL; `follow` brings further
    ones. ``weights``: by name, 1 unless given. ``head_s``: a request's head must be there by then. ``proxies`` are not
    blamed for the heads that they pass on.
    """

    def __init__(
        self,
        workers: Mapping[str, Path],
        nodes: Iterable[str] = (),
        *,
        head_s: float,
        weights: Mapping[str, int] | None = None,
        proxies: Sequence[Network] = (),
    ) -> None:
        self.port = 0
        self._change = asyncio.Event()
        self._head_s = head_s
        self._proxies = proxies
        self._security = SecurityLog()
        self._links = {n: Link(n, path, retry=self.route, on_change=self._changed) for n, path in workers.items()}
        self._nodes = {url: Proxied(url, retry=self.route) for url in nodes}
        self._former: dict[str, Proxied] = {}
        self._targets: dict[str, Target] = {**self._links, **self._nodes}
        self._fixed = {name: (weights or {}).get(name, 1) for name in self._targets}
        self.ring = Ring(self._fixed)
        self._turns = itertools.count()
        self._listening: list[socket.socket] = []
        self._heads: dict[socket.socket, _Head] = {}
        self._tasks: dict[Target, asyncio.Task[None]] = {}
        self._pause: asyncio.TimerHandle | None = None

    @property
    def nodes(self) -> list[str]:
        """The processes with an address of their own that connections go to."""
        return [name for name in self._targets if name not in self._links]

    def ready(self, name: str) -> bool:
        """Whether connections are sent to this worker or node."""
        return self._targets[name].ready

    def heard_at_s(self, name: str) -> float:
        """When this worker last said that it is ready, on the loop's clock; −∞: it never did."""
        return self._links[name].heard_at_s

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition that is looked at whenever a worker became ready or went away."""
        while not condition():
            await self._change.wait()

    async def start(self, host: str, port: int) -> None:
        """Listen, and look for the workers. Raises: StartError."""
        loop = asyncio.get_running_loop()
        try:
            infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, address in dict.fromkeys(infos):
                where = (address[0], self.port or port, *address[2:])
                listening = socket.create_server(where, family=family, backlog=BACKLOG)
                listening.setblocking(False)
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what it accepts inherits it
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, SILENT_S)
                self._listening.append(listening)
                self.port = listening.getsockname()[1]
        except OSError as exc:
            self.stop_listening()
            raise StartError(
                f"cannot listen on {host}:{port}: {exc.strerror or exc}; "
                "stop what listens there, or choose another with --port"
            ) from exc
        self._listen()
        self._tasks = {target: loop.create_task(target.run()) for target in self._targets.values()}

    def follow(self, members: Mapping[str, int]) -> None:
        """These nodes, address → weight, are on the ring beside those that it began with, and no others.

        Who is served by one that left stays there for as long as it lives. An address that is none is passed over.
        """
        weights = dict(self._fixed)
        for url, weight in members.items():
            if url in self._links:
                continue
            if url not in self._nodes and url not in self._former:
                try:
                    self._former[url] = Proxied(url, retry=self.route)
                except ConfigError as exc:
                    log.warning("node_refused", error=str(exc))
                    continue
                self._tasks[self._former[url]] = asyncio.get_running_loop().create_task(self._former[url].run())
            weights[url] = weight
        known = {**self._nodes, **self._former}
        self._nodes = {url: node for url, node in known.items() if url in weights}
        self._former = {url: node for url, node in known.items() if url not in weights}
        for url, node in [*self._former.items()]:
            if node.idle:
                self._tasks.pop(node).cancel()
                del self._former[url]
        self._targets = {**self._links, **self._nodes}
        self.ring = Ring(weights)
        self._changed()

    def stop_listening(self) -> None:
        """Accept nothing more; who is not placed yet is answered that there is no worker."""
        if self._pause is not None:
            self._pause.cancel()
        for listening in self._listening:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()
        self._listening.clear()
        for head in list(self._heads.values()):
            head.refuse(NO_WORKER)

    async def stop(self) -> None:
        """End: proxied connections are cut, those that were handed over stay."""
        self.stop_listening()
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        for head in list(self._heads.values()):
            head.leave()
            head.socket.close()

    def route(self, client: Client) -> None:
        """Give a client to the first target that takes it; to none: 503."""
        for name in self._preference(client.head):
            target = self._targets[name]
            if name not in client.tried and target.ready and target.take(client):
                return
        _Head(self, client.socket).refuse(NO_WORKER)

    def _preference(self, head: bytes) -> Iterator[str]:
        user = user_of(head)
        if user is not None:
            yield from self.ring.preference(user)
        else:
            names = list(self._targets)
            first = next(self._turns)
            yield from (names[(first + step) % len(names)] for step in range(len(names)))

    def _changed(self) -> None:
        ring = {name: weight for name, weight in self.ring.weights.items() if self._targets[name].ready}
        log.info("workers_ready", workers=sorted(ring))
        for link in self._links.values():
            if link.ready:
                link.tell(View(link.name, ring))
        change, self._change = self._change, asyncio.Event()
        change.set()

    # --- request heads --------------------------------------------------------------------------------

    def _listen(self) -> None:
        for listening in self._listening:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as exc:  # no more files or memory: let some connections go first
                log.error("accept_failed", error=exc.strerror)  # noqa: TRY400 - the place is known
                loop = asyncio.get_running_loop()
                for one in self._listening:
                    loop.remove_reader(one)
                self._pause = loop.call_later(OUT_OF_FILES_S, self._listen)
                return
            accepted.setblocking(False)
            if len(self._heads) >= HEADS_MAX:
                next(iter(self._heads.values())).break_off(408)
            _Head(self, accepted).begin(self._head_s)

    def blame(self, accepted: socket.socket, status: int) -> None:
        """Tell of a head that was answered so."""
        with suppress(OSError):  # it has gone
            address = peer_address(accepted.getpeername()[0], self._proxies)
            self._security.tell("head_refused", address=address, status=status)


class _Head:
    """A connection whose head is being read, or that is being refused."""

    __slots__ = ("_data", "_refused", "_router", "_timer", "socket")

    def __init__(self, router: Router, accepted: socket.socket) -> None:
        self.socket = accepted
        self._router = router
        self._data = bytearray()
        self._refused = False
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, head_s: float) -> None:
        """Read; under load the head is there already."""
        if not self._read():
            self._wait(head_s)

    def break_off(self, status: int) -> None:
        """Refuse a head that does not end. In silence is no fault: browsers open connections that they may need."""
        if self._data:
            self._router.blame(self.socket, status)
        self.refuse(BROKEN[status])

    def refuse(self, answer: bytes) -> None:
        """Answer, and close when the client has done so or LINGER_S is over: closing at once could take the answer."""
        self.leave()
        self._refused = True
        self._data.clear()
        try:
            self.socket.send(answer)
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.socket.close()
            return
        self._wait(LINGER_S)

    def leave(self) -> None:
        """Read no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            asyncio.get_running_loop().remove_reader(self.socket)
            del self._router._heads[self.socket]  # noqa: SLF001 - the two are one thing

    def _wait(self, patience_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._router._heads[self.socket] = self  # noqa: SLF001
        self._timer = loop.call_later(patience_s, self._late)
        loop.add_reader(self.socket, self._read)

    def _read(self) -> bool:
        """Returns: whether it is done with."""
        try:
            data = self.socket.recv(HEAD_BYTES_MAX + 1 - len(self._data))
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.leave()
            self.socket.close()
            return True
        if self._refused:
            return False
        begin = max(0, len(self._data) - len(_END) + 1)
        self._data += data
        if self._data.find(_END, begin) >= 0:
            self.leave()
            self._router.route(Client(self.socket, bytes(self._data)))
            return True
        if len(self._data) > HEAD_BYTES_MAX:
            self.break_off(431)
            return True
        return False

    def _late(self) -> None:
        if self._refused:
            self.leave()
            self.socket.close()
        else:
            self.break_off(408)
