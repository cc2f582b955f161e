"""A test speaks the protocol itself, frame by frame, where `chatd.client` would do too much by itself."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from chatd import protocol
from chatd.client.wire import Wire, WireClosed, connect, websocket_url

F = TypeVar("F", bound=protocol.ServerFrame)

PATIENCE_S = 30.0


class Speaker:
    """One WebSocket connection.

    ::

        alice = await Speaker.connect(server.url, token)
        await alice.until(protocol.CaughtUp)
        sent = await alice.ask(protocol.Send(id=id, to="bob", body="hi"), protocol.Sent)
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @classmethod
    async def connect(cls, url: str, token: str, **hello: Any) -> Speaker:
        """Connect and say hello, with these fields. Raises: WireClosed."""
        speaker = cls(await connect(websocket_url(url, None)))
        await speaker.tell(protocol.Hello(token=token, **hello))
        return speaker

    async def tell(self, frame: protocol.ClientFrame) -> None:
        """Send a frame. Raises: WireClosed."""
        await self._wire.send(protocol.encode(frame))

    async def next(self) -> protocol.ServerFrame:
        """The next frame. Raises: WireClosed; TimeoutError – none in PATIENCE_S."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                data = await self._wire.receive()
                frame = None if data is None else protocol.decode_server(data)
                if frame is not None:
                    return frame

    async def until(self, kind: type[F]) -> tuple[list[protocol.ServerFrame], F]:
        """The frames before the next one of this kind, and that one."""
        before: list[protocol.ServerFrame] = []
        while not isinstance(frame := await self.next(), kind):
            before.append(frame)
        return before, frame

    async def ask(self, frame: protocol.ClientFrame, kind: type[F]) -> F:
        """Send a frame, pass over what comes before the next one of this kind, and return that."""
        await self.tell(frame)
        _, answer = await self.until(kind)
        return answer

    async def rest(self) -> tuple[list[protocol.ServerFrame], int]:
        """The frames to the end of the connection, and its close code; 1006: it ended without a word."""
        frames: list[protocol.ServerFrame] = []
        try:
            while True:
                frames.append(await self.next())
        except WireClosed as closed:
            await self.close()
            return frames, closed.code

    async def close(self) -> None:
        """Close the connection."""
        await self._wire.close()
