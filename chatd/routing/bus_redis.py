"""The bus over Redis pub/sub: a channel a connected user. The subscription is the routing table, and dies with us."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import redis.asyncio as aioredis
import structlog
from redis.exceptions import RedisError

from chatd.errors import StartError, Unavailable
from chatd.metrics import Metrics
from chatd.routing.bus import OnHint, OnReceivers

PREFIX = b"chatd:bus:"
BATCH_HINTS_MAX = 256
LISTEN_S_MAX = 5.0
AGAIN_S_MIN, AGAIN_S_MAX = 0.1, 5.0
CONNECT_S_MAX = 5.0
PING_S = 5.0
FLUSH_S_MAX = 1.0
"""What was published is sent before the bus is left, as far as it goes in so long."""
CLOSE_S_MAX = 2 * PING_S
# The last two: what redis-py and uvloop raise when a connection is closed while it is written to.
LOST = (RedisError, OSError, TimeoutError, AttributeError, RuntimeError)

log = structlog.get_logger("chatd.bus")


class RedisBus:
    """See `Bus`. One connection listens, one publishes, and each comes back by itself."""

    def __init__(self, url: str, metrics: Metrics, *, publish_hints_max: int) -> None:
        self._url = url
        self._metrics = metrics
        self._hints_max = publish_hints_max
        self._queue: deque[tuple[bytes, bytes, OnReceivers | None]] = deque()
        self._queued = asyncio.Event()
        self._channels: dict[bytes, asyncio.Future[None] | None] = {}  # None: it is listened to
        self._on_hint: OnHint = lambda user, letter: None
        self._on_gap: Callable[[], None] = lambda: None
        self._publisher = self._client()
        self._ear: aioredis.client.PubSub | None = None
        self._sending = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._leaving = False
        self._telling: set[asyncio.Task[None]] = set()

    async def open(self, on_hint: OnHint, on_gap: Callable[[], None]) -> None:
        """See `Bus`."""
        self._on_hint, self._on_gap = on_hint, on_gap
        try:
            await self._publisher.ping()
        except (RedisError, OSError) as exc:
            await self._publisher.aclose()
            raise StartError(f"cluster.bus_url: no Redis answers there ({exc}): start it, or correct the URL") from exc
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._hear(), name="chatd-bus-ear")]
        self._tasks.append(loop.create_task(self._speak(), name="chatd-bus-mouth"))

    def _client(self) -> aioredis.Redis:
        # Retries are ours: what is published twice or late is a hint all the same, what waits is not.
        made: aioredis.Redis = aioredis.Redis.from_url(
            self._url,
            socket_timeout=CONNECT_S_MAX,
            socket_connect_timeout=CONNECT_S_MAX,
            retry=None,
            retry_on_error=[],
            health_check_interval=0,
        )
        return made

    async def close(self) -> None:
        """See `Bus`."""
        self._leaving = True
        self._queued.set()
        if self._tasks:
            await asyncio.wait(self._tasks[1:], timeout=FLUSH_S_MAX)
        self._closing = True
        tasks = [*self._tasks, *self._telling]
        for task in tasks:
            task.cancel()
        if tasks:  # on Python 3.11 redis-py may swallow a cancellation: the loops see `_closing` in their next turn
            await asyncio.wait(tasks, timeout=CLOSE_S_MAX)
        self._give_up(Unavailable("the server is stopping"))
        await self._publisher.aclose()

    # --- publishing -------------------------------------------------------------------------------------

    def publish(self, user: str, letter: bytes, on_receivers: OnReceivers | None = None) -> None:
        """See `Bus`."""
        if len(self._queue) >= self._hints_max:
            self._metrics.hints_dropped += 1
            return
        self._queue.append((PREFIX + user.encode(), letter, on_receivers))
        self._queued.set()

    async def _speak(self) -> None:
        pause_s = AGAIN_S_MIN
        while not self._closing:
            if not self._queue:
                if self._leaving:
                    return
                self._queued.clear()
                await self._queued.wait()
                continue
            some = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_HINTS_MAX))]
            try:
                pipeline = self._publisher.pipeline(transaction=False)
                for channel, letter, _ in some:
                    pipeline.publish(channel, letter)
                counts = await pipeline.execute()
            except LOST as exc:
                self._metrics.hints_dropped += len(some)
                log.warning("bus_does_not_take_hints", error=str(exc), dropped=len(some))
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, AGAIN_S_MAX)
            else:
                pause_s = AGAIN_S_MIN
                for (_, _, on_receivers), count in zip(some, counts, strict=True):
                    if on_receivers is not None:
                        on_receivers(int(count))

    # --- listening --------------------------------------------------------------------------------------

    async def listen(self, user: str) -> None:
        """See `Bus`."""
        channel = PREFIX + user.encode()
        if channel in self._channels and self._channels[channel] is None and self._ear is not None:
            return
        waiting = self._channels.get(channel)
        if waiting is None or waiting.done():
            waiting = self._channels[channel] = asyncio.get_running_loop().create_future()
            # Not awaited: who waits may be cancelled, and others wait for the same answer.
            self._soon(self._tell_ear("subscribe", channel))
        try:
            async with asyncio.timeout(LISTEN_S_MAX):
                await asyncio.shield(waiting)
        except TimeoutError as exc:
            raise Unavailable("the bus does not answer", retry_after_ms=1_000) from exc

    def forget(self, user: str) -> None:
        """See `Bus`."""
        channel = PREFIX + user.encode()
        if self._channels.pop(channel, "absent") != "absent" and self._ear is not None:
            self._soon(self._tell_ear("unsubscribe", channel, unless_wanted=True))

    def _soon(self, telling: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(telling)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell_ear(self, what: str, channel: bytes, *, unless_wanted: bool = False) -> None:
        """Subscribe or not; when the connection is away, it does it all when it is back."""
        async with self._sending:
            ear = self._ear
            if ear is None or (unless_wanted and channel in self._channels):
                return
            try:
                await getattr(ear, what)(channel)
            except LOST as exc:
                log.warning("bus_lost", error=str(exc))

    async def _hear(self) -> None:
        pause_s, first = AGAIN_S_MIN, True
        while not self._closing:
            client = self._client()
            ear: Any = client.pubsub()
            try:
                await ear.subscribe(PREFIX + b"#")  # of nobody: it opens the connection, and pings come back on it
                async with self._sending:
                    self._ear = ear
                    for channel in list(self._channels):
                        if self._channels[channel] is None:
                            self._channels[channel] = asyncio.get_running_loop().create_future()
                    if self._channels:
                        await ear.subscribe(*self._channels)
                if not first:
                    self._on_gap()
                first, pause_s = False, AGAIN_S_MIN
                await self._take(ear)
            except LOST as exc:
                log.warning("bus_lost", error=str(exc))
            finally:
                self._ear = None
                await ear.aclose()
                await client.aclose()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, AGAIN_S_MAX)

    async def _take(self, ear: Any) -> None:
        """Take what comes; a connection that says nothing to a ping is lost."""
        silent = 0
        while not self._closing:
            message = await ear.get_message(timeout=PING_S)
            if message is None:
                silent += 1
                if silent > 2:
                    raise TimeoutError("no answer to a ping")
                async with self._sending:
                    await ear.ping()
                continue
            silent = 0
            if message["type"] == "message":
                self._on_hint(message["channel"][len(PREFIX) :].decode(), message["data"])
            elif message["type"] == "subscribe":
                waiting = self._channels.get(message["channel"])
                if waiting is not None:
                    self._channels[message["channel"]] = None
                    if not waiting.done():
                        waiting.set_result(None)

    def _give_up(self, exc: Exception) -> None:
        for waiting in self._channels.values():
            if waiting is not None and not waiting.done():
                waiting.set_exception(exc)
                waiting.exception()  # nobody may be waiting any more
