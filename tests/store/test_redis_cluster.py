"""The Redis store on a cluster: what is spread over its servers, and what happens while it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from redis.crc import key_slot
from redis_backend import opened, redis_backend

from chatd.errors import OutcomeUnknown, Unavailable
from chatd.model import Appended
from chatd.store.conformance import CHECKS, Result, run_check
from chatd.store.conformance.erasing import accounts, erase, whole
from chatd.store.conformance.kit import draft, fill, seqs, upto
from chatd.store.redis import RedisStore
from chatd.store.redis.node import Command
from chatd.store.redis.scripting import SCRIPTS
from chatd.testing.redis_cluster import RedisCluster


@pytest.mark.parametrize("name", CHECKS)
async def test_redis_cluster(name: str, chatd_redis_cluster: RedisCluster) -> None:
    assert await run_check(name, lambda: redis_backend(chatd_redis_cluster.url)) == Result(name)


async def test_an_unknown_outcome_that_was_not_stored(chatd_redis_cluster: RedisCluster) -> None:
    name = "an_unknown_outcome_can_be_found_out"
    assert await run_check(name, lambda: redis_backend(chatd_redis_cluster.url, lands=False)) == Result(name)


CONV = "alice:bob"


@pytest.fixture
def own() -> Iterator[RedisCluster]:
    """A cluster that one test may break."""
    with RedisCluster(appendfsync="always") as cluster:
        yield cluster


class Dies(Exception):
    """The process, in the middle of a commit."""


def die_at(store: RedisStore, script: str) -> None:
    """Let the store's process end before its next round trip with this script."""
    outcomes = store.engine.outcomes

    async def until_then(commands: Sequence[Command], *, write: bool) -> list[Any]:
        if any(SCRIPTS[script].sha in command for command in commands):
            raise Dies
        return await outcomes(commands, write=write)

    store.engine.outcomes = until_then  # type: ignore[method-assign]


async def listed(store: RedisStore, user: str, since: str | None = None) -> list[str]:
    return [view.conv for view in (await store.conversations(user, "phone", since=since, limit=10)).conversations]


async def test_a_message_is_listed_though_who_wrote_it_died_before_the_index(
    chatd_redis_cluster: RedisCluster,
) -> None:
    async with (
        opened(chatd_redis_cluster.url) as store,
        opened(chatd_redis_cluster.url, store.engine.prefix) as dying,
    ):
        await fill(store, 1)
        await fill(store, 1, conv="bob:carol", sender="carol")
        since = {user: (await store.conversations(user, "phone", limit=9)).since for user in ("alice", "bob", "dave")}
        die_at(dying, "settle")
        with pytest.raises(Dies):
            await dying.commit([draft(2), draft(3, conv="alice:dave")], [])
        assert await listed(store, "alice", since["alice"]) == ["alice:dave", CONV]
        assert await listed(store, "bob", since["bob"]) == [CONV]
        assert await listed(store, "dave", since["dave"]) == ["alice:dave"]
        assert await store.badge("dave") == 1
        walk = await store.unpushed(limit=100, newer_than_ms=0, every_user=True)
        assert ("alice:dave", "dave", 1) in {(row.conv, row.user, row.seq) for row in walk.rows}
        assert (await store.counts()).conversations == 3


async def test_a_note_of_what_was_never_written_shows_nothing(chatd_redis_cluster: RedisCluster) -> None:
    async with (
        opened(chatd_redis_cluster.url) as store,
        opened(chatd_redis_cluster.url, store.engine.prefix) as dying,
    ):
        await fill(store, 1, conv="alice:carol")
        die_at(dying, "commit")
        with pytest.raises(Dies):
            await dying.commit([draft(1)], [])
        assert await listed(store, "alice") == ["alice:carol"]
        assert await listed(store, "bob") == []
        assert (await store.counts()).conversations == 1
        assert (await store.unpushed(limit=100, newer_than_ms=0, every_user=True)).rows[0].conv == "alice:carol"
        await store.enroll("bob", "phone", initial_history=1, newest_max=1)
        await fill(store, 1)
        assert await listed(store, "bob") == [CONV]
        assert await store.position(CONV, "bob", "phone") == 0


async def test_an_old_note_is_thrown_away(chatd_redis_cluster: RedisCluster) -> None:
    async with opened(chatd_redis_cluster.url) as store:
        await fill(store, 2)
        note = ("ZADD", store.engine.key("bob", "touching"), 1, f"{CONV} dead.1")
        since = (await store.conversations("bob", "phone", limit=9)).since
        await store.engine.one(note, write=True)
        page = await store.conversations("bob", "phone", since=since, limit=9)
        assert [view.conv for view in page.conversations] == [CONV]
        assert await listed(store, "bob", page.since) == []
        assert await store.engine.one(("ZCARD", store.engine.key("bob", "touching")), write=False) == 0


async def test_slots_that_move_under_load_lose_and_double_nothing(own: RedisCluster) -> None:
    async with opened(own.url) as store:
        convs = [f"alice:user{n}" for n in range(20)]
        moving = asyncio.Event()

        async def write(conv: str) -> int:
            count = 0
            while not moving.is_set() or count < 20:
                count += 1
                await fill(store, 1, first=count, conv=conv)
            return count

        async with asyncio.TaskGroup() as group:
            writers = [group.create_task(write(conv)) for conv in convs]
            for conv in convs:
                slot = key_slot(store.engine.key(conv, "").encode())
                await asyncio.to_thread(own.move, slot)
            moving.set()
        counts = [writer.result() for writer in writers]
        for conv, count in zip(convs, counts, strict=True):
            log = [message for at in range(0, count, 200) for message in await store.read(conv, after=at, limit=200)]
            assert seqs(log) == upto(1, count)
        assert len(await store._convs("alice")) == 20


async def test_a_user_is_erased_from_slots_that_move(own: RedisCluster) -> None:
    """What cannot be done while a slot is on its way is refused, and done again as an operator does it."""
    async with opened(own.url) as store:
        await accounts(store, "alice")
        convs = [f"alice:user{n}" for n in range(8)]
        for conv in convs:
            drafts = [draft(n, conv=conv, sender=("alice", conv[6:])[n % 2]) for n in upto(1, 600)]
            await store.commit(drafts, [])
        erased = asyncio.Event()

        async def move() -> int:
            count = 0
            while not erased.is_set() or count < len(convs):
                slot = key_slot(store.engine.key(convs[count % len(convs)], "").encode())
                await asyncio.to_thread(own.move, slot)
                count += 1
            return count

        moving = asyncio.create_task(move())
        for _ in range(100):
            try:
                if await erase(store, "alice") == 0:
                    break
            except (Unavailable, OutcomeUnknown):
                continue
        erased.set()
        assert await moving >= len(convs)
        assert await erase(store, "alice") == 0
        for conv in convs:
            log = await whole(store, conv)
            assert seqs(log) == upto(1, 600)
            assert [m.seq for m in log if m.erased] == [m.seq for m in log if m.sender == "alice"]
            assert {m.body for m in log if not m.erased} == {f"body {n}" for n in upto(1, 600) if n % 2}


async def test_a_server_that_is_gone_takes_only_its_slots_along(own: RedisCluster) -> None:
    async with opened(own.url) as store:
        convs = [f"u{n}:v{n}" for n in range(30)]
        where = {conv: own.owner(key_slot(store.engine.key(conv, "").encode())) for conv in convs}
        await store.commit([draft(n, conv=conv, sender=conv.partition(":")[0]) for n, conv in enumerate(convs)], [])
        own.servers[2].kill()
        for conv in convs:
            if where[conv] == 2:
                with pytest.raises((Unavailable, OutcomeUnknown)):
                    await store.read(conv, limit=1)
        await asyncio.to_thread(own.servers[2].start)
        await asyncio.to_thread(own.wait)
        for conv in convs:
            assert seqs(await store.read(conv, limit=9)) == [1]
        done = await store.commit(
            [draft(n, conv=conv, sender=conv.partition(":")[0]) for n, conv in enumerate(convs)], []
        )
        assert all(isinstance(one, Appended) and one.duplicate for one in done.appended)


async def test_two_stores_write_one_conversation(chatd_redis_cluster: RedisCluster) -> None:
    async with (
        opened(chatd_redis_cluster.url) as one,
        opened(chatd_redis_cluster.url, one.engine.prefix) as other,
    ):
        writers = [fill(store, 2, first=n * 10 + at * 5) for n in range(50) for at, store in enumerate([one, other])]
        await asyncio.gather(*writers)
        log = await one.read(CONV, limit=200)
        assert seqs(log) == upto(1, 200)
        assert await listed(other, "bob") == [CONV]
