"""What is trimmed gives its room back: pages of the file are used again, and Redis' memory falls."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import redis.asyncio as aioredis

from chatd.model import Draft
from chatd.protocol import new_message_id
from chatd.settings import StoreSettings
from chatd.store.base import Store
from chatd.store.redis import RedisStore
from chatd.store.sqlite import FILE_NAME, SqliteStore
from chatd.testing.redis_server import RedisServer

MESSAGES = 20_000
CONVERSATIONS = 20
BODY = "x" * 200


async def fill(store: Store, ts_ms: int) -> None:
    """Messages of one time, over all conversations."""
    for _ in range(MESSAGES // 1_000):
        drafts = [
            Draft(f"alice:bob{n % CONVERSATIONS}", "alice", new_message_id(ts_ms / 1000), BODY, ts_ms)
            for n in range(1_000)
        ]
        await store.commit(drafts, [])


async def trim_all(store: Store, older_than_ms: int) -> int:
    """A whole walk."""
    count, cursor = 0, None
    while True:
        step = await store.trim(older_than_ms=older_than_ms, cursor=cursor, limit=100)
        count, cursor = count + step.messages, step.cursor
        if cursor is None:
            return count


async def test_pages_of_the_file_are_used_again(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, StoreSettings(synchronous="normal"))
    await store.open()
    pages = []
    for day in range(1, 5):
        await fill(store, day * 86_400_000)
        assert await trim_all(store, day * 86_400_000) == (MESSAGES if day > 1 else 0)
        pages.append(await store.engine.read(lambda db: db.execute("PRAGMA page_count").fetchone()[0]))
    assert await store.heads(["alice:bob0"]) == {"alice:bob0": 4 * MESSAGES // CONVERSATIONS}
    assert (await store.counts()).messages == 4 * MESSAGES
    await store.close()
    assert pages[-1] <= pages[1] * 1.05, "of four days two are there at most"
    db = sqlite3.connect(tmp_path / FILE_NAME)
    assert db.execute("SELECT count(*) FROM message").fetchone() == (MESSAGES,)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


async def test_memory_of_redis_falls(chatd_redis: RedisServer) -> None:
    store = RedisStore(StoreSettings(kind="redis", redis_url=chatd_redis.url, redis_prefix="trimming:"))
    await store.open()
    client = aioredis.Redis.from_url(chatd_redis.url)

    async def used_bytes() -> int:
        return sum([await client.memory_usage(key, samples=0) or 0 async for key in client.scan_iter("trimming:*")])

    await fill(store, 86_400_000)
    full = await used_bytes()
    assert await trim_all(store, 2 * 86_400_000) == MESSAGES
    empty = await used_bytes()
    await fill(store, 2 * 86_400_000)
    again = await used_bytes()
    await client.aclose()
    await store.close()
    assert empty < full / 20
    assert again < full * 1.05
