"""The first pass: who sent what, how it was answered, what the logs hold at the end, and what does not fit there.

A history may span incarnations of the store, so a log is named (incarnation, conv). Which log an event is about
follows from the incarnation that its device was last welcomed to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct, field

from chatd.errors import IdReuse
from chatd.model import members_of
from chatd.protocol import Entry
from chatd.testing.history.record import (
    Acked,
    Counted,
    Event,
    Failed,
    Final,
    Invoke,
    Marked,
    Opened,
    Seen,
    Unknown,
)
from chatd.testing.history.report import Found


class Send(Struct, gc=False):
    """One name (sender, conv, id). ``floor``: the last seq that its device had seen of ``floor_log`` when it asked."""

    conv: str
    bodies: tuple[str, ...]
    floor: int
    floor_incarnation: str
    outcome: Literal["pending", "ok", "failed", "unknown"] = "pending"
    incarnation: str = ""
    seq: int = 0
    ts: int = 0


class Log(Struct):
    """One log. ``read``: it was read at the end; then ``head`` and ``place`` of each (sender, id) are known.

    ``trimmed``: all up to it expired; that they are not there is as it should be.
    """

    read: list[Entry] | None = None
    head: int = 0
    trimmed: int = 0
    entries: dict[int, Entry] = field(default_factory=dict)
    place: dict[tuple[str | None, str], int] = field(default_factory=dict)
    acked: set[int] = field(default_factory=set)


class _Device(Struct):
    incarnation: str
    user: str
    top: dict[str, int] = field(default_factory=dict)


class Facts:
    """The tables that the judges read. Memory: a row a send and a row a log entry."""

    def __init__(self, events: Sequence[Event], found: Found) -> None:
        self.found = found
        self.sends: dict[tuple[str, str, str], Send] = {}
        self.order: dict[tuple[str, str], list[Send]] = {}
        self.logs: dict[tuple[str, str], Log] = {}
        self.marked: dict[tuple[str, str], list[int]] = {}
        self.counted: list[Counted] = []
        self.finals = {e.incarnation for e in events if type(e) is Final}
        self.incarnation = next((e.incarnation for e in reversed(events) if type(e) is Final), "")
        self._devices: dict[str, _Device] = {}
        handlers: dict[type[Any], Callable[[Any], None]] = {
            Invoke: self._invoke,
            Acked: self._acked,
            Failed: self._failed,
            Unknown: self._unknown,
            Opened: self._opened,
            Seen: self._seen,
            Marked: lambda e: self._mark(self._device(e.device).user, e.conv, e.seq, e.seq if e.read else 0),
            Final: self._final,
            Counted: self.counted.append,
        }
        for event in events:
            handler = handlers.get(type(event))
            if handler is not None:
                handler(event)

    def log(self, incarnation: str, conv: str) -> Log:
        """The log of this name, made when it is new."""
        found = self.logs.get((incarnation, conv))
        if found is None:
            found = self.logs[incarnation, conv] = Log()
        return found

    def origin(self, conv: str, sender: str | None, id: str, body: str | None) -> str | None:
        """Why this message cannot be, or None: somebody sent it, like this."""
        send = self.sends.get((conv, sender or "", id))
        if send is None:
            return "nobody sent it"
        if body is not None and body not in send.bodies:
            return "its body is not the one that was sent"
        if send.outcome == "failed":
            return "it was refused for good"
        return None

    def heads_of(self, user: str, incarnation: str) -> dict[str, int]:
        """The heads of the user's logs that were read at the end."""
        return self._heads_by_user.get((incarnation, user), {})

    def judge_logs(self) -> None:
        """What is wrong inside the final logs, each by itself."""
        self._heads_by_user: dict[tuple[str, str], dict[str, int]] = {}
        for (incarnation, conv), log in self.logs.items():
            if log.read is None:
                continue
            self._judge_log(conv, log, log.read)
            log.head = max(log.entries, default=0)
            for user in members_of(conv) or ():
                self._heads_by_user.setdefault((incarnation, user), {})[conv] = log.head

    def _judge_log(self, conv: str, log: Log, read: list[Entry]) -> None:
        last_seq = last_ts = 0
        for entry in read:
            where = f"{conv} #{entry.seq}, final log"
            known = log.entries.setdefault(entry.seq, entry)
            if known is not entry:
                same = known.id == entry.id
                self.found(
                    "duplicated" if same else "phantom",
                    where,
                    "the seq stands there twice" if same else f"it names {known.id} and {entry.id}",
                )
                continue
            if entry.seq < last_seq:
                self.found("reordered", where, f"it follows #{last_seq}")
            elif entry.ts < last_ts:
                self.found("reordered", where, f"ts runs back from {last_ts} to {entry.ts}")
            last_seq, last_ts = max(last_seq, entry.seq), max(last_ts, entry.ts)
            if entry.gone == "expired":
                log.trimmed = max(log.trimmed, entry.seq)
            if entry.id is None:
                continue
            place = log.place.setdefault((entry.sender, entry.id), entry.seq)
            if place != entry.seq:
                self.found("duplicated", where, f"{entry.id} also stands at #{place}")
            elif (why := self.origin(conv, entry.sender, entry.id, entry.body)) is not None:
                self.found("phantom", where, f"{entry.id}: {why}")
        last_seq = 0
        for seq in sorted(log.entries):
            # a hole where an acked message belongs is reported once, as lost
            if any(hole not in log.acked for hole in range(last_seq + 1, log.entries[seq].first or seq)):
                self.found("gapped", f"{conv} #{last_seq + 1}…{seq - 1}, final log", "a hole in the log")
            last_seq = seq

    def _device(self, name: str) -> _Device:
        device = self._devices.get(name)
        if device is None:
            # a device that has not connected speaks HTTP; it is taken to speak of the log that is there at the end
            device = self._devices[name] = _Device(self.incarnation, name.partition("/")[0])
        return device

    def _invoke(self, e: Invoke) -> None:
        device = self._device(e.device)
        key = (e.conv, device.user, e.id)
        send = self.sends.get(key)
        forgotten = send is not None and send.outcome == "ok" and send.incarnation != device.incarnation
        if send is None or forgotten or send.outcome == "failed":
            send = Send(e.conv, (e.body,), device.top.get(e.conv, 0), device.incarnation)
            self.sends[key] = send
            self.order.setdefault((e.device, e.conv), []).append(send)
        elif e.body not in send.bodies:
            send.bodies += (e.body,)

    def _acked(self, e: Acked) -> None:
        device = self._device(e.device)
        send = self.sends.get((e.conv, device.user, e.id))
        where = f"{e.conv} #{e.seq}, answer to {e.device}"
        if send is None:
            self.found("phantom", where, f"{e.id}: nobody sent it")
            return
        if send.outcome == "failed":
            self.found("answer changed", where, f"{e.id} was refused for good before")
        elif send.outcome == "ok" and send.incarnation == device.incarnation:
            if (send.seq, send.ts) != (e.seq, e.ts):
                self.found("answer changed", where, f"{e.id} was #{send.seq} at {send.ts}, now it is at {e.ts}")
            return
        send.outcome, send.incarnation, send.seq, send.ts = "ok", device.incarnation, e.seq, e.ts
        self.log(device.incarnation, e.conv).acked.add(e.seq)

    def _failed(self, e: Failed) -> None:
        send = self.sends.get((e.conv, self._device(e.device).user, e.id))
        # id_reuse says that the name is taken, not that what it names is absent
        if send is not None and send.outcome == "pending" and e.code != IdReuse.code:
            send.outcome = "failed"

    def _unknown(self, e: Unknown) -> None:
        send = self.sends.get((e.conv, self._device(e.device).user, e.id))
        if send is not None and send.outcome == "pending":
            send.outcome = "unknown"

    def _opened(self, e: Opened) -> None:
        device = self._device(e.device)
        if e.reset or device.incarnation != e.incarnation:
            device.top.clear()
        device.incarnation = e.incarnation
        for conv, seq in e.watermarks.items():
            self._mark(device.user, conv, seq, 0)

    def _seen(self, e: Seen) -> None:
        top = self._device(e.device).top
        if e.seq > top.get(e.conv, 0):
            top[e.conv] = e.seq

    def _mark(self, user: str, conv: str, delivered: int, read: int) -> None:
        marks = self.marked.setdefault((conv, user), [0, 0])
        marks[0], marks[1] = max(marks[0], delivered), max(marks[1], read)

    def _final(self, e: Final) -> None:
        log = self.log(e.incarnation, e.conv)
        if log.read is None:
            log.read = []
        log.read.extend(e.entries)
