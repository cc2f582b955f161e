"""The bus over Redis pub/sub: a channel a connected user. The subscription is the routing table, and dies with us.

In a cluster the channels are sharded: each has a slot, and is told and heard at the server that has the slot. When that
changes, the channel is heard at the new one, and what was missed meanwhile counts as a gap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from typing import Any

import structlog

from chatd.errors import OutcomeUnknown, StartError, Unavailable
from chatd.metrics import Metrics
from chatd.routing.bus import OnHint, OnReceivers
from chatd.routing.ear_redis import Ear, Told
from chatd.routing.leases_redis import engine_at
from chatd.store.redis.engine import Engine
from chatd.store.redis.node import Command, Node

PREFIX = b"chatd:bus:"
BATCH_HINTS_MAX = 256
LISTEN_S_MAX = 5.0
AGAIN_S_MIN, AGAIN_S_MAX = 0.1, 5.0
LOOK_S = 10.0
"""So often it is asked who has which slot; at once, and again and again, when a server is away or refuses a channel."""
LOOK_S_MIN, LOOK_PAUSE_S_MAX = 0.05, 1.0
FLUSH_S_MAX = 1.0
"""What was published is sent before the bus is left, as far as it goes in so long."""

log = structlog.get_logger("chatd.bus")


class _Mouth:
    """Publishes what one server is to be told, many in one write."""

    def __init__(self, engine: Engine, metrics: Metrics, *, hints_max: int) -> None:
        self._engine, self._metrics, self._hints_max = engine, metrics, hints_max
        self._verb = "SPUBLISH" if engine.cluster else "PUBLISH"
        self._queue: deque[tuple[bytes, bytes, OnReceivers | None]] = deque()
        self._queued = asyncio.Event()
        self._leaving = False
        self._task = asyncio.get_running_loop().create_task(self._speak(), name="chatd-bus-mouth")

    def put(self, channel: bytes, letter: bytes, on_receivers: OnReceivers | None) -> None:
        """Queue a hint, or drop it."""
        if len(self._queue) >= self._hints_max:
            self._metrics.hints_dropped += 1
            return
        self._queue.append((channel, letter, on_receivers))
        self._queued.set()

    async def close(self) -> None:
        """Say what there is to say."""
        self._leaving = True
        self._queued.set()
        await asyncio.wait([self._task], timeout=FLUSH_S_MAX)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _speak(self) -> None:
        pause_s = AGAIN_S_MIN
        while self._queue or not self._leaving:
            if not self._queue:
                self._queued.clear()
                await self._queued.wait()
                continue
            some = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_HINTS_MAX))]
            counts = await self._say([(self._verb, channel, letter) for channel, letter, _ in some])
            failed = [count for count in counts if isinstance(count, Exception)]
            for (_, _, on_receivers), count in zip(some, counts, strict=True):
                if on_receivers is not None and not isinstance(count, Exception):
                    on_receivers(int(count))
            if not failed:
                pause_s = AGAIN_S_MIN
                continue
            self._metrics.hints_dropped += len(failed)
            log.warning("bus_does_not_take_hints", error=str(failed[0]), dropped=len(failed))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, AGAIN_S_MAX)

    async def _say(self, commands: list[Command]) -> list[Any]:
        """How many heard each, or why none did. What is refused because a slot has moved is sent to where it is now."""
        counts: list[Any] = [None] * len(commands)
        which = list(range(len(commands)))
        # In a cluster another server may have taken the place of one that is away, so it is asked who has the slots.
        for _ in range(2 if self._engine.cluster else 1):
            try:
                answers = await self._engine.outcomes([commands[n] for n in which], write=False)
            except (Unavailable, OutcomeUnknown) as exc:
                answers = [exc] * len(which)
            for n, answer in zip(which, answers, strict=True):
                counts[n] = answer
            which = [n for n in which if isinstance(counts[n], Exception)]
            if not which:
                break
        return counts


class RedisBus:
    """See `Bus`. ``url``: of one Redis, of any one of a cluster, or of sentinels.

    ``publish_hints_max``: how many may wait for one server. What is lost of the way to it comes back by itself.
    """

    def __init__(self, url: str, metrics: Metrics, *, publish_hints_max: int) -> None:
        self._metrics = metrics
        self._hints_max = publish_hints_max
        self._engine = engine_at(url)
        self._told = Told(self._heard_hint, self._heard, self._gap, self._astray)
        self._ears: dict[Node, Ear] = {}
        self._mouths: dict[Node, _Mouth] = {}
        self._at: dict[bytes, Ear] = {}  # the channels that are wanted
        self._waiting: dict[bytes, asyncio.Future[None]] = {}
        self._on_hint: OnHint = lambda user, letter: None
        self._on_gap: Callable[[], None] = lambda: None
        self._look = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    async def open(self, on_hint: OnHint, on_gap: Callable[[], None]) -> None:
        """See `Bus`."""
        self._on_hint, self._on_gap = on_hint, on_gap
        try:
            await self._engine.open()
        except Unavailable as exc:
            raise StartError(f"cluster.bus_url: no Redis answers there ({exc}): start it, or correct the URL") from exc
        for node in self._engine.servers:
            self._ear(node)
        self._looking = asyncio.get_running_loop().create_task(self._keep_looking(), name="chatd-bus-looks")

    async def close(self) -> None:
        """See `Bus`."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await asyncio.gather(*(mouth.close() for mouth in self._mouths.values()))
        await asyncio.gather(*(ear.close() for ear in self._ears.values()))
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Unavailable("the server is stopping"))
                waiting.exception()  # nobody may be waiting any more
        await self._engine.close()

    # --- publishing -------------------------------------------------------------------------------------

    @property
    def dropped(self) -> int:
        """See `Bus`."""
        return self._metrics.hints_dropped

    def publish(self, user: str, letter: bytes, on_receivers: OnReceivers | None = None) -> None:
        """See `Bus`."""
        channel = PREFIX + user.encode()
        node = self._engine.server_of(channel)
        if node not in self._mouths:
            self._mouths[node] = _Mouth(self._engine, self._metrics, hints_max=self._hints_max)
        self._mouths[node].put(channel, letter, on_receivers)

    # --- listening --------------------------------------------------------------------------------------

    async def listen(self, user: str) -> None:
        """See `Bus`."""
        channel = PREFIX + user.encode()
        ear = self._at.get(channel)
        if ear is not None and ear.hears(channel):
            return
        waiting = self._waiting.get(channel)
        if waiting is None:
            # Of everybody who waits for it: who gives up hinders nobody else.
            waiting = self._waiting[channel] = asyncio.get_running_loop().create_future()
        if ear is None:
            ear = self._at[channel] = self._ear(self._engine.server_of(channel))
            ear.add(channel)
        try:
            async with asyncio.timeout(LISTEN_S_MAX):
                await asyncio.shield(waiting)
        except TimeoutError as exc:
            raise Unavailable("the bus does not answer", retry_after_ms=1_000) from exc

    def forget(self, user: str) -> None:
        """See `Bus`."""
        channel = PREFIX + user.encode()
        self._waiting.pop(channel, None)
        ear = self._at.pop(channel, None)
        if ear is not None:
            ear.forget(channel)

    def _ear(self, node: Node) -> Ear:
        if node not in self._ears:
            self._ears[node] = Ear(node, self._told, sharded=self._engine.cluster)
        return self._ears[node]

    def _heard_hint(self, channel: bytes, letter: bytes) -> None:
        self._on_hint(channel[len(PREFIX) :].decode(), letter)

    def _heard(self, channel: bytes) -> None:
        waiting = self._waiting.pop(channel, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _gap(self) -> None:
        self._on_gap()

    def _astray(self) -> None:
        self._look.set()

    # --- who has which slot -----------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        pause_s = LOOK_S_MIN
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._look.wait()
                    await asyncio.sleep(pause_s)  # the others of the same moment
            astray = self._look.is_set()
            self._look.clear()
            pause_s = min(pause_s * 2, LOOK_PAUSE_S_MAX) if astray else LOOK_S_MIN
            try:
                await self._engine.look_again()
            except (Unavailable, OutcomeUnknown) as exc:
                log.warning("bus_lost", error=str(exc))
                self._look.set()
                continue
            await self._move()

    async def _move(self) -> None:
        """Hear each channel where it is now."""
        moved = 0
        for channel, ear in self._at.items():
            now = self._ear(self._engine.server_of(channel))
            if now is not ear:
                self._at[channel] = now
                now.add(channel, lost=ear.drop(channel))
                moved += 1
        if moved:
            log.info("bus_channels_moved", channels=moved)
        nodes = set(self._engine.servers)
        gone = [self._ears.pop(node) for node in self._ears.keys() - nodes]
        spoken = [self._mouths.pop(node) for node in self._mouths.keys() - nodes]
        for ear in self._ears.values():
            ear.again()
        await asyncio.gather(*(one.close() for one in chain[Ear | _Mouth](gone, spoken)))
