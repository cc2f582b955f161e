"""The client's core against a small model of a server, under everything that a network and a crash may do.

Whatever is drawn: the application sees each message once and in order, this device's sends are stored once and
in the order in which they were made, and after a crash the application begins where it was known to be.
"""

from __future__ import annotations

import random
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from chatd import protocol as p
from chatd.client.core import Answered, Core, Leave, Saved
from chatd.client.events import MessageEvent, Sent
from chatd.client.outqueue import Pending

CONV = "alice:bob"
LIMITS = p.Limits(frame_bytes_max=65_536, body_bytes_max=16_384, window=256, initial_history=50)


class ModelServer:
    """One conversation as a list, and one connection to it, as protocol §4 has it."""

    def __init__(self) -> None:
        self.log: list[p.Entry] = []
        self.held = 0  # what the device has acknowledged
        self.down: deque[p.ServerFrame] = deque()
        self._n = self._cursor = 0
        self._refused: str | None = None

    def hello(self, frame: p.Hello) -> None:
        self.down.clear()
        self._n, self._refused = 0, None
        self._cursor = (frame.watermarks or {}).get(CONV, self.held)
        self.held = max(self.held, self._cursor)
        self.push()
        self.down.append(p.CaughtUp(since="s"))

    def append(self, sender: str, name: str, body: str) -> None:
        entry = p.Entry(seq=len(self.log) + 1, ts=0, id=name, sender=sender, body=body)
        self.log.append(entry)

    def push(self, *, lose: bool = False, answered: str | None = None) -> None:
        """Move the cursor to the head; ``lose``: as if a hint of the bus was lost for good."""
        for entry in self.log[self._cursor :]:
            if answered is not None and entry.id == answered:
                self.down.append(p.Sent(id=answered, conv=CONV, seq=entry.seq, ts=0))
            elif not lose:
                self.down.append(p.Messages(conv=CONV, messages=(entry,)))
        self._cursor = len(self.log)

    def receive(self, frame: p.ClientFrame, refuse: bool) -> None:
        match frame:
            case p.Ack():
                assert frame.seq <= len(self.log)
                self.held = max(self.held, frame.seq)
            case p.History():
                page = tuple(self.log[frame.after or 0 :][: frame.limit])
                self.down.append(p.Messages(conv=CONV, messages=page, ref=frame.ref))
            case p.Send():
                self._n += 1
                assert frame.n == self._n
                self._on_send(frame, refuse)

    def _on_send(self, frame: p.Send, refuse: bool) -> None:
        if self._refused not in (None, frame.id):
            error = p.Error(code="out_of_order", message="m", temporary=True, id=frame.id)
            self.down.append(error)
            return
        if refuse:
            self._refused = frame.id
            self.down.append(p.Error(code="overloaded", message="m", temporary=True, retry_after_ms=5, id=frame.id))
            return
        self._refused = None
        known = [entry for entry in self.log if entry.id == frame.id]
        if known:
            self.down.append(p.Sent(id=frame.id, conv=CONV, seq=known[0].seq, ts=0, duplicate=True))
            return
        self.append("alice", frame.id, frame.body)
        self.push(answered=frame.id)


class World:
    """One device and its server; ``up`` and ``server.down`` are the two directions of its connection."""

    def __init__(self, events_max: int, flying_max: int) -> None:
        self.server = ModelServer()
        self.events_max, self.flying_max = events_max, flying_max
        self.up: deque[p.ClientFrame] = deque()
        self.now_s = 0.0
        self.sends: list[str] = []
        self.answers: dict[str, Sent] = {}
        self.stored_outbox: dict[int, Pending] = {}
        self.stored: dict[str, Saved] = {}
        self.seen: list[int] = []
        self.peers = 0
        self.online = False
        self.core = self.new_core()

    def new_core(self) -> Core:
        core = Core(random.Random(1).random, outbox_messages_max=1_000, events_messages_max=self.events_max)
        core.outbox._flying_messages_max = self.flying_max
        for row in self.stored.values():
            core.load(row)
        for entry in self.stored_outbox.values():
            core.outbox.add(entry)
        return core

    def application_sends(self, count: int) -> None:
        for _ in range(count):
            name = f"a{len(self.sends)}"
            entry = self.core.outbox.make(name, f"body of {name}", to="bob")
            self.sends.append(name)
            self.stored_outbox[entry.order] = entry
            self.core.outbox.add(entry)

    def peer_sends(self, lose: bool) -> None:
        self.peers += 1
        self.server.append("bob", f"b{self.peers}", f"body of b{self.peers}")
        if self.online:
            # where a log begins for a device, only its first messages can tell
            self.server.push(lose=lose and self.core.watermarks.seen(CONV) > 0)

    def connect(self) -> None:
        if self.online:
            return
        hello = self.core.hello("t", "a")
        self.core.welcomed(
            p.Welcome(
                user="alice",
                device="d",
                session="s",
                now=0,
                incarnation="i",
                reset=False,
                heartbeat_s=25.0,
                durability="memory",
                limits=LIMITS,
            )
        )
        self.server.hello(hello)
        self.online = True

    def disconnect(self) -> None:
        if not self.online:
            return
        self.online = False
        self.up.clear()
        self.server.down.clear()
        self.core.disconnected("gone", self.now_s)

    def crash_and_restart(self) -> None:
        self.disconnect()
        self.core = self.new_core()
        taken = self.stored[CONV].taken if CONV in self.stored else None
        self.seen = self.seen[: taken or 0]

    def store(self) -> None:
        unsaved = self.core.unsaved()
        if unsaved is not None:
            self.stored |= {row.conv: row for row in unsaved.conversations}
            self.core.stored(unsaved)
            for order in unsaved.answered:
                del self.stored_outbox[order]

    def client_writes(self, wait_s: float) -> None:
        self.now_s += wait_s
        if self.online:
            self.up.extend(self.core.due(self.now_s))

    def server_reads(self, count: int, refuse: bool) -> None:
        for _ in range(min(count, len(self.up))):
            self.server.receive(self.up.popleft(), refuse)

    def client_reads(self, count: int, twice: bool) -> None:
        for _ in range(min(count, len(self.server.down))):
            frame = self.server.down.popleft()
            for _ in range(1 + (twice and not (isinstance(frame, p.Messages) and frame.ref))):
                for effect in self.core.receive(frame, self.now_s):
                    assert not isinstance(effect, Leave), effect
                    if isinstance(effect, Answered):
                        assert isinstance(effect.outcome, Sent)
                        assert self.answers.setdefault(effect.id, effect.outcome).seq == effect.outcome.seq

    def application_takes(self, count: int) -> None:
        for _ in range(count):
            event = self.core.take()
            if isinstance(event, MessageEvent):
                assert event.seq == len(self.seen) + 1
                entry = self.server.log[event.seq - 1]
                assert (event.id, event.sender, event.body) == (entry.id, entry.sender, entry.body)
                assert event.mine == (entry.sender == "alice")
                self.seen.append(event.seq)

    def flow(self, rounds: int = 1) -> None:
        """Everything moves a little, so that interesting states are near."""
        self.connect()
        for _ in range(rounds):
            self.client_writes(0.001)
            self.server_reads(3, refuse=False)
            self.client_reads(3, twice=False)
            self.application_takes(1)
            self.store()

    def settle(self) -> None:
        """When the faults stop, everything is answered and everything is seen."""
        self.disconnect()
        self.connect()
        for _ in range(20 + 10 * (len(self.server.log) + len(self.sends))):
            self.client_writes(1.0)
            self.server_reads(len(self.up), refuse=False)
            self.client_reads(len(self.server.down), twice=False)
            self.application_takes(2)
            self.store()
        mine = [entry.id for entry in self.server.log if entry.sender == "alice"]
        assert mine == self.sends
        assert self.seen == list(range(1, len(self.server.log) + 1))
        assert set(self.answers) == set(self.sends)
        assert {name: a.seq for name, a in self.answers.items()} == {
            e.id: e.seq for e in self.server.log if e.sender == "alice"
        }
        assert len(self.core.outbox) == 0
        assert self.server.held == len(self.server.log)


def step(world: World, chance: random.Random) -> None:
    """One thing that may happen; the faults are rarer than what moves on."""
    world.connect()
    match chance.choices(range(10), (2, 2, 4, 4, 4, 2, 2, 0.3, 0.3, 0.5))[0]:
        case 0:
            world.application_sends(chance.randint(1, 3))
        case 1:
            world.peer_sends(lose=chance.random() < 0.3)
        case 2:
            world.client_writes(chance.choice((0.0, 1.0)))
        case 3:
            world.server_reads(chance.randint(1, 3), refuse=chance.random() < 0.3)
        case 4:
            world.client_reads(chance.randint(1, 3), twice=chance.random() < 0.3)
        case 5:
            world.application_takes(chance.randint(1, 4))
        case 6:
            world.store()
        case 7:
            world.disconnect()
        case 8:
            world.crash_and_restart()
        case _:
            world.flow()


@settings(max_examples=400, deadline=None)
@given(
    events_max=st.sampled_from([1, 3, 50]),
    flying_max=st.sampled_from([1, 2, 50]),
    steps=st.integers(1, 200),
    seed=st.integers(0, 2**32),
)
def test_once_and_in_order_whatever_happens(events_max: int, flying_max: int, steps: int, seed: int) -> None:
    world = World(events_max, flying_max)
    chance = random.Random(seed)
    for _ in range(steps):
        step(world, chance)
    world.settle()
