"""Who watches whom, and what each subscriber is to be told when. Pure: time is an argument.

Subscribers are dealt out to slots of the interval, so that their frames do not all leave at once. In its slot a
subscriber gets one frame with everybody who is not as it was told last: whoever changed and changed back costs nothing,
and a change costs one entry, however many watch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import cycle

from chatd.presence.state import OFFLINE, Shown

SLOTS = 100


class Subscriber:
    """One device that watches. ``told``: user → what it was told last.

    ``quiet``: it is to be sent nothing now (inactive, or its socket is full); afterwards it is told what it missed.
    """

    __slots__ = ("quiet", "shows_last_seen", "slot", "stale", "told")

    def __init__(self, *, shows_last_seen: bool) -> None:
        self.told: dict[str, Shown] = {}
        self.shows_last_seen = shows_last_seen
        self.quiet = False
        self.stale = False  # it missed a slot: all that it watches is compared
        self.slot = -1

    def sees(self, shown: Shown) -> Shown:
        """What of it this subscriber may see: who hides when it was last here does not see it of others."""
        return shown if self.shows_last_seen or shown.last_seen_ms is None else OFFLINE


class Watching:
    """The subscribers. ``shown`` tells what others may see of a user now."""

    def __init__(self, shown: Callable[[str], Shown], *, interval_s: float) -> None:
        self._shown = shown
        self._slot_s = interval_s / SLOTS
        self._slots: list[dict[Subscriber, None]] = [{} for _ in range(SLOTS)]
        self._next_slot = cycle(range(SLOTS))
        self._changed: dict[str, int] = {}  # user → the round in which it changed last; the oldest first
        self._stale: set[Subscriber] = set()
        self._round = 0  # the last one whose slot's turn has come
        self._whole_from = 0  # the round from which on every slot has been told after a pause
        self._turn: list[Subscriber] = []  # of that slot, who has not been looked at yet

    def add(self, subscriber: Subscriber) -> None:
        """A device watches somebody from now on."""
        if subscriber.slot < 0:
            subscriber.slot = next(self._next_slot)
            self._slots[subscriber.slot][subscriber] = None

    def remove(self, subscriber: Subscriber) -> None:
        """It is gone, or watches nobody any more."""
        if subscriber.slot >= 0:
            del self._slots[subscriber.slot][subscriber]
            subscriber.slot = -1
        self._stale.discard(subscriber)

    def watch(self, subscriber: Subscriber, users: Iterable[str]) -> list[tuple[str, Shown]]:
        """Add users. Returns: how they are now, which is what later changes are told against."""
        states = []
        for user in users:
            shown = subscriber.told[user] = subscriber.sees(self._shown(user))
            states.append((user, shown))
        return states

    def watched(self) -> set[str]:
        """Everybody whom some subscriber watches."""
        return {user for slot in self._slots for one in slot for user in one.told}

    def changed(self, user: str, now_s: float) -> None:
        """A user may not be as it was."""
        self._begin(now_s)
        self._changed.pop(user, None)
        self._changed[user] = max(self._at(now_s), self._round)

    def refresh(self, subscriber: Subscriber, now_s: float) -> None:
        """Compare all that it watches in its next slot."""
        subscriber.stale = True
        if subscriber.slot >= 0 and not subscriber.quiet:
            self._begin(now_s)
            self._stale.add(subscriber)

    def quiet(self, subscriber: Subscriber, on: bool, now_s: float) -> None:
        """Send it nothing from now on, or go on."""
        subscriber.quiet = on
        if on:
            self._stale.discard(subscriber)
        elif subscriber.stale:
            self.refresh(subscriber, now_s)

    def next_s(self) -> float | None:
        """When `due` is to be asked (monotonic), or None: nobody has anything to hear."""
        if self._turn:
            return self._round * self._slot_s
        return (self._round + 1) * self._slot_s if self._changed or self._stale else None

    def due(self, now_s: float, subscribers_max: int) -> list[tuple[Subscriber, list[tuple[str, Shown]]]]:
        """Whose slot has come, and what they are to hear; those who have nothing to hear are left out.

        At most so many are looked at; then `next_s` has passed already, and it is to be asked again.
        """
        now = self._at(now_s)
        if self._round < now - SLOTS:  # after a pause each slot is told once
            self._round = now - SLOTS
            self._whole_from = now
        result: list[tuple[Subscriber, list[tuple[str, Shown]]]] = []
        for _ in range(subscribers_max):
            while not self._turn and self._round < now:
                if self._round >= self._whole_from:
                    self._forget(self._round - SLOTS)
                self._round += 1
                self._turn = list(self._slots[self._round % SLOTS])
            if not self._turn:
                break
            subscriber = self._turn.pop()
            if subscriber.slot >= 0 and (states := self._news(subscriber)):
                result.append((subscriber, states))
        if not self._turn and self._round >= self._whole_from:
            self._forget(self._round - SLOTS)
        return result

    def _begin(self, now_s: float) -> None:
        """After a time in which nobody had anything to hear, the rounds go on from now."""
        if not self._changed and not self._stale:
            self._round = max(self._round, self._at(now_s))

    def _news(self, subscriber: Subscriber) -> list[tuple[str, Shown]]:
        told = subscriber.told
        if subscriber.quiet:
            subscriber.stale = True
            return []
        names: Iterable[str]
        if subscriber.stale:
            subscriber.stale = False
            self._stale.discard(subscriber)
            names = list(told)
        else:
            names = self._changed.keys() & told.keys()
        states = []
        for user in names:
            shown = subscriber.sees(self._shown(user))
            if shown != told[user]:
                told[user] = shown
                states.append((user, shown))
        return states

    def _forget(self, upto: int) -> None:
        """Every slot has been told since these changes."""
        while self._changed:
            user = next(iter(self._changed))
            if self._changed[user] > upto:
                break
            del self._changed[user]

    def _at(self, now_s: float) -> int:
        return int(now_s / self._slot_s + 1e-6)  # a timer may be early by its resolution
