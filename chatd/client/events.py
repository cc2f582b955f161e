"""What a client tells its application: frozen events, the bounded queue that holds them, and the end.

Units: ``seq`` counts from 1 without gaps inside a conversation; ``ts`` is server time in Unix ms.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeAlias

from msgspec import Struct

from chatd.errors import ChatdError
from chatd.model import Durability, Marks, PresenceState
from chatd.protocol import ConversationRow, Entry, Gone


class Stopped(ChatdError):
    """The client has ended and does not come back by itself: closed, or refused by the server for good.

    ``code`` is the WebSocket close code of protocol §3: 1000 closed by the application, 4401 bad, expired or
    revoked token, 4403 account disabled, 4409 the same device connected elsewhere, 4400 broken protocol.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} (close code {code})")
        self.code = code
        self.reason = reason


class MessageEvent(Struct, frozen=True):
    """A message, once and in its place: each conversation comes as seq, seq+1, … ``mine``: this user sent it."""

    conv: str
    seq: int
    id: str
    sender: str
    body: str
    ts: int
    mine: bool


class GoneEvent(Struct, frozen=True):
    """A place in the log whose message this user may not see any more.

    ``first``: of messages that expired it is the place of all of ``first`` … ``seq``; the next event has seq + 1.
    """

    conv: str
    seq: int
    ts: int
    gone: Gone
    first: int


class ReceiptEvent(Struct, frozen=True):
    """A user's marks after they grew: everything up to ``delivered`` arrived, up to ``read`` was read."""

    conv: str
    user: str
    delivered: int
    read: int


class ConversationEvent(Struct, frozen=True):
    """A conversation that changed while this device was away."""

    row: ConversationRow


class CaughtUpEvent(Struct, frozen=True):
    """Everything that was missing has come before this event. ``since`` is the server's own bookmark."""

    since: str


class ConnectedEvent(Struct, frozen=True):
    """A session is open."""

    user: str
    device: str
    session: str
    durability: Durability


class DisconnectedEvent(Struct, frozen=True):
    """The connection is gone; the next attempt comes in ``retry_s`` seconds."""

    reason: str
    retry_s: float


class PresenceEvent(Struct, frozen=True):
    """How a watched user is there. ``last_seen``: Unix ms, of somebody offline, if both show it."""

    user: str
    state: PresenceState
    last_seen: int | None = None


class TypingEvent(Struct, frozen=True):
    """A user writes in a conversation, or no longer does: said, or not repeated for 6 s."""

    conv: str
    user: str
    on: bool


class ResetEvent(Struct, frozen=True):
    """The server's history is another one: seqs seen before may name other messages, logs come anew."""

    incarnation: str


LogEvent: TypeAlias = MessageEvent | GoneEvent
Event: TypeAlias = (
    LogEvent
    | ReceiptEvent
    | ConversationEvent
    | PresenceEvent
    | TypingEvent
    | CaughtUpEvent
    | ConnectedEvent
    | DisconnectedEvent
    | ResetEvent
)


class Sent(Struct, frozen=True):
    """Where a sent message stands, durably."""

    conv: str
    seq: int
    ts: int


class ConversationMarks(Struct, frozen=True):
    """The latest known user-level marks of both sides of a conversation."""

    mine: Marks = Marks()
    peer: Marks = Marks()


class HistoryPage(Struct, frozen=True):
    """A piece of a log, ascending. ``more``: there is more in the direction asked for."""

    entries: tuple[LogEvent, ...]
    more: bool


def log_event(conv: str, entry: Entry, me: str) -> LogEvent:
    """One place of a log as the application sees it."""
    if entry.gone is not None or entry.id is None or entry.sender is None or entry.body is None:
        return GoneEvent(conv, entry.seq, entry.ts, entry.gone or "hidden", entry.first or entry.seq)
    return MessageEvent(conv, entry.seq, entry.id, entry.sender, entry.body, entry.ts, entry.sender == me)


class EventQueue:
    """Events that wait for the application: at most ``messages_max`` messages, and of the rest the newest a kind.

    There is no room for a message beyond the bound: the caller leaves it on the server, and fetches it later.
    The other events carry a state and not a step, so a newer one takes the place of the one that still waits
    (receipts by conversation and user, conversations by conversation): their number is bounded by the number
    of conversations, however long the application looks away.
    """

    def __init__(self, messages_max: int) -> None:
        self._messages_max = messages_max
        self._messages = 0
        self._events: OrderedDict[Hashable, Event] = OrderedDict()

    def __len__(self) -> int:
        return len(self._events)

    @property
    def room(self) -> int:
        """How many more messages fit."""
        return self._messages_max - self._messages

    def put(self, event: Event) -> None:
        """Queue an event at the end; the caller has looked at ``room`` for a message."""
        key = _key(event)
        if isinstance(event, LogEvent):
            self._messages += 1
        else:
            self._events.pop(key, None)
        self._events[key] = event

    def take(self) -> Event | None:
        """The oldest event, or None."""
        if not self._events:
            return None
        _, event = self._events.popitem(last=False)
        if isinstance(event, LogEvent):
            self._messages -= 1
        return event

    def drop_log(self) -> None:
        """Forget the queued messages and the bookmark behind them: they are of a history that is no more."""
        kept = [(k, e) for k, e in self._events.items() if not isinstance(e, LogEvent | CaughtUpEvent)]
        self._events = OrderedDict(kept)
        self._messages = 0


def _key(event: Event) -> Hashable:
    match event:
        case MessageEvent() | GoneEvent():
            return (event.conv, event.seq)
        case ReceiptEvent():
            return ("receipt", event.conv, event.user)
        case ConversationEvent():
            return ("conversation", event.row.conv, "")
        case PresenceEvent():
            return ("presence", event.user, "")
        case TypingEvent():
            return ("typing", event.conv, event.user)
        case _:
            return type(event)
