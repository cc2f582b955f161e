"""Push: whoever is away is told, at least once, however often the process dies in between.

What is owed follows from the log and the marks (`chatd.store.base.PushStore`); the outbox only says when to look. A
notification is made when it is due, so it tells what is true then: read meanwhile, it is not sent. Nothing here waits
in the way of a message, and nothing that fails here fails one.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence

import structlog
from msgspec import Struct

from chatd.errors import OutcomeUnknown, Refusal, StoreBroken
from chatd.metrics import Metrics
from chatd.model import Advance, Appended, Grown, Message, Owed, Pushed, peer_of
from chatd.push.base import Clear, Notification, Test
from chatd.push.marks import Marks
from chatd.push.outbox import Entry, Outbox, retry_delay_s
from chatd.push.sender import CROWDED, HOST_AGAIN_S, Sender, Target
from chatd.settings import PushSettings
from chatd.store.base import PushStore

CLEARS_MAX = 1_000
CLEARS_SHARE = 0.25  # of sends_max, beside it: a hint must not keep a notification waiting
CLEAR_AGAIN_S_MAX = 5.0
WALK_ITEMS_MAX = 1_000
WALK_EVERY_S = 30.0
WALK_AGAIN_S = 5.0
WALK_SPREAD_S = 30.0
STORE_READS_MAX = 4  # at a time: what is due to thousands at once must not take the store from who writes
STORE_AGAIN_S = 1.0
STORE_AGAIN_S_MAX = 30.0
CLOSE_S_MAX = 5.0
CLEAR_TTL_S = 3_600

log = structlog.get_logger("chatd.push")


class TestResult(Struct, frozen=True):
    """What came of a test: ``device`` "" for a notifier that gets every user's."""

    device: str
    kind: str
    result: str
    reason: str


class Push:
    """A `FanOut` of the sequencer, and the task that sends what it noted.

    ``connected`` tells whether a user has a connection; ``now_s`` is monotonic, ``now_ms`` Unix time; ``random`` gives
    floats in [0, 1). ``on_broken`` hears of a StoreBroken.
    """

    def __init__(
        self,
        store: PushStore,
        sender: Sender,
        settings: PushSettings,
        metrics: Metrics,
        *,
        connected: Callable[[str], bool],
        now_s: Callable[[], float],
        now_ms: Callable[[], int],
        random: Callable[[], float],
        on_broken: Callable[[StoreBroken], None],
    ) -> None:
        self._store = store
        self.sender = sender
        self._settings = settings
        self._metrics = metrics
        self._connected = connected
        self._now_s = now_s
        self._now_ms = now_ms
        self._random = random
        self._on_broken = on_broken
        self._outbox = Outbox(pending_max=settings.pending_max, pending_per_user_max=settings.pending_per_user_max)
        self._clears: deque[tuple[str, str, int, frozenset[str]]] = deque(maxlen=CLEARS_MAX)
        self._marks = Marks(store)
        self._reading = asyncio.Semaphore(STORE_READS_MAX)
        self._working: set[asyncio.Task[None]] = set()
        self.elsewhere = False  # whether users may be connected to other processes: see `received`
        self._wake = asyncio.Event()
        self._sleeps_until_s = 0.0  # what is due sooner has to wake it
        self._walk_s: float | None = None  # when the store is to be walked
        self._walked_s = 0.0
        self._walking = False
        self._clearing = 0
        self._clearing_max = max(1, int(settings.sends_max * CLEARS_SHARE))
        self._store_again_s = 0.0  # the store said no: nothing is begun before
        self._store_pause_s = STORE_AGAIN_S
        self._task: asyncio.Task[None] | None = None
        metrics.gauges["push_pending"] = lambda: len(self._outbox)
        metrics.gauges["push_lag_seconds"] = lambda: self._outbox.lag_s(now_s())

    # --- from the sequencer -----------------------------------------------------------------------------

    def message(self, result: Appended, origin: object) -> None:
        """A message is committed: its recipient may have to be told."""
        message = result.message
        user = peer_of(message.conv, message.sender)
        if message.hidden or user is None or user == message.sender:
            return
        if not self.elsewhere and self.sender.is_in_vain(user):  # elsewhere somebody may have subscribed
            return
        due_s = self._now_s()
        if self.elsewhere or self._connected(user):
            due_s += self._settings.delay_s
            self._outbox.expect(user, message.conv, message.seq, due_s)
        else:
            self._outbox.note(user, message.conv, message.seq, due_s)
        if due_s < self._sleeps_until_s:
            self._wake.set()

    def received(self, message: Message, processes: int) -> None:
        """So many other processes heard of a message; if none did, nobody is there to take it."""
        user = peer_of(message.conv, message.sender)
        if not processes and user is not None and not self._connected(user) and not message.hidden:
            self._outbox.hurry(user, message.conv, message.seq, self._now_s())
            self._wake.set()

    def receipt(self, grown: Grown, advances: Sequence[Advance]) -> None:
        """A user's marks grew by these advances."""
        self.marks_grew(grown, frozenset(a.device for a in advances if a.read >= grown.read))

    def marks_grew(self, grown: Grown, readers: frozenset[str]) -> None:
        """A user's marks grew: it needs no telling any more, or what is on its other screens can go.

        ``readers``: the devices that read that far themselves.
        """
        self._outbox.delivered(grown.user, grown.conv, grown.delivered)
        if grown.read and (shown := self._outbox.read(grown.user, grown.conv, grown.read)):
            self._clears.append((grown.user, grown.conv, shown, readers))
            self._wake.set()

    # --- life -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to send: what an earlier process owed too, as soon as its users had the time to come back."""
        self._walk_s = self._now_s()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="chatd-push")
        self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Stop, within a bound. What was under way is owed still, and is sent by the next process."""
        tasks = [task for task in (self._task, self._marks.task, *self._working) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_S_MAX)
            if late:
                log.warning("push_ends_without", tasks=len(late))
        try:
            async with asyncio.timeout(CLOSE_S_MAX):
                await self.sender.close()
        except Exception as exc:  # others' code: the store is still to be closed
            log.exception("notifier_not_closed", exc_info=exc)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            now_s = self._now_s()
            while self._clears and self._clearing < self._clearing_max:
                self._clearing += 1
                self._own(self._clear(*self._clears.popleft()))
            while self._has_slot and self._store_again_s <= now_s and (entry := self._outbox.take(now_s)) is not None:
                self._own(self._notify(entry))
            if self._outbox.overflowed and self._outbox.has_room and self._walk_s is None:
                self._outbox.overflowed = False
                self._walk_s = max(now_s, self._walked_s + WALK_EVERY_S)
            if self._walk_s is not None and self._walk_s <= now_s and not self._walking:
                self._walking = True
                self._own(self._walk())
            await self._wait()

    @property
    def _has_slot(self) -> bool:
        return len(self._working) - self._clearing - self._walking < self._settings.sends_max

    async def _wait(self) -> None:
        """Until something is due and may be begun, or happens."""
        times = [None if self._walking else self._walk_s]
        if self._has_slot and (next_s := self._outbox.next_s()) is not None:
            times.append(max(next_s, self._store_again_s))
        at_s = min((t for t in times if t is not None), default=None)
        if self._has_slot:
            self._sleeps_until_s = math.inf if at_s is None else at_s
        try:
            async with asyncio.timeout(None if at_s is None else max(0.0, at_s - self._now_s())):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._sleeps_until_s = 0.0

    def _own(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._working.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("push_failed", exc_info=exc)
        self._wake.set()

    # --- what an earlier process owed -------------------------------------------------------------------

    async def _walk(self) -> None:
        """Note everything that is owed or on a screen, wherever it came from."""
        cursor: str | None = None
        newer_than_ms = self._now_ms() - int(self._settings.give_up_s * 1000)
        try:
            while True:
                page = await self._store.unpushed(
                    cursor=cursor,
                    limit=WALK_ITEMS_MAX,
                    newer_than_ms=newer_than_ms,
                    every_user=bool(self.sender.every_user),
                )
                for row in page.rows:
                    if row.shown:
                        self._outbox.show(row.user, row.conv, row.shown)
                    if row.seq:
                        self._outbox.note(row.user, row.conv, row.seq, self._walk_due_s())
                cursor = page.cursor
                if cursor is None:
                    self._walk_s, self._walked_s = None, self._now_s()
                    return
        except (Refusal, OutcomeUnknown) as exc:
            self._metrics.store_failed(exc)
            log.warning("push_walk_waits", error=str(exc))
            self._walk_s = self._now_s() + WALK_AGAIN_S
        except StoreBroken as exc:
            self._walk_s = None
            self._on_broken(exc)
        except BaseException:  # a fault of ours: not to be tried in a circle
            self._walk_s = self._now_s() + WALK_EVERY_S
            raise
        finally:
            self._walking = False

    def _walk_due_s(self) -> float:
        """Not before devices had the time to come back. Where several processes walk the same store, each looks at a
        time of its own: whoever is first pushes, and the others find that nothing is owed.
        """
        due_s = self._now_s() + self._settings.delay_s
        return due_s + self._random() * WALK_SPREAD_S if self.elsewhere else due_s

    # --- one conversation -------------------------------------------------------------------------------

    async def _notify(self, entry: Entry) -> None:
        """Tell of one conversation, or find out that there is nothing to tell."""
        try:
            async with self._reading:
                owed = await self._store.owed(entry.conv, entry.user)
                self._store_pause_s = STORE_AGAIN_S
                targets = {} if owed.newest is None else await self.sender.targets(entry.user)
            if owed.newest is None or not targets:
                self._outbox.drop(entry, self._now_s())
                return
            await self._send_to_all(entry, owed, owed.newest, targets)
            if entry.waits:
                self._metrics.push_retried += 1
                self._outbox.retry(entry, self._now_s())
                return
            await self._marks.raise_to(Pushed(entry.conv, entry.user, entry.told_seq))
        except (Refusal, OutcomeUnknown) as exc:
            self._hold(exc)
            self._outbox.again(entry, self._store_again_s)
        except StoreBroken as exc:
            self._outbox.again(entry, self._now_s() + STORE_AGAIN_S)
            self._on_broken(exc)
        except BaseException:  # a fault of ours: it is owed still, and is not to be tried in a circle
            self._outbox.again(entry, self._now_s() + self._settings.retry_s_max)
            raise
        else:
            self._outbox.done(entry, self._now_s())

    def _hold(self, exc: Refusal | OutcomeUnknown) -> None:
        """The store said no: it says so to all of them, so they wait together, longer each time."""
        self._metrics.store_failed(exc)
        now_s = self._now_s()
        if self._store_again_s > now_s:
            return
        log.warning("push_waits", error=str(exc), pause_s=self._store_pause_s)
        self._store_again_s = now_s + self._store_pause_s
        self._store_pause_s = min(self._store_pause_s * 2, STORE_AGAIN_S_MAX)

    async def _send_to_all(self, entry: Entry, owed: Owed, newest: Message, targets: Mapping[object, Target]) -> None:
        """Send to those to whom the newest message has not got through and who do not wait."""
        left_ms = newest.ts_ms + int(self._settings.give_up_s * 1000) - self._now_ms()
        names = entry.begin(newest.seq, targets, self._now_s())
        if left_ms < 0:
            self._metrics.push_given_up += 1
            entry.waits.clear()
            return
        payload = Notification(
            key=f"{entry.conv}#{newest.seq}",
            tag=_tag(entry.conv),
            to=entry.user,
            conv=entry.conv,
            sender=newest.sender,
            count=owed.unread,
            seq=newest.seq,
            ts=newest.ts_ms,
            badge=owed.badge,
            body=newest.body if self._settings.body else None,
        )
        outcomes = await asyncio.gather(*(self.sender.send(payload, targets[name], left_ms // 1000) for name in names))
        for name, outcome in zip(names, outcomes, strict=True):
            if outcome is CROWDED:
                entry.wait(name, self._now_s() + HOST_AGAIN_S * (1 + self._random()), failed=False)
            elif outcome.result == "later":
                delay_s = self._retry_delay_s(entry.attempts(name), outcome.retry_after_s)
                entry.wait(name, self._now_s() + delay_s)
            else:
                entry.settle(name)
            if outcome.result == "delivered":
                self._metrics.push_delivered += 1
                self._outbox.show(entry.user, entry.conv, newest.seq)
            elif outcome.result == "refused":
                self._metrics.push_refused += 1
        if entry.read >= newest.seq and (shown := self._outbox.read(entry.user, entry.conv, entry.read)):
            self._clears.append((entry.user, entry.conv, shown, frozenset()))  # it was read before it arrived

    def _retry_delay_s(self, attempts: int, after_s: float | None) -> float:
        settings = self._settings
        return retry_delay_s(
            attempts,
            least_s=settings.retry_s_min,
            most_s=settings.retry_s_max,
            after_s=None if after_s is None else min(after_s, settings.give_up_s),
            random=self._random,
        )

    # --- clears and tests -------------------------------------------------------------------------------

    async def _clear(self, user: str, conv: str, seq: int, readers: frozenset[str]) -> None:
        """Take a notification off the screens of the other devices: a hint, tried twice."""
        try:
            targets = [
                target
                for target in (await self.sender.targets(user)).values()
                if target.subscription is None or target.subscription.device not in readers
            ]
            badge = await self._store.badge(user) if targets else 0
            payload = Clear(key=f"{conv}#{seq}#clear", tag=_tag(conv), to=user, conv=conv, seq=seq, badge=badge)
            if targets := await self._send_clear(payload, targets):
                await asyncio.sleep(min(self._settings.retry_s_min, CLEAR_AGAIN_S_MAX))
                await self._send_clear(payload, targets)
        except (Refusal, OutcomeUnknown) as exc:
            self._metrics.store_failed(exc)
            log.info("push_clear_lost", error=str(exc))
        except StoreBroken as exc:
            self._on_broken(exc)
        finally:
            self._clearing -= 1

    async def _send_clear(self, payload: Clear, targets: Sequence[Target]) -> list[Target]:
        """Returns: those whose push service did not take it and may another time."""
        outcomes = await asyncio.gather(*(self.sender.send(payload, target, CLEAR_TTL_S) for target in targets))
        self._metrics.push_clears += sum(outcome.result == "delivered" for outcome in outcomes)
        return [target for target, outcome in zip(targets, outcomes, strict=True) if outcome.result == "later"]

    async def test(self, user: str) -> list[TestResult]:
        """Send a test to every subscription of a user, once. Returns: what came of each; nothing: there is none."""
        targets = (await self.sender.targets(user)).values()
        stamp = self._now_ms()
        payload = Test(key=f"test#{user}#{stamp}", tag=_tag(f"test {user}"), to=user, text="A test of chatd")
        outcomes = await asyncio.gather(*(self.sender.send(payload, target, 60) for target in targets))
        return [
            TestResult(t.subscription.device if t.subscription else "", t.kind, o.result, o.reason)
            for t, o in zip(targets, outcomes, strict=True)
        ]


def _tag(conv: str) -> str:
    """At most 32 URL-safe characters that stand for a conversation (a Topic of RFC 8030)."""
    return base64.urlsafe_b64encode(hashlib.sha256(conv.encode()).digest())[:32].decode()
