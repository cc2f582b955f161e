"""The bus over a Redis Cluster whose slots move and whose masters die; processes with everything on one cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from bus_rig import PATIENCE_S, End, until_true
from client_rig import messages_of
from redis.crc import key_slot

from chatd.client import Client, PresenceEvent
from chatd.routing.board_redis import RedisBoard
from chatd.routing.bus_redis import PREFIX
from chatd.testing.redis_cluster import RedisCluster
from chatd.testing.server import ChatServer

USERS = [f"user-{n}" for n in range(60)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster(appendfsync="always", replicas=True, node_timeout_ms=500) as servers:
        yield servers


def _slot(user: str) -> int:
    return int(key_slot(PREFIX + user.encode()))


@pytest.fixture
async def ends(cluster: RedisCluster) -> AsyncIterator[tuple[End, End]]:
    async with End(cluster.url) as one, End(cluster.url) as two:
        for user in USERS:
            await two.bus.listen(user)
        yield one, two


async def _all_heard(one: End, two: End, letter: bytes) -> None:
    """Publish for every user until each hint was heard."""

    async def told() -> bool:
        counts = await asyncio.gather(*(one.receivers(user, letter) for user in USERS))
        return set(counts) == {1}

    await until_true(told)

    async def heard() -> bool:
        return {(user, letter) for user in USERS} <= set(two.heard)

    await until_true(heard)


async def test_every_master_carries_the_channels_of_its_slots(cluster: RedisCluster, ends: tuple[End, End]) -> None:
    one, two = ends
    await _all_heard(one, two, b"hello")
    assert two.gaps == 0
    for number in cluster.masters:
        here = {channel.removeprefix(PREFIX.decode()) for channel in cluster.command(number, "PUBSUB", "SHARDCHANNELS")}
        assert here
        assert here == {user for user in USERS if cluster.owner(_slot(user)) == number}


async def test_a_slot_that_moves_takes_its_channel_along_with_one_gap(
    cluster: RedisCluster, ends: tuple[End, End]
) -> None:
    one, two = ends
    for round_ in range(3):
        gaps = two.gaps
        await asyncio.to_thread(cluster.move, _slot("user-7"))
        one.bus.publish("user-7", b"first")  # to where it was, as far as is known
        await two.until(gaps=gaps + 1)
        await _all_heard(one, two, b"moved %d" % round_)
        assert two.gaps == gaps + 1
    assert one.metrics.hints_dropped == 0


async def test_a_killed_master_is_followed_to_its_replica(cluster: RedisCluster, ends: tuple[End, End]) -> None:
    one, two = ends
    board = RedisBoard(cluster.url)
    await board.open("one", 30.0)
    await board.note(dict.fromkeys(USERS, "online"))
    victim = cluster.owner(_slot("user-3"))
    await asyncio.to_thread(cluster.fail_over, victim)
    await two.until(gaps=1)
    await _all_heard(one, two, b"after")
    await two.bus.listen("newcomer")
    assert await one.receivers("newcomer", b"hello") == 1
    cluster.servers[victim].start()
    await asyncio.to_thread(cluster.wait)
    await _all_heard(one, two, b"whole again")
    assert await board.alive() == {"one"}
    await board.note({"user-3": "away"})
    assert (await board.look(["user-3"]))["user-3"] == {"one": "away"}
    await board.close()


async def test_two_servers_with_everything_on_one_cluster_are_one_while_slots_move(cluster: RedisCluster) -> None:
    settings = {
        "cluster.bus_url": cluster.url,
        "presence.interval_s": 0.05,
        "presence.grace_s": 0.1,
        "limits.initial_history": 200,  # for who says hello for the first time when the other has sent already
    }
    async with (
        ChatServer(cluster.url, users=["alice", "bob"], settings=settings) as one,
        ChatServer(cluster.url, settings=settings) as two,
    ):
        tokens = {user: await one.token(user) for user in ("alice", "bob")}
        async with (
            Client(one.url, token=tokens["alice"], user="alice") as alice,
            Client(two.url, token=tokens["bob"], user="bob") as bob,
        ):
            for n in range(100):
                if n % 25 == 10:
                    for user in ("alice", "bob"):
                        await asyncio.to_thread(cluster.move, _slot(user))
                await alice.send("bob", f"a{n}")
                await bob.send("alice", f"b{n}")
            logs = await asyncio.gather(messages_of(alice, 200), messages_of(bob, 200))
            assert [m.seq for m in logs[0]] == list(range(1, 201))
            assert [m.id for m in logs[0]] == [m.id for m in logs[1]]
            alice.watch("bob")
            async with asyncio.timeout(PATIENCE_S):
                async for event in alice.events():
                    if isinstance(event, PresenceEvent) and event.state == "online":
                        break
