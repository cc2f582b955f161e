"""A history that moved answers as before, however often it was interrupted on its way."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from moving_kit import History, opened, plainly
from redis_backend import redis_settings

from chatd.errors import StartError
from chatd.migration import Moved, Progress, move
from chatd.model import Account, Advance, Draft
from chatd.settings import StoreSettings
from chatd.store.conformance.kit import fill, uuid
from chatd.store.moving import PAGE_MESSAGES_MAX, Entry
from chatd.store.redis import RedisStore
from chatd.store.redis.arriving import RedisTarget
from chatd.store.redis.names import short_id
from chatd.store.redis.node import Command
from chatd.store.sqlite import SqliteStore
from chatd.store.sqlite.leaving import SqliteSource
from chatd.testing.redis_cluster import RedisCluster
from chatd.testing.redis_server import RedisServer


@asynccontextmanager
async def arriving(settings: StoreSettings) -> AsyncIterator[RedisTarget]:
    target = RedisTarget(settings)
    await target.open()
    try:
        yield target
    finally:
        await target.close()


@asynccontextmanager
async def redis_store(settings: StoreSettings) -> AsyncIterator[RedisStore]:
    store = RedisStore(settings)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def moved(store: SqliteStore, settings: StoreSettings) -> Moved:
    async with arriving(settings) as target:
        return await move(SqliteSource(store), target)


async def history(directory: Path, seed: int, acts: int = 150) -> tuple[History, SqliteStore]:
    past, store = History(seed), await opened(directory)
    await past.grow(store, acts)
    return past, store


async def same_future(past: History, one: SqliteStore, other: RedisStore) -> None:
    """What happens from here on happens in the same way to both, repeated messages too."""
    assert plainly(await past.answers(one)) == plainly(await past.answers(other))
    dice = random.Random(past.dice.random())
    for number in range(20):
        again = dice.choice(past.drafts)
        sender = dice.choice(again.conv.split(":"))
        drafts = [again, Draft(again.conv, sender, uuid(90_000 + number), "new", 3_000_000)]
        advances = [Advance(again.conv, sender, "phone", dice.randint(0, 50), dice.randint(0, 50))]
        done = [plainly(await store.commit(drafts, advances)) for store in (one, other)]
        assert done[0]["grown"] == done[1]["grown"]
        assert [_outcome(a) for a in done[0]["appended"]] == [_outcome(a) for a in done[1]["appended"]]
    assert plainly(await past.answers(one)) == plainly(await past.answers(other))
    assert await past.use_invites(one) == await past.use_invites(other)


def _outcome(one: Any) -> Any:
    return one if isinstance(one, dict) else str(type(one))


@pytest.mark.parametrize("seed", range(6))
async def test_after_the_move_all_reads_and_all_writes_answer_the_same(
    seed: int, tmp_path: Path, chatd_redis: RedisServer
) -> None:
    past, store = await history(tmp_path, seed)
    name, settings = store.incarnation, redis_settings(chatd_redis.url)
    counts = await store.counts()
    assert await moved(store, settings) == Moved(counts, before=False, copied=counts.messages, differences=())
    async with redis_store(settings) as target:
        assert target.incarnation == name
        await same_future(past, store, target)
    await store.close()


async def test_to_a_cluster(tmp_path: Path, chatd_redis_cluster: RedisCluster) -> None:
    past, store = await history(tmp_path, 7)
    name, settings = store.incarnation, redis_settings(chatd_redis_cluster.url)
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


async def refused(settings: StoreSettings) -> None:
    """Nobody can use a store to which half a history has come."""
    with pytest.raises(StartError, match="half of a history"):
        async with redis_store(settings):
            pass


# --- interrupted -----------------------------------------------------------------------------------------


class Dies(Exception):
    """The process, in the middle of a move."""


def die_after(target: RedisTarget, trips: int) -> None:
    """Let the process end before its next round trip but so many."""
    engine, left = target._engine, [trips]
    outcomes = engine.outcomes

    async def until_then(commands: Sequence[Command], *, write: bool) -> list[Any]:
        if not left[0]:
            raise Dies
        left[0] -= 1
        return await outcomes(commands, write=write)

    engine.outcomes = until_then  # type: ignore[method-assign]


async def test_interrupted_before_each_round_trip_and_used_in_between(tmp_path: Path, chatd_redis: RedisServer) -> None:
    """The server was even started again each time, and things came and went."""
    past, store = await history(tmp_path, 11)
    name, settings = store.incarnation, redis_settings(chatd_redis.url)
    trips, done = 0, None
    while done is None:
        async with arriving(settings) as target:
            die_after(target, trips)
            try:
                done = await move(SqliteSource(store), target)
            except Dies:
                if trips > 1:  # it was claimed
                    await refused(settings)
                trips += 1
                await past.grow(store, 6)
    assert not done.differences
    assert trips > 10
    async with redis_store(settings) as other:
        assert other.incarnation == name
        await same_future(past, store, other)
    await store.close()


async def test_what_a_run_wrote_the_next_one_does_not_write_again(tmp_path: Path, chatd_redis: RedisServer) -> None:
    store, settings = await opened(tmp_path), redis_settings(chatd_redis.url)
    await fill(store, 3_000)
    async with arriving(settings) as target:
        with pytest.raises(Dies):
            await move(SqliteSource(store), Short(target, batches=1))
    done = await moved(store, settings)
    assert done.copied == 2_000
    assert not done.differences
    await store.close()


class Short:
    """A target whose process ends after some batches of messages."""

    def __init__(self, target: RedisTarget, *, batches: int) -> None:
        self._target, self._batches = target, batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    async def append(self, messages: Mapping[str, Sequence[Entry]]) -> None:
        if not self._batches:
            raise Dies
        self._batches -= 1
        await self._target.append(messages)


async def test_ended_between_the_last_two_steps(tmp_path: Path, chatd_redis: RedisServer) -> None:
    store, settings = await opened(tmp_path), redis_settings(chatd_redis.url)
    await fill(store, 5)
    name = store.incarnation

    class Stays(SqliteSource):
        async def leave(self) -> None:
            raise Dies

    async with arriving(settings) as target:
        with pytest.raises(Dies):
            await move(Stays(store), target)
    again = await moved(store, settings)
    assert again.before
    assert again.copied == 0
    assert not again.differences
    async with redis_store(settings) as other:
        assert other.incarnation == name
        await fill(other, 1, first=9)
    await store.close()
    store = await opened(tmp_path)
    assert store.incarnation != name, "what is left behind is another history"
    await store.close()


async def test_both_were_used_after_the_move(tmp_path: Path, chatd_redis: RedisServer) -> None:
    store, settings = await opened(tmp_path), redis_settings(chatd_redis.url)
    await fill(store, 5)

    class Stays(SqliteSource):
        async def leave(self) -> None:
            """The process ended before."""

    async with arriving(settings) as target:
        await move(Stays(store), target)
    await fill(store, 1, first=7)
    again = await moved(store, settings)
    assert again.before
    assert again.differences == (
        "messages: 6 in the source, 5 in the target",
        "conversation alice:bob differs",
    )
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
    await store.engine.write(lambda db: db.execute("UPDATE message SET body = 'other' WHERE seq = 3") and None)
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


async def test_redis_that_was_started_again_meanwhile(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await fill(store, 5)
    with RedisServer(appendfsync="always") as redis:
        settings = redis_settings(redis.url)

        class Restarted(SqliteSource):
            async def rest(self) -> Any:
                redis.stop()
                redis.start()
                return await super().rest()

        async with arriving(settings) as target:
            done = None
            with pytest.raises(Exception, match="Redis"):
                done = await move(Restarted(store), target)
            assert done is None
        assert not (await moved(store, settings)).differences
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
