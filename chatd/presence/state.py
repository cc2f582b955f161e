"""Who is there: the devices of each user, one state a user, and when somebody left. Pure: time is an argument.

A user is online if any device is, away if all are, else offline. Whose last connection ended stays as they were for
``grace_s``: a phone that changes networks is not away.
"""

from __future__ import annotations

from collections import OrderedDict

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
        devices = self._devices.get(user)
        if devices is not None:
            return ONLINE if not all(devices.values()) else AWAY
        leaving = self._leaving.get(user)
        return leaving.before if leaving is not None else self._gone.get(user, OFFLINE)

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
        before = self.shown(user)
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
        if user not in self._devices and user not in self._leaving:
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
