"""Members on leases: who is believed to be on the ring, what a router makes of it, and who is sent elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import pytest
import redis.asyncio as aioredis
from redis.crc import key_slot
from router_rig import PATIENCE_S, routing

from chatd import listening, protocol
from chatd.client.wire import connect, websocket_url
from chatd.errors import ConfigError
from chatd.routing import membership
from chatd.routing.members_redis import RedisMembers
from chatd.routing.membership import ABSENT_S, Known, Member, Membership
from chatd.routing.ring import Ring
from chatd.store.base import Store
from chatd.store.memory import MemoryStore
from chatd.testing.ports import free_port
from chatd.testing.redis_cluster import RedisCluster
from chatd.testing.redis_server import RedisServer
from chatd.testing.server import ChatServer
from chatd.testing.speaker import Speaker

LEASE_S = 10.0
A, B = Member("http://a:1", 1, "1"), Member("http://b:1", 2, "1")


def _by_address(*members: Member) -> dict[str, Member]:
    return {member.address: member for member in members}


def test_who_comes_is_seen_at_once_and_who_is_missing_counts_as_gone_after_a_while() -> None:
    known = Known(LEASE_S)
    assert known.looked(_by_address(A, B), 100.0)
    assert not known.looked(_by_address(A, B), 101.0)
    assert not known.looked(_by_address(A), 102.0)
    assert not known.looked(_by_address(A), 102.0 + ABSENT_S - 0.1)
    assert known.members == _by_address(A, B)
    assert known.looked(_by_address(A), 102.0 + ABSENT_S)
    assert known.members == _by_address(A)


def test_who_comes_back_in_time_was_never_gone_but_another_process_is_a_change() -> None:
    known = Known(LEASE_S)
    known.looked(_by_address(A, B), 100.0)
    known.looked(_by_address(A), 101.0)
    assert not known.looked(_by_address(A, B), 102.0)
    assert not known.looked(_by_address(A), 103.0)
    assert not known.looked(_by_address(A), 104.0)
    assert known.looked(_by_address(A, Member(B.address, 2, "2")), 104.5)


def test_after_an_outage_nobody_counts_as_gone_for_the_time_of_a_lease() -> None:
    known = Known(LEASE_S)
    known.looked(_by_address(A, B), 100.0)
    known.looked(_by_address(A), 101.0)
    known.failed(102.0)
    for now_s in (103.0, 106.0, 111.9):
        assert not known.looked({}, now_s)
    assert known.looked(_by_address(A), 112.0)
    assert known.members == _by_address(A)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as servers:
        yield servers


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything ten times as fast."""
    monkeypatch.setattr(membership, "EVERY_S_MAX", 0.1)
    monkeypatch.setattr(membership, "ABSENT_S", 0.3)
    monkeypatch.setattr(listening, "SETTLE_S", 0.2)
    monkeypatch.setattr(listening, "RECONNECT_SPREAD_MS", 100)


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 - Redis is asked, it does not tell
            await asyncio.sleep(0.01)


async def test_a_note_in_redis_lasts_as_long_as_its_lease(redis: RedisServer) -> None:
    await _notes_last(redis.url, redis)


async def test_a_note_in_a_cluster_lasts_as_long_as_its_lease_wherever_its_slot_goes(cluster: RedisCluster) -> None:
    members = RedisMembers(cluster.url)
    slot = key_slot(members.key.encode())
    await members.renew(A, 30.0)
    await asyncio.to_thread(cluster.move, slot)
    assert await members.look() == _by_address(A)
    await members.resign(A)
    await members.close()
    await _notes_last(cluster.url, cluster.servers[cluster.owner(slot)])


async def _notes_last(url: str, holder: RedisServer) -> None:
    members = RedisMembers(url)
    again = Member(A.address, 3, "2")
    await members.renew(A, 0.5)
    await members.renew(B, 30.0)
    assert await members.look() == _by_address(A, B)
    await members.renew(again, 30.0)
    assert await members.look() == _by_address(again, B)
    async with aioredis.Redis.from_url(holder.url) as client:
        await client.zadd(members.key, {"nonsense": 1e12, '["http://c:1", 0, ""]': 1e12})
    assert await members.look() == _by_address(again, B)
    await members.resign(again)

    async def ended() -> bool:
        return await members.look() == _by_address(B)

    await _until(ended)
    await members.close()


class Views:
    """What a follower was told, and a wait for what it should be told next."""

    def __init__(self) -> None:
        self.told: list[dict[str, int]] = []
        self._news = asyncio.Event()

    def __call__(self, weights: Mapping[str, int]) -> None:
        self.told.append(dict(weights))
        self._news.set()

    async def until(self, weights: Mapping[str, int]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not self.told or self.told[-1] != weights:
                self._news.clear()
                await self._news.wait()


async def test_the_last_view_stays_while_redis_is_away(redis: RedisServer, brisk: None) -> None:
    views, kept = Views(), Views()
    one = Membership(RedisMembers(redis.url), lease_s=1.0, on_change=views, me=A)
    two = Membership(RedisMembers(redis.url), lease_s=1.0, on_change=kept, me=B)
    one.start()
    two.start()
    both = {A.address: 1, B.address: 2}
    await views.until(both)
    await kept.until(both)
    redis.stop()
    await asyncio.sleep(0.3)
    redis.start()  # and it has forgotten everything
    reader = RedisMembers(redis.url)

    async def back() -> bool:
        return len(await reader.look()) == 2

    await _until(back)
    assert views.told[-1] == kept.told[-1] == both
    await two.close()
    await views.until({A.address: 1})
    assert all(view in ({A.address: 1}, both) for view in views.told)
    await one.close()
    assert await reader.look() == {}
    await reader.close()


@asynccontextmanager
async def _node() -> AsyncIterator[str]:
    """Answers with its own URL, and echoes; upgrades nothing."""
    url = ""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f'{{"worker":"{url}"}}\n'.encode())
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield url


async def test_a_router_follows_who_comes_and_goes_and_leaves_open_connections_alone() -> None:
    async with _node() as one, _node() as two, routing(["a"], [one]) as rig:

        async def places() -> dict[str, str]:
            users = [f"user-{n}" for n in range(20)]
            return {user: (await rig.ask(f"/v1/ws?user={user}"))["worker"] for user in users}

        def expected(weights: dict[str, int]) -> dict[str, str]:
            return {user: Ring(weights).place(user) for user in (f"user-{n}" for n in range(20))}

        assert await places() == expected({"a": 1, one: 1})
        rig.router.follow({two: 3, "ftp://nowhere": 1, "a": 5})
        assert await places() == expected({"a": 1, one: 1, two: 3})
        assert rig.desks["a"].views[-1][1] == {"a": 1, one: 1, two: 3}
        user = next(user for user, home in expected({"a": 1, one: 1, two: 3}).items() if home == two)
        reader, writer = await rig.connect()
        writer.write(f"GET /v1/ws?user={user} HTTP/1.1\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE_S):
            assert two.encode() in await reader.readline()
        rig.router.follow({one: 2})
        assert await places() == expected({"a": 1, one: 2})
        writer.write(b"still here\n")
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readline() == b"still here\n"
        rig.router.follow({two: 1})
        assert await places() == expected({"a": 1, one: 1, two: 1})
        writer.close()


class Servers:
    """Advertised servers with one store and one Redis; `enter` connects a user to one of them."""

    def __init__(self, redis: RedisServer, stack: AsyncExitStack) -> None:
        self._store = cast(Store, MemoryStore())
        self._redis = redis
        self._stack = stack
        self.first: ChatServer

    async def start(self, users: list[str] | None = None) -> str:
        """One more. Returns: where it is advertised."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        settings: dict[str, Any] = {"cluster.bus_url": self._redis.url, "cluster.advertise": url}
        server = ChatServer(users=users or (), port=port, settings=settings, share=self._store)
        await self._stack.enter_async_context(server)
        if users:
            self.first = server
        return url

    async def enter(self, url: str, user: str) -> Speaker:
        speaker = Speaker(await connect(websocket_url(url, user)))
        self._stack.push_async_callback(speaker.close)
        await speaker.tell(protocol.Hello(token=await self.first.token(user)))
        await speaker.until(protocol.CaughtUp)
        return speaker


async def test_a_server_that_joins_takes_just_those_who_belong_to_it(redis: RedisServer, brisk: None) -> None:
    users = [f"user-{n}" for n in range(24)]
    async with AsyncExitStack() as stack:
        servers = Servers(redis, stack)
        urls = [await servers.start(users), await servers.start()]
        ring = Ring(dict.fromkeys(urls, 1))
        views = Views()
        watching = Membership(RedisMembers(redis.url), lease_s=1.0, on_change=views)
        watching.start()
        stack.push_async_callback(watching.close)
        await views.until(dict.fromkeys(urls, 1))
        speakers = {user: await servers.enter(ring.place(user), user) for user in users}
        third = await servers.start()
        larger = ring.add(third)
        movers = {user for user in users if larger.place(user) == third}
        assert 0 < len(movers) < len(users)
        for user in movers:
            await speakers[user].until(protocol.Goaway)
        for user in set(users) - movers:
            id_ = protocol.new_message_id()
            await speakers[user].tell(protocol.Send(id=id_, to=user, body="still here", n=1))
            before, _ = await speakers[user].until(protocol.Sent)
            assert not any(isinstance(frame, protocol.Goaway) for frame in before)


async def test_an_address_that_is_none_is_told(redis: RedisServer) -> None:
    settings = {"cluster.bus_url": redis.url, "cluster.advertise": "10.0.0.2:8080"}
    with pytest.raises(ConfigError, match=r"cluster\.advertise: 10\.0\.0\.2:8080 is not http://host:port"):
        async with ChatServer(settings=settings):
            pass
    with pytest.raises(ConfigError, match=r"cluster\.bus_url: needed with cluster\.advertise"):
        ChatServer(settings={"cluster.advertise": "http://10.0.0.2:8080"})
