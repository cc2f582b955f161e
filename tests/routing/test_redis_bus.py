"""The bus and the board over a real Redis: what they promise, and a Redis that goes and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import cast

import pytest
from bus_rig import PATIENCE_S, End, until_true
from client_rig import messages_of

from chatd.client import Client, PresenceEvent
from chatd.errors import ConfigError, StartError, Unavailable
from chatd.metrics import Metrics
from chatd.routing.board_redis import RedisBoard
from chatd.routing.bus_redis import RedisBus
from chatd.store.base import Store
from chatd.store.memory import MemoryStore
from chatd.testing.redis_cluster import RedisCluster
from chatd.testing.redis_sentinel import RedisSentinel
from chatd.testing.redis_server import RedisServer
from chatd.testing.server import ChatServer


@pytest.fixture(scope="module", params=["one server", "a cluster"])
def redis(request: pytest.FixtureRequest) -> Iterator[RedisServer | RedisCluster]:
    with RedisServer() if request.param == "one server" else RedisCluster() as servers:
        yield servers


async def test_who_listens_hears_and_whoever_speaks_hears_how_many_did(redis: RedisServer | RedisCluster) -> None:
    async with End(redis.url) as one, End(redis.url) as two, End(redis.url) as three:
        assert await one.receivers("alice", b"nobody") == 0
        await two.bus.listen("alice")
        await two.bus.listen("alice")  # twice is fine
        await three.bus.listen("bob")
        assert await one.receivers("alice", bytes(range(256))) == 1
        await two.until(heard=1)
        assert two.heard == [("alice", bytes(range(256)))]
        await three.bus.listen("alice")
        assert await one.receivers("alice", b"x" * 100_000) == 2
        await three.until(heard=1)
        two.bus.forget("alice")

        async def three_alone() -> bool:
            return await one.receivers("alice", b"again") == 1

        await until_true(three_alone)
        assert one.heard == []


async def test_many_at_once_keep_their_order_and_one_too_many_is_dropped(redis: RedisServer | RedisCluster) -> None:
    async with End(redis.url, hints_max=500) as one, End(redis.url) as two:
        await two.bus.listen("alice")
        for n in range(600):
            one.bus.publish("alice", b"%d" % n)
        await two.until(heard=500)
        assert [int(letter) for _, letter in two.heard] == list(range(500))
        assert one.metrics.hints_dropped == 100


async def test_forgetting_and_listening_again_in_one_breath_ends_in_listening(
    redis: RedisServer | RedisCluster,
) -> None:
    async with End(redis.url) as one, End(redis.url) as two:
        for _ in range(50):
            await two.bus.listen("alice")
            two.bus.forget("alice")
        await two.bus.listen("alice")
        await one.receivers("alice", b"last")
        await two.until(heard=1)
        assert two.heard[-1] == ("alice", b"last")


async def test_who_gives_up_listening_hinders_nobody_else(redis: RedisServer | RedisCluster) -> None:
    async with End(redis.url) as one, End(redis.url) as two:
        await two.bus.listen("bob")  # it is connected
        impatient = asyncio.create_task(two.bus.listen("alice"))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        await two.bus.listen("alice")
        assert await one.receivers("alice", b"heard") == 1


async def test_after_a_loss_the_ear_is_back_by_itself_and_tells_of_the_gap() -> None:
    with RedisServer() as redis:
        async with End(redis.url) as one, End(redis.url) as two:
            await two.bus.listen("alice")
            redis.kill()
            for n in range(5):
                one.bus.publish("alice", b"%d" % n)  # never waits, never raises
            with pytest.raises(Unavailable):
                async with asyncio.timeout(PATIENCE_S):
                    await two.bus.listen("bob")
            redis.start()
            await two.until(gaps=1)

            async def heard() -> bool:
                return await one.receivers("alice", b"back") == 1

            await until_true(heard)
            await two.until(heard=1)
            assert two.heard[-1] == ("alice", b"back")


async def test_who_asks_sentinels_is_at_the_new_master_after_a_failover() -> None:
    with RedisSentinel(appendfsync=None) as redis:
        async with End(redis.url) as one, End(redis.url) as two:
            await two.bus.listen("alice")
            board = RedisBoard(redis.url)
            await board.open("one", 30.0)
            await asyncio.to_thread(redis.fail_over)
            await two.until(gaps=1)

            async def heard() -> bool:
                one.bus.publish("alice", b"back")
                return ("alice", b"back") in two.heard

            await until_true(heard)

            async def alive() -> bool:
                try:
                    return await board.alive() == {"one"}
                except Unavailable:
                    return False

            await until_true(alive)
            await board.close()


async def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.bus_url: write sentinel://"):
        RedisBus("sentinel://nobody", Metrics(), publish_hints_max=16)


async def test_without_a_redis_it_does_not_start() -> None:
    with RedisServer() as redis:
        url = redis.url
    with pytest.raises(StartError, match="no Redis answers there"):
        await RedisBus(url, Metrics(), publish_hints_max=16).open(lambda user, letter: None, lambda: None)
    with pytest.raises(StartError, match=r"cluster\.bus_url"):
        await RedisBoard(url).open("p", 5.0)


async def test_what_was_said_before_leaving_is_heard(redis: RedisServer | RedisCluster) -> None:
    async with End(redis.url) as one:
        await one.bus.listen("alice")
        async with End(redis.url) as two:
            for number in range(600):
                two.bus.publish("alice", b"%d" % number)

        async def all_heard() -> bool:
            return one.heard == [("alice", b"%d" % number) for number in range(600)]

        await until_true(all_heard)


async def test_a_note_ends_with_the_lease_of_its_process(redis: RedisServer | RedisCluster) -> None:
    one, two = RedisBoard(redis.url), RedisBoard(redis.url)
    await one.open("one", 1.0)
    await two.open("two", 30.0)
    try:
        await one.note({"alice": "online", "bob": "away"})
        await two.note({"alice": "away"})
        assert await two.look(["alice", "bob", "carol"]) == {
            "alice": {"one": "online", "two": "away"},
            "bob": {"one": "away"},
            "carol": {},
        }
        await one.note({"bob": "offline"})
        assert (await two.look(["bob"])) == {"bob": {}}

        async def ended() -> bool:  # process one does not renew its lease
            return "one" not in await two.alive()

        await until_true(ended)
        assert await two.look(["alice"]) == {"alice": {"two": "away"}}
        await two.close()
        assert "two" not in await one.alive()
    finally:
        await one.close()


@pytest.fixture
async def pair(redis: RedisServer | RedisCluster) -> AsyncIterator[tuple[ChatServer, ChatServer]]:
    store = cast(Store, MemoryStore())
    settings = {
        "cluster.bus_url": redis.url,
        "presence.interval_s": 0.05,
        "presence.grace_s": 0.1,
        "limits.initial_history": 200,  # for who says hello for the first time when the other has sent already
    }
    async with (
        ChatServer(users=["alice", "bob"], settings=settings, share=store) as one,
        ChatServer(settings=settings, share=store) as two,
    ):
        yield one, two


async def test_two_servers_with_one_redis_are_one_to_their_clients(pair: tuple[ChatServer, ChatServer]) -> None:
    one, two = pair
    tokens = {user: await one.token(user) for user in ("alice", "bob")}
    async with (
        Client(one.url, token=tokens["alice"], user="alice") as alice,
        Client(two.url, token=tokens["bob"], user="bob") as bob,
    ):
        for n in range(100):
            await alice.send("bob", f"a{n}")
            await bob.send("alice", f"b{n}")
        logs = await asyncio.gather(messages_of(alice, 200), messages_of(bob, 200))
        assert [m.seq for m in logs[0]] == list(range(1, 201))
        assert [m.id for m in logs[0]] == [m.id for m in logs[1]]
        alice.watch("bob")
        async for event in alice.events():
            if isinstance(event, PresenceEvent) and event.state == "online":
                break
        bob.status("away")
        async for event in alice.events():
            if isinstance(event, PresenceEvent) and event.state == "away":
                break
