"""Marks between two commits: maxima, so a device that acknowledges a thousand times costs one row."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TypeAlias

from chatd.errors import OutcomeUnknown, Refusal, Unavailable
from chatd.model import Advance, Grown

Done: TypeAlias = Callable[[Grown | Refusal], None]
Key: TypeAlias = tuple[str, str, str]


class Receipts:
    """The advances that wait for the next commit, at most one a device and conversation.

    Its length counts advances or those who wait for one, whichever are more.
    """

    def __init__(self) -> None:
        self._advances: dict[Key, Advance] = {}
        self._waiting: list[tuple[Key, Done]] = []
        self._unsure: set[tuple[str, str]] = set()  # (conv, user) of marks that may be stored and were told nobody

    def __len__(self) -> int:
        return max(len(self._advances), len(self._waiting))

    def add(self, advance: Advance, done: Done | None = None) -> None:
        """Raise what waits for this device to the maximum; ``done`` hears of the commit."""
        key = (advance.conv, advance.user, advance.device)
        have = self._advances.get(key)
        if have is not None and (have.delivered > advance.delivered or have.read > advance.read):
            advance = Advance(*key, max(have.delivered, advance.delivered), max(have.read, advance.read))
        self._advances[key] = advance
        if done is not None:
            self._waiting.append((key, done))

    def take(self, advances_max: int) -> Taken:
        """What waits, for one commit; the oldest ones if there are more than it may have."""
        waiting = self._advances
        if len(waiting) <= advances_max:
            taken = Taken(list(waiting.values()), self._waiting, self._unsure)
            self._advances, self._waiting, self._unsure = {}, [], set()
            return taken
        now = {key: waiting.pop(key) for key in list(islice(waiting, advances_max))}
        unsure = self._unsure & {(conv, user) for conv, user, _ in now}
        taken = Taken(list(now.values()), [one for one in self._waiting if one[0] in now], unsure)
        self._waiting = [one for one in self._waiting if one[0] not in now]
        self._unsure -= unsure
        return taken

    def put_back(self, taken: Taken) -> None:
        """The commit's outcome is unknown: marks are maxima, so they go into the next one.

        If they are stored already, that one does not see them grow: they are to be told all the same.
        """
        self.keep(taken)
        self._waiting.extend(taken.waiting)
        self._unsure |= {(advance.conv, advance.user) for advance in taken.advances}

    def keep(self, taken: Taken) -> None:
        """The commit was refused and its waiters have heard so: the marks themselves are not to be lost."""
        for advance in taken.advances:
            self.add(advance)
        self._unsure |= taken.unsure


class Taken:
    """The marks of one commit and who waits for them. ``unsure``: (conv, user) to be told even if they did not grow."""

    __slots__ = ("advances", "unsure", "waiting")

    def __init__(self, advances: list[Advance], waiting: list[tuple[Key, Done]], unsure: set[tuple[str, str]]) -> None:
        self.advances = advances
        self.waiting = waiting
        self.unsure = unsure

    def committed(self, grown: dict[tuple[str, str], Grown]) -> None:
        """Tell who waits."""
        for (conv, user, _), done in self.waiting:
            done(grown[conv, user])

    def failed(self, refusal: Refusal | OutcomeUnknown) -> None:
        """Tell who waits that nothing was stored."""
        answer = refusal if isinstance(refusal, Refusal) else Unavailable(str(refusal))
        for _, done in self.waiting:
            done(answer)
