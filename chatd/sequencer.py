"""Lanes into the store: order within a conversation, group commit, bounds, and what to do when an outcome is unknown.

While one commit is under way everything that arrives queues; the next commit takes all of it. An idle server commits
at once; under load commits keep ``commit_interval_ms`` apart. The store is the authority: what is remembered here is
only what waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol, TypeAlias

import structlog

from chatd.errors import IdReuse, OutcomeUnknown, Overloaded, Refusal, StoreBroken, Unavailable
from chatd.metrics import Metrics
from chatd.model import Advance, Appended, Draft, Grown
from chatd.receipts import Done, Receipts, Taken
from chatd.settings import LimitSettings
from chatd.store.base import Committed, MessageStore
from chatd.tracing import Trace

ADVANCES_MAX = 10_000  # of one commit: the store contract
READ_BACK_S_MIN = 0.05
READ_BACK_S_MAX = 2.0
MARKS_AGAIN_S = 1.0

log = structlog.get_logger("chatd.sequencer")


class Origin(Protocol):
    """Who sent a draft, and hears what became of it. Called once, from the loop."""

    def appended(self, draft: Draft, result: Appended, ref: object) -> None:
        """It is committed."""

    def refused(self, draft: Draft, refusal: Refusal, ref: object) -> None:
        """It is not stored."""


class FanOut(Protocol):
    """Where committed things go. It must not wait; what it raises is logged and keeps nobody else from theirs."""

    def message(self, result: Appended, origin: Origin | None) -> None:
        """A new message is committed; ``origin`` has been answered already."""

    def receipt(self, grown: Grown, advances: Sequence[Advance]) -> None:
        """A user's marks grew by these advances."""


Timed: TypeAlias = tuple[float, int]
"""When a draft came, and its weight in the timings."""
Item: TypeAlias = tuple[Draft, Origin, object, Timed | None, Trace | None]


class Sequencer:
    """One per process. `submit` and `advance` never wait; `send` and `mark` do, for HTTP."""

    def __init__(
        self,
        store: MessageStore,
        fan_outs: Sequence[FanOut],
        limits: LimitSettings,
        metrics: Metrics,
        *,
        now_s: Callable[[], float],
        on_broken: Callable[[StoreBroken], None],
    ) -> None:
        self._store = store
        self._fan_outs = fan_outs
        self._limits = limits
        self._metrics = metrics
        self._now_s = now_s
        self._on_broken = on_broken
        self._queue: deque[Item] = deque()
        self._lanes: dict[str, int] = {}  # drafts of a conversation that wait, in the queue or in a stopped lane
        self._waiting = 0  # drafts that wait in all lanes
        self._stopped: dict[str, deque[Item]] = {}
        self._receipts = Receipts()
        self._refused_marks = Receipts()  # tried again a little later
        self._marks_timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._read_backs: set[asyncio.Task[None]] = set()
        self._measure()

    @property
    def queued(self) -> int:
        """Drafts that wait for their commit, queued, under way or in a stopped lane."""
        return self._waiting

    def _measure(self) -> None:
        gauges = self._metrics.gauges
        gauges["queue_drafts"] = lambda: self._waiting
        gauges["queue_marks"] = lambda: len(self._receipts)
        gauges["lanes"] = lambda: len(self._lanes)
        gauges["lane_deepest_drafts"] = lambda: max(self._lanes.values(), default=0)
        gauges["lanes_stopped"] = lambda: len(self._stopped)

    def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="chatd-sequencer")
        self._task.add_done_callback(self._ended)

    def submit(self, draft: Draft, origin: Origin, ref: object = None, trace: Trace | None = None) -> None:
        """Queue a draft. Raises: Overloaded – a bound is reached; Unavailable – the server is stopping."""
        if self._closing:
            raise Unavailable("the server is stopping", retry_after_ms=1_000)
        waiting = self._lanes.get(draft.conv, 0)
        if waiting >= self._limits.lane_drafts_max or self._waiting >= self._limits.queue_drafts_max:
            raise Overloaded("too many messages wait to be stored", retry_after_ms=500)
        self._lanes[draft.conv] = waiting + 1
        self._waiting += 1
        metrics = self._metrics
        metrics.skip -= 1
        item = (draft, origin, ref, None if metrics.skip > 0 else (self._now_s(), metrics.picked()), trace)
        if trace is not None:
            trace.queued()
        stopped = self._stopped.get(draft.conv)
        if stopped is not None:
            stopped.append(item)
            return
        self._queue.append(item)
        self._wake.set()

    def advance(self, advance: Advance, done: Done | None = None) -> None:
        """Queue marks. They are maxima: at the bound they are refused to who waits, and else come with the next ack."""
        if self._closing or len(self._receipts) >= self._limits.queue_drafts_max:
            if done is not None:
                done(Overloaded("too many marks wait to be stored", retry_after_ms=500))
            return
        self._receipts.add(advance, done)
        self._wake.set()

    async def send(self, draft: Draft, trace: Trace | None = None) -> Appended:
        """Submit and wait. A caller that is cancelled does not undo it. Raises: Refusal."""
        waiter = _Waiter()
        self.submit(draft, waiter, trace=trace)
        return await waiter.future

    async def mark(self, advance: Advance) -> Grown:
        """Advance and wait. Raises: Refusal."""
        future: asyncio.Future[Grown] = asyncio.get_running_loop().create_future()

        def done(result: Grown | Refusal) -> None:
            if not future.done():
                _resolve(future, result)

        self.advance(advance, done)
        return await future

    async def close(self) -> None:
        """Refuse what comes, commit what waits, stop. What the store does not settle within ``commit_timeout_s`` stays
        unanswered: its sender repeats it.
        """
        self._closing = True
        self._wake.set()
        if self._marks_timer is not None:
            self._marks_timer.cancel()
        if self._task is None:
            return
        _, late = await asyncio.wait([self._task], timeout=self._limits.commit_timeout_s)
        for task in [*late, *self._read_backs]:
            task.cancel()
        await asyncio.gather(self._task, *self._read_backs, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A fault that nobody foresaw: what is stored is unknown, so the process ends as with a broken store."""
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.critical("sequencer_failed", exc_info=exc)
            self._closing = True
            self._on_broken(StoreBroken(f"the sequencer failed: {exc!r}"))

    async def _run(self) -> None:
        """The commit loop; a broken store ends it."""
        interval_s = self._limits.commit_interval_ms / 1000
        began_s = self._now_s() - interval_s
        while True:
            if not self._queue and not self._receipts:
                if self._closing and not self._read_backs:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            wait_s = began_s + interval_s - self._now_s()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            began_s = self._now_s()
            try:
                await self._commit(self._take(), self._receipts.take(ADVANCES_MAX))
            except StoreBroken as exc:
                self._metrics.store_failed(exc)
                self._closing = True
                self._on_broken(exc)
                return

    def _take(self) -> list[Item]:
        batch: list[Item] = []
        while self._queue and len(batch) < self._limits.batch_drafts_max:
            item = self._queue.popleft()
            if item[4] is not None:
                item[4].taken()
            batch.append(item)
        return batch

    async def _commit(self, batch: list[Item], marks: Taken) -> None:
        metrics = self._metrics
        metrics.commit_drafts.observe(len(batch))
        metrics.commit_marks.observe(len(marks.advances))
        began_s = self._now_s()
        try:
            try:
                async with asyncio.timeout(self._limits.commit_timeout_s):
                    committed = await self._store.commit([item[0] for item in batch], marks.advances)
            finally:
                metrics.commit_seconds.observe(self._now_s() - began_s)
        except Refusal as exc:
            metrics.commits_failed += 1
            metrics.store_failed(exc)
            log.warning("commit_refused", error=exc.message, drafts=len(batch), marks=len(marks.advances))
            marks.failed(exc)
            self._keep_marks(marks)
            self._refuse([*batch, *self._drain()], exc)
        except (OutcomeUnknown, TimeoutError) as exc:
            metrics.commits_unknown += 1
            metrics.store_failed(exc)
            log.warning("commit_outcome_unknown", error=str(exc) or "timeout", drafts=len(batch))
            self._stop_lanes(batch)
            self._receipts.put_back(marks)
            if batch:
                self._own(self._read_back(batch))
            else:
                await asyncio.sleep(READ_BACK_S_MIN)  # only marks: they go with the next commit
        else:
            metrics.commits += 1
            self._tell(batch, committed, marks)

    def _keep_marks(self, marks: Taken) -> None:
        """A device says a mark once: a store that refuses for a moment must not lose it. Bounded like all marks."""
        if self._closing or len(self._refused_marks) >= self._limits.queue_drafts_max:
            return
        self._refused_marks.keep(marks)
        if self._marks_timer is None and self._refused_marks:
            self._marks_timer = asyncio.get_running_loop().call_later(MARKS_AGAIN_S, self._marks_again)

    def _marks_again(self) -> None:
        self._marks_timer = None
        self._receipts.keep(self._refused_marks.take(self._limits.queue_drafts_max + ADVANCES_MAX))
        self._wake.set()

    def _tell(self, batch: Sequence[Item], committed: Committed, marks: Taken) -> None:
        now_s = self._now_s()
        for item, result in zip(batch, committed.appended, strict=True):
            self._answer(item, result, now_s)
        if not marks.advances:
            return
        grown = {(g.conv, g.user): g for g in committed.grown}
        by_user: dict[tuple[str, str], list[Advance]] = {}
        for advance in marks.advances:
            by_user.setdefault((advance.conv, advance.user), []).append(advance)
        for key, one in grown.items():
            if one.grew or key in marks.unsure:
                for fan_out in self._fan_outs:
                    with _GUARD_RECEIPT:
                        fan_out.receipt(one, by_user[key])
        marks.committed(grown)

    def _answer(self, item: Item, result: Appended | IdReuse, now_s: float) -> None:
        draft, origin, ref, timed, trace = item
        self._left(draft.conv)
        with _GUARD_ANSWER:
            if isinstance(result, IdReuse):
                self._metrics.messages_refused += 1
                origin.refused(draft, result, ref)
                if trace is not None:
                    trace.ended(result.code)
            elif result.duplicate:
                self._metrics.messages_duplicate += 1
                origin.appended(draft, result, ref)
                if trace is not None:
                    trace.ended("duplicate")
            else:
                self._metrics.messages_committed += 1
                if timed is None:
                    self._metrics.weight = 0
                else:
                    self._timed(draft.conv, now_s - timed[0], timed[1])
                origin.appended(draft, result, ref)
                if trace is None:
                    self._fan_message(result, origin)
                else:
                    self._fan_traced(result, origin, trace)

    def _timed(self, conv: str, took_s: float, weight: int) -> None:
        self._metrics.weight = weight
        self._metrics.sent_seconds.observe(took_s, weight)
        self._metrics.hot.add(conv, weight)

    def _fan_message(self, result: Appended, origin: Origin) -> None:
        """Each on its own: a push that fails takes no message from a device."""
        for fan_out in self._fan_outs:
            with _GUARD_ANSWER:
                fan_out.message(result, origin)

    def _fan_traced(self, result: Appended, origin: Origin, trace: Trace) -> None:
        """The same; what a tracer raises takes nothing from anybody either."""
        with _GUARD_ANSWER:
            trace.committed(result.message)
        self._fan_message(result, origin)
        trace.told()

    def _refuse(self, items: Sequence[Item], refusal: Refusal) -> None:
        for draft, origin, ref, _, trace in items:
            self._left(draft.conv)
            self._metrics.messages_refused += 1
            with _GUARD_ANSWER:
                origin.refused(draft, refusal, ref)
                if trace is not None:
                    trace.ended(refusal.code)

    def _left(self, conv: str) -> None:
        self._waiting -= 1
        waiting = self._lanes[conv] - 1
        if waiting:
            self._lanes[conv] = waiting
        else:
            del self._lanes[conv]

    def _drain(self) -> list[Item]:
        """Everything queued: behind a refused draft a later one must not be stored."""
        items = list(self._queue)
        self._queue.clear()
        return items

    def _stop_lanes(self, batch: Sequence[Item]) -> None:
        for draft, *_ in batch:
            self._stopped.setdefault(draft.conv, deque())
        rest: deque[Item] = deque()
        for item in self._queue:
            self._stopped.get(item[0].conv, rest).append(item)
        self._queue = rest

    async def _read_back(self, batch: Sequence[Item]) -> None:
        """Ask the store for each draft until it answers; then the lanes go on, in order."""
        pause_s = READ_BACK_S_MIN
        found: list[Appended | None] = []
        while len(found) < len(batch):
            draft = batch[len(found)][0]
            try:
                stored = await self._store.find(draft.conv, draft.sender, draft.id)
            except (Refusal, OutcomeUnknown) as exc:
                self._metrics.store_failed(exc)
                log.warning("read_back_waits", error=str(exc), pause_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, READ_BACK_S_MAX)
            except StoreBroken as exc:
                self._metrics.store_failed(exc)
                self._closing = True
                self._on_broken(exc)
                return
            else:
                found.append(None if stored is None else Appended(stored))
        lost: set[str] = set()
        now_s = self._now_s()
        for item, result in zip(batch, found, strict=True):
            draft = item[0]
            if result is None:
                lost.add(draft.conv)
                self._refuse([item], Unavailable("the store did not take it", retry_after_ms=500))
            elif result.message.body != draft.body:
                self._answer(item, IdReuse("this id names a message with another body"), now_s)
            else:
                self._answer(item, result, now_s)
        for conv in dict.fromkeys(item[0].conv for item in batch):
            items = self._stopped.pop(conv)
            if conv in lost:
                self._refuse(items, Unavailable("an earlier message was not stored", retry_after_ms=500))
            else:
                self._queue.extend(items)
        self._wake.set()

    def _own(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="chatd-read-back")
        self._read_backs.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._read_backs.discard(done)
            self._ended(done)
            self._wake.set()

        task.add_done_callback(ended)


class _Guard:
    """One client's failing answer must not keep the others from theirs: it is logged, and the loop goes on."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: object) -> bool:
        if not isinstance(exc, Exception):
            return False
        log.exception("fan_out_failed", where=self._where, exc_info=exc)
        return True


_GUARD_ANSWER = _Guard("answer")
_GUARD_RECEIPT = _Guard("receipt")


class _Waiter:
    """An origin that is a future."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()

    def appended(self, draft: Draft, result: Appended, ref: object) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def refused(self, draft: Draft, refusal: Refusal, ref: object) -> None:
        if not self.future.done():
            self.future.set_exception(refusal)


def _resolve(future: asyncio.Future[Grown], result: Grown | Refusal) -> None:
    if isinstance(result, Refusal):
        future.set_exception(result)
    else:
        future.set_result(result)
