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
from typing import Any, cast

from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct

from chatd.errors import BadFrame, Overloaded, RateLimited, TooLarge, Unavailable
from chatd.limits import Network, address_key, client_address, peer_address
from chatd.protocol import WS_PATH
from chatd.refusing import answer
from chatd.security import Tell
from chatd.transport.turnstile import Turnstile

HEAD_BYTES_MAX = 16_384
"""Of a head, and of what is behind it while it waits for its turn."""
_END = b"\r\n\r\n"
_WEBSOCKET = (f"GET {WS_PATH} ".encode(), f"GET {WS_PATH}?".encode())
_FORWARDED = re.compile(rb"^x-forwarded-for:[ \t]*(.*?)[ \t]*\r$", re.IGNORECASE | re.MULTILINE)


def _own_fault(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


class Refused(Struct, frozen=True):
    """What is answered, and the security event with its fields; "": none, it is nobody's fault."""

    answer: bytes
    event: str = ""
    fields: dict[str, Any] = {}


TIMED_OUT = Refused(answer(BadFrame("the request did not come in time"), 408), "head_refused", {"status": 408})
TOO_LARGE = Refused(
    answer(TooLarge(f"a request head has {HEAD_BYTES_MAX} bytes at most"), 431), "head_refused", {"status": 431}
)
TOO_MANY_OF_ONE = Refused(
    answer(RateLimited("too many of this address wait for their turn", retry_after_ms=1_000)),
    "rate_limited",
    {"what": "connections"},
)
TOO_MANY = Refused(answer(Overloaded("too many wait for their turn", retry_after_ms=5_000)), "turned_away")
STOPPING = Refused(answer(Unavailable("the server is stopping", retry_after_ms=1_000)))

request_log = logging.getLogger("chatd.http")
"""For aiohttp: a broken request is its client's fault; it is answered, and no traceback of it fills the log."""
request_log.addFilter(_own_fault)


class Door(asyncio.Protocol):
    """Gathers the first head, then hands the socket to the protocol that ``inside`` makes.

    ``head``: what a router has read of it already. ``turnstile``: where WebSockets wait for their turn; ``proxies`` are
    believed about the address of who waits there. ``tell`` hears of who is refused, by its address.
    """

    __slots__ = (
        "_doors",
        "_head",
        "_head_s",
        "_inside",
        "_proxies",
        "_tell",
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
        tell: Tell,
        proxies: Sequence[Network] = (),
        head: bytes = b"",
    ) -> None:
        self._inside = inside
        self._head_s = head_s
        self._doors = doors
        self._turnstile = turnstile
        self._proxies = proxies
        self._tell = tell
        self._head = bytearray(head)
        self._waits = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection."""
        self._transport = cast(asyncio.Transport, transport)
        self._doors.add(self)
        self._timer = asyncio.get_running_loop().call_later(self._head_s, self._refuse, TIMED_OUT)
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
            self._refuse(TOO_LARGE)

    def connection_lost(self, exc: Exception | None) -> None:
        """It went away first."""
        self._leave()

    def cut(self) -> None:
        """The server ends."""
        if self._waits:
            self._refuse(STOPPING)
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
            self._refuse(TOO_LARGE)
        elif self._turnstile.come(self, address_key(_remote(transport), self._hops(), self._proxies)):
            self._waits = self in self._doors
        else:
            self._refuse(TOO_MANY if self._turnstile.full else TOO_MANY_OF_ONE)

    def _hops(self) -> str:
        """Who forwarded the request, by a head that is whole: what stands behind it is the client's own word."""
        if not self._proxies:
            return ""
        end = self._head.find(_END) + 2
        return b",".join(_FORWARDED.findall(self._head, 0, end)).decode("latin-1")  # a proxy may add a line of its own

    def _refuse(self, refused: Refused) -> None:
        self._turnstile.leave(self)
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(refused.answer)
        transport.close()
        if refused.event and self._head:  # browsers open connections that they may need: no fault in silence
            whole = _END in self._head
            remote, proxies = _remote(transport), self._proxies
            address = client_address(remote, self._hops(), proxies) if whole else peer_address(remote, proxies)
            self._tell(refused.event, address=address, **refused.fields)

    def _leave(self) -> None:
        self._doors.discard(self)
        self._turnstile.leave(self)
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _remote(transport: asyncio.Transport) -> str | None:
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else None
