"""The door: a request's head must be there in time and within bounds before anything else is built for it.

A WebSocket then waits for its turn here. After a failure of the network thousands come back in the same second, and
what one costs while it waits is its socket and its head. Other requests do not wait: who asks whether this process is
well is one. So a WebSocket that is not the first request of its connection does not wait either, but its address pays.

aiohttp has no deadline for a head, so a client that sends a byte a minute would hold a connection for ever. After the
first head its own keep-alive timeout bounds the pause before the next one.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from typing import cast

from aiohttp.http_exceptions import HttpProcessingError

from chatd.limits import Network, address_key
from chatd.protocol import WS_PATH
from chatd.transport.turnstile import Turnstile

HEAD_BYTES_MAX = 16_384
"""Of a head, and of what is behind it while it waits for its turn."""
_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_MANY_OF_ONE = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_STOPPING = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_END = b"\r\n\r\n"
_WEBSOCKET = (f"GET {WS_PATH} ".encode(), f"GET {WS_PATH}?".encode())
_FORWARDED = re.compile(rb"^x-forwarded-for:[ \t]*(.*?)[ \t]*\r$", re.IGNORECASE | re.MULTILINE)


def _own_fault(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


request_log = logging.getLogger("chatd.http")
"""For aiohttp: a broken request is its client's fault; it is answered, and no traceback of it fills the log."""
request_log.addFilter(_own_fault)


class Door(asyncio.Protocol):
    """Gathers the first head, then hands the socket to the protocol that ``inside`` makes.

    ``head``: what a router has read of it already. ``turnstile``: where WebSockets wait for their turn; ``proxies`` are
    believed about the address of who waits there. ``on_too_many`` hears of an address that too many come from.
    """

    __slots__ = (
        "_doors",
        "_head",
        "_head_s",
        "_inside",
        "_on_too_many",
        "_proxies",
        "_timer",
        "_transport",
        "_turnstile",
        "_waits",
    )

    def __init__(
        self,
        inside: Callable[[], asyncio.Protocol],
        *,
        head_s: float,
        doors: set[Door],
        turnstile: Turnstile,
        proxies: Sequence[Network] = (),
        head: bytes = b"",
        on_too_many: Callable[[str], None] = lambda address: None,
    ) -> None:
        self._inside = inside
        self._head_s = head_s
        self._doors = doors
        self._turnstile = turnstile
        self._proxies = proxies
        self._on_too_many = on_too_many
        self._head = bytearray(head)
        self._waits = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection."""
        self._transport = cast(asyncio.Transport, transport)
        self._doors.add(self)
        self._timer = asyncio.get_running_loop().call_later(self._head_s, self._refuse, _TIMED_OUT)
        if self._head:
            self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        """A piece of the head, or what comes behind it too early."""
        if self._transport is None or self._transport.is_closing():
            return
        self._head += data
        if not self._waits and _END in self._head:
            self._come(self._transport)
        elif len(self._head) > HEAD_BYTES_MAX:
            self._refuse(_TOO_LARGE)

    def connection_lost(self, exc: Exception | None) -> None:
        """It went away first."""
        self._leave()

    def cut(self) -> None:
        """The server ends."""
        if self._waits:
            self._refuse(_STOPPING)
        elif self._transport is not None:
            self._transport.abort()

    def enter(self) -> None:
        """The head is whole, and it is this one's turn."""
        transport = self._transport
        self._leave()
        if transport is None or transport.is_closing():
            return
        protocol = self._inside()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(bytes(self._head))

    def _come(self, transport: asyncio.Transport) -> None:
        self._stop_timer()
        if not self._head.startswith(_WEBSOCKET):
            self.enter()
        elif len(self._head) > HEAD_BYTES_MAX:
            self._refuse(_TOO_LARGE)
        elif self._turnstile.come(self, address := self._address(transport)):
            self._waits = self in self._doors
        elif self._turnstile.full:
            self._refuse(_TOO_MANY)
        else:
            self._on_too_many(address)
            self._refuse(_TOO_MANY_OF_ONE)

    def _address(self, transport: asyncio.Transport) -> str:
        peer = transport.get_extra_info("peername")
        remote = str(peer[0]) if isinstance(peer, tuple) else None
        hops = b",".join(_FORWARDED.findall(self._head)) if self._proxies else b""  # a proxy may add a line of its own
        return address_key(remote, hops.decode("latin-1"), self._proxies)

    def _refuse(self, answer: bytes) -> None:
        self._turnstile.leave(self)
        if self._transport is not None:
            self._transport.write(answer)
            self._transport.close()

    def _leave(self) -> None:
        self._doors.discard(self)
        self._turnstile.leave(self)
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
