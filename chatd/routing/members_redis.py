"""The members in Redis: one sorted set, scored by when each lease ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import msgspec
import redis.asyncio as aioredis
from redis.exceptions import RedisError

from chatd.errors import Unavailable
from chatd.routing.membership import Member

KEY = "chatd:members"
TIMEOUT_S = 5.0
KEPT_S = 3_600
"""The set goes by itself when nobody is on the ring any more."""


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as exc:
        raise Unavailable(f"the members cannot be read: {exc}", retry_after_ms=1_000) from exc


class RedisMembers:
    """See `Members`. Leases end by Redis's own clock, so the clocks of the processes do not matter."""

    def __init__(self, url: str) -> None:
        # Without the driver's own retries: after a restart an outage must show, or empty would look like "all gone".
        self._client: aioredis.Redis = aioredis.Redis.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=None, retry_on_error=[]
        )

    async def close(self) -> None:
        """See `Members`."""
        await self._client.aclose()

    async def _now_s(self) -> float:
        seconds, micros = await self._client.time()
        return float(seconds) + micros / 1e6

    async def renew(self, member: Member, lease_s: float) -> None:
        """See `Members`."""
        with _translating():
            ends_s = await self._now_s() + lease_s
            pipeline = self._client.pipeline(transaction=False)
            pipeline.zadd(KEY, {msgspec.json.encode(member): ends_s})
            pipeline.zremrangebyscore(KEY, "-inf", ends_s - 10 * lease_s)
            pipeline.expire(KEY, KEPT_S)
            await pipeline.execute()

    async def resign(self, member: Member) -> None:
        """See `Members`."""
        with _translating():
            await self._client.zrem(KEY, msgspec.json.encode(member))

    async def look(self) -> dict[str, Member]:
        """See `Members`. What is no member is passed over."""
        with _translating():
            noted = cast(list[bytes], await self._client.zrangebyscore(KEY, await self._now_s(), "+inf"))
        found = {}
        for one in noted:  # by the ends of their leases: the later one stands
            try:
                member = msgspec.json.decode(one, type=Member)
            except msgspec.DecodeError:
                continue
            if member.address and member.weight >= 1:
                found[member.address] = member
        return found
