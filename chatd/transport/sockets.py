"""All WebSockets of this process: the upgrade, one flush a tick, one heartbeat, one look at the deadlines."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from chatd import protocol
from chatd.errors import BadFrame, Forbidden, InternalError, RateLimited, Refusal, Unavailable
from chatd.limits import Buckets, Network, address_key, client_address
from chatd.services import Services
from chatd.stats import SlowDevice, slowest
from chatd.transport.browser import origin_allowed
from chatd.transport.problem import problem
from chatd.transport.websocket import WebSocket

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TICK_S = 0.5
CLOSE_S_MAX = 5.0
ADDRESSES_MAX = 10_000
EXPIRY_LOOKAHEAD_S = 60.0
SLOW_TURN_SOCKETS = 1_000


class Sockets:
    """All WebSockets of this process: one flush a tick, one heartbeat, one look at the deadlines."""

    def __init__(self, services: Services, *, origins: tuple[str, ...], proxies: tuple[Network, ...]) -> None:
        limits, timing = services.settings.limits, services.settings.timing
        self.services = services
        self.flush_bytes = limits.write_buffer_bytes_max
        self.draining = False
        self._origins = origins
        self._proxies = proxies
        self._connects = Buckets(limits.connects_per_s, limits.connects_burst, ADDRESSES_MAX)
        self._all: set[WebSocket] = set()
        self._timed: set[WebSocket] = set()
        self._dirty: list[WebSocket] = []
        self._beats: list[set[WebSocket]] = [set() for _ in range(timing.heartbeat_s)]
        self._waiting: dict[int, list[WebSocket]] = {}
        self._slot = 0
        self._ticks = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None
        services.metrics.gauges["connections"] = lambda: len(self._all)

    def start(self) -> None:
        """Begin to look at deadlines and to send heartbeats."""
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def stop(self) -> None:
        """Cut what is left."""
        if self._timer is not None:
            self._timer.cancel()
        for socket in list(self._all):
            socket.end(1012, "the server restarts")
            socket.flush()
            socket.abort()

    def __len__(self) -> int:
        return len(self._all)

    async def emptied(self, timeout_s: float) -> None:
        """Wait until every socket is gone, at most ``timeout_s``."""
        if self._all and timeout_s > 0:
            self._empty = self._loop.create_future()
            await asyncio.wait([self._empty], timeout=timeout_s)

    def end_all(self, code: int, reason: str) -> None:
        """Close every connection in an orderly way."""
        for socket in list(self._all):
            socket.end(code, reason)

    def cut(self, user: str) -> int:
        """Drop this user's sockets without a word, as a failing network does. Returns how many there were."""
        mine = [socket for socket in self._all if socket.user == user]
        for socket in mine:
            socket.abort()
        return len(mine)

    def goaway_all(self, reason: str, reconnect_ms: int) -> None:
        """Tell every client to come back after a random part of ``reconnect_ms``."""
        for socket in list(self._all):
            socket.goaway(reason, reconnect_ms)

    def goaway_some(self, belongs_here: Callable[[str], bool], reason: str, reconnect_ms: int) -> None:
        """The same for the users who do not belong here."""
        for socket in list(self._all):
            if socket.user is not None and not belongs_here(socket.user):
                socket.goaway(reason, reconnect_ms)

    async def slowest(self, most: int) -> tuple[SlowDevice, ...]:
        """So many devices that owe something, the slowest first. The loop has its turn after SLOW_TURN_SOCKETS."""
        now_s = self.services.now_s()
        found: tuple[SlowDevice, ...] = ()
        waiting = list(self._all)
        for start in range(0, len(waiting), SLOW_TURN_SOCKETS):
            if start:
                await asyncio.sleep(0)
            rows = (socket.slow(now_s) for socket in waiting[start : start + SLOW_TURN_SOCKETS])
            found = slowest([*found, *(row for row in rows if row is not None)], most)
        return found

    async def upgrade(self, request: web.Request) -> web.StreamResponse:
        """``GET /v1/ws``: check, answer 101, take the socket over."""
        try:
            accept, chosen = self._checked(request)
        except Refusal as exc:
            return problem(exc)
        transport, handler = request.transport, request.protocol
        if transport is None:  # not isinstance: uvloop's transports are no subclass of asyncio.Transport
            return problem(InternalError("the connection went away"))
        behind = _Behind()
        handler.set_parser(cast(Any, behind))  # all that aiohttp asks of a parser is `feed_data`
        transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n" + chosen + b"\r\n"
        )
        socket = WebSocket(self, transport, self._address(request))
        transport.set_protocol(socket)
        handler.transport = None  # from here on it is not aiohttp's
        handler.connection_lost(None)
        self._remember(socket)
        transport.resume_reading()
        if len(self._all) > self.services.settings.limits.connections_max:
            socket.end(1013, "too many connections")
        elif behind.data:
            socket.data_received(bytes(behind.data))
        return _Taken()

    def _checked(self, request: web.Request) -> tuple[bytes, bytes]:
        headers = request.headers
        if not origin_allowed(headers.get("Origin"), headers.get("Host"), self._origins):
            self._tell("origin_refused", request, origin=headers["Origin"])
            raise Forbidden(f"the origin {headers['Origin'][:200]!a} is not in server.origins")
        asked = headers.get("Upgrade", "").lower(), "upgrade" in headers.get("Connection", "").lower()
        if request.method != "GET" or asked != ("websocket", True) or headers.get("Sec-WebSocket-Version") != "13":
            raise BadFrame("this address speaks WebSocket (RFC 6455, version 13)")
        key = headers.get("Sec-WebSocket-Key", "").strip()
        try:
            raw = base64.b64decode(key, validate=True)
        except ValueError as exc:  # binascii.Error is one, and so is what is no ASCII
            raise BadFrame("Sec-WebSocket-Key is not base64") from exc
        if len(raw) != 16:
            raise BadFrame("Sec-WebSocket-Key has not 16 bytes")
        offered = [p.strip() for p in ",".join(headers.getall("Sec-WebSocket-Protocol", [])).split(",") if p.strip()]
        if offered and protocol.SUBPROTOCOL not in offered:
            raise BadFrame(f"the subprotocol is {protocol.SUBPROTOCOL}")
        wait_s = self._connects.take(address_key(self._address(request)), self.services.now_s())
        if wait_s:
            self._tell("rate_limited", request, what="connections")
            raise RateLimited("too many connections from this address", retry_after_ms=int(wait_s * 1000) + 1)
        if self.draining:
            raise Unavailable("the server is stopping", retry_after_ms=1_000)
        accept = base64.b64encode(hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest())
        chosen = f"Sec-WebSocket-Protocol: {protocol.SUBPROTOCOL}\r\n".encode() if offered else b""
        return accept, chosen

    def _address(self, request: web.Request) -> str:
        hops = ",".join(request.headers.getall("X-Forwarded-For", ()))  # a proxy may add a line of its own
        return client_address(request.remote, hops, self._proxies)

    def _tell(self, event: str, request: web.Request, **more: str) -> None:
        self.services.security.tell(event, address=self._address(request), **more)

    # --- bookkeeping ----------------------------------------------------------------------------------

    def dirty(self, socket: WebSocket) -> None:
        """This socket has something to write at the end of the tick."""
        if not self._dirty:
            self._loop.call_soon(self._flush)
        self._dirty.append(socket)

    def soon(self, callback: Callable[[], None]) -> asyncio.Handle:
        """Call in the next tick."""
        return self._loop.call_soon(callback)

    def closing(self, socket: WebSocket) -> float:
        """This socket sent its close frame. Returns: until when its client may answer (monotonic)."""
        self._timed.add(socket)
        return self.services.now_s() + CLOSE_S_MAX

    def forget(self, socket: WebSocket) -> None:
        """This socket is gone."""
        if socket in self._all:
            self._all.discard(socket)
            self._timed.discard(socket)
            for beat in self._beats:
                beat.discard(socket)
            self.services.metrics.closed(socket.code)
            if not self._all and self._empty is not None and not self._empty.done():
                self._empty.set_result(None)

    def _remember(self, socket: WebSocket) -> None:
        self.services.metrics.connections_opened += 1
        self._all.add(socket)
        self._timed.add(socket)
        self._slot = (self._slot + 1) % len(self._beats)
        self._beats[self._slot].add(socket)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for socket in dirty:
            socket.flush()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK_S, self._tick)
        now_s = self.services.now_s()
        for socket in list(self._timed):
            if not socket.tick(now_s, EXPIRY_LOOKAHEAD_S):
                self._timed.discard(socket)
        self._ticks += 1
        if self._ticks % round(1 / TICK_S):
            return
        second = self._ticks // round(1 / TICK_S)
        for socket in self._waiting.pop(second, ()):  # before the next ping, which forgets what was heard
            if not socket.heard and socket in self._all:
                socket.timed_out()
        beat = self._beats[second % len(self._beats)]
        for socket in beat:
            socket.ping()
            if socket.deadline_within(now_s, EXPIRY_LOOKAHEAD_S):
                self._timed.add(socket)
        self._waiting[second + self.services.settings.timing.pong_s] = list(beat)


class _Behind:
    """Gathers what a client sent behind its request head."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        return


class _Taken(web.StreamResponse):
    """The answer of a handler whose socket is not aiohttp's any more: nothing."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return
