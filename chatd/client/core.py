"""One device's side of the protocol, without I/O: frames and time go in, frames and events come out.

`Client` is the shell around it: it moves bytes, waits, and stores what `unsaved` gives. Source: docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from msgspec import Struct

from chatd import protocol as wire
from chatd.client.events import (
    CaughtUpEvent,
    ConnectedEvent,
    ConversationEvent,
    ConversationMarks,
    DisconnectedEvent,
    Event,
    EventQueue,
    LogEvent,
    MessageEvent,
    ReceiptEvent,
    ResetEvent,
    Sent,
    log_event,
)
from chatd.client.hints import Hints
from chatd.client.outqueue import Backoff, OutQueue, Pending, Verdict
from chatd.client.watermarks import Watermarks
from chatd.errors import REFUSALS, Refusal, TooLarge
from chatd.model import PAGE_ITEMS_MAX, WATERMARKS_MAX, Marks, conv_of, peer_of

FETCHES_MAX = 8


class Answered(Struct, frozen=True):
    """A send has its final answer."""

    id: str
    outcome: Sent | Refusal


class Grew(Struct, frozen=True):
    """The marks of a conversation grew."""

    conv: str


class Replied(Struct, frozen=True):
    """The answer to a request of the application."""

    ref: wire.Ref
    answer: wire.Messages | wire.ConversationList | Refusal


class Leave(Struct, frozen=True):
    """This connection is of no more use: close it and connect again."""

    reason: str


Effect: TypeAlias = Answered | Grew | Replied | Leave


class Unread(Struct, frozen=True):
    """The peer's messages above ``floor``, up to ``head``: both are maxima, so nothing is counted twice.

    ``floor`` is the user's read mark or last own message, raised by one for each message above it that is hidden.
    """

    head: int = 0
    floor: int = 0

    @property
    def count(self) -> int:
        """How many."""
        return max(0, self.head - self.floor)


class Saved(Struct, frozen=True):
    """What of one conversation outlives the process. ``taken``: the application is done with all up to it."""

    conv: str
    taken: int | None
    read_wanted: int
    marks: ConversationMarks
    unread: Unread = Unread()


class Unsaved(Struct, frozen=True):
    """What changed since it was last asked for, to be stored together. ``answered``: `Pending.order` of sends."""

    conversations: tuple[Saved, ...]
    answered: tuple[int, ...]
    since: str | None


class Core:
    """The state of one device. ``random`` returns a float in [0, 1); ``now_s`` is monotonic, in seconds."""

    def __init__(self, random: Callable[[], float], *, outbox_messages_max: int, events_messages_max: int) -> None:
        self._random = random
        self.user: str | None = None
        self.incarnation: str | None = None
        self.since: str | None = None
        self.limits: wire.Limits | None = None
        self.outbox = OutQueue(random, messages_max=outbox_messages_max)
        self.backoff = Backoff(random)
        self.watermarks = Watermarks()
        self.queue = EventQueue(events_messages_max)
        self._page_items = min(PAGE_ITEMS_MAX, events_messages_max)
        self._marks: dict[str, ConversationMarks] = {}
        self._handed: Event | None = None
        self._ref = 0
        self._requests: list[wire.ClientFrame] = []
        self._acks: dict[str, int] = {}
        self._reads: dict[str, int] = {}
        self._reading: dict[wire.Ref, tuple[str, int]] = {}
        self._fetching: dict[wire.Ref, tuple[str, int]] = {}
        self._not_before_s: dict[str, float] = {}
        self._caught_up = False
        self._since_held: str | None = None
        self._leave_at_s: float | None = None
        self._done: dict[str, int] = {}
        self._placed: set[str] = set()
        self.hints = Hints()
        self._unread: dict[str, Unread] = {}
        self.badge = 0  # unread messages in all
        self._dirty: dict[str, None] = {}
        self._since_dirty = False
        self._answered: list[int] = []

    # --- what an earlier run stored ---

    def load(self, saved: Saved) -> None:
        """Take back one stored conversation; oldest first."""
        if saved.taken is not None:
            self._done[saved.conv] = saved.taken
            self._placed.add(saved.conv)
            self.watermarks.load(saved.conv, saved.taken)
        if saved.read_wanted:
            self._reads[saved.conv] = saved.read_wanted
        self._marks[saved.conv] = saved.marks
        self._count(saved.conv, saved.unread.head, saved.unread.floor)

    def unsaved(self) -> Unsaved | None:
        """What is to be stored now, or None; it is given once, and then told to `stored`."""
        if not (self._dirty or self._answered or self._since_dirty):
            return None
        rows = tuple(
            Saved(conv, self._done.get(conv), self._reads.get(conv, 0), self.marks(conv), self.unread(conv))
            for conv in self._dirty
        )
        unsaved = Unsaved(rows, tuple(self._answered), self.since)
        self._dirty.clear()
        self._answered.clear()
        self._since_dirty = False
        return unsaved

    def stored(self, unsaved: Unsaved) -> None:
        """It is in the store: what begins there may be acknowledged."""
        self._placed.update(row.conv for row in unsaved.conversations if row.conv in self._done)

    # --- the application's side ---

    def marks(self, conv: str) -> ConversationMarks:
        """The latest known user-level marks."""
        return self._marks.get(conv, ConversationMarks())

    def unread(self, conv: str) -> Unread:
        """What the user has not read of a conversation."""
        return self._unread.get(conv, Unread())

    def take(self) -> Event | None:
        """Hand the next event over, or None. The one before it is done with; this one is acknowledged."""
        self.done()
        event = self._handed = self.queue.take()
        if isinstance(event, LogEvent):
            self.watermarks.take(event.conv, event.seq)
            self._acks[event.conv] = event.seq
            if event.conv not in self._done:  # stored before its first ack: from there a next run would go on
                self._done[event.conv] = event.seq - 1
                self._dirty[event.conv] = None
            self._raise_mine(event.conv, Marks(event.seq, 0))
        return event

    def done(self) -> None:
        """The application is done with the event that it was handed last: only now may that be stored."""
        event, self._handed = self._handed, None
        if isinstance(event, LogEvent):
            self._done[event.conv] = event.seq
            self._dirty[event.conv] = None
        elif isinstance(event, CaughtUpEvent):
            self.since = event.since
            self._since_dirty = True

    def read(self, conv: str, seq: int) -> None:
        """The user has read up to ``seq``: told to the server until it has confirmed it."""
        if seq > max(self._reads.get(conv, 0), self.marks(conv).mine.read):
            self._reads[conv] = seq
            self._dirty[conv] = None

    def request(self, make: Callable[[int], wire.History | wire.Conversations]) -> int:
        """Ask the server something: ``make`` gives the frame for a ref; the answer comes as `Replied`."""
        self._ref += 1
        self._requests.append(make(self._ref))
        return self._ref

    # --- the connection's side ---

    def hello(self, token: str, agent: str) -> wire.Hello:
        """The first frame of a connection."""
        # a watermark acknowledges too: acks that the old connection lost need no repetition
        watermarks = {c: seq for c, seq in self.watermarks.newest(WATERMARKS_MAX).items() if c in self._placed}
        return wire.Hello(
            token=token,
            incarnation=self.incarnation,
            since=self.since,
            watermarks=watermarks or None,
            agent=agent,
        )

    def welcomed(self, frame: wire.Welcome) -> list[Effect]:
        """The session is open. After ``frame.reset`` the caller drops what is stored of positions."""
        self.user, self.incarnation, self.limits = frame.user, frame.incarnation, frame.limits
        if frame.reset:
            self.watermarks.forget()
            self.queue.drop_log()
            for of_old_history in (self._acks, self._reads, self._marks, self._done, self._dirty, self._unread):
                of_old_history.clear()
            self.badge = 0
            self._placed.clear()
            self.since = self._handed = None
            self.queue.put(ResetEvent(frame.incarnation))
        self.outbox.connected(frame.user)
        self.hints.connected()
        self.queue.put(ConnectedEvent(frame.user, frame.device, frame.session, frame.durability))
        effects: list[Effect] = []
        for entry in [e for e in self.outbox if len(wire.encode(e.frame(2**53 - 1))) > frame.limits.frame_bytes_max]:
            self.outbox.refused(entry.id, TooLarge.code, None, 0.0, temporary=False)
            effects += self._answer(entry, TooLarge("it does not fit a frame of this server"))
        return effects

    def disconnected(self, reason: str, now_s: float, retry_after_ms: int | None = None) -> float:
        """The connection is gone, or did not come about. Returns: seconds to wait before the next attempt."""
        if self._leave_at_s is not None:
            retry_s = max(self._leave_at_s - now_s, 0.0)
        else:
            retry_s = self.backoff.next_s(retry_after_ms)
        self._requests.clear()
        self._fetching.clear()
        self._reading.clear()
        self._not_before_s.clear()
        self._leave_at_s = self._since_held = None
        self._caught_up = False
        self._put(self.hints.disconnected())
        self.queue.put(DisconnectedEvent(reason, retry_s))
        return retry_s

    def due(self, now_s: float) -> list[wire.ClientFrame]:
        """The frames to send now, in this order; they count as sent."""
        self._not_before_s = {what: at_s for what, at_s in self._not_before_s.items() if at_s > now_s}
        acks = {conv: seq for conv, seq in self._acks.items() if conv in self._placed}
        self._acks = {conv: seq for conv, seq in self._acks.items() if conv not in acks}
        frames: list[wire.ClientFrame] = [wire.Ack(conv=conv, seq=seq) for conv, seq in acks.items()]
        under_way = {conv for conv, _ in self._reading.values()}
        for conv, seq in self._reads.items():
            if conv not in under_way and "read " + conv not in self._not_before_s:
                self._ref += 1
                self._reading[self._ref] = (conv, seq)
                frames.append(wire.Read(conv=conv, seq=seq, ref=self._ref))
        frames += self._requests
        self._requests.clear()
        frames += self._fetches()
        frames += self.outbox.due(now_s)
        hints = self.hints.due(now_s, self._ref)
        self._ref += len(hints)
        return frames + hints

    def deadline_s(self) -> float | None:
        """When `due` should be asked again although nothing happened, or None."""
        times = [self.outbox.deadline_s(), self.hints.deadline_s(), self._leave_at_s, *self._not_before_s.values()]
        return min((t for t in times if t is not None), default=None)

    def expired(self, now_s: float) -> bool:
        """End what has not been repeated. Returns: whether that made an event."""
        ended = self.hints.expired(now_s)
        self._put(ended)
        return bool(ended)

    def leaves(self, now_s: float) -> bool:
        """Whether the time that a goaway gave is over: close and connect again."""
        return self._leave_at_s is not None and now_s >= self._leave_at_s

    def receive(self, frame: wire.ServerFrame, now_s: float) -> list[Effect]:
        """Take one frame of the server's, after welcome."""
        match frame:
            case wire.Messages():
                return self._on_messages(frame)
            case wire.Sent():
                return self._on_sent(frame)
            case wire.Receipt():
                return self._on_receipt(frame)
            case wire.ConversationList():
                return self._on_conversations(frame)
            case wire.Presence():
                self._put(self.hints.on_presence(frame))
            case wire.PeerTyping():
                self._put(self.hints.on_typing(frame, now_s))
            case wire.Error():
                return self._on_error(frame, now_s)
            case wire.CaughtUp():
                self.backoff.reset()
                self.watermarks.caught_up()
                self._caught_up = True
                self._since_held = frame.since
                self._release_since()
            case wire.Ok() if frame.ref in self._reading:
                conv, seq = self._reading.pop(frame.ref)
                self._read_settled(conv, seq)
                return self._raise_mine(conv, Marks(seq, seq))
            case wire.Goaway():
                self._leave_at_s = now_s + self._random() * frame.reconnect_ms / 1000
        return []

    # --- frames ---

    def _on_messages(self, frame: wire.Messages) -> list[Effect]:
        fetched = frame.ref in self._fetching
        if frame.ref is not None and not fetched:
            return [Replied(frame.ref, frame)]
        entries = self.watermarks.messages(frame.conv, frame.messages, self.queue.room, fetched=fetched)
        me = self.user or ""
        for entry in entries:
            self._noted(frame.conv, entry.seq, entry.sender, expired=entry.gone == "expired")
            self.queue.put(log_event(frame.conv, entry, me))
        if fetched and frame.ref is not None:
            conv, after = self._fetching.pop(frame.ref)
            if not entries and self.watermarks.seen(conv) == after and self.queue.room:
                return [Leave(f"history of {conv} after {after} does not go on at {after + 1}")]
        self._release_since()
        return []

    def _on_sent(self, frame: wire.Sent) -> list[Effect]:
        entry = self.outbox.sent(frame.id)
        if not frame.duplicate:
            self._noted(frame.conv, frame.seq, self.user)
            # without the entry (an answer that came twice) there is no body: the place is fetched
            room = self.queue.room if entry is not None else 0
            me = self.user or ""
            if self.watermarks.sent(frame.conv, frame.seq, room, caught_up=self._caught_up) and entry is not None:
                self.queue.put(MessageEvent(frame.conv, frame.seq, frame.id, me, entry.body, frame.ts, mine=True))
        return self._answer(entry, Sent(frame.conv, frame.seq, frame.ts))

    def _on_receipt(self, frame: wire.Receipt) -> list[Effect]:
        self.queue.put(ReceiptEvent(frame.conv, frame.user, frame.delivered, frame.read))
        given = Marks(frame.delivered, frame.read)
        if frame.user == self.user:
            return self._raise_mine(frame.conv, given)
        return self._raise_marks(frame.conv, Marks(), given)

    def _on_conversations(self, frame: wire.ConversationList) -> list[Effect]:
        if frame.ref is not None:
            return [Replied(frame.ref, frame)]
        effects: list[Effect] = []
        for row in frame.conversations:
            self._count(row.conv, row.head, row.head - row.unread)
            self._dirty[row.conv] = None
            self.queue.put(ConversationEvent(row))
            mine, peer = Marks(row.delivered, row.read), Marks(row.peer_delivered, row.peer_read)
            effects += self._raise_marks(row.conv, mine, peer)
        return effects

    def _on_error(self, frame: wire.Error, now_s: float) -> list[Effect]:
        refusal = REFUSALS.get(frame.code, Refusal)(frame.message, retry_after_ms=frame.retry_after_ms)
        retry_at_s = now_s + max(frame.retry_after_ms or 1000, 1) / 1000
        if frame.ref is None and frame.id is not None:
            entry = self.outbox.get(frame.id)
            verdict = self.outbox.refused(frame.id, frame.code, frame.retry_after_ms, now_s, temporary=frame.temporary)
            if verdict is Verdict.FAILED:
                return self._answer(entry, refusal)
            return [Leave(frame.message)] if verdict is Verdict.RECONNECT else []
        if frame.ref in self._fetching:
            conv, _ = self._fetching.pop(frame.ref)
            if not frame.temporary:
                return [Leave(f"history of {conv}: {frame.message}")]
            self._not_before_s["fetch " + conv] = retry_at_s
        elif frame.ref in self._reading:
            conv, seq = self._reading.pop(frame.ref)
            if frame.temporary:
                self._not_before_s["read " + conv] = retry_at_s
            else:  # there is nothing to be read there, and nobody to be told
                self._read_settled(conv, seq)
        elif frame.ref is not None and not self.hints.refused(frame.ref, now_s, temporary=frame.temporary):
            return [Replied(frame.ref, refusal)]
        return []

    # --- helpers ---

    def _put(self, events: Iterable[Event]) -> None:
        for event in events:
            self.queue.put(event)

    def _noted(self, conv: str, seq: int, sender: str | None, *, expired: bool = False) -> None:
        """A place of a log was seen; ``sender`` None: its message is gone, and if it expired, so did all before it."""
        unread = self.unread(conv)
        if sender == self.user or expired:
            self._count(conv, seq, seq)
        elif sender is None:
            self._count(conv, seq, unread.floor + (seq > unread.head and seq > unread.floor))
        else:
            self._count(conv, seq, unread.floor)
        if sender is not None:
            self._put(self.hints.on_message(conv, sender, seq, peer_of(conv, self.user or "")))

    def _count(self, conv: str, head: int, floor: int) -> None:
        old = self.unread(conv)
        new = self._unread[conv] = Unread(max(old.head, head), max(old.floor, floor))
        self.badge += new.count - old.count

    def _answer(self, entry: Pending | None, outcome: Sent | Refusal) -> list[Effect]:
        if entry is None:
            return []  # answered before
        self._answered.append(entry.order)
        return [Answered(entry.id, outcome)]

    def _fetches(self) -> list[wire.ClientFrame]:
        """One history page for each conversation with a gap, when half a page has room."""
        frames: list[wire.ClientFrame] = []
        under_way = {conv for conv, _ in self._fetching.values()}
        for conv in self.watermarks.behind():
            share = self.queue.room // (len(self._fetching) + 1)
            if len(self._fetching) >= FETCHES_MAX or 2 * share < self._page_items:
                break
            if conv in under_way or "fetch " + conv in self._not_before_s:
                continue
            self._ref += 1
            after = self.watermarks.seen(conv)
            self._fetching[self._ref] = (conv, after)
            limit = min(self._page_items, share)
            frames.append(wire.History(conv=conv, after=after, limit=limit, ref=self._ref))
        return frames

    def _release_since(self) -> None:
        # The bookmark stands for everything before it: it waits until no log has a gap.
        if self._since_held is not None and not self.watermarks.behind():
            self.queue.put(CaughtUpEvent(self._since_held))
            self._since_held = None

    def _read_settled(self, conv: str, seq: int) -> None:
        self._not_before_s.pop("read " + conv, None)
        if self._reads.get(conv) == seq:
            del self._reads[conv]
            self._dirty[conv] = None

    def _raise_mine(self, conv: str, mine: Marks) -> list[Effect]:
        # The server does not tell a device what it said itself.
        notes_to_self = self.user is not None and conv == conv_of(self.user, self.user)
        return self._raise_marks(conv, mine, mine if notes_to_self else Marks())

    def _raise_marks(self, conv: str, mine: Marks, peer: Marks) -> list[Effect]:
        old = self.marks(conv)
        new = ConversationMarks(_max(old.mine, mine), _max(old.peer, peer))
        if new == old:
            return []
        self._count(conv, 0, new.mine.read)
        self._marks[conv] = new
        self._dirty[conv] = None
        return [Grew(conv)]


def _max(one: Marks, other: Marks) -> Marks:
    return Marks(max(one.delivered, other.delivered), max(one.read, other.read))
