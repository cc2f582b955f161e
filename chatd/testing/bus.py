"""Buses for tests: processes in one event loop, and hints that get lost, come twice, late and in the wrong order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence

from chatd.model import PresenceState
from chatd.routing.bus import OnHint, OnReceivers


class Hub:
    """What the ends of one bus have in common: who listens to whom.

    ``loss``, ``repeat``: the shares of hints that are lost and that come twice. ``late_s``: each comes after a random
    part of it, so they change places. All chance comes from ``seed``.
    """

    def __init__(self, *, loss: float = 0.0, repeat: float = 0.0, late_s: float = 0.0, seed: int = 1) -> None:
        self.loss, self.repeat, self.late_s = loss, repeat, late_s
        self.dice = random.Random(seed)  # noqa: S311 - chance is no secret here
        self.ends: list[LoopBus] = []
        self.boards: dict[str, dict[str, PresenceState]] = {}  # process → user → state, of those that live
        self.lost = self.repeated = self.passed = 0

    def end(self) -> LoopBus:
        """The end of one more process."""
        made = LoopBus(self)
        self.ends.append(made)
        return made


class LoopBus:
    """One process's end. `cut` loses everything until `heal`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._users: set[str] = set()
        self._on_hint: OnHint = lambda user, letter: None
        self._on_gap: Callable[[], None] = lambda: None
        self._cut = False
        self.dropped = 0

    async def open(self, on_hint: OnHint, on_gap: Callable[[], None]) -> None:
        """See `Bus`."""
        self._on_hint, self._on_gap = on_hint, on_gap

    async def close(self) -> None:
        """See `Bus`."""
        self._users.clear()

    def cut(self) -> None:
        """Nothing comes and nothing goes."""
        self._cut = True

    def heal(self) -> None:
        """It is back; what was said meanwhile is lost."""
        self._cut = False
        self._on_gap()

    def publish(self, user: str, letter: bytes, on_receivers: OnReceivers | None = None) -> None:
        """See `Bus`."""
        hub = self._hub
        self.dropped += self._cut
        ends = [] if self._cut else [end for end in hub.ends if end.hears(user)]
        for end in ends:
            if end is self:
                continue
            if hub.dice.random() < hub.loss:
                hub.lost += 1
                continue
            hub.passed += 1
            times = 2 if hub.dice.random() < hub.repeat else 1
            hub.repeated += times - 1
            for _ in range(times):
                late_s = hub.dice.random() * hub.late_s
                asyncio.get_running_loop().call_later(late_s, end.take, user, letter)
        if on_receivers is not None and not self._cut:
            asyncio.get_running_loop().call_soon(on_receivers, len(ends))

    def hears(self, user: str) -> bool:
        """Whether this end listens to the user and is not cut."""
        return user in self._users and not self._cut

    def take(self, user: str, letter: bytes) -> None:
        """A hint arrives."""
        if self.hears(user):
            self._on_hint(user, letter)

    async def listen(self, user: str) -> None:
        """See `Bus`."""
        self._users.add(user)

    def forget(self, user: str) -> None:
        """See `Bus`."""
        self._users.discard(user)


class LoopBoard:
    """One process's side of a board that lies in the hub. `die` ends its lease without a word."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._process = ""
        self._dead = False

    async def open(self, process: str, lease_s: float) -> None:
        """See `Board`."""
        self._process = process
        self._hub.boards[process] = {}

    async def close(self) -> None:
        """See `Board`."""
        self._hub.boards.pop(self._process, None)

    def die(self) -> None:
        """The process is gone, and its lease runs out."""
        self._dead = True
        self._hub.boards.pop(self._process, None)

    async def alive(self) -> set[str]:
        """See `Board`."""
        return set(self._hub.boards)

    async def note(self, states: Mapping[str, PresenceState]) -> None:
        """See `Board`."""
        for user, state in states.items():
            if state == "offline" or self._dead:
                self._hub.boards.get(self._process, {}).pop(user, None)
            else:
                self._hub.boards[self._process][user] = state

    async def look(self, users: Sequence[str]) -> dict[str, dict[str, PresenceState]]:
        """See `Board`."""
        boards = self._hub.boards.items()
        return {user: {process: notes[user] for process, notes in boards if user in notes} for user in users}
