"""A history that moved answers as before, however often it was interrupted on its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from moving_kit import History, opened
from moving_rig import Dies, Short, arriving, die_after, history, moved, redis_store, refused, same_future
from redis_backend import redis_settings

from chatd.errors import StartError
from chatd.migration import Moved, Progress, move
from chatd.model import Account
from chatd.store.conformance.kit import fill, uuid
from chatd.store.moving import PAGE_MESSAGES_MAX
from chatd.store.redis.arriving import RedisTarget
from chatd.store.redis.names import short_id
from chatd.store.sqlite import SqliteStore
from chatd.store.sqlite.leaving import SqliteSource
from chatd.testing.redis_cluster import RedisCluster
from chatd.testing.redis_sentinel import RedisSentinel
from chatd.testing.redis_server import RedisServer


async def messages_kept(store: SqliteStore) -> int:
    """How many were not trimmed."""
    return int(await store.engine.read(lambda db: db.execute("SELECT count(*) FROM message").fetchone()[0]))


@pytest.mark.parametrize("seed", range(6))
async def test_after_the_move_all_reads_and_all_writes_answer_the_same(
    seed: int, tmp_path: Path, chatd_redis: RedisServer
) -> None:
    past, store = await history(tmp_path, seed)
    name, settings = store.incarnation, redis_settings(chatd_redis.url)
    counts, kept = await store.counts(), await messages_kept(store)
    assert await moved(store, settings) == Moved(counts, before=False, copied=kept, differences=())
    async with redis_store(settings) as target:
        assert target.incarnation == name
        await same_future(past, store, target)
    await store.close()


async def test_to_a_cluster_interrupted_now_and_then(tmp_path: Path, chatd_redis_cluster: RedisCluster) -> None:
    past, store = await history(tmp_path, 7)
    name, settings = store.incarnation, redis_settings(chatd_redis_cluster.url)
    for trips in (4, 7, 10):
        async with arriving(settings) as target:
            die_after(target, trips)
            with pytest.raises(Dies):
                await move(SqliteSource(store), target)
        await past.grow(store, 6)
    assert not (await moved(store, settings)).differences
    async with redis_store(settings) as target:
        assert target.incarnation == name
        await same_future(past, store, target)
    await store.close()


async def test_to_the_master_that_sentinels_name(tmp_path: Path) -> None:
    past, store = await history(tmp_path, 8)
    name = store.incarnation
    with RedisSentinel() as sentinel:
        settings = redis_settings(sentinel.url)
        assert not (await moved(store, settings)).differences
        async with redis_store(settings) as target:
            assert target.incarnation == name
            await same_future(past, store, target)
    await store.close()


async def test_a_conversation_of_many_pages(tmp_path: Path, chatd_redis: RedisServer) -> None:
    store, settings = await opened(tmp_path), redis_settings(chatd_redis.url)
    await store.block("bob", "alice", on=True)
    for first in range(1, 2 * PAGE_MESSAGES_MAX, 1_000):
        await fill(store, 1_000, first=first)
        await store.block("bob", "alice", on=first % 2_000 != 1)
    assert not (await moved(store, settings)).differences
    async with redis_store(settings) as target:
        assert await target.read("alice:bob", after=0, limit=10_000, bytes_max=10**8) == await store.read(
            "alice:bob", after=0, limit=10_000, bytes_max=10**8
        )
        assert await target.badge("bob") == await store.badge("bob")
    await store.close()


async def test_an_empty_file_moves_too(tmp_path: Path, chatd_redis: RedisServer) -> None:
    store, settings = await opened(tmp_path), redis_settings(chatd_redis.url)
    name = store.incarnation
    assert not (await moved(store, settings)).differences
    async with redis_store(settings) as target:
        assert target.incarnation == name
    await store.close()


# --- refused, and found ----------------------------------------------------------------------------------


async def test_a_target_that_chatd_has_used_is_refused(tmp_path: Path, chatd_redis: RedisServer) -> None:
    store, settings = await opened(tmp_path), redis_settings(chatd_redis.url)
    async with redis_store(settings) as other:
        await fill(other, 1)
        name = other.incarnation
    with pytest.raises(StartError, match="not empty: chatd has been using it"):
        await moved(store, settings)
    async with redis_store(settings) as other:
        assert other.incarnation == name
        assert (await other.counts()).messages == 1
    await store.close()


async def test_a_target_with_anything_else_under_its_prefix_is_refused(
    tmp_path: Path, chatd_redis: RedisServer
) -> None:
    store, settings = await opened(tmp_path), redis_settings(chatd_redis.url)
    async with redis_store(settings) as other:
        await fill(other, 1)
        await other.engine.one(("DEL", other.engine.key("=life", "life")), write=True)
    with pytest.raises(StartError, match="not empty: it holds "):
        await moved(store, settings)
    with pytest.raises(StartError, match="not empty: it holds "):
        await moved(store, settings)
    await store.close()


async def test_half_of_another_history_is_refused(tmp_path: Path, chatd_redis: RedisServer) -> None:
    settings = redis_settings(chatd_redis.url)
    one, other = await opened(tmp_path / "one"), await opened(tmp_path / "other")
    await fill(one, 5)
    async with arriving(settings) as target:
        with pytest.raises(Dies):
            await move(SqliteSource(one), Short(target, batches=0))
    with pytest.raises(StartError, match="half of another history"):
        await moved(other, settings)
    assert not (await moved(one, settings)).differences
    await one.close()
    await other.close()


async def test_an_older_copy_of_the_source_is_found_out(tmp_path: Path, chatd_redis: RedisServer) -> None:
    """What came before of the same history is not what the source says now."""
    store, settings = await opened(tmp_path), redis_settings(chatd_redis.url)
    await fill(store, 5)
    async with arriving(settings) as target:
        with pytest.raises(Dies):
            await move(SqliteSource(store), Broken(target))
    await store.engine.write(
        lambda db: db.execute("UPDATE message SET body = 'other', checksum = NULL WHERE seq = 3") and None
    )
    assert (await moved(store, settings)).differences == ("conversation alice:bob differs",)
    await refused(settings)
    await store.close()


class Broken(Short):
    """The process ends before the notes."""

    def __init__(self, target: RedisTarget) -> None:
        super().__init__(target, batches=9)

    async def put_notes(self, notes: object) -> None:
        raise Dies


SPOILS: dict[str, tuple[tuple[str, ...], ...]] = {
    "a message": (("XDEL", "{alice:bob}:log", "2-0"),),
    "an id": (("HDEL", "{alice:bob}:ids", f"0{short_id(uuid(2))}"),),
    "a mark": (("HSET", "{alice:bob}:meta", "mark1phone", "1 1 1"),),
    "the index": (("ZREM", "{alice}:convs", "alice:bob"),),
    "the index of all": (("DEL", "{=*}:convs"),),
    "a token": (("DEL", "{token=*}:device"),),
    "an account": (("HSET", "{alice}:account", "disabled", "1"),),
    "an account too many": (
        ("ZADD", "{=users}:names", "0", "mallory"),
        ("HSET", "{mallory}:account", "created", "1", "shows", "1"),
    ),
    "a value": (("SET", "kept:vapid", "other"),),
}


@pytest.mark.parametrize("what", SPOILS)
async def test_what_is_not_equal_is_found(what: str, tmp_path: Path, chatd_redis: RedisServer) -> None:
    store, settings = await opened(tmp_path), redis_settings(chatd_redis.url)
    await store.add_account(Account("alice", None, False, False, 1))
    past = History(1)
    await past._device(store)
    while not past.tokens:
        await past._device(store)
    await store.keep("vapid", "mine")
    await fill(store, 5)

    class Spoilt(RedisTarget):
        async def put_rest(self, rest: Any) -> None:
            await super().put_rest(rest)
            for verb, name, *args in SPOILS[what]:
                keys = [key async for found in self._keys() for key in found]
                pattern = f"{settings.redis_prefix}{name}".encode()
                front, star, back = pattern.partition(b"*")
                hit = [k for k in keys if k.startswith(front) and k.endswith(back)] if star else [pattern]
                assert hit
                await self._engine.run([(verb, key, *args) for key in hit], write=True)

    target = Spoilt(settings)
    await target.open()
    done = await move(SqliteSource(store), target)
    await target.close()
    assert len(done.differences) >= 1
    await refused(settings)
    await store.close()


async def test_progress_is_told(tmp_path: Path, chatd_redis: RedisServer) -> None:
    store, settings = await opened(tmp_path), redis_settings(chatd_redis.url)
    await fill(store, 3)
    told: list[Progress] = []
    async with arriving(settings) as target:
        await move(SqliteSource(store), target, told.append)
    assert told[0] == Progress("copying", 0, 3)
    assert told[-1] == Progress("comparing", 3, 3)
    await store.close()
