"""Who is there: the devices of each user, one state a user, and when somebody left. Pure: time is an argument.

A user is online if any device is, away if all are, else offline. Whose last connection ended stays as they were for
``grace_s``: a phone that changes networks is not away.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping

from msgspec import Struct

from chatd.model import PresenceState


class Shown(Struct, frozen=True):
    """What others may see of a user. ``last_seen_ms``: Unix ms, only of somebody offline who shows it."""

    state: PresenceState
    last_seen_ms: int | None = None


ONLINE = Shown("online")
AWAY = Shown("away")
OFFLINE = Shown("offline")


class Leaving(Struct, frozen=True):
    """A user without a connection. ``until_s``: monotonic, when it counts as gone; ``at_ms``: when it left."""

    until_s: float
    at_ms: int
    before: Shown


class Roster:
    """The users of this process and what others may see of them.

    Of users who are gone it remembers when, for at most ``last_seen_cached_max`` of them; the store knows the others.
    """

    def __init__(self, *, grace_s: float, last_seen_cached_max: int) -> None:
        self._grace_s = grace_s
        self._cached_max = last_seen_cached_max
        self._devices: dict[str, dict[str, bool]] = {}  # user → device → whether it is away
        self._leaving: OrderedDict[str, Leaving] = OrderedDict()  # the first to be gone stands first
        self._gone: OrderedDict[str, Shown] = OrderedDict()
        self._hiding: set[str] = set()  # users here or leaving who do not show when they were last seen
        self._elsewhere: dict[str, dict[str, Shown]] = {}  # user → process → what it said of them

    def __len__(self) -> int:
        return len(self._devices) + len(self._leaving)

    @property
    def here(self) -> list[str]:
        """The users with a connection."""
        return list(self._devices)

    def leaving(self) -> dict[str, int]:
        """Users without a connection whose grace runs: user → when it left, Unix ms."""
        return {user: one.at_ms for user, one in self._leaving.items()}

    def shown(self, user: str) -> Shown:
        """What others may see of ``user`` now."""
        here = self.shown_here(user)
        elsewhere = self._elsewhere.get(user)
        if elsewhere is None or here is ONLINE:
            return here or self._gone.get(user, OFFLINE)
        return ONLINE if ONLINE in elsewhere.values() else AWAY

    def shown_here(self, user: str) -> Shown | None:
        """The same as far as this process alone knows: ONLINE, AWAY or None."""
        devices = self._devices.get(user)
        if devices is not None:
            return ONLINE if not all(devices.values()) else AWAY
        leaving = self._leaving.get(user)
        return leaving.before if leaving is not None else None

    def elsewhere(self, user: str, process: str, state: PresenceState, last_seen_ms: int | None = None) -> None:
        """What another process says of a user; the last one to call them offline says when they were last seen."""
        processes = self._elsewhere.setdefault(user, {})
        if state == "offline":
            processes.pop(process, None)
        else:
            processes[process] = ONLINE if state == "online" else AWAY
        if not processes:
            del self._elsewhere[user]
            if last_seen_ms is not None and self.shown_here(user) is None:
                self._gone.pop(user, None)
                self._remember(user, last_seen_ms)

    def all_elsewhere(self, user: str, processes: Mapping[str, PresenceState]) -> None:
        """All that other processes say of a user, in place of what they said."""
        for process in list(self._elsewhere.get(user, {})):
            if process not in processes:
                self.elsewhere(user, process, "offline")
        for process, state in processes.items():
            self.elsewhere(user, process, state)

    def only_of(self, alive: Collection[str]) -> list[str]:
        """Other processes than these are dead. Returns: the users of whom they had said something."""
        changed = []
        for user, processes in list(self._elsewhere.items()):
            for process in [one for one in processes if one not in alive]:
                self.elsewhere(user, process, "offline")
                changed.append(user)
        return changed

    def forget_elsewhere(self, user: str) -> None:
        """Nobody here watches this user any more."""
        self._elsewhere.pop(user, None)

    def connected(self, user: str, device: str, *, shows_last_seen: bool) -> None:
        """A device came; it is online until it says otherwise."""
        self._devices.setdefault(user, {})[device] = False
        self._leaving.pop(user, None)
        self._gone.pop(user, None)
        if shows_last_seen:
            self._hiding.discard(user)
        else:
            self._hiding.add(user)

    def status(self, user: str, device: str, *, away: bool) -> None:
        """A device says how it is there."""
        devices = self._devices.get(user)
        if devices is not None and device in devices:
            devices[device] = away

    def lost(self, user: str, device: str, now_s: float, now_ms: int) -> None:
        """A device went; with the last one the user's grace begins."""
        devices = self._devices.get(user)
        if devices is None or device not in devices:
            return
        before = self.shown_here(user) or AWAY
        del devices[device]
        if not devices:
            del self._devices[user]
            self._leaving[user] = Leaving(now_s + self._grace_s, now_ms, before)

    def next_gone_s(self) -> float | None:
        """When the next grace ends (monotonic), or None."""
        return next(iter(self._leaving.values())).until_s if self._leaving else None

    def gone(self, now_s: float) -> dict[str, int]:
        """Whose grace has ended: user → when it left, Unix ms. From now on they are offline."""
        ended: dict[str, int] = {}
        while self._leaving:
            user, leaving = next(iter(self._leaving.items()))
            if leaving.until_s > now_s:
                break
            del self._leaving[user]
            ended[user] = leaving.at_ms
            if user in self._hiding:
                self._hiding.discard(user)
            else:
                self._remember(user, leaving.at_ms)
        return ended

    def last_seen(self, user: str, at_ms: int | None) -> None:
        """What the store knows of somebody who is not here; None: nothing that others may see."""
        if user not in self._devices and user not in self._leaving and user not in self._elsewhere:
            if at_ms is None:
                self._gone.pop(user, None)
            elif user not in self._gone:
                self._remember(user, at_ms)

    def hides(self, user: str) -> bool:
        """Whether a user who is here hides when it was last seen."""
        return user in self._hiding

    def hide(self, user: str, on: bool) -> None:
        """A user hides when it was last seen, or shows it again (from its next absence on)."""
        here = user in self._devices or user in self._leaving
        if on:
            self._gone.pop(user, None)
            if here:
                self._hiding.add(user)
        else:
            self._hiding.discard(user)

    def _remember(self, user: str, at_ms: int) -> None:
        self._gone[user] = Shown("offline", at_ms)
        self._gone.move_to_end(user)
        if len(self._gone) > self._cached_max:
            self._gone.popitem(last=False)
