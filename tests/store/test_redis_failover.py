"""Replicas: what is answered when they must have it too, and when one of them took the place of a master."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
import pytest
from redis.crc import key_slot
from redis_backend import opened as opened_at

from chatd.errors import OutcomeUnknown, StoreBroken, Unavailable
from chatd.model import Appended, Draft
from chatd.store.conformance.kit import draft, fill, seqs, uuid
from chatd.store.redis import RedisStore
from chatd.store.redis.work import sort
from chatd.testing.redis_cluster import RedisCluster
from chatd.testing.redis_sentinel import RedisSentinel
from chatd.testing.redis_server import RedisServer

CONV = "alice:bob"
AGAIN_S = 0.02
opened = partial(opened_at, prefix="x:")  # one and the same store each time
CONFIRMED: dict[str, Any] = {"redis_replicas": 1, "redis_timeout_s": 1.0}


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster(appendfsync="always", replicas=True, node_timeout_ms=500) as cluster:
        yield cluster


async def broken(store: RedisStore, one: Draft) -> None:
    """Commit until the store says that its history has ended."""
    async with asyncio.timeout(20):
        with pytest.raises(StoreBroken, match="new name"):
            while True:
                try:
                    await store.commit([one], [])
                except (Unavailable, OutcomeUnknown):
                    await asyncio.sleep(AGAIN_S)
                else:
                    raise AssertionError("it was answered under the name of a history that is over")


# --- waiting for replicas --------------------------------------------------------------------------------


async def stored_and_unconfirmed(store: RedisStore, other: RedisStore, replica: RedisServer) -> None:
    """What no replica has is answered nowhere until one has it; then it has one place, as if nothing had been."""
    assert store.durability == "replicated"
    await fill(store, 1)
    replica.pause()
    with pytest.raises(OutcomeUnknown, match="0 of 1 replicas have it") as caught:
        await store.commit([draft(2)], [])
    assert "store.redis_replicas" in str(caught.value)
    for one in (store, other):
        with pytest.raises(Unavailable):
            await one.find(CONV, "alice", uuid(2))
    with pytest.raises(OutcomeUnknown):
        await other.commit([draft(2)], [])
    replica.resume()
    found = await store.find(CONV, "alice", uuid(2))
    assert found is not None
    (again,) = (await other.commit([draft(2)], [])).appended
    assert again == Appended(found, duplicate=True)
    assert seqs(await store.read(CONV, limit=9)) == [1, 2]


async def test_a_commit_is_not_answered_before_a_replica_has_it() -> None:
    with RedisServer(appendfsync="everysec") as master:
        master.command("CONFIG", "SET", "repl-diskless-sync-delay", 0)
        follow = {"replicaof": f"127.0.0.1 {master.port}"}
        with RedisServer(options=follow) as replica:
            async with opened(master.url, **CONFIRMED) as store, opened(master.url, **CONFIRMED) as other:
                assert await store.engine.one(("WAIT", 1, 20_000), write=False) == 1
                await stored_and_unconfirmed(store, other, replica)


async def test_nor_in_a_cluster_and_a_duplicate_waits_too(cluster: RedisCluster) -> None:
    async with opened(cluster.url, **CONFIRMED) as store, opened(cluster.url, **CONFIRMED) as other:
        await fill(store, 1)
        master = cluster.owner(key_slot(store.engine.key(CONV, "").encode()))
        commit = store.engine.script("commit", CONV, "w", 1, "0", work_of(draft(2)))
        cluster.servers[master + 3].pause()
        with pytest.raises(OutcomeUnknown, match="0 of 1"):
            await store.engine.one(commit, write=True)
        with pytest.raises(OutcomeUnknown, match="0 of 1"):  # a duplicate waits too, though it writes nothing new
            await other.engine.one(commit, write=True)
        cluster.servers[master + 3].resume()
        (again,) = (await other.commit([draft(2)], [])).appended
        assert isinstance(again, Appended)
        assert again.duplicate


def work_of(one: Draft) -> bytes:
    """What the commit script takes for one draft."""
    return msgspec.msgpack.encode([work.packed(conv) for conv, work in sort([one], []).items()])


# --- one takes the place of another ----------------------------------------------------------------------


async def test_a_replica_stores_nothing_and_one_that_was_begins_another_history() -> None:
    with RedisServer(appendfsync="always") as server:
        async with opened(server.url) as store:
            await fill(store, 1)
            server.command("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(Unavailable):
                await store.commit([draft(2)], [])
            with pytest.raises(Unavailable, match="is a replica"):
                await store.read(CONV, limit=9)
            server.command("REPLICAOF", "NO", "ONE")
            await broken(store, draft(2))
            before = store.incarnation
        async with opened(server.url) as store:
            assert store.incarnation != before
            assert seqs(await store.read(CONV, limit=9)) == [1]


async def test_a_replica_that_was_promoted_and_started_again_before_anybody_asked() -> None:
    with RedisSentinel() as redis:
        async with opened(redis.url) as store:
            await asyncio.to_thread(redis.fail_over)
            redis.servers[0].stop()
            await asyncio.to_thread(redis.servers[0].start)
            await broken(store, draft(1))


async def test_each_failover_of_a_cluster_begins_another_history(cluster: RedisCluster) -> None:
    async with opened(cluster.url) as store, opened(cluster.url) as other:
        before = store.incarnation
        await fill(store, 1)
        await fill(other, 1, first=2)
        master = cluster.owner(key_slot(store.engine.key(CONV, "").encode()))
        await asyncio.to_thread(cluster.fail_over, master)
        for one in (store, other):
            await broken(one, draft(3))
    async with opened(cluster.url) as store:
        between = store.incarnation
        assert between != before
        await fill(store, 1, first=3)
        cluster.servers[master].start()
        await asyncio.to_thread(cluster.wait)
        await asyncio.to_thread(cluster.fail_over, master + 3)  # and back
        await broken(store, draft(4))
    async with opened(cluster.url) as store, opened(cluster.url) as other:
        assert store.incarnation == other.incarnation
        assert store.incarnation not in (before, between)


async def test_a_master_that_came_and_one_that_kept_its_word_go_on_with_the_history(cluster: RedisCluster) -> None:
    async with opened(cluster.url) as store:
        await fill(store, 2)
        slot = key_slot(store.engine.key(CONV, "").encode())
        owner = cluster.owner(slot)
        new = await asyncio.to_thread(cluster.add_master)
        await asyncio.to_thread(cluster.move, slot, new)
        await fill(store, 1, first=3)
        cluster.servers[new].stop()
        await asyncio.to_thread(cluster.servers[new].start)
        await asyncio.to_thread(cluster.wait)
        await fill(store, 1, first=4)
        await asyncio.to_thread(cluster.move, slot, owner)
        await fill(store, 1, first=5)
        async with opened(cluster.url) as again:
            assert again.incarnation == store.incarnation
            assert seqs(await again.read(CONV, limit=9)) == [1, 2, 3, 4, 5]


async def test_a_server_of_a_cluster_that_may_have_forgotten_begins_another_history() -> None:
    with RedisCluster(appendfsync="everysec") as cluster:
        async with opened(cluster.url) as store:
            before = store.incarnation
            await fill(store, 1)
            server = cluster.servers[cluster.owner(key_slot(store.engine.key(CONV, "").encode()))]
            server.kill()
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(cluster.wait)
            await broken(store, draft(2))
        async with opened(cluster.url) as store:
            assert store.incarnation != before
