"""The Redis store keeps every promise of ``chatd.store.base``, and the ones that only Redis can break."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis_backend import redis_backend

from chatd.settings import StoreSettings
from chatd.store.conformance import CHECKS, Result, run_check
from chatd.store.conformance.erasing import accounts, erase, whole
from chatd.store.conformance.kit import draft, say
from chatd.store.redis import RedisStore
from chatd.testing.redis_server import RedisServer


@pytest.mark.parametrize("name", CHECKS)
async def test_redis(name: str, chatd_redis: RedisServer) -> None:
    assert await run_check(name, lambda: redis_backend(chatd_redis.url)) == Result(name)


async def test_an_unknown_outcome_that_was_not_stored(chatd_redis: RedisServer) -> None:
    name = "an_unknown_outcome_can_be_found_out"
    assert await run_check(name, lambda: redis_backend(chatd_redis.url, lands=False)) == Result(name)


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A Redis whose files are looked at."""
    with RedisServer(appendfsync="always") as server:
        yield server


def saved(server: RedisServer) -> bytes:
    """All bytes of its files, when it has written them anew."""
    fields = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
    with redis.Redis(port=server.port) as client:
        directory = Path(client.config_get("dir")["dir"])
        while any(client.info("persistence")[field] for field in fields):
            time.sleep(0.01)
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


async def test_what_was_erased_is_in_no_file_once_they_are_written_anew(own: RedisServer) -> None:
    store = RedisStore(StoreSettings(redis_url=own.url))
    await store.open()
    await accounts(store, "alice", "bob")
    bodies = [f"a secret of alice, number {n:04d}" for n in range(600)]
    await say(store, *(draft(n, body=body) for n, body in enumerate(bodies)))
    await say(store, draft(5_000, sender="bob", body="a word of bob"))
    assert b"a secret of alice" in saved(own)
    await erase(store, "alice")
    files = saved(own)
    assert b"a secret of alice" not in files
    assert b"a word of bob" in files
    assert (await whole(store, "alice:bob"))[-1].body == "a word of bob"
    await store.close()
