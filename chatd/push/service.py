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
from chatd.push.outbox import Entry, Outbox, retry_delay_s
from chatd.push.sender import Sender, Target
from chatd.settings import PushSettings
from chatd.store.base import PushStore

CLEARS_MAX = 1_000
WALK_ITEMS_MAX = 1_000
WALK_EVERY_S = 30.0
WALK_AGAIN_S = 5.0
STORE_AGAIN_S = 1.0
MARKS_MAX = 10_000  # of one write: the store contract
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
        self._marks: list[tuple[Pushed, asyncio.Future[None]]] = []
        self._marker: asyncio.Task[None] | None = None
        self._working: set[asyncio.Task[None]] = set()
        self.elsewhere = False  # whether users may be connected to other processes: see `received`
        self._wake = asyncio.Event()
        self._sleeps_until_s = 0.0  # what is due sooner has to wake it
        self._walk_s: float | None = None  # when the store is to be walked
        self._walked_s = 0.0
        self._walking = False
        self._task: asyncio.Task[None] | None = None
        metrics.gauges["push_pending"] = lambda: len(self._outbox)
        metrics.gauges["push_lag_seconds"] = lambda: self._outbox.lag_s(now_s())

    # --- from the sequencer -----------------------------------------------------------------------------

    def message(self, result: Appended, origin: object) -> None:
        """A message is committed: its recipient may have to be told."""
        message = result.message
        user = peer_of(message.conv, message.sender)
        if message.hidden or user is None or user == message.sender or self.sender.is_in_vain(user):
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
        """Stop. What was under way is owed still, and is sent by the next process."""
        tasks = [task for task in (self._task, self._marker, *self._working) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.sender.close()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            now_s = self._now_s()
            while len(self._working) < self._settings.sends_max:
                if self._clears:
                    self._own(self._clear(*self._clears.popleft()))
                elif (entry := self._outbox.take(now_s)) is not None:
                    self._own(self._notify(entry))
                else:
                    break
            if self._outbox.overflowed and self._outbox.has_room and self._walk_s is None:
                self._outbox.overflowed = False
                self._walk_s = max(now_s, self._walked_s + WALK_EVERY_S)
            if self._walk_s is not None and self._walk_s <= now_s and not self._walking:
                self._walking = True
                self._own(self._walk())
            await self._wait()

    async def _wait(self) -> None:
        """Until something is due and may be begun, or happens."""
        times = [] if len(self._working) >= self._settings.sends_max else [self._outbox.next_s()]
        if not self._walking:
            times.append(self._walk_s)
        at_s = min((t for t in times if t is not None), default=None)
        if len(self._working) < self._settings.sends_max:
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
                        self._outbox.note(row.user, row.conv, row.seq, self._now_s() + self._settings.delay_s)
                cursor = page.cursor
                if cursor is None:
                    self._walk_s, self._walked_s = None, self._now_s()
                    return
        except (Refusal, OutcomeUnknown) as exc:
            log.warning("push_walk_waits", error=str(exc))
            self._walk_s = self._now_s() + WALK_AGAIN_S
        except StoreBroken as exc:
            self._walk_s = None
            self._on_broken(exc)
        finally:
            self._walking = False

    # --- one conversation -------------------------------------------------------------------------------

    async def _notify(self, entry: Entry) -> None:
        """Tell of one conversation, or find out that there is nothing to tell."""
        try:
            owed = await self._store.owed(entry.conv, entry.user)
            targets = {} if owed.newest is None else await self.sender.targets(entry.user)
            if owed.newest is None or not targets:
                self._outbox.drop(entry, self._now_s())
                return
            after_s = await self._send_to_all(entry, owed, targets)
            if entry.open:
                self._retry(entry, after_s)
                return
            await self._mark(Pushed(entry.conv, entry.user, entry.told_seq))
        except (Refusal, OutcomeUnknown) as exc:
            log.warning("push_waits", error=str(exc))
            self._outbox.again(entry, self._now_s() + STORE_AGAIN_S, failed=False)
        except StoreBroken as exc:
            self._outbox.again(entry, self._now_s() + STORE_AGAIN_S, failed=False)
            self._on_broken(exc)
        except BaseException:  # a fault of ours: it is owed still, and is not to be tried in a circle
            self._outbox.again(entry, self._now_s() + self._settings.retry_s_max)
            raise
        else:
            self._outbox.done(entry, self._now_s())

    async def _send_to_all(self, entry: Entry, owed: Owed, targets: Mapping[object, Target]) -> float | None:
        """Send to those to whom the newest message has not got through. Returns: the longest Retry-After, if any."""
        newest = owed.newest
        if newest is None:
            return None
        if entry.told_seq != newest.seq:
            entry.told_seq, entry.open = newest.seq, frozenset(targets)
        entry.open &= targets.keys()
        if self._now_ms() - newest.ts_ms > self._settings.give_up_s * 1000:
            self._metrics.push_given_up += 1
            entry.open = frozenset()
            return None
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
        left_ms = newest.ts_ms + int(self._settings.give_up_s * 1000) - self._now_ms()
        open_ = [targets[name] for name in entry.open]
        outcomes = await asyncio.gather(
            *(self.sender.send(payload, target, max(0, left_ms // 1000)) for target in open_)
        )
        for target, outcome in zip(open_, outcomes, strict=True):
            if outcome.result != "later":
                entry.open -= {target.name}
            if outcome.result == "delivered":
                self._metrics.push_delivered += 1
                self._outbox.show(entry.user, entry.conv, newest.seq)
            elif outcome.result == "refused":
                self._metrics.push_refused += 1
        return max((o.retry_after_s for o in outcomes if o.retry_after_s is not None), default=None)

    def _retry(self, entry: Entry, after_s: float | None) -> None:
        self._metrics.push_retried += 1
        settings = self._settings
        delay_s = retry_delay_s(
            entry.attempts,
            least_s=settings.retry_s_min,
            most_s=settings.retry_s_max,
            after_s=None if after_s is None else min(after_s, settings.give_up_s),
            random=self._random,
        )
        self._outbox.again(entry, self._now_s() + delay_s)

    # --- marks ------------------------------------------------------------------------------------------

    async def _mark(self, pushed: Pushed) -> None:
        """Store a pushed mark; those that come while one is written go together. Raises: as the store."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._marks.append((pushed, future))
        if self._marker is None:
            self._marker = asyncio.get_running_loop().create_task(self._write_marks(), name="chatd-push-marks")
        await future

    async def _write_marks(self) -> None:
        while self._marks:
            some, self._marks = self._marks[:MARKS_MAX], self._marks[MARKS_MAX:]
            try:
                await self._store.pushed([pushed for pushed, _ in some])
            except (Refusal, OutcomeUnknown) as exc:  # marks are maxima, and what was told is not to be told again
                log.warning("pushed_marks_wait", error=str(exc), marks=len(some))
                self._marks = [*some, *self._marks]
                await asyncio.sleep(STORE_AGAIN_S)
            except Exception as exc:
                log.warning("pushed_marks_failed", exc_info=exc)
                for _, future in some:
                    if not future.done():
                        future.set_exception(exc)
            else:
                for _, future in some:
                    if not future.done():
                        future.set_result(None)
        self._marker = None

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
        except (Refusal, OutcomeUnknown) as exc:
            log.info("push_clear_lost", error=str(exc))
            return
        payload = Clear(key=f"{conv}#{seq}#clear", tag=_tag(conv), to=user, conv=conv, seq=seq, badge=badge)
        outcomes = await asyncio.gather(*(self.sender.send(payload, target, CLEAR_TTL_S) for target in targets))
        failed = [target for target, outcome in zip(targets, outcomes, strict=True) if outcome.result == "later"]
        self._metrics.push_clears += len(targets) - len(failed)
        if failed:
            await asyncio.sleep(self._settings.retry_s_min)
            await asyncio.gather(*(self.sender.send(payload, target, CLEAR_TTL_S) for target in failed))

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
