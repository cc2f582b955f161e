"""Bare sockets to a server in this process: what the transport tests share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from chatd.testing import ChatServer
from chatd.testing.hostile import frame
from chatd.testing.hostile.corpus import CLOSE, PING, PONG, TEXT

PATIENCE_S = 20.0
HEADERS = {
    "Host": "chat.example",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "chatd.v1",
}


class RawSocket:
    """One TCP connection. ``pongs``: payloads of the pongs that came, ``pings``: how many pings."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.pongs: list[bytes] = []
        self.pings = 0

    async def request(self, headers: Mapping[str, str | None] = {}, method: str = "GET") -> str:
        """Send an upgrade request with these headers changed (None: left out). Returns: the answer's head."""
        fields = {**HEADERS, **headers}
        lines = [f"{method} /v1/ws HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items() if v is not None)]
        self.writer.write("\r\n".join([*lines, "", ""]).encode(errors="surrogateescape"))
        async with asyncio.timeout(PATIENCE_S):
            return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    def write(self, *frames: bytes) -> None:
        """All in one write."""
        self.writer.write(b"".join(frames))

    async def frame(self) -> tuple[int, bytes]:
        """The server's next frame that is no ping or pong: opcode and payload. It must be whole and unmasked."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                first, size = await self.reader.readexactly(2)
                assert first & 0xF0 == 0x80
                assert size & 0x80 == 0
                if size == 126:
                    size = int.from_bytes(await self.reader.readexactly(2), "big")
                elif size == 127:
                    size = int.from_bytes(await self.reader.readexactly(8), "big")
                payload = await self.reader.readexactly(size)
                if first & 0xF == PING:
                    self.pings += 1
                elif first & 0xF == PONG:
                    self.pongs.append(payload)
                else:
                    return first & 0xF, payload

    async def json(self) -> dict[str, Any]:
        """The server's next frame."""
        opcode, payload = await self.frame()
        assert opcode == TEXT, payload
        value: dict[str, Any] = json.loads(payload)
        return value

    async def until(self, kind: str) -> dict[str, Any]:
        """The next frame of this type; what comes before it is let go."""
        while (value := await self.json())["type"] != kind:
            pass
        return value

    async def close_code(self) -> int:
        """Let everything go up to the close frame; after it nothing may come but the end."""
        while (found := await self.frame())[0] != CLOSE:
            pass
        return int.from_bytes(found[1][:2], "big")

    async def ended(self) -> None:
        """Wait for the end of the stream, and see that nothing comes before it."""
        async with asyncio.timeout(PATIENCE_S):
            assert await self.reader.read() == b""


def text(value: Any, **how: Any) -> bytes:
    """A masked text frame of this value as JSON."""
    return frame(TEXT, json.dumps(value).encode(), **how)


@asynccontextmanager
async def connected(server: ChatServer) -> AsyncIterator[RawSocket]:
    """A TCP connection, nothing sent yet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.server.port)
    try:
        yield RawSocket(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def upgraded(server: ChatServer) -> AsyncIterator[RawSocket]:
    """A WebSocket, no hello yet."""
    async with connected(server) as raw:
        assert (await raw.request()).startswith("HTTP/1.1 101 ")
        yield raw


@asynccontextmanager
async def live(server: ChatServer, user: str, device: str = "test") -> AsyncIterator[RawSocket]:
    """A device that is caught up."""
    async with upgraded(server) as raw:
        raw.write(text({"type": "hello", "token": await server.token(user, device)}))
        assert (await raw.json())["type"] == "welcome"
        await raw.until("caught_up")
        yield raw


@asynccontextmanager
async def library(server: ChatServer, user: str, device: str = "test", **hello: Any) -> AsyncIterator[ClientConnection]:
    """A device that speaks through the `websockets` library, after its welcome."""
    url = f"ws://127.0.0.1:{server.server.port}/v1/ws"
    async with connect(url, subprotocols=["chatd.v1"], compression=None) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "chatd.v1"
        await socket.send(json.dumps({"type": "hello", "token": await server.token(user, device), **hello}))
        assert json.loads(await socket.recv())["type"] == "welcome"
        yield socket


async def library_until(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """The next frame of this type."""
    async with asyncio.timeout(PATIENCE_S):
        while (value := json.loads(await socket.recv()))["type"] != kind:
            pass
    found: dict[str, Any] = value
    return found
