"""Several servers on one store and one bus: to a client they are one, whatever the bus loses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any, cast

import aiohttp
import pytest

from chatd import protocol
from chatd.client import Client, MessageEvent, PresenceEvent, Stopped, TypingEvent
from chatd.model import Marks, Message, conv_of
from chatd.routing.bus import Letter, MessageHint, decode, encode
from chatd.store.base import Store
from chatd.store.memory import MemoryStore
from chatd.testing.bus import Hub, LoopBoard
from chatd.testing.push_service import FakePushService
from chatd.testing.server import ChatServer

CONV = conv_of("alice", "bob")
USERS = ["alice", "bob", "carol"]
FAST: dict[str, Any] = {
    "cluster.reconcile_s": 1.0,
    "cluster.reconcile_calm_s": 1.0,
    "cluster.spread_s": 0.1,
    "push.private_endpoints": True,
    "push.delay_s": 0.5,
    "presence.interval_s": 0.05,
    "presence.grace_s": 0.1,
    "cluster.lease_s": 1.0,
}


class Cluster:
    """Servers with a bus and a memory store in common, and the tokens that hold on all of them."""

    def __init__(self, hub: Hub, settings: Mapping[str, Any] = FAST) -> None:
        self.hub = hub
        self._settings = settings
        self.store = MemoryStore()
        self.servers: list[ChatServer] = []
        self.boards: list[LoopBoard] = []
        self.stack = AsyncExitStack()

    async def start(self, count: int) -> None:
        for _ in range(count):
            share, bus = cast(Store, self.store), self.hub.end()
            board = LoopBoard(self.hub)
            self.boards.append(board)
            users = USERS if not self.servers else ()
            server = ChatServer(users=users, settings=self._settings, share=share, bus=bus, board=board)
            self.servers.append(await self.stack.enter_async_context(server))

    async def client(self, at: int, user: str, device: str = "test") -> Client:
        """This user's device, connected to this server."""
        token = await self.servers[0].token(user, device)
        return await self.stack.enter_async_context(Client(self.servers[at].url, token=token, user=user))

    async def http(self, at: int, method: str, path: str, user: str, body: Any = None) -> int:
        headers = {"Authorization": f"Bearer {await self.servers[0].token(user)}"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.servers[at].url + path, headers=headers, json=body) as answer,
        ):
            return answer.status


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster(Hub())
    async with cluster.stack:
        await cluster.start(2)
        yield cluster


async def messages(client: Client, count: int) -> list[MessageEvent]:
    """The next messages."""
    found: list[MessageEvent] = []
    async for event in client.events():
        if isinstance(event, MessageEvent):
            found.append(event)
            if len(found) == count:
                return found
    raise AssertionError("the client ended")


async def caught_up(client: Client) -> None:
    async for event in client.events():
        if type(event).__name__ == "CaughtUpEvent":
            return


async def test_a_message_and_its_receipts_cross_processes(cluster: Cluster) -> None:
    alice, bob, tablet = (
        await cluster.client(0, "alice"),
        await cluster.client(1, "bob"),
        await cluster.client(0, "bob", "2"),
    )
    for one in (alice, bob, tablet):
        await caught_up(one)
    handle = await alice.send("bob", "hi")
    for one in (bob, tablet):
        assert [m.body for m in await messages(one, 1)] == ["hi"]
    await handle.delivered()
    await bob.mark_read(CONV, 1)
    await handle.read()
    while tablet.marks(CONV).mine.read < 1:  # what bob read on one process is read on the other
        await tablet.marks_grew(CONV)
    assert alice.marks(CONV).peer == Marks(1, 1)


async def test_both_sides_write_at_once_on_different_processes(cluster: Cluster) -> None:
    alice, bob = await cluster.client(0, "alice"), await cluster.client(1, "bob")
    for n in range(200):
        await alice.send("bob", f"a{n}")
        await bob.send("alice", f"b{n}")
    logs = [await messages(one, 400) for one in (alice, bob)]
    assert [m.seq for m in logs[0]] == list(range(1, 401))
    assert [(m.seq, m.id, m.body) for m in logs[0]] == [(m.seq, m.id, m.body) for m in logs[1]]


async def test_typing_crosses_and_a_block_stops_it_everywhere(cluster: Cluster) -> None:
    alice, bob = await cluster.client(0, "alice"), await cluster.client(1, "bob")
    await (await bob.send("alice", "hi")).sent()
    await messages(alice, 1)
    alice.typing(CONV)
    async for event in bob.events():
        if event == TypingEvent(CONV, "alice", on=True):
            break
    assert await cluster.http(1, "PUT", "/v1/blocks/alice", "bob") == 204
    pairs = cluster.servers[0].server.presence._pairs
    async with asyncio.timeout(5):
        while ("alice", "bob") in pairs:  # noqa: ASYNC110 - a set tells nobody that it changed
            await asyncio.sleep(0.01)


async def seen(client: Client, wanted: PresenceEvent) -> PresenceEvent:
    """Wait until a user is so; ``last_seen`` is whatever it is."""
    async for event in client.events():
        if isinstance(event, PresenceEvent) and (event.user, event.state) == (wanted.user, wanted.state):
            return event
    raise AssertionError("the client ended")


async def test_presence_crosses_processes_and_a_dead_process_takes_its_users_with_it(cluster: Cluster) -> None:
    alice, bob = await cluster.client(0, "alice"), await cluster.client(1, "bob")
    await (await bob.send("alice", "hi")).sent()
    alice.watch("bob")
    await seen(alice, PresenceEvent("bob", "online"))
    bob.status("away")
    await seen(alice, PresenceEvent("bob", "away"))
    tablet = await cluster.client(0, "bob", "tablet")
    await seen(alice, PresenceEvent("bob", "online"))
    await tablet.close()
    await seen(alice, PresenceEvent("bob", "away"))
    bob.status("online")
    await seen(alice, PresenceEvent("bob", "online"))
    cluster.hub.ends[1].cut()  # the process is killed: nobody hears of it, and its lease ends
    cluster.boards[1].die()
    await seen(alice, PresenceEvent("bob", "offline"))


async def test_who_leaves_another_process_is_last_seen_there(cluster: Cluster) -> None:
    alice, bob = await cluster.client(0, "alice"), await cluster.client(1, "bob")
    await (await bob.send("alice", "hi")).sent()
    alice.watch("bob")
    await seen(alice, PresenceEvent("bob", "online"))
    await bob.close()
    assert (await seen(alice, PresenceEvent("bob", "offline"))).last_seen is not None


async def test_a_revoked_device_is_closed_on_every_process(cluster: Cluster) -> None:
    bob = await cluster.client(1, "bob")
    await caught_up(bob)
    assert await cluster.http(0, "POST", "/v1/logout", "bob") == 204
    with pytest.raises(Stopped) as stopped:
        async for _ in bob.events():
            pass
    assert stopped.value.code == 4401


async def test_a_device_that_connects_elsewhere_replaces_its_older_connection(cluster: Cluster) -> None:
    first = await cluster.client(0, "bob")
    await caught_up(first)
    second = await cluster.client(1, "bob")
    with pytest.raises(Stopped) as stopped:
        async for _ in first.events():
            pass
    assert stopped.value.code == 4409
    await caught_up(second)


async def test_who_is_connected_elsewhere_is_not_pushed_to_and_who_is_nowhere_is_at_once(cluster: Cluster) -> None:
    async with FakePushService() as service:
        phones = {}
        for user in ("bob", "carol"):
            phones[user] = service.subscribe()
            body = {"endpoint": phones[user].endpoint, "keys": phones[user].keys}
            assert await cluster.http(0, "PUT", "/v1/push/subscription", user, body) == 204
        alice, bob = await cluster.client(0, "alice"), await cluster.client(1, "bob", "desk")
        await caught_up(bob)
        handle = await alice.send("bob", "hi")
        await messages(bob, 1)
        await handle.delivered()
        await (await alice.send("carol", "hi")).sent()
        assert (await service.nth(1)).payload["to"] == "carol"
        async with asyncio.timeout(5):
            while cluster.servers[0].server.metrics.gauges["push_pending"]():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        assert service.received(phones["bob"]) == []


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_whatever_the_bus_loses_repeats_and_reorders_every_device_gets_the_whole_log(seed: int) -> None:
    cluster = Cluster(Hub(loss=0.1, repeat=0.1, late_s=0.05, seed=seed))
    async with cluster.stack:
        await cluster.start(3)
        alice, bob, tablet = [await cluster.client(n, user, f"d{n}") for n, user in enumerate(("alice", "bob", "bob"))]
        for one in (alice, bob, tablet):
            await caught_up(one)
        for n in range(150):
            await alice.send("bob", f"a{n}")
            await bob.send("alice", f"b{n}")
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            logs = await asyncio.gather(*(messages(one, 300) for one in (alice, bob, tablet)))
        for log in logs:
            assert [m.seq for m in log] == list(range(1, 301))
            assert [m.id for m in log] == [m.id for m in logs[0]]
        assert cluster.hub.lost > 0
        assert cluster.hub.repeated > 0


async def test_after_a_cut_every_session_is_compared_with_the_store(cluster: Cluster) -> None:
    alice, bob = await cluster.client(0, "alice"), await cluster.client(1, "bob")
    for one in (alice, bob):
        await caught_up(one)
    end = cluster.hub.ends[1]
    end.cut()
    handle = await alice.send("bob", "while nobody could hear")
    await handle.sent()
    end.heal()
    assert [m.body for m in await messages(bob, 1)] == ["while nobody could hear"]
    await handle.delivered()


@pytest.fixture
async def calm() -> AsyncIterator[Cluster]:
    """Sessions are compared with the store after a sign of a loss, and otherwise not while a test runs."""
    cluster = Cluster(Hub(), {**FAST, "cluster.reconcile_calm_s": 3_600.0})
    async with cluster.stack:
        await cluster.start(2)
        yield cluster


async def hears_nothing_of(cluster: Cluster, what: str) -> Client:
    """Alice sends ``what`` on the first process, and no hint of it reaches the second. Returns: Bob, who is there."""
    alice, bob = await cluster.client(0, "alice"), await cluster.client(1, "bob")
    for one in (alice, bob):
        await caught_up(one)
    cluster.hub.ends[0].cut()
    await (await alice.send("bob", what)).sent()
    return bob


async def is_told(bob: Client, what: str) -> None:
    async with asyncio.timeout(20):
        assert [m.body for m in await messages(bob, 1)] == [what]


async def test_a_process_that_could_not_tell_says_so_when_it_can(calm: Cluster) -> None:
    bob = await hears_nothing_of(calm, "while the sender had no bus")
    calm.hub.ends[0].heal()
    await is_told(bob, "while the sender had no bus")


async def test_what_a_process_committed_last_before_it_died_is_found(calm: Cluster) -> None:
    bob = await hears_nothing_of(calm, "its last")
    calm.boards[0].die()
    await is_told(bob, "its last")


async def test_a_letter_that_is_not_understood_is_a_sign(calm: Cluster) -> None:
    bob = await hears_nothing_of(calm, "of a newer version")
    calm.hub.end().publish("bob", b"\xc1")
    await is_told(bob, "of a newer version")


async def test_a_message_of_another_history_is_shown_to_nobody(cluster: Cluster) -> None:
    bob, other = await cluster.client(1, "bob"), cluster.hub.end()
    await caught_up(bob)
    forgotten = MessageHint(Message(CONV, 1, protocol.new_message_id(), "alice", "elsewhere", 1_000))
    other.publish("bob", encode(Letter("process", forgotten, "another history")))
    async with asyncio.timeout(20):
        while not cluster.servers[1].server.metrics.hints_heard:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
    alice = await cluster.client(0, "alice")
    await alice.send("bob", "here")
    assert [m.body for m in await messages(bob, 1)] == ["here"]


def test_a_hint_is_small_and_comes_back_as_it_was() -> None:
    letter = Letter("p1", MessageHint(Message(CONV, 7, protocol.new_message_id(), "alice", "hi", 1_000)))
    data = encode(letter)
    assert decode(data) == letter
    assert len(data) < 128
