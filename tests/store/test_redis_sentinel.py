"""The Redis store behind sentinels: it finds the master, and another one begins another history."""

from __future__ import annotations

import asyncio

import pytest
from redis_backend import redis_settings

from chatd.errors import ConfigError, OutcomeUnknown, StartError, StoreBroken, Unavailable
from chatd.store.conformance.kit import draft, fill, seqs
from chatd.store.redis import RedisStore
from chatd.testing.redis_sentinel import RedisSentinel

CONV = "alice:bob"


async def test_a_failover_is_found_and_begins_another_history() -> None:
    with RedisSentinel() as redis:
        settings = redis_settings(redis.url)
        store = RedisStore(settings)
        await store.open()
        before = store.incarnation
        await fill(store, 2)
        await store.engine.one(("WAIT", 1, 5_000), write=False)
        await asyncio.to_thread(redis.fail_over)
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await store.commit([draft(3)], [])
        with pytest.raises(StoreBroken, match="new name"):
            await store.commit([draft(3)], [])
        await store.close()
        again = RedisStore(settings)
        await again.open()
        assert again.incarnation != before
        assert seqs(await again.read(CONV, limit=9)) == [1, 2]
        await fill(again, 1, first=3)
        assert again.durability == "fsync"
        await again.close()


async def test_sentinels_that_know_no_such_master() -> None:
    with RedisSentinel() as redis:
        wrong = redis.url.replace("/chat/", "/other/")
        with pytest.raises(StartError, match="no sentinel knows a master called 'other'"):
            await RedisStore(redis_settings(wrong)).open()
        first_of_two = redis.url.replace("sentinel://", "sentinel://127.0.0.1:1,")
        store = RedisStore(redis_settings(first_of_two))
        await store.open()
        await store.close()


@pytest.mark.parametrize("url", ["sentinel://host:26379", "sentinel:///chat/0", "sentinel://host:port/chat"])
def test_a_url_of_sentinels_that_is_none_is_said_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.redis_url: "):
        RedisStore(redis_settings(url))
