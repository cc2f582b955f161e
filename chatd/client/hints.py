"""Presence and typing on the client's side: what it wants to know, what it knows, and when that ends. Pure.

Nothing of it is stored, and all that is known of others is forgotten with the connection. ``now_s`` is monotonic.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from chatd import protocol as wire
from chatd.client.events import PresenceEvent, TypingEvent
from chatd.model import WATCH_USERS_MAX, WATCHES_MAX

WATCH_AGAIN_S = 2.0
TYPING_CONVERSATIONS_MAX = 1_000


class Hints:
    """What one device watches and says of itself, over reconnects."""

    def __init__(self) -> None:
        self._wanted: dict[str, None] = {}
        self._unasked: dict[str, None] = {}
        self._asked: dict[wire.Ref, tuple[str, ...]] = {}
        self._unwatch: dict[str, None] = {}
        self._again_s: float | None = None
        self._known: dict[str, PresenceEvent] = {}
        self._typing: dict[tuple[str, str], float] = {}  # (conv, user) → until when
        self._typed_s: dict[str, float] = {}  # conv → when the server was told last
        self._say: dict[str, bool] = {}  # conv → on, to be told
        self._status: wire.Status | None = None
        self._status_due = False
        self._connected = False

    # --- the application's side ---

    def presence(self, user: str) -> PresenceEvent | None:
        """What is known of a watched user now; None: nothing."""
        return self._known.get(user)

    def watch(self, users: Iterable[str]) -> bool:
        """Watch these from now on. False: that would be more than WATCHES_MAX in all, and nothing was done."""
        new = dict.fromkeys(users)
        if len(self._wanted.keys() | new.keys()) > WATCHES_MAX:
            return False
        self._wanted.update(new)
        self._unasked.update(new)
        for user in new:
            self._unwatch.pop(user, None)
        return True

    def unwatch(self, users: Iterable[str]) -> None:
        """Watch these no longer."""
        for user in users:
            if user in self._wanted:
                del self._wanted[user]
                self._unasked.pop(user, None)
                self._known.pop(user, None)
                self._unwatch[user] = None

    def status(self, state: wire.Status) -> None:
        """How this device is there, now and after each reconnect."""
        self._status = state
        self._status_due = True

    def typing(self, conv: str, *, on: bool, now_s: float) -> None:
        """The user writes, or no longer does. Without a connection, or too soon after the last time, it is dropped."""
        last_s = self._typed_s.get(conv)
        if self._connected and (last_s is None or now_s >= last_s + wire.TYPING_EVERY_S):
            self._typed_s.pop(conv, None)
            self._typed_s[conv] = now_s
            if len(self._typed_s) > TYPING_CONVERSATIONS_MAX:
                del self._typed_s[next(iter(self._typed_s))]
            self._say[conv] = on

    # --- the connection's side ---

    def connected(self) -> None:
        """A session is open: everything is to be said again."""
        self._connected = True
        self._unasked = dict(self._wanted)
        self._unwatch.clear()
        self._status_due = self._status is not None

    def disconnected(self) -> list[TypingEvent]:
        """It is over. Returns: who no longer types, as far as anybody can know."""
        self._connected = False
        self._asked.clear()
        self._again_s = None
        self._known.clear()
        self._typed_s.clear()
        self._say.clear()
        ended = [TypingEvent(conv, user, on=False) for conv, user in self._typing]
        self._typing.clear()
        return ended

    def due(self, now_s: float, ref: int) -> list[wire.ClientFrame]:
        """The frames to send now; they count as sent. Refs are ``ref`` + 1, + 2 …"""
        frames: list[wire.ClientFrame] = []
        if self._status_due and self._status is not None:
            frames.append(self._status)
            self._status_due = False
        while self._unwatch:
            names = tuple(islice(self._unwatch, WATCH_USERS_MAX))
            frames.append(wire.Unwatch(users=names))
            self._unwatch = dict.fromkeys(list(self._unwatch)[WATCH_USERS_MAX:])
        if self._again_s is None or now_s >= self._again_s:
            self._again_s = None
            while self._unasked:
                names = tuple(islice(self._unasked, WATCH_USERS_MAX))
                self._unasked = dict.fromkeys(list(self._unasked)[WATCH_USERS_MAX:])
                ref += 1
                self._asked[ref] = names
                frames.append(wire.Watch(users=names, ref=ref))
        frames += [wire.Typing(conv=conv, on=on) for conv, on in self._say.items()]
        self._say.clear()
        return frames

    def deadline_s(self) -> float | None:
        """When something ends or is to be asked again, or None."""
        times = [*self._typing.values()]
        if self._again_s is not None and self._unasked:
            times.append(self._again_s)
        return min(times, default=None)

    def expired(self, now_s: float) -> list[TypingEvent]:
        """Who has not been heard to type for TYPING_S."""
        ended = [key for key, until_s in self._typing.items() if until_s <= now_s]
        for key in ended:
            del self._typing[key]
        return [TypingEvent(conv, user, on=False) for conv, user in ended]

    def on_presence(self, frame: wire.Presence) -> list[PresenceEvent]:
        """The server tells who is there. Returns: what is new."""
        if frame.ref is not None:
            asked = self._asked.pop(frame.ref, ())
            told = {one.user for one in frame.states}
            for user in asked:
                if user not in told:
                    self._known.pop(user, None)
        events = []
        for one in frame.states:
            event = PresenceEvent(one.user, one.state, one.last_seen)
            if one.user in self._wanted and self._known.get(one.user) != event:
                self._known[one.user] = event
                events.append(event)
        return events

    def on_typing(self, frame: wire.PeerTyping, now_s: float) -> list[TypingEvent]:
        """The peer types, or no longer does. Returns: what is new."""
        key = (frame.conv, frame.user)
        known = key in self._typing
        if frame.on and (known or len(self._typing) < TYPING_CONVERSATIONS_MAX):
            self._typing[key] = now_s + wire.TYPING_S
        elif not frame.on:
            self._typing.pop(key, None)
        return [] if known == frame.on else [TypingEvent(frame.conv, frame.user, on=frame.on)]

    def on_message(self, conv: str, sender: str, seq: int, peer: str | None) -> list[TypingEvent]:
        """A message came: its sender no longer types; with the first one of a conversation its peer may be watched."""
        if seq == 1 and peer in self._wanted:
            self._unasked[peer] = None
        if self._typing.pop((conv, sender), None) is None:
            return []
        return [TypingEvent(conv, sender, on=False)]

    def refused(self, ref: wire.Ref, now_s: float, *, temporary: bool) -> bool:
        """A frame with this ref was refused. Returns: whether it was one of ours."""
        asked = self._asked.pop(ref, None)
        if asked is None:
            return False
        if temporary:
            self._unasked.update((user, None) for user in asked if user in self._wanted)
            self._again_s = now_s + WATCH_AGAIN_S
        return True
