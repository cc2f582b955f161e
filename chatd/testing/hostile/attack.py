"""One hostile connection: its handshake, its frames in bursts of any size, and what the server said at its end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress

from chatd.testing.hostile.corpus import CLOSE, PING, Corpus, frame, text

PATIENCE_S = 3.0
BURST_FRAMES_MAX = 30
CONNECTION_FRAMES_MAX = 400
HEAD = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chatd.v1\r\n\r\n"
)


class Tally:
    """What all connections of a run did. ``ends``: close codes, and "status N", "reset", "end of file", "stayed"."""

    def __init__(self, frames_max: int) -> None:
        self.frames_max = frames_max
        self.frames = 0
        self.connections = 0
        self.bytes = 0
        self.ends: Counter[str] = Counter()

    @property
    def left(self) -> int:
        """Frames that are still to be sent."""
        return max(0, self.frames_max - self.frames)


class Attack:
    """A worker that connects again and again until the tally is full."""

    def __init__(self, port: int, token: str, seed: int, tally: Tally) -> None:
        self._port = port
        self._token = token
        self._corpus = Corpus(seed)
        self._random = random.Random(seed)  # noqa: S311 - to be repeatable, not secret
        self._tally = tally
        self._whole = self._corpus.whole() if seed % 4 == 0 else []

    async def run(self) -> None:
        """Attack until enough frames were sent."""
        while self._tally.left:
            self._tally.connections += 1
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except ConnectionResetError:  # the listening socket's queue was full
                self._tally.ends["reset"] += 1
                continue
            try:
                end = await self._connection(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                end = "reset"
            except TimeoutError:
                end = "stayed"
            finally:
                writer.transport.abort()
            self._tally.ends[end] += 1

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        head = HEAD
        if self._random.random() < 0.03:
            head = bytes(b if self._random.random() < 0.99 else self._random.randrange(256) for b in HEAD)
            if self._random.random() < 0.5:
                return await self._leave(writer, head[: self._random.randrange(len(head))])
        writer.write(head)
        async with asyncio.timeout(PATIENCE_S):
            status = await reader.readuntil(b"\r\n\r\n")
        if not status.startswith(b"HTTP/1.1 101 "):
            return f"status {status[9:12].decode()}"
        if self._random.random() < 0.9:
            writer.write(text({"type": "hello", "token": self._token}))
        if self._random.random() < 0.1:  # one that never reads
            await self._write(writer)
            return "never read"
        heard = asyncio.Event()
        reading = asyncio.create_task(_end_of(reader, heard))
        try:
            await self._write(writer, reading, None if self._random.random() < 0.1 else heard)
            if not reading.done():
                await self._finish(writer)
            async with asyncio.timeout(PATIENCE_S):
                return await reading
        finally:
            reading.cancel()

    async def _leave(self, writer: asyncio.StreamWriter, head: bytes) -> str:
        writer.write(head)
        await writer.drain()
        return "left in its head"

    async def _write(
        self,
        writer: asyncio.StreamWriter,
        until: asyncio.Task[str] | None = None,
        heard: asyncio.Event | None = None,
    ) -> None:
        """Send bursts, each as one write or in odd pieces, until the connection ends or has had its share.

        ``heard``: set at a pong; the next burst waits for the one behind this. None: send without waiting.
        """
        frames = 0
        while frames < CONNECTION_FRAMES_MAX and self._tally.left and not (until is not None and until.done()):
            burst = [self._next() for _ in range(self._random.randint(1, BURST_FRAMES_MAX))]
            data = b"".join(burst)
            pieces = [data]
            if self._random.random() < 0.2:
                size = self._random.choice((1, 2, 7, 1_460))
                pieces = [data[i : i + size] for i in range(0, min(len(data), 500 * size), size)]
            for piece in pieces:
                if writer.transport.is_closing():
                    return
                writer.write(piece)
                if len(pieces) > 1:
                    await asyncio.sleep(0)
            with suppress(TimeoutError):  # a server that does not read it now is right
                async with asyncio.timeout(0.2):
                    await writer.drain()
            if heard is not None and until is not None:
                heard.clear()
                writer.write(frame(PING, b"sync"))
                waiting = asyncio.create_task(heard.wait())
                await asyncio.wait([until, waiting], timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
            frames += len(burst)
            self._tally.frames += len(burst)
            self._tally.bytes += sum(map(len, pieces))

    def _next(self) -> bytes:
        return self._whole.pop() if self._whole else self._corpus.one()

    async def _finish(self, writer: asyncio.StreamWriter) -> None:
        kind = self._random.random()
        if kind < 0.4:
            writer.write(frame(CLOSE, b"\x03\xe8bye"))
        elif kind < 0.8:
            writer.write_eof()
        else:
            writer.transport.abort()


async def _end_of(reader: asyncio.StreamReader, heard: asyncio.Event) -> str:
    """Read the server's frames; ``heard`` is set at each pong that was asked for. Returns: what ended them."""
    try:
        while True:
            first, size = await reader.readexactly(2)
            if size == 126:
                size = int.from_bytes(await reader.readexactly(2), "big")
            elif size == 127:
                size = int.from_bytes(await reader.readexactly(8), "big")
            payload = await reader.readexactly(size)
            if payload == b"sync":
                heard.set()
            if first & 0xF == CLOSE:
                return str(int.from_bytes(payload[:2], "big"))
    except asyncio.IncompleteReadError:
        return "end of file"
    except ConnectionError:
        return "reset"
