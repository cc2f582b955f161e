"""One device of the load: a WebSocket client that costs as little as it can, and records all it does and sees.

It masks with the key 00000000, which RFC 6455 allows and which leaves the payload as it is; the server unmasks it like
any other. What it writes while it handles one piece of input leaves as one write.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from typing import cast

from chatd import protocol
from chatd.protocol import ClientFrame, ServerFrame
from chatd.testing.history import Recorder
from chatd.testing.load.process import BenchError

CONNECTION = "1"
HEAD_BYTES_MAX = 4096
_TEXT, _CLOSE, _PING = 0x81, 0x88, 0x89
_PONG = bytes((0x8A, 0x80, 0, 0, 0, 0))


class Device(asyncio.Protocol):
    """``on_frame``: called with every frame but answers to `history`; at first it acknowledges what comes.

    ``caught_up`` is done when the server said so; ``lost`` when nothing more can come, with the reason.
    ``hello``: what it says first, in place of nothing but its token. ``connection``: this one's name in the record.
    """

    def __init__(
        self,
        user: str,
        token: str,
        recorder: Recorder,
        *,
        hello: protocol.Hello | None = None,
        connection: str = CONNECTION,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.user = user
        self.incarnation = ""
        self.retry_after_ms: int | None = None
        self.on_frame: Callable[[ServerFrame], None] = self._acknowledge
        self.caught_up: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()
        self.record = recorder.device(user, "load")
        self._hello = hello or protocol.Hello(token=token)
        self._connection = connection
        self._transport: asyncio.Transport
        self._upgraded = False
        self._reading = False
        self._rest = b""
        self._out: list[bytes] = []
        self._page: asyncio.Future[protocol.Messages] | None = None

    # --- what it says ---------------------------------------------------------------------------------

    def send(self, conv: str, id: str, body: str) -> None:
        """Send a message."""
        self.record.invoke(conv, id, body)
        self._write(protocol.Send(id=id, conv=conv, body=body))

    def ack(self, conv: str, seq: int) -> None:
        """Say that everything up to ``seq`` is here."""
        self.record.marked(conv, seq)
        self._write(protocol.Ack(conv=conv, seq=seq))

    async def history(self, conv: str, after: int) -> protocol.Messages:
        """The next page of a log. One at a time."""
        self._page = asyncio.get_running_loop().create_future()
        self._write(protocol.History(conv=conv, after=after, limit=200, ref="page"))
        return await self._page

    def close(self) -> None:
        """Go without a word."""
        self._transport.abort()

    def deafen(self) -> None:
        """Read nothing more, as on a network that has gone: the server does not know it yet."""
        self._transport.pause_reading()

    def _write(self, frame: ClientFrame) -> None:
        payload = protocol.encode(frame)
        size = len(payload)
        head = bytes((_TEXT, 0x80 | size)) if size < 126 else bytes((_TEXT, 0xFE, size >> 8, size & 0xFF))
        self._out.append(head + b"\0\0\0\0" + payload)
        if not self._reading:
            self._flush()

    def _flush(self) -> None:
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    # --- asyncio.Protocol -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET {protocol.WS_PATH}?user={self.user} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {protocol.SUBPROTOCOL}\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more comes."""
        self.record.closed(self._connection)
        self._lose("the connection ended")

    def data_received(self, data: bytes) -> None:
        """Take every whole frame; then write what they led to."""
        if self._rest:
            data = self._rest + data
        self._reading = True
        at = 0 if self._upgraded else self._upgrade(data)
        end = len(data)
        while end - at >= 2:
            size, head = data[at + 1], 2
            if size == 126:
                size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
            elif size == 127:
                size, head = int.from_bytes(data[at + 2 : at + 10], "big"), 10
            if end - at < head + size:
                break
            self._take(data[at], data[at + head : at + head + size])
            at += head + size
        self._rest = data[at:]
        self._reading = False
        self._flush()

    def _upgrade(self, data: bytes) -> int:
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0 and len(data) < HEAD_BYTES_MAX:
            return 0
        if not data.startswith(b"HTTP/1.1 101 "):
            self._lose(f"no upgrade: {data[:200]!r}")
            return len(data)
        self._upgraded = True
        self.record.asked(self._connection)
        self._write(self._hello)
        return head_end + 4

    def _take(self, first: int, payload: bytes) -> None:
        if first == _PING:
            self._out.append(_PONG)
        elif first == _CLOSE:
            self._lose(f"closed with {int.from_bytes(payload[:2], 'big')}: {payload[2:].decode()}")
        elif first == _TEXT:
            frame = protocol.decode_server(payload)
            if frame is not None:
                self._frame(frame)
        else:
            self._lose(f"an unexpected frame: {first:#x}")

    def _frame(self, frame: ServerFrame) -> None:
        self.record.received(self._connection, frame)
        if type(frame) is protocol.Messages and frame.ref is not None and self._page is not None:
            self._page.set_result(frame)
            return
        if type(frame) is protocol.Welcome:
            self.incarnation = frame.incarnation
            watermarks = self._hello.watermarks or {}
            self.record.opened(self._connection, frame.incarnation, reset=frame.reset, watermarks=watermarks)
        elif type(frame) is protocol.CaughtUp:
            self.caught_up.set_result(None)
        elif type(frame) is protocol.Error:
            self.retry_after_ms = frame.retry_after_ms
            self._lose(f"refused: {frame.code}: {frame.message}")
        self.on_frame(frame)

    def _acknowledge(self, frame: ServerFrame) -> None:
        if type(frame) is protocol.Messages:
            self.ack(frame.conv, frame.messages[-1].seq)

    def _lose(self, why: str) -> None:
        if not self.lost.done():
            self.lost.set_result(why)


async def connect(
    port: int,
    user: str,
    token: str,
    recorder: Recorder,
    *,
    hello: protocol.Hello | None = None,
    connection: str = CONNECTION,
) -> Device:
    """A device that has said hello. Raises: BenchError – it cannot connect."""
    loop = asyncio.get_running_loop()

    def made() -> Device:
        return Device(user, token, recorder, hello=hello, connection=connection)

    try:
        _, device = await loop.create_connection(made, "127.0.0.1", port)
    except OSError as exc:
        raise BenchError(f"cannot connect: {exc.strerror}") from exc
    return device
