"""A router and workers in this process: the workers only say who they are and what they got."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from chatd.routing.handover import Handover
from chatd.routing.router import Router

PATIENCE_S = 20.0


class Desk:
    """One worker: every connection is answered with a JSON line of ``worker``, ``peer`` and ``got``, then echoed.

    ``views``: what the router told it.
    """

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.views: list[tuple[str, dict[str, int]]] = []
        self.viewed = asyncio.Event()
        self.transports: list[asyncio.Transport] = []
        self.handover = Handover(path, self._factory, on_view=self._on_view)
        self.handover.listen()

    def _factory(self, head: bytes) -> asyncio.Protocol:
        return _Desked(self, head)

    def _on_view(self, me: str, ring: Mapping[str, int]) -> None:
        self.views.append((me, dict(ring)))
        self.viewed.set()

    async def end(self) -> None:
        """Take nothing more; open connections stay."""
        await self.handover.drain(PATIENCE_S)


class _Desked(asyncio.Protocol):
    def __init__(self, desk: Desk, head: bytes) -> None:
        self._desk = desk
        self._head = head

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._desk.transports.append(transport)  # type: ignore[arg-type]
        peer = list(transport.get_extra_info("peername"))[:2]
        fields = {"worker": self._desk.name, "peer": peer, "got": self._head.decode("latin-1")}
        self.data_received(msgspec.json.encode(fields) + b"\n")

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]


class Rig:
    """A router on a loopback port, and where its workers can be started."""

    def __init__(self, directory: Path, router: Router) -> None:
        self.directory = directory
        self.router = router
        self.desks: dict[str, Desk] = {}

    def start(self, name: str) -> Desk:
        """Start a worker."""
        desk = self.desks[name] = Desk(name, self.directory / name)
        return desk

    async def until(self, ready: Iterable[str]) -> None:
        """Wait until these workers and no others are ready."""
        async with asyncio.timeout(PATIENCE_S):
            await self.router.until(lambda: {n for n in self.router.ring.weights if self.router.ready(n)} == set(ready))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the router."""
        return await asyncio.open_connection("127.0.0.1", self.router.port)

    async def ask(self, target: str, behind: str = "") -> dict[str, Any]:
        """Send a request and return what the worker says of it. AssertionError: the router answered itself."""
        reader, writer = await self.connect()
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n{behind}".encode())
        async with asyncio.timeout(PATIENCE_S):
            line = await reader.readline()
        assert line.startswith(b"{"), line
        told: dict[str, Any] = msgspec.json.decode(line)
        told["mine"] = list(writer.get_extra_info("sockname"))[:2]
        writer.close()
        return told

    async def refused(self, sent: bytes) -> str:
        """Send bytes and return all that comes back."""
        reader, writer = await self.connect()
        writer.write(sent)
        async with asyncio.timeout(PATIENCE_S):
            answer = await reader.read()
        writer.close()
        return answer.decode()


@asynccontextmanager
async def routing(
    names: Iterable[str] = ("a", "b", "c"), nodes: Iterable[str] = (), *, head_s: float = 30.0, start: bool = True
) -> AsyncIterator[Rig]:
    """A router with workers of these names, all ready unless ``start`` is false."""
    directory = Path(tempfile.mkdtemp(prefix="chatd-test-"))  # a unix path must be short
    router = Router({name: directory / name for name in names}, nodes, head_s=head_s)
    rig = Rig(directory, router)
    try:
        await router.start("127.0.0.1", 0)
        if start:
            for name in names:
                rig.start(name)
            await rig.until([*names, *nodes])
        yield rig
    finally:
        await router.stop()
        for desk in rig.desks.values():
            await desk.end()
            for transport in desk.transports:
                transport.abort()
        shutil.rmtree(directory)
