"""The Redis store on a cluster: what is spread over its servers, and what happens while it changes."""

from __future__ import annotations

import pytest
from redis_backend import redis_backend

from chatd.store.conformance import CHECKS, Result, run_check
from chatd.testing.redis_cluster import RedisCluster


@pytest.mark.parametrize("name", CHECKS)
async def test_redis_cluster(name: str, chatd_redis_cluster: RedisCluster) -> None:
    assert await run_check(name, lambda: redis_backend(chatd_redis_cluster.url)) == Result(name)


async def test_an_unknown_outcome_that_was_not_stored(chatd_redis_cluster: RedisCluster) -> None:
    name = "an_unknown_outcome_can_be_found_out"
    assert await run_check(name, lambda: redis_backend(chatd_redis_cluster.url, lands=False)) == Result(name)
