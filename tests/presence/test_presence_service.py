"""The presence service where things cross: a block while the store is asked, a device that leaves meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import pytest

from chatd import protocol
from chatd.errors import TooLarge, Unavailable
from chatd.metrics import Metrics
from chatd.model import WATCHES_MAX, Acquaintance
from chatd.presence.service import Presence, Watcher
from chatd.settings import PresenceSettings


class Store:
    """Everybody knows everybody; an answer waits for the test."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.answer.set()
        self.seen_ms: dict[str, int] = {}
        self.down = False

    async def acquainted(self, user: str, others: Sequence[str]) -> dict[str, Acquaintance]:
        self.asked.set()
        await self.answer.wait()
        if self.down:
            raise Unavailable("the store is gone")
        return {other: Acquaintance(True, self.seen_ms.get(other)) for other in others}

    async def seen(self, times_ms: Mapping[str, int]) -> None:
        if self.down:
            raise Unavailable("the store is gone")
        self.seen_ms.update(times_ms)

    async def set_shows_last_seen(self, user: str, on: bool) -> bool:
        return True


class Device:
    def __init__(self, user: str, device: str = "phone") -> None:
        self.user, self.device = user, device
        self.watcher: Watcher | None = None
        self.full = False
        self.frames: list[protocol.ServerFrame | None] = []
        self.heard = asyncio.Event()

    def hint(self, payload: bytes) -> None:
        self.frames.append(protocol.decode_server(payload))
        self.heard.set()


class World:
    """The service with a clock that the test sets, and devices that come when it says so."""

    def __init__(self, settings: PresenceSettings) -> None:
        self.now_s = 100.0
        self.here: list[Device] = []
        self.store = Store()
        self.service = Presence(
            self.store,
            settings,
            Metrics(),
            devices=self.devices,
            now_s=lambda: self.now_s,
            now_ms=lambda: int(self.now_s * 1000),
        )

    def devices(self, user: str) -> Iterator[Device]:
        return iter([one for one in self.here if one.user == user])

    def connect(self, user: str, device: str = "phone") -> Device:
        one = Device(user, device)
        self.here.append(one)
        self.service.connected(one, shows_last_seen=True)
        return one

    def lose(self, one: Device) -> None:
        self.here.remove(one)
        self.service.lost(one)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    one = World(PresenceSettings())
    yield one
    await one.service.close()


def names(frame: protocol.Presence) -> set[str]:
    return {one.user for one in frame.states}


async def test_who_is_blocked_while_the_store_is_asked_is_not_watched(world: World) -> None:
    alice = world.connect("alice")
    world.store.answer.clear()
    asking = asyncio.create_task(world.service.watch(alice, ["bob", "carol"]))
    await world.store.asked.wait()
    world.service.blocked("bob", "alice")
    world.store.answer.set()
    assert names(await asking) == {"carol"}
    assert alice.watcher is not None
    assert alice.watcher.told.keys() == {"carol"}


async def test_who_left_while_the_store_was_asked_watches_nobody(world: World) -> None:
    alice = world.connect("alice")
    world.store.answer.clear()
    asking = asyncio.create_task(world.service.watch(alice, ["bob"]))
    await world.store.asked.wait()
    world.lose(alice)
    world.store.answer.set()
    assert names(await asking) == set()
    assert alice.watcher is None


@pytest.mark.parametrize(("who", "whom"), [("alice", "bob"), ("bob", "alice")])
async def test_after_a_block_no_typing_passes_either_way(world: World, who: str, whom: str) -> None:
    alice, bob = world.connect("alice"), world.connect("bob")
    for one, peer in ((alice, "bob"), (bob, "alice")):
        assert not world.service.typing(one, "alice:bob", on=True)  # not known yet
        assert await world.service.introduce(one.user, peer)
        assert world.service.typing(one, "alice:bob", on=True)
    assert len(alice.frames) == len(bob.frames) == 1
    world.service.blocked(who, whom)
    world.now_s += 10
    assert not world.service.typing(alice, "alice:bob", on=True)
    assert not world.service.typing(bob, "alice:bob", on=True)
    assert len(alice.frames) == len(bob.frames) == 1


async def test_typing_passes_once_in_three_seconds_a_conversation_and_device(world: World) -> None:
    alice, laptop, bob = world.connect("alice"), world.connect("alice", "laptop"), world.connect("bob")
    await world.service.introduce("alice", "bob")
    for at_s, device, told in [(0.0, alice, 1), (2.9, alice, 1), (2.9, laptop, 2), (3.0, alice, 3), (5.9, alice, 3)]:
        world.now_s = 100.0 + at_s
        assert world.service.typing(device, "alice:bob", on=True)
        assert len(bob.frames) == told, at_s
    assert bob.frames[0] == protocol.PeerTyping(conv="alice:bob", user="alice", on=True)
    assert world.service.typing(alice, "alice:bob", on=False)
    assert len(bob.frames) == told, "its end is dropped too"


async def test_an_inactive_or_congested_device_gets_no_typing(world: World) -> None:
    alice, bob, tablet = world.connect("alice"), world.connect("bob"), world.connect("bob", "tablet")
    await world.service.introduce("alice", "bob")
    world.service.status(bob, away=True, inactive=True)
    world.service.typing(alice, "alice:bob", on=True)
    assert (len(bob.frames), len(tablet.frames)) == (0, 1)
    world.service.status(bob, away=False, inactive=False)
    world.now_s += 3
    world.service.typing(alice, "alice:bob", on=False)
    assert (len(bob.frames), len(tablet.frames)) == (1, 2)


async def test_more_watches_than_the_bound_are_refused_and_change_nothing(world: World) -> None:
    alice = world.connect("alice")
    everybody = [f"user{n}" for n in range(WATCHES_MAX)]
    for at in range(0, WATCHES_MAX, 200):
        await world.service.watch(alice, everybody[at : at + 200])
    await world.service.watch(alice, everybody[:200])  # again is fine
    with pytest.raises(TooLarge):
        await world.service.watch(alice, ["one.more"])
    world.service.unwatch(alice, everybody[:1])
    assert names(await world.service.watch(alice, ["one.more"])) == {"one.more"}


async def test_a_store_that_fails_refuses_the_watch_and_nothing_else(world: World) -> None:
    alice, bob = world.connect("alice"), world.connect("bob")
    await world.service.watch(alice, ["bob"])
    world.store.down = True
    with pytest.raises(Unavailable):
        await world.service.watch(alice, ["carol"])
    world.service.status(bob, away=True, inactive=False)
    world.now_s += 5.0
    await alice.heard.wait()
    assert alice.frames == [protocol.Presence(states=(protocol.Whereabouts(user="bob", state="away"),))]


async def test_an_orderly_end_notes_who_was_here(world: World) -> None:
    world.connect("alice")
    bob = world.connect("bob")
    world.now_s = 200.0
    world.lose(bob)
    world.now_s = 203.0
    await world.service.close()
    assert world.store.seen_ms == {"alice": 203_000, "bob": 200_000}
