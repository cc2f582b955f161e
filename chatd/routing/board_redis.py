"""The board in Redis: a hash a user with a field a process, and a lease a process."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from chatd.errors import StartError, Unavailable
from chatd.model import PresenceState

PREFIX = "chatd:here:"
LEASES = "chatd:leases"
TIMEOUT_S = 5.0
NOTE_S = 86_400
"""A note outlives its process by this at most; whoever reads it asks for the lease."""
SHORT: dict[PresenceState, str] = {"online": "o", "away": "a"}
LONG: dict[str, PresenceState] = {short: state for state, short in SHORT.items()}


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as exc:
        raise Unavailable(f"the presence board failed: {exc}", retry_after_ms=1_000) from exc


class RedisBoard:
    """See `Board`. Leases end by Redis's own clock, so the clocks of the processes do not matter."""

    def __init__(self, url: str, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._process = ""
        self._lease_s = 0.0
        self._noted: set[str] = set()
        self._client: aioredis.Redis = aioredis.Redis.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, decode_responses=True
        )

    async def open(self, process: str, lease_s: float) -> None:
        """See `Board`."""
        self._process, self._lease_s = process, lease_s
        try:
            await self.alive()
        except Unavailable as exc:
            await self._client.aclose()
            raise StartError(f"cluster.bus_url: {exc.message}") from exc

    async def close(self) -> None:
        """See `Board`."""
        try:
            if self._process:
                with _translating():
                    await self._client.zrem(LEASES, self._process)
        except Unavailable:  # it runs out
            return
        finally:
            await self._client.aclose()

    async def alive(self) -> set[str]:
        """See `Board`."""
        with _translating():
            seconds, micros = await self._client.time()
            now_s = seconds + micros / 1e6
            pipeline = self._client.pipeline(transaction=False)
            pipeline.zadd(LEASES, {self._process: now_s + self._lease_s})
            pipeline.zremrangebyscore(LEASES, "-inf", now_s - 10 * self._lease_s)
            pipeline.zrangebyscore(LEASES, now_s, "+inf")
            return set((await pipeline.execute())[2])

    async def note(self, states: Mapping[str, PresenceState]) -> None:
        """See `Board`."""
        if not states:
            return
        with _translating():
            pipeline = self._client.pipeline(transaction=False)
            for user, state in states.items():
                if state == "offline":
                    pipeline.hdel(PREFIX + user, self._process)
                else:
                    pipeline.hset(PREFIX + user, self._process, SHORT[state])
                    pipeline.expire(PREFIX + user, NOTE_S)
            await pipeline.execute()

    async def look(self, users: Sequence[str]) -> dict[str, dict[str, PresenceState]]:
        """See `Board`."""
        alive = await self.alive()
        with _translating():
            pipeline = self._client.pipeline(transaction=False)
            for user in users:
                pipeline.hgetall(PREFIX + user)
            notes = await cast(Awaitable[list[dict[str, str]]], pipeline.execute())
        return {
            user: {process: LONG[short] for process, short in of.items() if process in alive and short in LONG}
            for user, of in zip(users, notes, strict=True)
        }
