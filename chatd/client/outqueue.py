"""What was sent and not yet answered, in order; and how long to wait. Pure: time and chance are arguments.

A send stays here under its id until the server has answered it for good, so that it can be sent again after a
lost connection: (sender, conversation, id) names one message for ever, repeating is safe. Source: protocol §4.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator
from enum import Enum
from operator import attrgetter

from msgspec import Struct, field

from chatd.errors import OutOfOrder, Overloaded, RateLimited
from chatd.model import conv_of, is_user
from chatd.protocol import Send

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0


class Backoff:
    """Exponential backoff with full jitter: a uniform part of 0.5, 1, 2 … 30 s, never less than was asked for.

    ``random`` returns a float in [0, 1).
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._ceiling_s = BACKOFF_FIRST_S

    def next_s(self, retry_after_ms: int | None = None) -> float:
        """How long to wait before the next attempt, in seconds."""
        wait_s = self._random() * self._ceiling_s
        self._ceiling_s = min(2 * self._ceiling_s, BACKOFF_MAX_S)
        return max(wait_s, (retry_after_ms or 0) / 1000)

    def reset(self) -> None:
        """An attempt has succeeded: begin from 0.5 s again."""
        self._ceiling_s = BACKOFF_FIRST_S


class Pending(Struct, frozen=True):
    """One send without a final answer. ``order`` grows with each send, also over restarts. One of to/conv is set."""

    order: int
    id: str
    body: str
    to: str | None = None
    conv: str | None = None

    def frame(self, n: int) -> Send:
        """The frame to send, as this connection's ``n``-th."""
        return Send(id=self.id, body=self.body, to=self.to, conv=self.conv, n=n)


class Verdict(Enum):
    """What a refusal means for the send."""

    RETRY = "retry"
    FAILED = "failed"
    RECONNECT = "reconnect"


class _Lane(Struct):
    """The sends of one conversation: ``flying`` were sent on this connection, ``waiting`` (by order) were not."""

    backoff: Backoff
    waiting: list[Pending] = field(default_factory=list)
    flying: dict[str, Pending] = field(default_factory=dict)
    not_before_s: float = 0.0
    refused: bool = False


_by_order = attrgetter("order")


class OutQueue:
    """The sends that wait for an answer, ordered by conversation.

    At ``messages_max`` entries a new one is refused with Overloaded. At most ``flying_messages_max`` are sent
    ahead of their answers. While a send waits to be repeated, nothing later of its conversation is sent; and it
    is repeated only when everything of its conversation that was sent after it has been answered too, so that
    the server never sees a later send between a refused one and its repetition.

    A rate that is exceeded is the user's: then one is sent ahead at all, and with each that is stored one more. All of
    them again at once would be refused again but for the first, a hundred frames for each message.
    """

    def __init__(
        self, random: Callable[[], float], *, messages_max: int = 10_000, flying_messages_max: int = 128
    ) -> None:
        self._random = random
        self._messages_max = messages_max
        self._flying_messages_max = flying_messages_max
        self._ahead_messages = flying_messages_max  # that bound, or less while the server says "too fast"
        self._me = ""
        self._entries: dict[str, Pending] = {}
        self._lanes: dict[str, _Lane] = {}
        self._flying = 0
        self._n = 0
        self._order = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._entries.values())

    def get(self, id: str) -> Pending | None:
        """The entry of this id, or None: it has been answered, or is of no send of this device."""
        return self._entries.get(id)

    def make(self, id: str, body: str, *, to: str | None = None, conv: str | None = None) -> Pending:
        """The next entry, not yet queued: it is stored before it may be sent.

        Raises: Overloaded – the outbox is full.
        """
        if len(self._entries) >= self._messages_max:
            raise Overloaded(f"the outbox holds {self._messages_max} unsent messages")
        return Pending(self._order + 1, id, body, to=to, conv=conv)

    def add(self, entry: Pending) -> None:
        """Queue an entry that `make` gave, or that was stored by an earlier run, in the order of ``order``."""
        self._order = entry.order
        self._entries[entry.id] = entry
        self._lane(entry).waiting.append(entry)

    def connected(self, me: str) -> None:
        """A new connection of user ``me``: nothing is on its way, everything is to be sent again, in order."""
        self._me = me
        self._n = self._flying = 0
        old, self._lanes = self._lanes, {}
        for entry in self._entries.values():
            self._lane(entry).waiting.append(entry)
        for name, lane in self._lanes.items():
            if name in old:  # what the server asked for holds on the next connection too
                lane.backoff, lane.not_before_s = old[name].backoff, old[name].not_before_s

    def due(self, now_s: float) -> list[Send]:
        """The frames to send now, in this order; they count as sent."""
        frames: list[Send] = []
        for lane in self._lanes.values():
            if now_s < lane.not_before_s or (lane.refused and lane.flying):
                continue
            lane.refused = False
            batch = lane.waiting[: max(self._ahead_messages - self._flying, 0)]
            del lane.waiting[: len(batch)]
            self._flying += len(batch)
            for entry in batch:
                lane.flying[entry.id] = entry
                self._n += 1
                frames.append(entry.frame(self._n))
        return frames

    def deadline_s(self) -> float | None:
        """When `due` should be asked again although nothing happened, or None."""
        times = [
            lane.not_before_s for lane in self._lanes.values() if lane.waiting and not (lane.refused and lane.flying)
        ]
        return min(times) if times and self._flying < self._ahead_messages else None

    def sent(self, id: str) -> Pending | None:
        """The server has stored it: the entry, which is no longer queued, or None: it was answered before."""
        entry = self._entries.get(id)
        if entry is not None:
            self._ahead_messages = min(self._ahead_messages + 1, self._flying_messages_max)
            self._lane(entry).backoff.reset()
            self._remove(entry)
        return entry

    def refused(self, id: str, code: str, retry_after_ms: int | None, now_s: float, *, temporary: bool) -> Verdict:
        """The server has refused it: RETRY – it will be sent again; FAILED – it is no longer queued;
        RECONNECT – the server waits for a send that this queue does not have: a new connection clears that.
        """
        entry = self._entries.get(id)
        if entry is None:
            return Verdict.FAILED
        if not temporary:
            self._remove(entry)
            return Verdict.FAILED
        if code == RateLimited.code:
            self._ahead_messages = 1
        lane = self._lane(entry)
        if lane.flying.pop(id, None) is not None:
            self._flying -= 1
            insort(lane.waiting, entry, key=_by_order)
        lane.refused = True
        first = lane.waiting[0].order == entry.order and all(e.order > entry.order for e in lane.flying.values())
        if code == OutOfOrder.code and not first:
            return Verdict.RETRY  # it waits for the one before it, which has its own time
        lane.not_before_s = now_s + (lane.backoff.next_s() if retry_after_ms is None else max(retry_after_ms, 1) / 1000)
        return Verdict.RECONNECT if code == OutOfOrder.code else Verdict.RETRY

    def _remove(self, entry: Pending) -> None:
        lane = self._lane(entry)
        del self._entries[entry.id]
        if lane.flying.pop(entry.id, None) is not None:
            self._flying -= 1
        else:
            lane.waiting.remove(entry)
        if not lane.waiting and not lane.flying:
            del self._lanes[self._name(entry)]

    def _lane(self, entry: Pending) -> _Lane:
        name = self._name(entry)
        if name not in self._lanes:
            self._lanes[name] = _Lane(Backoff(self._random))
        return self._lanes[name]

    def _name(self, entry: Pending) -> str:
        # A send "to bob" and one into the conversation with bob are in one order. Were conversations named
        # differently, these would be two lanes, and the server's out_of_order would still keep the order.
        if entry.to is not None:
            return conv_of(self._me, entry.to) if self._me and is_user(entry.to) else entry.to
        return entry.conv or ""
