"""The WebSocket: it performs "write these bytes" and "close" for a connection, and tells it what came.

aiohttp reads the request head; then this protocol takes the socket over. All that is written to one socket in one
loop tick leaves in one system call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from chatd.connection import Connection
from chatd.errors import InternalError
from chatd.services import Services
from chatd.session import State
from chatd.stats import SlowDevice
from chatd.transport import rfc6455

TURN_FRAMES_MAX = 64

log = structlog.get_logger("chatd.websocket")


class Registry(Protocol):
    """What a socket needs of all the sockets."""

    services: Services
    flush_bytes: int

    def dirty(self, socket: WebSocket) -> None:
        """This socket has something to write at the end of the tick."""

    def soon(self, callback: Callable[[], None]) -> asyncio.Handle:
        """Call in the next tick."""

    def closing(self, socket: WebSocket) -> float:
        """This socket sent its close frame. Returns: until when its client may answer (monotonic)."""

    def forget(self, socket: WebSocket) -> None:
        """This socket is gone."""


class WebSocket(asyncio.Protocol):
    """One socket after its upgrade. A `Wire` for its connection. ``address``: the client's."""

    __slots__ = (
        "_closing_until_s",
        "_connection",
        "_dirty",
        "_full",
        "_full_since_s",
        "_held",
        "_out",
        "_out_bytes",
        "_parser",
        "_sockets",
        "_transport",
        "_turn",
        "code",
        "heard",
    )

    def __init__(self, sockets: Registry, transport: asyncio.Transport, address: str) -> None:
        limits = sockets.services.settings.limits
        self._sockets = sockets
        self._transport = transport
        self._parser: rfc6455.Parser | None = rfc6455.Parser(limits.frame_bytes_max)
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._dirty = False
        self._held = False
        self._full = False
        self._full_since_s = 0.0
        self._turn: asyncio.Handle | None = None  # when the frames that one read brought go on
        self._closing_until_s: float | None = None
        self.heard = True
        self.code = 1006  # as which it ended; until there is one: without
        self._connection = Connection(sockets.services, self, address)
        transport.set_write_buffer_limits(high=limits.write_buffer_bytes_max)

    # --- asyncio.Protocol -----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes from the client. Frames beyond TURN_FRAMES_MAX wait for the next tick: the others get their turn."""
        self.heard = True
        if self._transport.is_closing() or self._parser is None:
            return
        try:
            for message in self._parser.feed(data, TURN_FRAMES_MAX):
                if isinstance(message, bytes):
                    if self._closing_until_s is None:
                        self._connection.receive(message)
                elif isinstance(message, rfc6455.Closed):
                    self._peer_closed(message)
                    return
                elif isinstance(message, rfc6455.Ping) and self._closing_until_s is None:
                    self._queue(rfc6455.control(rfc6455.PONG, message.payload))
        except rfc6455.WireError as exc:
            self._fail(exc.code, exc.reason)
        except Exception as exc:
            log.exception("receive_failed", connection=self._connection.id, user=self.user, exc_info=exc)
            self._fail(1011, InternalError("the server failed").message)
        else:
            if self._parser.more:
                self._read_or_not()

    def _next_turn(self) -> None:
        self._turn = None
        if self._parser is not None and self._parser.more and not self._deaf:
            self.data_received(b"")
        self._read_or_not()

    def eof_received(self) -> None:
        """The client will send no more: there is no half-open WebSocket."""
        return

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._sockets.forget(self)
        if self._turn is not None:
            self._turn.cancel()
        self._out.clear()
        self._connection.lost()

    def pause_writing(self) -> None:
        """The client does not take what it is owed: nothing more is read from it, no message is sent to it."""
        self._full = True
        self._full_since_s = self._sockets.services.now_s()
        self._connection.congested(True)
        self._read_or_not()

    def resume_writing(self) -> None:
        """It drained."""
        self._full = False
        self._connection.congested(False)
        self._read_or_not()

    # --- Wire -----------------------------------------------------------------------------------------

    def write(self, payload: bytes) -> None:
        """See `Wire`."""
        if self._closing_until_s is None:
            self._queue(rfc6455.text_head(len(payload)))
            self._queue(payload)

    def close(self, code: int, reason: str) -> None:
        """See `Wire`."""
        if self._closing_until_s is not None:
            return
        self.code = code
        self._queue(rfc6455.control(rfc6455.CLOSE, rfc6455.close_payload(code, reason)))
        self._closing_until_s = self._sockets.closing(self)
        self._read_or_not()

    def hold(self, on: bool) -> None:
        """See `Wire`."""
        self._held = on
        self._read_or_not()

    # --- from Sockets ---------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what the tick gathered."""
        self._dirty = False
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()
        self._out_bytes = 0

    def ping(self) -> None:
        """Send a WebSocket ping; `heard` tells later whether anything came."""
        self.heard = False
        if self._closing_until_s is None:
            self._queue(rfc6455.control(rfc6455.PING))

    def tick(self, now_s: float, lookahead_s: float) -> bool:
        """Look at the deadlines. False: there is none to look at within ``lookahead_s``."""
        if self._closing_until_s is not None:
            if now_s >= self._closing_until_s:
                self._transport.abort()
            return True
        self._connection.tick(now_s)
        return self.deadline_within(now_s, lookahead_s)

    def deadline_within(self, now_s: float, span_s: float) -> bool:
        """Whether the session has a deadline before ``now_s + span_s``."""
        deadline_s = self._connection.session.deadline_s
        return self._closing_until_s is not None or (deadline_s is not None and deadline_s < now_s + span_s)

    @property
    def user(self) -> str:
        """Whose it is; empty before the hello."""
        return self._connection.user

    def slow(self, now_s: float) -> SlowDevice | None:
        """What its device owes, or None: nothing."""
        unacked, behind = self._connection.owes
        owed_bytes = self._out_bytes + self._transport.get_write_buffer_size()
        if not (unacked or behind or owed_bytes or self._full):
            return None
        full_s = round(max(0.001, now_s - self._full_since_s), 3) if self._full else 0.0
        of = self._connection
        return SlowDevice(
            user=of.user, device=of.device, unacked=unacked, behind=behind, owed_bytes=owed_bytes, full_s=full_s
        )

    def abort(self) -> None:
        """Drop the socket now."""
        self._transport.abort()

    def timed_out(self) -> None:
        """No pong came."""
        self._connection.end(4408, "no pong in time")

    def end(self, code: int, reason: str) -> None:
        """Close from the server's side."""
        self._connection.end(code, reason)

    def goaway(self, reason: str, reconnect_ms: int) -> None:
        """Ask the client to come back later."""
        if self._connection.session.state in (State.CATCHING_UP, State.LIVE):
            self._connection.goaway(reason, reconnect_ms)

    # --- plumbing -------------------------------------------------------------------------------------

    def _queue(self, data: bytes) -> None:
        self._out.append(data)
        self._out_bytes += len(data)
        if not self._dirty:
            self._dirty = True
            self._sockets.dirty(self)
        elif self._out_bytes > self._sockets.flush_bytes:
            if not self._transport.is_closing():
                self._transport.write(b"".join(self._out))
            self._out.clear()
            self._out_bytes = 0

    @property
    def _deaf(self) -> bool:
        """Whether nothing is taken from the client now."""
        return (self._held or self._full) and self._closing_until_s is None

    def _read_or_not(self) -> None:
        if self._transport.is_closing():
            return
        more = self._parser is not None and self._parser.more
        if more and not self._deaf and self._turn is None:
            self._turn = self._sockets.soon(self._next_turn)
        if more or self._deaf:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _peer_closed(self, message: rfc6455.Closed) -> None:
        if self._closing_until_s is None:
            self.code = message.code or 1000
            self._queue(rfc6455.control(rfc6455.CLOSE, rfc6455.close_payload(self.code, "")))
            self._closing_until_s = self._sockets.closing(self)
        self._connection.lost()
        self.flush()
        self._transport.close()

    def _fail(self, code: int, reason: str) -> None:
        """The framing is broken: say so and end. What still comes cannot be read and is dropped: closing a socket with
        unread bytes resets it, and the client would not hear why.
        """
        self._connection.end(code, reason)
        self._parser = None
        self.flush()
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()
        self._read_or_not()
