"""Presence and typing: hints between people who know each other. They are batched, dropped first, and never wait for
a message or let one wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

import structlog

from chatd import protocol
from chatd.errors import OutcomeUnknown, Refusal, StoreBroken, TooLarge
from chatd.metrics import Metrics
from chatd.model import WATCHES_MAX, Acquaintance, PresenceState, peer_of
from chatd.presence.state import Roster, Shown
from chatd.presence.watching import Subscriber, Watching
from chatd.settings import PresenceSettings
from chatd.store.base import PresenceStore

LAST_SEEN_CACHED_MAX = 100_000
PAIRS_CACHED_MAX = 50_000
TYPED_CONVERSATIONS_MAX = 64
TURN_SUBSCRIBERS_MAX = 8  # are told in one turn of the loop: a message does not wait for more
SEEN_USERS_MAX = 10_000  # of one write: the store contract
SEEN_WAITING_USERS_MAX = 100_000

log = structlog.get_logger("chatd.presence")


class Listener(Protocol):
    """A connected device as presence sees it. ``watcher``: what it watches; its place is here, its content is ours."""

    watcher: Watcher | None

    @property
    def user(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def full(self) -> bool:
        """Whether its socket owes the client too much: `hint` drops, and `Presence.congested` is told of changes."""

    def hint(self, payload: bytes) -> None:
        """Write a frame, or drop it if the socket is full."""


class Others(Protocol):
    """The other processes, as presence sees them."""

    async def look(self, users: Sequence[str]) -> None:
        """Find out, now and from now on, what they know of these users. Raises: Refusal."""

    def changed_here(self, user: str) -> None:
        """A user may not be as it was in this process."""


class Watcher(Subscriber):
    """A device that watches, types or told its status; one that never did has none."""

    __slots__ = ("inactive", "listener", "typed_s")

    def __init__(self, listener: Listener, *, shows_last_seen: bool) -> None:
        super().__init__(shows_last_seen=shows_last_seen)
        self.listener = listener
        self.inactive = False
        self.quiet = listener.full
        self.typed_s: OrderedDict[str, float] = OrderedDict()  # conv → when it was told last

    def may_type(self, conv: str, now_s: float) -> bool:
        """Whether this device may tell of this conversation again; then it counts as told."""
        last_s = self.typed_s.get(conv)
        if last_s is not None and now_s < last_s + protocol.TYPING_EVERY_S:
            return False
        self.typed_s[conv] = now_s
        self.typed_s.move_to_end(conv)
        if len(self.typed_s) > TYPED_CONVERSATIONS_MAX:
            self.typed_s.popitem(last=False)
        return True


class _Question:
    """The store is being asked whom ``user`` may watch; who is blocked meanwhile is not one of them."""

    __slots__ = ("blocked", "user")

    def __init__(self, user: str) -> None:
        self.user = user
        self.blocked: set[str] = set()


class Presence:
    """Who is there, told to those who watch and may. ``devices``: the connected devices of a user."""

    def __init__(
        self,
        store: PresenceStore,
        settings: PresenceSettings,
        metrics: Metrics,
        *,
        devices: Callable[[str], Iterable[Listener]],
        now_s: Callable[[], float],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._interval_s = settings.interval_s
        self._metrics = metrics
        self._devices = devices
        self._now_s = now_s
        self._now_ms = now_ms
        self.others: Others | None = None
        self.on_typing: Callable[[str, str, str, bool], None] = lambda peer, conv, user, on: None
        self.roster = Roster(grace_s=settings.grace_s, last_seen_cached_max=LAST_SEEN_CACHED_MAX)
        self._watching = Watching(self.roster.shown, interval_s=settings.interval_s)
        self._pairs: OrderedDict[tuple[str, str], None] = OrderedDict()  # who may write to whom, as typing found out
        self._questions: set[_Question] = set()
        self._seen: dict[str, int] = {}  # when users left, not stored yet
        self._writer: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        self._closed = False

    # --- devices come and go ----------------------------------------------------------------------------

    def connected(self, listener: Listener, *, shows_last_seen: bool) -> None:
        """A device has said hello."""
        self.roster.connected(listener.user, listener.device, shows_last_seen=shows_last_seen)
        self._changed(listener.user)

    def lost(self, listener: Listener) -> None:
        """Its connection is over."""
        watcher, listener.watcher = listener.watcher, None
        if watcher is not None:
            self._watching.remove(watcher)
        self.roster.lost(listener.user, listener.device, self._now_s(), self._now_ms())
        self._changed(listener.user)

    def status(self, listener: Listener, *, away: bool, inactive: bool) -> None:
        """A device says how it is there, and whether presence and typing are of use to it."""
        self.roster.status(listener.user, listener.device, away=away)
        if inactive or listener.watcher is not None:
            watcher = self._watcher(listener)
            watcher.inactive = inactive
            self._quiet(watcher)
        self._changed(listener.user)

    def congested(self, listener: Listener) -> None:
        """Its socket is full, or has drained."""
        if listener.watcher is not None:
            self._quiet(listener.watcher)

    def _quiet(self, watcher: Watcher) -> None:
        self._watching.quiet(watcher, watcher.inactive or watcher.listener.full, self._now_s())
        self._arm()

    # --- watching ---------------------------------------------------------------------------------------

    async def watch(self, listener: Listener, users: Sequence[str]) -> protocol.Presence:
        """Watch these as well, as far as that is allowed. Returns: how those are now.

        Raises: TooLarge – more than WATCHES_MAX in all; Refusal – the store's.
        """
        watcher = self._watcher(listener)
        if len(watcher.told.keys() | set(users)) > WATCHES_MAX:
            raise TooLarge(f"more than {WATCHES_MAX} watched users")
        known = await self._acquainted(listener.user, users)
        if self.others is not None and known:
            await self.others.look(list(known))
        if listener.watcher is not watcher:  # it was closed meanwhile
            return protocol.Presence(states=())
        for user in users:
            if user not in known:
                watcher.told.pop(user, None)
        for user, one in known.items():
            if not one.shows_last_seen:
                self.roster.last_seen(user, None)
            elif one.last_seen_ms is not None:  # else it is not stored yet, if it is known here
                self.roster.last_seen(user, one.last_seen_ms)
        self._watching.add(watcher)
        return _frame(self._watching.watch(watcher, known))

    def unwatch(self, listener: Listener, users: Iterable[str]) -> None:
        """Watch these no longer."""
        watcher = listener.watcher
        if watcher is not None:
            for user in users:
                watcher.told.pop(user, None)
            if not watcher.told:
                self._watching.remove(watcher)

    def blocked(self, user: str, peer: str) -> None:
        """One blocks the other: from now on neither sees the other's presence or typing."""
        for one, other in ((user, peer), (peer, user)):
            self._pairs.pop((one, other), None)
            for listener in self._devices(one):
                self.unwatch(listener, (other,))
            for question in self._questions:
                if question.user == one:
                    question.blocked.add(other)

    def shows_last_seen(self, user: str, on: bool) -> None:
        """A user shows when it was last here, and sees it of others; or neither."""
        self.roster.hide(user, not on)
        for listener in self._devices(user):
            if listener.watcher is not None:
                listener.watcher.shows_last_seen = on
                self._watching.refresh(listener.watcher, self._now_s())
        self._changed(user)

    def _watcher(self, listener: Listener) -> Watcher:
        if listener.watcher is None:
            listener.watcher = Watcher(listener, shows_last_seen=not self.roster.hides(listener.user))
        return listener.watcher

    async def _acquainted(self, user: str, others: Sequence[str]) -> dict[str, Acquaintance]:
        question = _Question(user)
        self._questions.add(question)
        try:
            known = await self._store.acquainted(user, list(dict.fromkeys(others)))
        finally:
            self._questions.discard(question)
        return {name: one for name, one in known.items() if name not in question.blocked}

    def watched(self) -> set[str]:
        """Everybody whom some device here watches. Walks over all of them."""
        return self._watching.watched()

    def elsewhere(self, user: str, process: str, state: PresenceState, last_seen_ms: int | None) -> None:
        """Another process says how a user is there."""
        self.roster.elsewhere(user, process, state, last_seen_ms)
        self._told(user)

    def all_elsewhere(self, user: str, processes: Mapping[str, PresenceState]) -> None:
        """All that the other processes say of a user; what another one had said no longer holds."""
        before = self.roster.shown(user)
        self.roster.all_elsewhere(user, processes)
        if self.roster.shown(user) != before:
            self._told(user)

    def alive(self, processes: Collection[str]) -> None:
        """These are the processes that live; what others said no longer holds."""
        for user in self.roster.only_of(processes):
            self._told(user)

    # --- typing -----------------------------------------------------------------------------------------

    def typing(self, listener: Listener, conv: str, *, on: bool) -> bool:
        """Tell the peer's devices that the user writes, or no longer does; too often: dropped.

        Returns: False – it is not known whether they may write to each other: see `introduce`, then again.
        """
        peer = peer_of(conv, listener.user)
        if peer is None or peer == listener.user:
            return True
        if (listener.user, peer) not in self._pairs:
            return False
        self._pairs.move_to_end((listener.user, peer))
        if not self._watcher(listener).may_type(conv, self._now_s()):
            return True
        self.typed(peer, conv, listener.user, on=on)
        self.on_typing(peer, conv, listener.user, on)
        return True

    def typed(self, peer: str, conv: str, user: str, *, on: bool) -> None:
        """``user`` writes to ``peer``: tell their devices here."""
        payload = protocol.encode(protocol.PeerTyping(conv=conv, user=user, on=on))
        for other in self._devices(peer):
            if other.watcher is None or not other.watcher.quiet:
                self._metrics.typing_frames += 1
                other.hint(payload)

    async def introduce(self, user: str, peer: str) -> bool:
        """Find out whether ``user`` may let ``peer`` know that it types. Raises: Refusal – the store's."""
        if peer not in await self._acquainted(user, [peer]):
            return False
        self._pairs[user, peer] = None
        if len(self._pairs) > PAIRS_CACHED_MAX:
            self._pairs.popitem(last=False)
        return True

    # --- time -------------------------------------------------------------------------------------------

    def _changed(self, user: str) -> None:
        """Something happened to a user in this process."""
        if self.others is not None:
            self.others.changed_here(user)
        self._told(user)

    def _told(self, user: str) -> None:
        self._watching.changed(user, self._now_s())
        self._arm()

    def _arm(self) -> None:
        """Wake up when there is something to do next; never, if there is not."""
        times = [t for t in (self._watching.next_s(), self.roster.next_gone_s()) if t is not None]
        if not times or self._closed:
            return
        at_s = min(times)
        if self._timer is not None:
            if self._timer_s <= at_s:
                return
            self._timer.cancel()
        self._timer_s = at_s
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at_s - self._now_s()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now_s = self._now_s()
        gone = self.roster.gone(now_s)
        for user in gone:
            self._watching.changed(user, now_s)
            if self.others is not None:
                self.others.changed_here(user)
        self._store_seen(gone)
        try:
            for subscriber, states in self._watching.due(now_s, TURN_SUBSCRIBERS_MAX):
                if isinstance(subscriber, Watcher):
                    self._tell(subscriber.listener, states)
        finally:
            self._arm()

    def _tell(self, listener: Listener, states: list[tuple[str, Shown]]) -> None:
        """One device that fails must not keep the others from theirs."""
        self._metrics.presence_frames += 1
        try:
            listener.hint(protocol.encode(_frame(states)))
        except Exception as exc:
            log.exception("presence_failed", user=listener.user, device=listener.device, exc_info=exc)

    # --- when they were last here -----------------------------------------------------------------------

    def _store_seen(self, gone: dict[str, int]) -> None:
        """Note it in the store, at most once an interval; what does not fit is only remembered here."""
        for user, at_ms in gone.items():
            if len(self._seen) < SEEN_WAITING_USERS_MAX:
                self._seen[user] = at_ms
        if self._seen and self._writer is None and not self._closed:
            self._writer = asyncio.get_running_loop().create_task(self._write_seen(), name="chatd-last-seen")

    async def _write_seen(self) -> None:
        while self._seen:
            await asyncio.sleep(self._interval_s)  # gather what ends meanwhile
            await self._write_some()
        self._writer = None

    async def _write_some(self) -> None:
        some = dict(list(self._seen.items())[:SEEN_USERS_MAX])
        try:
            await self._store.seen(some)
        except (Refusal, OutcomeUnknown) as exc:  # maxima: they go with the next ones
            self._metrics.store_failed(exc)
            log.warning("last_seen_waits", error=str(exc), users=len(some))
            return
        except StoreBroken as exc:  # whoever stores a message ends the process
            log.warning("last_seen_lost", error=str(exc), users=len(some))
        for user, at_ms in some.items():
            if self._seen.get(user) == at_ms:
                del self._seen[user]

    async def close(self) -> None:
        """Stop, and note who was here."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        now_ms = self._now_ms()
        self._seen.update(self.roster.leaving())
        self._seen.update(dict.fromkeys(self.roster.here, now_ms))
        while self._seen:
            left = len(self._seen)
            await self._write_some()
            if len(self._seen) == left:
                return


def _frame(states: Iterable[tuple[str, Shown]]) -> protocol.Presence:
    return protocol.Presence(
        states=tuple(
            protocol.Whereabouts(user=user, state=shown.state, last_seen=shown.last_seen_ms) for user, shown in states
        )
    )
