"""The door: a request's head must be there in time and within bounds before anything else is built for it.

aiohttp has no deadline for a head, so a client that sends a byte a minute would hold a connection for ever. After the
first head its own keep-alive timeout bounds the pause before the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from aiohttp.http_exceptions import HttpProcessingError

HEAD_BYTES_MAX = 16_384
_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def _own_fault(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


request_log = logging.getLogger("chatd.http")
"""For aiohttp: a broken request is its client's fault; it is answered, and no traceback of it fills the log."""
request_log.addFilter(_own_fault)


class Door(asyncio.Protocol):
    """Gathers the first head, then hands the socket to the protocol that ``inside`` makes.

    ``head``: what a router has read of it already.
    """

    __slots__ = ("_doors", "_head", "_head_s", "_inside", "_timer", "_transport")

    def __init__(
        self, inside: Callable[[], asyncio.Protocol], *, head_s: float, doors: set[Door], head: bytes = b""
    ) -> None:
        self._inside = inside
        self._head_s = head_s
        self._doors = doors
        self._head = bytearray(head)
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
        """A piece of the head."""
        if self._transport is None or self._transport.is_closing():
            return
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._enter(self._transport)
        elif len(self._head) > HEAD_BYTES_MAX:
            self._refuse(_TOO_LARGE)

    def connection_lost(self, exc: Exception | None) -> None:
        """It went away first."""
        self._leave()

    def cut(self) -> None:
        """The server ends."""
        if self._transport is not None:
            self._transport.abort()

    def _enter(self, transport: asyncio.Transport) -> None:
        self._leave()
        protocol = self._inside()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(bytes(self._head))

    def _refuse(self, answer: bytes) -> None:
        if self._transport is not None:
            self._transport.write(answer)
            self._transport.close()

    def _leave(self) -> None:
        self._doors.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
