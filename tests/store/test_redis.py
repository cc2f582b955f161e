"""The Redis store keeps every promise of ``chatd.store.base``, and the ones that only Redis can break."""

from __future__ import annotations

import pytest
from redis_backend import redis_backend

from chatd.store.conformance import CHECKS, Result, run_check
from chatd.testing.redis_server import RedisServer


@pytest.mark.parametrize("name", CHECKS)
async def test_redis(name: str, chatd_redis: RedisServer) -> None:
    assert await run_check(name, lambda: redis_backend(chatd_redis.url)) == Result(name)


async def test_an_unknown_outcome_that_was_not_stored(chatd_redis: RedisServer) -> None:
    name = "an_unknown_outcome_can_be_found_out"
    assert await run_check(name, lambda: redis_backend(chatd_redis.url, lands=False)) == Result(name)
