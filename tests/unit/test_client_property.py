"""The client's core against a small model of a server, under everything that a network and a crash may do.

Whatever is drawn: the application sees each message once and in order, this device's sends are stored once and
in the order in which they were made, and after a crash the application begins where it was known to be.
"""

from __future__ import annotations

import random
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

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
        self.push()
        self.down.append(p.CaughtUp(since="s"))

    def append(self, sender: str, name: str, body: str) -> p.Entry:
        entry = p.Entry(seq=len(self.log) + 1, ts=0, id=name, sender=sender, body=body)
        self.log.append(entry)
        return entry

    def push(self, *, lose: bool = False, answered: str | None = None) -> None:
        """Move the cursor to the head; ``lose``: as if a hint of the bus was lost for good."""
        for entry in self.log[self._cursor :]:
            if entry.id == answered:
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
            self.down.append(
                p.Error(code="overloaded", message="m", temporary=True, retry_after_ms=5, id=frame.id)
            )
            return
        self._refused = None
        known = [entry for entry in self.log if entry.id == frame.id]
        if known:
            self.down.append(p.Sent(id=frame.id, conv=CONV, seq=known[0].seq, ts=0, duplicate=True))
            return
        self.append("alice", frame.id, frame.body)
        self.push(answered=frame.id)


class ClientAgainstModel(RuleBasedStateMachine):
    """Drives one device; ``up`` and ``down`` are the two directions of its connection."""

    @initialize(events_max=st.sampled_from([1, 3, 50]), flying_max=st.sampled_from([1, 2, 50]))
    def begin(self, events_max: int, flying_max: int) -> None:
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

    @rule()
    def application_sends(self) -> None:
        name = f"a{len(self.sends)}"
        entry = self.core.outbox.make(name, f"body of {name}", to="bob")
        self.sends.append(name)
        self.stored_outbox[entry.order] = entry
        self.core.outbox.add(entry)

    @rule(lose=st.booleans())
    def peer_sends(self, lose: bool) -> None:
        self.peers += 1
        self.server.append("bob", f"b{self.peers}", f"body of b{self.peers}")
        if self.online:
            self.server.push(lose=lose)

    @precondition(lambda self: not self.online)
    @rule()
    def connect(self) -> None:
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

    @precondition(lambda self: self.online)
    @rule()
    def disconnect(self) -> None:
        self.online = False
        self.up.clear()
        self.server.down.clear()
        self.core.disconnected("gone", self.now_s)

    @rule()
    def crash_and_restart(self) -> None:
        if self.online:
            self.disconnect()
        self.core = self.new_core()
        taken = self.stored[CONV].taken if CONV in self.stored else None
        self.seen = self.seen[: taken or 0]

    @rule()
    def store(self) -> None:
        unsaved = self.core.unsaved()
        if unsaved is not None:
            self.stored |= {row.conv: row for row in unsaved.conversations}
            for order in unsaved.answered:
                del self.stored_outbox[order]

    @precondition(lambda self: self.online)
    @rule(wait_s=st.sampled_from([0.0, 0.001, 1.0]))
    def client_writes(self, wait_s: float) -> None:
        self.now_s += wait_s
        self.up.extend(self.core.due(self.now_s))

    @precondition(lambda self: self.up)
    @rule(count=st.integers(1, 5), refuse=st.booleans())
    def server_reads(self, count: int, refuse: bool) -> None:
        for _ in range(min(count, len(self.up))):
            self.server.receive(self.up.popleft(), refuse)

    @precondition(lambda self: self.online and self.server.down)
    @rule(count=st.integers(1, 5), twice=st.booleans())
    def client_reads(self, count: int, twice: bool) -> None:
        for _ in range(min(count, len(self.server.down))):
            frame = self.server.down.popleft()
            for _ in range(1 + (twice and not (isinstance(frame, p.Messages) and frame.ref))):
                for effect in self.core.receive(frame, self.now_s):
                    if isinstance(effect, Leave):
                        raise AssertionError(effect.reason)
                    if isinstance(effect, Answered):
                        assert isinstance(effect.outcome, Sent)
                        assert self.answers.setdefault(effect.id, effect.outcome).seq == effect.outcome.seq

    @rule(count=st.integers(1, 4))
    def application_takes(self, count: int) -> None:
        for _ in range(count):
            event = self.core.take()
            if isinstance(event, MessageEvent):
                assert event.seq == len(self.seen) + 1
                entry = self.server.log[event.seq - 1]
                assert (event.id, event.sender, event.body) == (entry.id, entry.sender, entry.body)
                assert event.mine == (entry.sender == "alice")
                self.seen.append(event.seq)

    def teardown(self) -> None:
        """When the faults stop, everything is answered and everything is seen."""
        if not hasattr(self, "core"):
            return
        if self.online:
            self.disconnect()
        self.connect()
        for _ in range(20 + 10 * (len(self.server.log) + len(self.sends))):
            self.client_writes(1.0)
            if self.up:
                self.server_reads(len(self.up), refuse=False)
            if self.server.down:
                self.client_reads(len(self.server.down), twice=False)
            self.application_takes(2)
        mine = [entry.id for entry in self.server.log if entry.sender == "alice"]
        assert mine == self.sends
        assert self.seen == list(range(1, len(self.server.log) + 1))
        assert set(self.answers) == set(self.sends)
        assert {name: a.seq for name, a in self.answers.items()} == {
            e.id: e.seq for e in self.server.log if e.sender == "alice"
        }
        assert len(self.core.outbox) == 0
        assert self.server.held == len(self.server.log)


ClientAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestClientAgainstModel = ClientAgainstModel.TestCase
