"""The checker against generated histories: a tiny correct server is always clean, and any one mutation is found."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from chatd.protocol import Entry
from chatd.testing.history import Event, Recorder, check
from chatd.testing.history.record import Acked, Final, MarksSeen, Seen

if TYPE_CHECKING:
    from _typeshed import TraceFunction

CONVS = ("alice:bob", "alice:carol")
DEVICES = [("alice", "a1"), ("alice", "a2"), ("bob", "b1"), ("carol", "c1")]
STEPS = ["send", "send", "send", "unknown stored", "unknown gone", "retry", "reconnect", "ack", "read", "refused"]


class Model:
    """A server of dicts and lists that keeps its word, and clients that record what it does."""

    def __init__(self) -> None:
        self.recorder = Recorder("model", count().__next__)
        self.devices = [self.recorder.device(*d) for d in DEVICES]
        self.logs: dict[str, list[Entry]] = {c: [] for c in CONVS}
        self.marks: dict[tuple[str, str], tuple[int, int]] = {}
        self.taken = 0
        self.connections = [0] * len(DEVICES)
        self.last: tuple[int, str, Entry] | None = None
        for d in range(len(DEVICES)):
            self.connect(d, behind=0)

    def convs(self, d: int) -> list[str]:
        return [c for c in CONVS if DEVICES[d][0] in c.split(":")]

    def connect(self, d: int, behind: int) -> None:
        device, n = self.devices[d], self.connections[d]
        if n:
            device.closed(f"k{n}")
        self.connections[d] = n + 1
        marks = {c: max(0, len(self.logs[c]) - behind) for c in self.convs(d)}
        device.opened(f"k{n + 1}", "i1", watermarks=marks)
        for conv, mark in marks.items():
            for entry in self.logs[conv][mark:]:
                device.seen(f"k{n + 1}", conv, entry)
        device.caught_up(f"k{n + 1}")

    def commit(self, conv: str, entry: Entry) -> None:
        self.logs[conv].append(entry)
        for d, device in enumerate(self.devices):
            if conv in self.convs(d):
                device.seen(f"k{self.connections[d]}", conv, entry)

    def send(self, d: int, conv: str, how: str) -> None:
        device, seq = self.devices[d], len(self.logs[conv]) + 1
        self.taken += 1
        entry = Entry(seq=seq, ts=seq // 2, id=f"id-{self.taken}", sender=device.user, body=f"body {self.taken}")
        assert entry.id is not None
        assert entry.body is not None
        device.invoke(conv, entry.id, entry.body)
        if how == "refused":
            device.fail(conv, entry.id, "too_large")
            return
        if how != "unknown gone":
            self.commit(conv, entry)
        if how != "send":
            device.unknown(conv, entry.id)
            return
        device.ok(conv, entry.id, seq, entry.ts)
        self.last = d, conv, entry

    def retry(self) -> None:
        if self.last is not None:
            d, conv, entry = self.last
            assert entry.id is not None
            assert entry.body is not None
            self.devices[d].invoke(conv, entry.id, entry.body)
            self.devices[d].ok(conv, entry.id, entry.seq, entry.ts)

    def mark(self, d: int, conv: str, read: bool) -> None:
        head = len(self.logs[conv])
        if not head:
            return
        user = self.devices[d].user
        self.devices[d].marked(conv, head, read=read)
        old = self.marks.get((conv, user), (0, 0))
        now = self.marks[conv, user] = (head, head if read else old[1])
        for other, device in enumerate(self.devices):
            if conv in self.convs(other):
                device.marks(conv, user, *now)

    def step(self, kind: str, d: int, pick: int) -> None:
        conv = self.convs(d)[pick % len(self.convs(d))]
        match kind:
            case "retry":
                self.retry()
            case "reconnect":
                self.connect(d, behind=pick)
            case "ack" | "read":
                self.mark(d, conv, kind == "read")
            case _:
                self.send(d, conv, kind)

    def end(self) -> list[Event]:
        for device in self.devices:
            device.settled()
        for conv, log in self.logs.items():
            self.recorder.final(conv, "i1", log)
        self.recorder.counted("store", sum(map(len, self.logs.values())))
        return self.recorder.events


steps = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3), st.integers(0, 3)), max_size=30)


def run(script: list[tuple[str, int, int]]) -> list[Event]:
    model = Model()
    # every history has something in it that can be broken
    for kind, d, pick in [("send", 0, 0), ("send", 2, 0), ("read", 2, 0), *script, ("send", 0, 0)]:
        model.step(kind, d, pick)
    return model.end()


@given(steps)
@settings(max_examples=150, deadline=None)
def test_a_correct_server_is_clean(script: list[tuple[str, int, int]]) -> None:
    report = check(run(script))
    assert report.clean, str(report)
    assert report.counts["final"] >= 3


Mutation = Callable[[list[Event], int], None]


def _choose(events: list[Event], kind: type, pick: int) -> int:
    places = [i for i, e in enumerate(events) if type(e) is kind]
    return places[pick % len(places)]


def drop_delivery(events: list[Event], pick: int) -> None:
    """One that the device got once: one that comes again on its next connection is rightly not missed."""
    seen = [(e.device, e.conv, e.seq) if isinstance(e, Seen) else None for e in events]
    times = Counter(seen)
    places = [i for i, name in enumerate(seen) if name is not None and times[name] == 1]
    del events[places[pick % len(places)]]


def repeat_delivery(events: list[Event], pick: int) -> None:
    at = _choose(events, Seen, pick)
    events.insert(at, events[at])


def swap_deliveries(events: list[Event], pick: int) -> None:
    """Two neighbours of one conversation on one connection; there are some, as Alice's first device never leaves."""
    last: dict[tuple[str, str, str], int] = {}
    pairs = []
    for i, e in enumerate(events):
        if isinstance(e, Seen):
            stream = (e.device, e.connection, e.conv)
            if stream in last:
                pairs.append((last[stream], i))
            last[stream] = i
    if pairs:
        one, two = pairs[pick % len(pairs)]
        events[one], events[two] = events[two], events[one]
    else:
        drop_delivery(events, pick)


def change_body(events: list[Event], pick: int) -> None:
    at = _choose(events, Seen, pick)
    event = events[at]
    assert isinstance(event, Seen)
    events[at] = replace(event, body="something else")


def change_id(events: list[Event], pick: int) -> None:
    at = _choose(events, Seen, pick)
    event = events[at]
    assert isinstance(event, Seen)
    events[at] = replace(event, id="id-of-nobody")


def lower_mark(events: list[Event], pick: int) -> None:
    at = _choose(events, MarksSeen, pick)
    event = events[at]
    assert isinstance(event, MarksSeen)
    events.insert(at + 1, replace(event, delivered=event.delivered - 1))


def raise_mark(events: list[Event], pick: int) -> None:
    at = _choose(events, MarksSeen, pick)
    event = events[at]
    assert isinstance(event, MarksSeen)
    events[at] = replace(event, delivered=1000)


def change_answer(events: list[Event], pick: int) -> None:
    at = _choose(events, Acked, pick)
    event = events[at]
    assert isinstance(event, Acked)
    events[at] = replace(event, seq=event.seq + 1)


def _change_log(events: list[Event], change: Callable[[list[Entry]], None]) -> None:
    at = next(i for i, e in enumerate(events) if isinstance(e, Final) and e.entries)
    event = events[at]
    assert isinstance(event, Final)
    entries = list(event.entries)
    change(entries)
    events[at] = replace(event, entries=tuple(entries))


def remove_from_log(events: list[Event], pick: int) -> None:
    _change_log(events, lambda log: log.__delitem__(pick % len(log)))


def repeat_in_log(events: list[Event], pick: int) -> None:
    _change_log(events, lambda log: log.append(replace(log[pick % len(log)], seq=len(log) + 1, ts=1000)))


MUTATIONS: list[Mutation] = [
    drop_delivery,
    repeat_delivery,
    swap_deliveries,
    change_body,
    change_id,
    lower_mark,
    raise_mark,
    change_answer,
    remove_from_log,
    repeat_in_log,
]


@given(steps, st.sampled_from(MUTATIONS), st.integers(0, 1000))
@settings(max_examples=400, deadline=None)
def test_any_one_mutation_is_found(script: list[tuple[str, int, int]], mutate: Mutation, pick: int) -> None:
    events = list(run(script))
    mutate(events, pick)
    report = check(events)
    assert not report.clean


def test_the_mutations_together_show_nearly_every_kind() -> None:
    kinds = set()
    for mutate in MUTATIONS:
        for pick in range(3):
            events = list(run([("send", 2, 0)] * 5))
            mutate(events, pick)
            kinds |= {a.kind for a in check(events).anomalies}
    assert kinds == {
        "lost",
        "duplicated",
        "reordered",
        "gapped",
        "phantom",
        "mark moved back",
        "answer changed",
        "count mismatch",
    }


def _lines_run(sends: int) -> int:
    """How many lines of the checker run for a history of so many sends."""
    model = Model()
    for _ in range(sends):
        model.send(0, CONVS[0], "send")
        model.mark(2, CONVS[0], read=False)
    events, lines = model.end(), count()

    def trace(frame: FrameType, event: str, arg: object) -> TraceFunction | None:
        if not frame.f_globals["__name__"].startswith("chatd.testing.history"):
            return None
        next(lines)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        report = check(events)
    finally:
        sys.settrace(before)
    assert report.clean
    return next(lines)


def test_the_work_grows_with_the_events() -> None:
    few, many = _lines_run(100), _lines_run(1000)
    assert 9 * few < many < 11 * few


def test_many_events_are_judged() -> None:
    model = Model()
    for _ in range(40_000):
        model.send(0, CONVS[0], "send")
    report = check(model.end())
    assert report.counts["events"] > 200_000
    assert report.clean
