"""`check`: what a history shows that must never be. Two passes over the events, a few dict operations each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct, field

from chatd.protocol import Entry
from chatd.testing.history.facts import Facts, Log
from chatd.testing.history.record import (
    Acked,
    Asked,
    Began,
    Closed,
    Event,
    MarksSeen,
    Opened,
    SaidCaughtUp,
    Seen,
    Settled,
)
from chatd.testing.history.report import Anomaly, Report


def check(events: Sequence[Event]) -> Report:
    """Judge a history. Time is linear in its events; a sort happens only among what is out of line.

    Raises: ValueError – the record itself is broken: an entry on a connection that was never opened.
    """
    report = Report()
    facts = Facts(events, lambda *found: report.anomalies.append(Anomaly(*found)))
    facts.judge_logs()
    present = _judge_answers(facts)
    _judge_order(facts)
    deliveries = _Deliveries(facts, events)
    final = sum(e.seq - (e.first or e.seq) + 1 for log in facts.logs.values() for e in log.read or ())
    for other in facts.counted:
        if other.messages != final:
            facts.found("count mismatch", other.source, f"counts {other.messages}, the final logs {final}")
    outcomes = Counter(s.outcome for s in facts.sends.values())
    unknown = outcomes["unknown"] + outcomes["pending"]
    report.counts = {
        "events": len(events),
        "sends": len(facts.sends),
        "ok": outcomes["ok"],
        "failed": outcomes["failed"],
        "unknown": unknown,
        "unknown but stored": present,
        "final": final,
        "seen": deliveries.seen_count,
        "logs": len(facts.logs),
        "incarnations": len({incarnation for incarnation, _ in facts.logs}),
    }
    return report


def _judge_answers(facts: Facts) -> int:
    """Every acked message is where its answer said. Returns how many unknown ones are in a log."""
    present = 0
    unread: Counter[str] = Counter()
    for (conv, sender, id_), send in facts.sends.items():
        incarnation = send.incarnation if send.outcome == "ok" else facts.incarnation
        log = facts.logs.get((incarnation, conv))
        place = None if log is None else log.place.get((sender, id_))
        if send.outcome != "ok":
            if place is not None:
                present += 1
                send.incarnation, send.seq = incarnation, place
            continue
        if log is None or log.read is None:
            if incarnation in facts.finals or not facts.finals:
                unread[conv] += 1
            continue
        where, entry = f"{conv} #{send.seq}, final log", log.entries.get(send.seq)
        if place is None:
            if send.seq > log.trimmed and (entry is None or entry.id is not None):
                facts.found("lost", where, f"{id_} was acked and is not there")
        elif place != send.seq or entry is None or entry.ts != send.ts:
            facts.found("answer changed", where, f"{id_} was answered #{send.seq} at {send.ts}, is at #{place}")
    for conv, count in unread.items():
        facts.found("lost", conv, f"the log was never read at the end: {count} acked messages have no proof")
    return present


def _judge_order(facts: Facts) -> None:
    """One device's sends stand in the order in which it asked, each above what the device had seen."""
    for (device, conv), sends in facts.order.items():
        incarnation, last = "", 0
        for send in sends:
            if not send.seq:
                continue
            if send.incarnation != incarnation:
                incarnation, last = send.incarnation, 0
            seen = send.floor if send.floor_incarnation == incarnation else 0
            if send.seq <= max(last, seen):
                why = f"it was sent after #{last}" if last >= seen else f"its sender had seen #{seen}"
                facts.found("reordered", f"{conv} #{send.seq}, sends of {device}", why)
            last = max(last, send.seq)


class _Cursor(Struct):
    """One conversation on one stream. ``gaps`` ascend; ``late``: what came at or below ``last``, above ``start``."""

    log: Log
    start: int
    last: int
    gaps: list[tuple[int, int]] = field(default_factory=list)
    late: list[int] = field(default_factory=list)


class _Stream(Struct):
    opened: Opened
    due: dict[str, int]
    cursors: dict[str, _Cursor] = field(default_factory=dict)


class _Device(Struct):
    incarnation: str
    held: dict[str, int] = field(default_factory=dict)


class _Deliveries:
    """The second pass: what each device saw, against the logs and against what it was promised."""

    def __init__(self, facts: Facts, events: Sequence[Event]) -> None:
        self.seen_count = 0
        self._facts = facts
        self._found = facts.found
        self._process = ""
        self._devices: dict[str, _Device] = {}
        self._streams: dict[tuple[str, str], _Stream] = {}
        self._marks: dict[tuple[str, str, str, str], tuple[int, int]] = {}
        self._acked_heads: dict[tuple[str, str], int] = {}
        self._due_when_asked: dict[tuple[str, str], dict[str, int]] = {}
        handlers: dict[type[Any], Callable[[Any], None]] = {
            Began: self._began,
            Acked: self._acked,
            Asked: self._asked,
            Opened: self._opened,
            Seen: self._seen,
            SaidCaughtUp: self._caught_up,
            Closed: self._closed,
            MarksSeen: self._marks_seen,
            Settled: self._settled,
        }
        for event in events:
            handler = handlers.get(type(event))
            if handler is not None:
                handler(event)
        for stream in self._streams.values():
            self._judge_stream(stream)

    def _where(self, e: Seen | SaidCaughtUp | MarksSeen, conv: str) -> str:
        stream = e.device if isinstance(e, MarksSeen) else f"{e.device} {e.connection}"
        return f"{conv}, {stream}, {self._process}+{e.at:.3f}s"

    def _began(self, e: Began) -> None:
        self._process = e.process
        self._acked_heads = {}  # "before" has a meaning inside one process only

    def _device(self, name: str) -> _Device:
        return self._devices.setdefault(name, _Device(self._facts.incarnation))

    def _acked(self, e: Acked) -> None:
        key = (self._device(e.device).incarnation, e.conv)
        if e.seq > self._acked_heads.get(key, 0):
            self._acked_heads[key] = e.seq

    def _asked(self, e: Asked) -> None:
        self._due_when_asked[e.device, e.connection] = self._due(self._device(e.device))

    def _opened(self, e: Opened) -> None:
        device = self._device(e.device)
        if e.reset or device.incarnation != e.incarnation:
            device.held.clear()
        device.incarnation = e.incarnation
        if not e.reset:
            for conv, seq in e.watermarks.items():
                held = device.held.setdefault(conv, seq)  # what it says first is believed: a life before the record
                if seq > held:
                    where = f"{conv} #{held + 1}…{seq}, {e.device} {e.connection}"
                    self._found("gapped", where, f"its watermark is {seq}, and it saw no more than #{held}")
                    device.held[conv] = seq
        asked = self._due_when_asked.pop((e.device, e.connection), None)
        due = self._due(device) if asked is None or not device.held else asked
        self._streams[e.device, e.connection] = _Stream(e, due)

    def _due(self, device: _Device) -> dict[str, int]:
        """What is acked by now of the logs that the device knows."""
        return {conv: self._acked_heads.get((device.incarnation, conv), 0) for conv in device.held}

    def _stream(self, device: str, connection: str) -> _Stream:
        stream = self._streams.get((device, connection))
        if stream is None:
            raise ValueError(f"{device} recorded something on {connection}, which was not open")
        return stream

    def _seen(self, e: Seen) -> None:
        self.seen_count += 1
        stream = self._stream(e.device, e.connection)
        held = self._devices[e.device].held
        cursor, first = stream.cursors.get(e.conv), e.first or e.seq
        if cursor is None:
            start = None if stream.opened.reset else stream.opened.watermarks.get(e.conv)
            if start is None:  # it may start anywhere, but not past what the device would then never see
                start = min(first - 1, held.get(e.conv, first - 1))
            log = self._facts.log(stream.opened.incarnation, e.conv)
            cursor = stream.cursors[e.conv] = _Cursor(log, start, start)
        if first <= cursor.last + 1 <= e.seq:
            cursor.last = e.seq
        elif first > cursor.last:
            cursor.gaps.append((cursor.last + 1, first - 1))
            cursor.last = e.seq
        elif e.seq > cursor.start:
            cursor.late.append(e.seq)
        if e.seq > held.get(e.conv, 0):
            held[e.conv] = e.seq
        known = cursor.log.entries.get(e.seq)
        if e.id is None or (
            known is not None and e.id == known.id and e.sender == known.sender and e.body in (known.body, None)
        ):
            return
        self._judge_content(e, e.id, cursor.log, known)

    def _judge_content(self, e: Seen, id_: str, log: Log, known: Entry | None) -> None:
        """An entry that is not the one known at its place: the first of its place, or a contradiction."""
        where, facts = f"#{e.seq} of {self._where(e, e.conv)}, through {e.via}", self._facts
        if known is not None and known.id is not None and (known.id, known.sender) != (id_, e.sender):
            self._found("phantom", where, f"it is {id_} here and {known.id} elsewhere")
            return
        if known is not None and known.id is not None and known.body is not None:
            self._found("phantom", where, f"{id_} has another body here")
            return
        send = facts.sends.get((e.conv, e.sender or "", id_))
        why = facts.origin(e.conv, e.sender, id_, e.body)
        if why is not None:
            self._found("phantom", where, f"{id_}: {why}")
        elif (
            e.seq > log.trimmed and known is None and log.read is not None and send is not None and send.outcome != "ok"
        ):
            self._found("phantom", where, f"{id_} was shown and is not in the final log")
        log.entries[e.seq] = Entry(seq=e.seq, ts=0, id=id_, sender=e.sender, body=e.body)

    def _caught_up(self, e: SaidCaughtUp) -> None:
        stream = self._stream(e.device, e.connection)
        for conv, due in stream.due.items():
            cursor = stream.cursors.get(conv)
            holds = max(self._devices[e.device].held.get(conv, 0), 0 if cursor is None else cursor.last)
            if holds < due:
                self._found("lost", self._where(e, conv), f"caught up at #{holds}; #{due} was acked before it began")

    def _closed(self, e: Closed) -> None:
        self._judge_stream(self._stream(e.device, e.connection))
        del self._streams[e.device, e.connection]

    def _judge_stream(self, stream: _Stream) -> None:
        name = f"{stream.opened.device} {stream.opened.connection}"
        for conv, cursor in stream.cursors.items():
            if not cursor.gaps and not cursor.late:
                continue
            late, gaps, filled = sorted(cursor.late), iter(cursor.gaps), 0
            first, last = next(gaps, (0, -1))
            previous = 0
            for seq in [*late, cursor.last + 1]:  # the last one only ends the walk over the gaps
                while first <= last < seq:
                    if filled < last - first + 1:
                        self._found("gapped", f"{conv} #{first}…{last}, {name}", f"{filled} of them came late")
                    (first, last), filled = next(gaps, (0, -1)), 0
                if seq > cursor.last:
                    break
                if first <= seq <= last and seq != previous:
                    filled += 1
                    self._found("reordered", f"{conv} #{seq}, {name}", "it came after a later one")
                else:
                    self._found("duplicated", f"{conv} #{seq}, {name}", "it came again on one connection")
                previous = seq

    def _marks_seen(self, e: MarksSeen) -> None:
        incarnation = self._device(e.device).incarnation
        key = (e.device, incarnation, e.conv, e.user)
        before = self._marks.get(key, (0, 0))
        log = self._facts.logs.get((incarnation, e.conv))
        marked = self._facts.marked.get((e.conv, e.user), (0, 0))
        wrong = []
        if e.delivered < before[0] or e.read < before[1]:
            wrong.append(f"was {before[0]}/{before[1]}")
        if e.read > e.delivered:
            wrong.append("read is above delivered")
        if log is not None and log.read is not None and e.delivered > log.head:
            wrong.append(f"above the head {log.head}")
        elif e.delivered > marked[0] or e.read > marked[1]:
            wrong.append(f"no device of {e.user} said more than {marked[0]}/{marked[1]}")
        if wrong:
            said = f"{e.user} delivered/read {e.delivered}/{e.read}: "
            self._found("mark moved back", self._where(e, e.conv), said + "; ".join(wrong))
        self._marks[key] = (max(e.delivered, before[0]), max(e.read, before[1]))

    def _settled(self, e: Settled) -> None:
        device = self._device(e.device)
        where = f"{e.device}, settled at {self._process}+{e.at:.3f}s"
        if self._facts.finals and device.incarnation not in self._facts.finals:
            self._found("lost", where, f"it is still in incarnation {device.incarnation!r}")
        for conv, head in self._facts.heads_of(e.device.partition("/")[0], device.incarnation).items():
            if device.held.get(conv, 0) < head:
                self._found("lost", f"{conv}, {where}", f"holds up to #{device.held.get(conv, 0)} of {head}")
