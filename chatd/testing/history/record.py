"""What clients record: events, and the recorder that appends them.

``device`` is "user/device" in every event. ``at`` is seconds on the recording process's own monotonic clock: it
helps a person to read a report and judges nothing; the order of events inside one process is what is judged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from chatd.protocol import CaughtUp, ConversationList, Entry, Messages, Receipt, Sent, ServerFrame

Via = Literal["messages", "sent"]


class _Event(Struct, frozen=True, gc=False, tag_field="event", omit_defaults=True):
    at: float


class Began(_Event, frozen=True, tag="began"):
    """The events from here to the next one of these were recorded, in this order, by one process."""

    process: str


class Invoke(_Event, frozen=True, tag="invoke"):
    """The application asked for a send, or for the same one again."""

    device: str
    conv: str
    id: str
    body: str


class Acked(_Event, frozen=True, tag="ok"):
    """``sent`` came: the message is durable as (conv, seq)."""

    device: str
    conv: str
    id: str
    seq: int
    ts: int


class Failed(_Event, frozen=True, tag="fail"):
    """Refused for good: not stored by this attempt. A refusal that is tried again is no event."""

    device: str
    conv: str
    id: str
    code: str


class Unknown(_Event, frozen=True, tag="unknown"):
    """The connection or process died before the answer: stored once or not at all."""

    device: str
    conv: str
    id: str


class Asked(_Event, frozen=True, tag="hello"):
    """The device is about to say hello: what is acked by now is due before ``caught_up``."""

    device: str
    connection: str


class Opened(_Event, frozen=True, tag="opened"):
    """A stream of entries began. Above its watermark each seq comes once, in order; with none, from anywhere."""

    device: str
    connection: str
    incarnation: str
    reset: bool = False
    watermarks: dict[str, int] = {}


class Closed(_Event, frozen=True, tag="closed"):
    """The stream is over."""

    device: str
    connection: str


class Seen(_Event, frozen=True, tag="seen"):
    """An entry came. ``id`` None: it is gone, only its place is left; ``body`` None: `sent` does not tell it.

    ``first`` above 0: the place of all of ``first`` … ``seq``, which were trimmed.
    """

    device: str
    connection: str
    conv: str
    seq: int
    id: str | None
    sender: str | None
    body: str | None
    via: Via = "messages"
    first: int = 0


class SaidCaughtUp(_Event, frozen=True, tag="caught_up"):
    """The server said that all that was missing has been sent on this stream."""

    device: str
    connection: str


class Marked(_Event, frozen=True, tag="mark"):
    """The device sent an ``ack``, or a ``read``."""

    device: str
    conv: str
    seq: int
    read: bool = False


class MarksSeen(_Event, frozen=True, tag="marks"):
    """The device was told a user's marks."""

    device: str
    conv: str
    user: str
    delivered: int
    read: int


class Settled(_Event, frozen=True, tag="settled"):
    """The end: the device is connected, nothing is under way, so it must hold every log of its user to the end."""

    device: str


class Final(_Event, frozen=True, tag="final"):
    """A piece of a conversation's log as read at the end, ascending; pieces follow each other."""

    conv: str
    incarnation: str
    entries: tuple[Entry, ...]


class Counted(_Event, frozen=True, tag="counted"):
    """How many messages something else counted in all, such as the store or a metric of the server."""

    source: str
    messages: int


Event: TypeAlias = (
    Began
    | Invoke
    | Acked
    | Failed
    | Unknown
    | Asked
    | Opened
    | Closed
    | Seen
    | SaidCaughtUp
    | Marked
    | MarksSeen
    | Settled
    | Final
    | Counted
)


class Recorder:
    """Appends the events of one process in the order in which they happen. Memory: about 200 bytes an event."""

    def __init__(self, process: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.events: list[Event] = [Began(clock(), process)]
        self._dumped_events = 0

    def device(self, user: str, device: str) -> DeviceRecorder:
        """What one device records with. It may be made again, also in a later process."""
        return DeviceRecorder(self, user, device)

    def final(self, conv: str, incarnation: str, entries: Sequence[Entry]) -> None:
        """Record the next piece of a log as it was read at the end through history."""
        self.events.append(Final(self.clock(), conv, incarnation, tuple(entries)))

    def counted(self, source: str, messages: int) -> None:
        """Record what another party counted as the number of messages in all final logs."""
        self.events.append(Counted(self.clock(), source, messages))

    def dump(self, path: Path) -> None:
        """Append what is new since the last dump to this process's own JSONL file."""
        lines = msgspec.json.Encoder().encode_lines(self.events[self._dumped_events :])
        with path.open("ab") as file:
            file.write(lines)
        self._dumped_events = len(self.events)

    @staticmethod
    def load(*paths: Path) -> list[Event]:
        """The merged events of several processes, a file each. A device that moved: its files in order of its life.

        A last line that a killed process left torn is no event. Raises: msgspec.DecodeError – any other bad line.
        """
        decoder = msgspec.json.Decoder(Event)
        events: list[Event] = []
        for path in paths:
            data = path.read_bytes()
            events += decoder.decode_lines(data[: data.rfind(b"\n") + 1])
        return events


class DeviceRecorder:
    """Records for one device; ``connection`` is any name that is new for this device.

    A connection is a stream that promises each seq once: a socket, or what an SDK hands to its application, opened
    once per life of the application with the watermarks that it kept.
    """

    def __init__(self, recorder: Recorder, user: str, device: str) -> None:
        self.user = user
        self.name = f"{user}/{device}"
        self._add = recorder.events.append
        self._clock = recorder.clock

    def invoke(self, conv: str, id: str, body: str) -> None:
        """Before the frame leaves. A retry of the same id keeps the place of its first time, except after `fail`."""
        self._add(Invoke(self._clock(), self.name, conv, id, body))

    def ok(self, conv: str, id: str, seq: int, ts: int) -> None:
        """``sent`` came, as a duplicate or not."""
        self._add(Acked(self._clock(), self.name, conv, id, seq, ts))

    def fail(self, conv: str, id: str, code: str) -> None:
        """A refusal came, and the client gives up."""
        self._add(Failed(self._clock(), self.name, conv, id, code))

    def unknown(self, conv: str, id: str) -> None:
        """The answer will not come on this connection."""
        self._add(Unknown(self._clock(), self.name, conv, id))

    def asked(self, connection: str) -> None:
        """Before the ``hello`` leaves. Without it all that is acked when ``welcome`` comes is due before
        ``caught_up``, which holds only if nobody else sends meanwhile.
        """
        self._add(Asked(self._clock(), self.name, connection))

    def opened(self, connection: str, incarnation: str, *, reset: bool = False, watermarks: Mapping[str, int]) -> None:
        """``welcome`` came; ``watermarks`` are those of the hello."""
        self._add(Opened(self._clock(), self.name, connection, incarnation, reset, dict(watermarks)))

    def closed(self, connection: str) -> None:
        """Nothing more comes on this connection."""
        self._add(Closed(self._clock(), self.name, connection))

    def seen(self, connection: str, conv: str, entry: Entry, via: Via = "messages") -> None:
        """An entry came on this connection; not for answers to `history`, which are no part of the stream."""
        now = self._clock()
        what = (entry.seq, entry.id, entry.sender, entry.body, via, entry.first or 0)
        self._add(Seen(now, self.name, connection, conv, *what))

    def caught_up(self, connection: str) -> None:
        """``caught_up`` came."""
        self._add(SaidCaughtUp(self._clock(), self.name, connection))

    def marked(self, conv: str, seq: int, *, read: bool = False) -> None:
        """Before an ``ack`` or ``read`` leaves."""
        self._add(Marked(self._clock(), self.name, conv, seq, read))

    def marks(self, conv: str, user: str, delivered: int, read: int) -> None:
        """A user's marks came."""
        self._add(MarksSeen(self._clock(), self.name, conv, user, delivered, read))

    def settled(self) -> None:
        """At the end: connected, caught up, nothing under way anywhere."""
        self._add(Settled(self._clock(), self.name))

    def received(self, connection: str, frame: ServerFrame) -> None:
        """Record what a server frame says, except ``welcome`` and ``error``: what they mean, the client alone knows."""
        match frame:
            case Messages() if frame.ref is None:
                for entry in frame.messages:
                    self.seen(connection, frame.conv, entry)
            case Sent():
                self.ok(frame.conv, frame.id, frame.seq, frame.ts)
                if not frame.duplicate:
                    entry = Entry(seq=frame.seq, ts=frame.ts, id=frame.id, sender=self.user)
                    self.seen(connection, frame.conv, entry, "sent")
            case Receipt():
                self.marks(frame.conv, frame.user, frame.delivered, frame.read)
            case ConversationList():
                for row in frame.conversations:
                    self.marks(row.conv, self.user, row.delivered, row.read)
                    if row.peer != self.user:
                        self.marks(row.conv, row.peer, row.peer_delivered, row.peer_read)
            case CaughtUp():
                self.caught_up(connection)
