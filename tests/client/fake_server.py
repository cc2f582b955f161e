"""A scripted server on a loopback port: each test says, frame by frame, what the server does."""

from __future__ import annotations

import asyncio
import json
from types import TracebackType
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from chatd.protocol import SUBPROTOCOL

PATIENCE_S = 10.0
LIMITS = {"frame_bytes_max": 65_536, "body_bytes_max": 16_384, "window": 256, "initial_history": 50}


class Peer:
    """One accepted connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        self.done = asyncio.Event()

    @property
    def path(self) -> str:
        request = self._socket.request
        assert request is not None
        return request.path

    async def receive(self) -> dict[str, Any]:
        """The next frame of the client's."""
        async with asyncio.timeout(PATIENCE_S):
            frame: dict[str, Any] = json.loads(await self._socket.recv())
            return frame

    async def expect(self, kind: str) -> dict[str, Any]:
        """The next frame, which must be of this type."""
        frame = await self.receive()
        assert frame["type"] == kind, frame
        return frame

    async def send(self, kind: str, **fields: Any) -> None:
        await self._socket.send(json.dumps({"type": kind, **fields}))

    async def messages(self, first: int, last: int, **fields: Any) -> None:
        """Messages of bob's in the conversation of alice and bob."""
        log = [{"seq": s, "ts": s, "id": f"id{s}", "from": "bob", "body": f"body {s}"} for s in range(first, last + 1)]
        await self.send("messages", conv="alice:bob", messages=log, **fields)

    async def welcome(self, **fields: Any) -> dict[str, Any]:
        """Answer the hello, and say that there is nothing to catch up with. Returns: the hello."""
        hello = await self.expect("hello")
        usual = {
            "user": "alice",
            "device": "d1",
            "session": "s1",
            "now": 0,
            "incarnation": "i1",
            "reset": False,
            "heartbeat_s": 25.0,
            "durability": "memory",
            "limits": LIMITS,
        }
        await self.send("welcome", **(usual | fields))
        await self.send("caught_up", since="since-1")
        return hello

    async def close(self, code: int = 1001, reason: str = "") -> None:
        await self._socket.close(code, reason)
        self.done.set()

    def cut(self) -> None:
        """End the TCP connection without a close frame."""
        self._socket.transport.abort()
        self.done.set()

    async def gone(self) -> None:
        """Wait until the client has left."""
        async with asyncio.timeout(PATIENCE_S):
            await self._socket.wait_closed()


class FakeServer:
    """``async with FakeServer() as server: peer = await server.peer()``."""

    def __init__(self, *, ping_interval: float | None = None) -> None:
        self._ping_interval = ping_interval
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._all: list[Peer] = []
        self._server: Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def peer(self) -> Peer:
        """The next connection."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._peers.get()

    async def __aenter__(self) -> FakeServer:
        self._server = await serve(
            self._accept,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            ping_interval=self._ping_interval,
            compression=None,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._server is not None
        for peer in self._all:
            peer.done.set()
        self._server.close()
        await self._server.wait_closed()

    async def _accept(self, socket: ServerConnection) -> None:
        peer = Peer(socket)
        self._all.append(peer)
        await self._peers.put(peer)
        waits = [asyncio.create_task(peer.done.wait()), asyncio.create_task(socket.wait_closed())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
