"""Ends of a bus over a real Redis, and what they heard."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from chatd.metrics import Metrics
from chatd.routing.bus_redis import RedisBus

PATIENCE_S = 20.0


class End:
    """One end of the bus, and what it heard."""

    def __init__(self, url: str, *, hints_max: int = 1_000) -> None:
        self.metrics = Metrics()
        self.bus = RedisBus(url, self.metrics, publish_hints_max=hints_max)
        self.heard: list[tuple[str, bytes]] = []
        self.gaps = 0
        self.changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> End:
        await self.bus.open(self._hint, self._gap)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.bus.close()

    def _hint(self, user: str, letter: bytes) -> None:
        self.heard.append((user, letter))
        self._tell()

    def _gap(self) -> None:
        self.gaps += 1
        self._tell()

    def _tell(self) -> None:
        async def tell() -> None:
            async with self.changed:
                self.changed.notify_all()

        task = asyncio.get_running_loop().create_task(tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def until(self, heard: int = 0, gaps: int = 0) -> None:
        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(lambda: len(self.heard) >= heard and self.gaps >= gaps)

    async def receivers(self, user: str, letter: bytes) -> int:
        """Publish, and wait for how many heard it."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.bus.publish(user, letter, future.set_result)
        async with asyncio.timeout(PATIENCE_S):
            return await future


async def until_true(ask: Callable[[], Awaitable[bool]]) -> None:
    """Ask until the answer is yes."""
    async with asyncio.timeout(PATIENCE_S):
        while not await ask():  # noqa: ASYNC110 - it has to be asked: nothing tells
            await asyncio.sleep(0.02)
