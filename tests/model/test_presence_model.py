"""Presence against a reference model: whatever happens in whatever order, watchers agree within interval + grace after
the last change, and nobody ever hears of somebody whom they may not watch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from chatd import protocol
from chatd.metrics import Metrics
from chatd.model import Acquaintance, conv_of
from chatd.presence.service import Presence, Watcher
from chatd.settings import PresenceSettings
from chatd.testing.virtual_time import VirtualLoop

USERS = ("alice", "bob", "carol", "dave")
DEVICES = ("phone", "laptop")
TIMES = PresenceSettings(interval_s=5.0, grace_s=10.0)
STRANGERS = {frozenset(("alice", "dave"))}


class Store:
    """Who knows whom; an answer takes as long as the test says."""

    def __init__(self) -> None:
        self.blocked: set[tuple[str, str]] = set()
        self.shows = dict.fromkeys(USERS, True)
        self.seen_ms: dict[str, int] = {}
        self.delay_s = 0.0

    def allowed(self, user: str, other: str) -> bool:
        strangers = frozenset((user, other)) in STRANGERS
        return not (strangers or {(user, other), (other, user)} & self.blocked)

    async def acquainted(self, user: str, others: Sequence[str]) -> dict[str, Acquaintance]:
        delay_s = self.delay_s
        await asyncio.sleep(delay_s / 2)
        known = {o: Acquaintance(self.shows[o], self.seen_ms.get(o)) for o in others if self.allowed(user, o)}
        await asyncio.sleep(delay_s / 2)
        return known

    async def seen(self, times_ms: Mapping[str, int]) -> None:
        for user, at_ms in times_ms.items():
            self.seen_ms[user] = max(self.seen_ms.get(user, 0), at_ms)

    async def set_shows_last_seen(self, user: str, on: bool) -> bool:
        self.shows[user] = on
        return True


class Phone:
    """A device: what it holds of others, and whether what it hears is for it."""

    def __init__(self, world: World, user: str, device: str) -> None:
        self.world = world
        self.user, self.device = user, device
        self.watcher: Watcher | None = None
        self.here = False
        self.away = False
        self.inactive = False
        self.full = False
        self.watched: set[str] = set()
        self.view: dict[str, str] = {}
        self.heard_s: list[float] = []

    @property
    def quiet(self) -> bool:
        return self.inactive or self.full

    def hint(self, payload: bytes) -> None:
        if self.full and self.watcher is None:  # a connection drops it
            return
        try:
            self._check_hint(payload)
        except AssertionError as exc:  # the service goes on, as it should; the test does not
            self.world.faults.append(exc)

    def _check_hint(self, payload: bytes) -> None:
        frame = protocol.decode_server(payload)
        assert self.here
        assert not self.quiet, "a hint to a device that wants none"
        if isinstance(frame, protocol.PeerTyping):
            assert self.world.store.allowed(self.user, frame.user)
            return
        assert isinstance(frame, protocol.Presence)
        assert frame.states, "an empty frame"
        now_s = self.world.loop.time()
        # a refresh after a change of privacy is told in the device's slot as well
        assert not self.heard_s or now_s - self.heard_s[-1] > TIMES.interval_s - 0.06, "too often"
        self.heard_s.append(now_s)
        self._apply(frame)

    def answered(self, frame: protocol.Presence) -> None:
        self.watched |= {one.user for one in frame.states}
        self._apply(frame)

    def _apply(self, frame: protocol.Presence) -> None:
        for one in frame.states:
            assert one.user in self.watched, f"{self.user} does not watch {one.user}"
            assert self.world.store.allowed(self.user, one.user)
            if one.last_seen is not None:
                assert one.state == "offline"
                assert self.world.store.shows[one.user], "a last_seen of somebody who hides it"
                assert self.world.store.shows[self.user], "a last_seen for somebody who hides their own"
            self.view[one.user] = one.state


class World:
    """The service, its store, the devices, and what should be true."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.store = Store()
        self.phones = {(u, d): Phone(self, u, d) for u in USERS for d in DEVICES}
        self.tasks: set[asyncio.Task[None]] = set()
        self.faults: list[AssertionError] = []
        self.service: Presence
        self.start()

    def start(self) -> None:
        self.service = Presence(
            self.store,
            TIMES,
            Metrics(),
            devices=self.devices,
            now_s=self.loop.time,
            now_ms=lambda: int(self.loop.time() * 1000),
        )

    def devices(self, user: str) -> Iterator[Phone]:
        yield from [p for p in self.phones.values() if p.user == user and p.here]

    def state(self, user: str) -> str:
        """What must be seen in the end, when every grace is over."""
        here = list(self.devices(user))
        return "offline" if not here else "away" if all(p.away for p in here) else "online"

    async def do(self, op: tuple[Any, ...]) -> None:
        kind, user, device, other, flag, delay_s = op
        phone = self.phones[user, device]
        match kind:
            case "connect" if not phone.here:
                phone.here, phone.away, phone.inactive, phone.full = True, False, False, False
                self.service.connected(phone, shows_last_seen=self.store.shows[user])
            case "lose" if phone.here:
                self.lose(phone)
            case "status" if phone.here:
                phone.away, phone.inactive = flag, delay_s > 6
                self.service.status(phone, away=flag, inactive=phone.inactive)
            case "congest" if phone.here:
                phone.full = flag
                self.service.congested(phone)
            case "watch" if phone.here:
                self.spawn(self.watch(phone, [other, *USERS[:2]] if flag else [other], delay_s))
            case "unwatch" if phone.here:
                phone.watched.discard(other)
                self.service.unwatch(phone, [other])
            case "block" if user != other:
                if flag:
                    self.store.blocked.add((user, other))
                    self.service.blocked(user, other)
                    for one, two in ((user, other), (other, user)):
                        for p in self.devices(one):
                            p.watched.discard(two)
                else:
                    self.store.blocked.discard((user, other))
            case "privacy":
                await self.store.set_shows_last_seen(user, flag)
                self.service.shows_last_seen(user, flag)
            case "type" if phone.here and user != other:
                if not self.service.typing(phone, conv_of(user, other), on=flag):
                    self.spawn(self.type(phone, other))
            case "crash":
                for p in self.phones.values():
                    if p.here:
                        self.lose(p)
                for task in self.tasks:
                    task.cancel()
                self.start()
            case "wait":
                await asyncio.sleep(delay_s)

    def lose(self, phone: Phone) -> None:
        phone.here = False
        phone.watched.clear()
        phone.view.clear()
        phone.heard_s.clear()
        self.service.lost(phone)

    def spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and isinstance(exc := task.exception(), AssertionError):
            self.faults.append(exc)

    async def watch(self, phone: Phone, users: list[str], delay_s: float) -> None:
        if not phone.here:  # a connection that closes cancels what it had begun
            return
        self.store.delay_s = delay_s / 4
        session = phone.heard_s, phone.watcher
        answer = await self.service.watch(phone, users)
        if not phone.here or (session[1] is not None and phone.watcher is not session[1]):
            assert answer.states == () or phone.here
            return
        for user in users:
            if user not in {one.user for one in answer.states}:
                phone.watched.discard(user)
        phone.answered(answer)

    async def type(self, phone: Phone, other: str) -> None:
        if phone.here and await self.service.introduce(phone.user, other) and phone.here:
            self.service.typing(phone, conv_of(phone.user, other), on=True)

    def check(self) -> None:
        if self.faults:
            raise self.faults[0]
        for phone in self.phones.values():
            if phone.here and not phone.quiet:
                for user in phone.watched:
                    assert phone.view[user] == self.state(user), f"{phone.user}'s {phone.device} of {user}"


OPS = st.tuples(
    st.sampled_from(
        ["connect"] * 5
        + ["lose", "lose", "status", "status", "watch", "watch", "watch", "wait", "wait", "wait"]
        + ["congest", "unwatch", "block", "privacy", "type", "crash"]
    ),
    st.sampled_from(USERS),
    st.sampled_from(DEVICES),
    st.sampled_from(USERS),
    st.booleans(),
    st.sampled_from([0.0, 0.02, 1.0, 3.0, 4.99, 5.0, 7.0, 10.0, 12.0]),
)


@given(ops=st.lists(OPS, min_size=10, max_size=60))
@settings(max_examples=250, deadline=None)
def test_watchers_agree_and_nobody_hears_what_is_not_for_them(ops: list[tuple[Any, ...]]) -> None:
    loop = VirtualLoop()

    async def run() -> None:
        world = World(loop)
        for user in USERS:  # every run has somebody to watch
            await world.do(("connect", user, "phone", user, False, 0.0))
        for op in ops:
            await world.do(op)
        while world.tasks:
            await asyncio.wait(world.tasks)
        last_change_s = loop.time()
        await asyncio.sleep(TIMES.interval_s + TIMES.grace_s)
        assert loop.time() >= last_change_s + 15.0
        world.check()
        for phone in world.phones.values():
            if phone.here:
                world.lose(phone)
        await world.service.close()

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


def test_an_answer_is_a_frame_that_a_client_can_read() -> None:
    frame = protocol.Presence(states=(protocol.Whereabouts(user="bob", state="offline", last_seen=7),), ref=1)
    value = msgspec.json.decode(protocol.encode(frame))
    assert value == {
        "type": "presence",
        "states": [{"user": "bob", "state": "offline", "last_seen": 7}],
        "ref": 1,
    }
