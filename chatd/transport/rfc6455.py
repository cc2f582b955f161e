"""WebSocket framing, server side, without I/O: bytes in, messages out. Strict where the RFC says MUST.

Our own, because the library underneath lets unmasked frames and bad close codes pass, keeps ten times the memory a
connection, and wakes a task a frame. No extensions, so no compression.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TypeAlias

from msgspec import Struct

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA
_VALID_CLOSE = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))


class Ping(Struct, frozen=True):
    """Answer with a pong of the same payload."""

    payload: bytes


class Pong(Struct, frozen=True):
    """The peer is there."""


class Closed(Struct, frozen=True):
    """The peer closes; ``code`` None: it gave none."""

    code: int | None


Message: TypeAlias = bytes | Ping | Pong | Closed


class WireError(Exception):
    """The framing is broken: close with ``code``, then end."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Parser:
    """Takes bytes in any pieces. ``message_bytes_max`` bounds a text message over all its fragments.

    ``more``: the last `feed` stopped at its bound and whole frames may be waiting; ``feed(b"")`` goes on.
    """

    __slots__ = ("_buffer", "_fragments", "_max", "more")

    def __init__(self, message_bytes_max: int) -> None:
        self._max = message_bytes_max
        self._buffer: bytearray | None = None
        self._fragments: bytearray | None = None
        self.more = False

    def feed(self, data: bytes, frames_max: int = sys.maxsize) -> Iterator[Message]:
        """The messages that these bytes complete, of at most ``frames_max`` frames; a text message is valid UTF-8.

        Raises: WireError.
        """
        if self._buffer is not None:
            self._buffer += data
            view: bytes | bytearray = self._buffer
        else:
            view = data
        at = frames = 0
        self.more = False
        while (frame := self._frame(view, at)) is not None:
            first, payload, at = frame
            message = self._message(first, payload)
            if message is not None:
                yield message
            frames += 1
            if frames == frames_max:
                self.more = at < len(view)
                break
        if at == len(view):
            self._buffer = None
        elif self._buffer is not None:
            del self._buffer[:at]
        else:
            self._buffer = bytearray(memoryview(data)[at:])

    def _frame(self, view: bytes | bytearray, at: int) -> tuple[int, bytes, int] | None:
        """The first byte, the payload and the end of the next frame; None: it is not complete."""
        have = len(view) - at
        if have < 2:
            return None
        first, second = view[at], view[at + 1]
        self._check_head(first, second)
        size, head = second & 0x7F, 6
        if size == 126:
            head = 8
            if have < head:
                return None
            size = int.from_bytes(view[at + 2 : at + 4], "big")
            minimal = size > 125
        elif size == 127:
            head = 14
            if have < head:
                return None
            size = int.from_bytes(view[at + 2 : at + 10], "big")
            minimal = size > 0xFFFF
        else:
            minimal = True
        if not minimal:
            raise WireError(1002, "a frame length that is not minimal")
        if size > self._max:
            raise WireError(1009, f"a frame over {self._max} bytes")
        end = at + head + size
        if len(view) < end:
            return None
        key = bytes(view[at + head - 4 : at + head])
        return first, unmask(bytes(view[at + head : end]), key), end

    def _check_head(self, first: int, second: int) -> None:
        if first & 0x70:
            raise WireError(1002, "reserved bits without an extension")
        if not second & 0x80:
            raise WireError(1002, "an unmasked frame from a client")
        opcode = first & 0xF
        if opcode > CLOSE - 1:
            if opcode > PONG:
                raise WireError(1002, "an unknown opcode")
            if not first & 0x80 or second & 0x7F > 125:
                raise WireError(1002, "a control frame that is fragmented or long")
        elif opcode > BINARY:
            raise WireError(1002, "an unknown opcode")
        elif opcode == BINARY:
            raise WireError(1003, "a binary frame; only text is spoken here")
        elif (opcode == CONTINUATION) == (self._fragments is None):
            raise WireError(1002, "a fragment out of place")

    def _message(self, first: int, payload: bytes) -> Message | None:
        opcode = first & 0xF
        if opcode == PING:
            return Ping(payload)
        if opcode == PONG:
            return Pong()
        if opcode == CLOSE:
            return Closed(_close_code(payload))
        if self._fragments is not None:
            self._fragments += payload
            if len(self._fragments) > self._max:
                raise WireError(1009, f"a message over {self._max} bytes")
            if not first & 0x80:
                return None
            payload = bytes(self._fragments)
            self._fragments = None
        elif not first & 0x80:
            self._fragments = bytearray(payload)
            return None
        return _utf8(payload)


def _utf8(payload: bytes) -> bytes:
    try:
        payload.decode()
    except UnicodeDecodeError as exc:
        raise WireError(1007, "a text frame that is not UTF-8") from exc
    return payload


def _close_code(payload: bytes) -> int | None:
    if not payload:
        return None
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not (code in _VALID_CLOSE or 3000 <= code <= 4999):
        raise WireError(1002, "a close code that is none")
    _utf8(payload[2:])
    return code


def unmask(payload: bytes, key: bytes) -> bytes:
    """XOR with the repeated four bytes of the key."""
    size = len(payload)
    pad = (key * ((size + 3) // 4))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(pad, "little")).to_bytes(size, "little")


def _head(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, size))
    if size <= 0xFFFF:
        return bytes((first, 126)) + size.to_bytes(2, "big")
    return bytes((first, 127)) + size.to_bytes(8, "big")


_SHORT_TEXT_HEADS = tuple(_head(0x80 | TEXT, n) for n in range(4096))


def text_head(size: int) -> bytes:
    """The header of a whole text frame of ``size`` bytes from a server."""
    return _SHORT_TEXT_HEADS[size] if size < 4096 else _head(0x80 | TEXT, size)


def control(opcode: int, payload: bytes = b"") -> bytes:
    """A control frame from a server; payload ≤ 125 bytes."""
    return _head(0x80 | opcode, len(payload)) + payload


def close_payload(code: int, reason: str) -> bytes:
    """A close frame's payload; a reason over 123 bytes is cut at a character."""
    return code.to_bytes(2, "big") + reason.encode()[:123].decode(errors="ignore").encode()
