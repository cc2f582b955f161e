"""Lanes into the store: order, bounds, and every way a commit can end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from msgspec.structs import replace

from chatd.errors import ChatdError, IdReuse, OutcomeUnknown, Overloaded, Refusal, StoreBroken, Unavailable
from chatd.metrics import Metrics
from chatd.model import Advance, Appended, Draft, Grown, Message
from chatd.sequencer import Sequencer
from chatd.settings import LimitSettings
from chatd.store.base import Store
from chatd.store.memory import MemoryStore
from chatd.testing.faults import FaultyStore

CONV = "alice:bob"
LIMITS = LimitSettings(commit_interval_ms=0)
PATIENCE_S = 10.0


def draft(number: int, conv: str = CONV, body: str = "x") -> Draft:
    return Draft(conv, "alice", f"01890a5d-ac96-774b-bcce-{number:012x}", body, 1_000)


def number_of(one: Draft | Message) -> int:
    return int(one.id[-12:], 16)


class Rig:
    """A sequencer over a memory store that can fail; itself the origin of every draft, and the fan-out.

    ``answers``: (draft number, seq or error code) in order. ``out``: (conv, seq) that went to the fan-out.
    """

    def __init__(self, limits: LimitSettings) -> None:
        self.memory = MemoryStore()
        self.store = FaultyStore(cast(Store, self.memory))
        self.metrics = Metrics()
        self.answers: list[tuple[int, int | str]] = []
        self.out: list[tuple[str, int]] = []
        self.receipts: list[tuple[Grown, Sequence[Advance]]] = []
        self.broken: list[StoreBroken] = []
        self.fault: Exception | None = None
        self.changed = asyncio.Event()
        self.sequencer = Sequencer(
            cast(Store, self.store),
            (self,),
            limits,
            self.metrics,
            now_s=asyncio.get_running_loop().time,
            on_broken=self._broke,
        )

    def _broke(self, exc: StoreBroken) -> None:
        self.broken.append(exc)
        self.changed.set()

    def submit(self, *drafts: Draft) -> None:
        for one in drafts:
            self.sequencer.submit(one, self)

    def appended(self, draft: Draft, result: Appended, ref: object) -> None:
        self.answers.append((number_of(draft), result.message.seq))
        self.changed.set()
        if self.fault is not None:
            raise self.fault

    def refused(self, draft: Draft, refusal: Refusal, ref: object) -> None:
        self.answers.append((number_of(draft), refusal.code))
        self.changed.set()

    def message(self, result: Appended, origin: object) -> None:
        assert (number_of(result.message), result.message.seq) in self.answers, "its sender is answered first"
        self.out.append((result.message.conv, result.message.seq))

    def receipt(self, grown: Grown, advances: Sequence[Advance]) -> None:
        self.receipts.append((grown, advances))
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def log(self, conv: str = CONV) -> list[int]:
        return [number_of(m) for m in await self.memory.read(conv, after=0, limit=200)]


@asynccontextmanager
async def running(**limits: Any) -> AsyncIterator[Rig]:
    rig = Rig(replace(LIMITS, **limits))
    await rig.memory.open()
    rig.sequencer.start()
    try:
        yield rig
    finally:
        rig.store.resume()
        await rig.sequencer.close()
    assert len({task.get_name() for task in asyncio.all_tasks()} & {"chatd-sequencer", "chatd-read-back"}) == 0


async def test_each_conversation_keeps_its_order_and_everything_that_waits_is_one_commit() -> None:
    async with running() as rig:
        rig.submit(*(draft(i, conv) for i in range(1, 51) for conv in (CONV, "alice:carol")))
        await rig.until(lambda: len(rig.answers) == 100)
        assert await rig.log() == await rig.log("alice:carol") == list(range(1, 51))
        assert [seq for conv, seq in rig.out if conv == CONV] == list(range(1, 51))
        assert rig.metrics.commits == 1
        assert rig.sequencer.queued == 0


async def test_a_commit_takes_at_most_a_batch() -> None:
    async with running(batch_drafts_max=20) as rig:
        rig.submit(*(draft(i) for i in range(1, 51)))
        await rig.until(lambda: len(rig.answers) == 50)
        assert rig.answers == [(i, i) for i in range(1, 51)]
        assert rig.metrics.commits == 3


async def test_a_repeated_id_is_answered_and_not_sent_out_again() -> None:
    async with running() as rig:
        rig.submit(draft(1), draft(1), draft(1, body="other"), draft(2))
        await rig.until(lambda: len(rig.answers) == 4)
        assert rig.answers == [(1, 1), (1, 1), (1, IdReuse.code), (2, 2)]
        assert rig.out == [(CONV, 1), (CONV, 2)]
        assert (rig.metrics.messages_duplicate, rig.metrics.messages_refused) == (1, 1)


async def test_a_full_lane_and_a_full_queue_say_overloaded() -> None:
    async with running(lane_drafts_max=2, queue_drafts_max=3) as rig:
        rig.store.stall()
        rig.submit(draft(1), draft(2))
        with pytest.raises(Overloaded) as caught:
            rig.submit(draft(3))
        assert caught.value.retry_after_ms == 500
        rig.submit(draft(4, "alice:carol"))
        with pytest.raises(Overloaded):
            rig.submit(draft(5, "alice:dave"))
        assert rig.sequencer.queued == 3
        rig.store.resume()
        await rig.until(lambda: len(rig.answers) == 3)
        rig.submit(draft(3))
        await rig.until(lambda: len(rig.answers) == 4)
        assert rig.answers[-1] == (3, 3)


async def test_stopped_lanes_count_too() -> None:
    async with running(lane_drafts_max=100, queue_drafts_max=5, commit_timeout_s=0.02) as rig:
        reached, release = asyncio.Event(), asyncio.Event()
        find = rig.memory.find

        async def slow_find(*args: str) -> Message | None:
            reached.set()
            await release.wait()
            return await find(*args)

        rig.memory.find = slow_find  # type: ignore[method-assign,assignment]
        rig.store.fail_next("unknown_lost")
        rig.submit(draft(1))
        await reached.wait()
        rig.submit(*(draft(i) for i in range(2, 6)))
        with pytest.raises(Overloaded):
            rig.submit(draft(6, "alice:carol"))
        release.set()
        await rig.until(lambda: len(rig.answers) == 5)
        assert rig.sequencer.queued == 0


async def test_unavailable_refuses_all_that_is_queued_behind_it_in_order() -> None:
    async with running(batch_drafts_max=1) as rig:
        rig.store.fail_next("gone")
        rig.submit(draft(1), draft(2), draft(3, "alice:carol"))
        await rig.until(lambda: len(rig.answers) == 3)
        assert rig.answers == [(1, "unavailable"), (2, "unavailable"), (3, "unavailable")]
        assert await rig.log() == []
        rig.submit(draft(1), draft(2))
        await rig.until(lambda: len(rig.answers) == 5)
        assert rig.answers[3:] == [(1, 1), (2, 2)]
        assert rig.metrics.commits_failed == 1


@pytest.mark.parametrize("fault", ["unknown_stored", "unknown_lost"])
async def test_an_unknown_outcome_stops_its_lane_until_it_is_read_back(fault: Any) -> None:
    async with running(batch_drafts_max=2) as rig:
        reached, release = asyncio.Event(), asyncio.Event()
        find = rig.memory.find

        async def slow_find(*args: str) -> Message | None:
            reached.set()
            await release.wait()
            return await find(*args)

        rig.memory.find = slow_find  # type: ignore[method-assign,assignment]
        rig.store.fail_next(fault)
        rig.submit(*(draft(i) for i in range(1, 5)))
        await reached.wait()
        rig.submit(draft(5), draft(9, "alice:carol"))
        await rig.until(lambda: len(rig.answers) == 1)
        assert rig.answers == [(9, 1)], "the other lanes go on; nothing is said of this one"
        assert await rig.log() == ([1, 2] if fault == "unknown_stored" else [])
        release.set()
        await rig.until(lambda: len(rig.answers) == 6)
        if fault == "unknown_stored":
            assert rig.answers[1:] == [(i, i) for i in range(1, 6)]
            assert [seq for conv, seq in rig.out if conv == CONV] == [1, 2, 3, 4, 5]
        else:
            assert rig.answers[1:] == [(i, "unavailable") for i in range(1, 6)]
            assert [seq for conv, seq in rig.out if conv == CONV] == []
        assert rig.sequencer.queued == 0


async def test_read_back_goes_on_until_the_store_answers() -> None:
    async with running() as rig:
        find, tries = rig.memory.find, list[ChatdError]([Unavailable("gone"), OutcomeUnknown("?"), Unavailable("gone")])

        async def failing_find(*args: str) -> Message | None:
            if tries:
                raise tries.pop()
            return await find(*args)

        rig.memory.find = failing_find  # type: ignore[method-assign,assignment]
        rig.store.fail_next("unknown_stored")
        rig.submit(draft(1))
        await rig.until(lambda: rig.answers == [(1, 1)])
        assert tries == []


async def test_an_id_that_was_taken_by_another_body_is_found_in_the_read_back() -> None:
    async with running() as rig:
        rig.submit(draft(1, body="first"))
        await rig.until(lambda: len(rig.answers) == 1)
        rig.store.fail_next("unknown_lost")
        rig.submit(draft(1, body="second"))
        await rig.until(lambda: len(rig.answers) == 2)
        assert rig.answers == [(1, 1), (1, "id_reuse")]


async def test_a_commit_that_takes_too_long_is_an_unknown_outcome() -> None:
    async with running(commit_timeout_s=0.02) as rig:
        rig.store.stall()
        rig.submit(draft(1))
        await rig.until(lambda: len(rig.answers) == 1)  # the stalled commit was given up before it wrote
        assert rig.answers == [(1, "unavailable")]
        rig.store.resume()
        rig.submit(draft(1))
        await rig.until(lambda: len(rig.answers) == 2)
        assert rig.answers[1] == (1, 1)


async def test_a_broken_store_answers_nothing_and_is_told_once() -> None:
    async with running() as rig:
        rig.store.fail_next("broken")
        rig.submit(draft(1), draft(2))
        rig.sequencer.advance(Advance(CONV, "bob", "x", 1))
        await rig.until(lambda: bool(rig.broken))
        with pytest.raises(Unavailable):
            rig.submit(draft(3))
        await rig.sequencer.close()
        assert rig.answers == []
        assert rig.receipts == []
        assert len(rig.broken) == 1


async def test_a_store_that_breaks_in_the_read_back_is_told_too() -> None:
    async with running() as rig:

        async def broken_find(*args: str) -> Message | None:
            raise StoreBroken("the disk failed")

        rig.memory.find = broken_find  # type: ignore[method-assign,assignment]
        rig.store.fail_next("unknown_lost")
        rig.submit(draft(1))
        await rig.until(lambda: bool(rig.broken))
        assert rig.answers == []


async def test_a_fault_of_the_sequencer_itself_ends_the_process_and_does_not_hang() -> None:
    async with running() as rig:

        async def wrong_commit(*args: object) -> None:
            raise ZeroDivisionError

        rig.store.commit = wrong_commit  # type: ignore[method-assign,assignment]
        rig.submit(draft(1))
        await rig.until(lambda: bool(rig.broken))
        assert "ZeroDivisionError" in str(rig.broken[0])
        assert rig.answers == []


async def test_a_cancelled_caller_does_not_undo_its_commit() -> None:
    async with running() as rig:
        rig.store.stall()
        caller = asyncio.create_task(rig.sequencer.send(draft(1)))
        await asyncio.sleep(0)  # its first step submits
        assert rig.sequencer.queued == 1
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        rig.store.resume()
        assert (await rig.sequencer.send(draft(1))).duplicate
        assert await rig.log() == [1]


async def test_send_and_mark_raise_what_refused_them() -> None:
    async with running() as rig:
        assert (await rig.sequencer.send(draft(1))).message.seq == 1
        with pytest.raises(IdReuse):
            await rig.sequencer.send(draft(1, body="other"))
        rig.store.fail_next("gone")
        with pytest.raises(Unavailable):
            await rig.sequencer.send(draft(2))
        rig.store.fail_next("gone")
        with pytest.raises(Unavailable):
            await rig.sequencer.mark(Advance(CONV, "bob", "x", 1))
        assert (await rig.sequencer.mark(Advance(CONV, "bob", "x", 1))).delivered == 1


async def test_marks_that_grew_go_out_once_with_who_moved_them() -> None:
    async with running() as rig:
        await rig.sequencer.send(draft(1))
        first, again = Advance(CONV, "bob", "x", 1, 1), Advance(CONV, "bob", "y", 1)
        await rig.sequencer.mark(first)
        await rig.sequencer.mark(again)
        (grown, advances) = rig.receipts[0]
        assert (grown.user, grown.delivered, grown.read, list(advances)) == ("bob", 1, 1, [first])
        assert len(rig.receipts) == 1


async def test_marks_survive_an_unknown_outcome() -> None:
    async with running() as rig:
        await rig.sequencer.send(draft(1))
        rig.store.fail_next("unknown_lost", 2)
        assert (await rig.sequencer.mark(Advance(CONV, "bob", "x", 1))).grew
        assert rig.metrics.commits_unknown == 2


async def test_marks_that_an_unknown_outcome_stored_are_told_all_the_same() -> None:
    async with running() as rig:
        await rig.sequencer.send(draft(1))
        rig.store.fail_next("unknown_stored")
        rig.sequencer.advance(Advance(CONV, "bob", "x", 1))
        await rig.until(lambda: len(rig.receipts) == 1)
        grown, _ = rig.receipts[0]
        assert (grown.user, grown.delivered, grown.grew) == ("bob", 1, False)


async def test_marks_that_the_store_refused_are_said_again_although_nobody_repeats_them() -> None:
    async with running() as rig:
        await rig.sequencer.send(draft(1))
        rig.store.fail_next("gone")
        rig.sequencer.advance(Advance(CONV, "bob", "x", 1))
        await rig.until(lambda: len(rig.receipts) == 1)
        grown, _ = rig.receipts[0]
        assert (grown.user, grown.delivered, rig.metrics.commits_failed) == ("bob", 1, 1)


async def test_marks_over_the_bound_are_refused_to_who_waits() -> None:
    async with running(queue_drafts_max=2) as rig:
        rig.store.stall()
        await rig.until(lambda: True)
        heard: list[Grown | Refusal] = []
        for device in "xyz":
            rig.sequencer.advance(Advance(CONV, "bob", device, 1), heard.append)
        assert [type(one) for one in heard] == [Overloaded]


async def test_one_failing_answer_does_not_keep_the_others_from_theirs(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as rig:
        rig.fault = ValueError("a bug in a connection")
        rig.submit(draft(1), draft(2))
        await rig.until(lambda: len(rig.answers) == 2)
        rig.fault = None
        assert (await rig.sequencer.send(draft(3))).message.seq == 3
        assert rig.broken == []


class FailingTrace:
    """A tracer's bug in every step after the message was taken."""

    def __init__(self) -> None:
        self.told_of: list[str] = []

    def queued(self) -> None:
        self.told_of.append("queued")

    def taken(self) -> None:
        self.told_of.append("taken")

    def committed(self, message: Message) -> None:
        raise ValueError("committed")

    def told(self) -> None:
        self.told_of.append("told")
        raise ValueError("told")

    def ended(self, code: str) -> None:
        self.told_of.append(code)
        raise ValueError(code)


async def test_a_failing_tracer_takes_no_message_from_anybody() -> None:
    async with running() as rig:
        first, again, other = FailingTrace(), FailingTrace(), FailingTrace()
        for one, trace in ((draft(1), first), (draft(1), again), (draft(1, body="other"), other)):
            rig.sequencer.submit(one, rig, trace=trace)
        rig.submit(draft(2))
        await rig.until(lambda: len(rig.answers) == 4)
        assert rig.answers == [(1, 1), (1, 1), (1, IdReuse.code), (2, 2)]
        assert rig.out == [(CONV, 1), (CONV, 2)]
        assert first.told_of == ["queued", "taken", "told"]
        assert again.told_of == ["queued", "taken", "duplicate"]
        assert other.told_of == ["queued", "taken", IdReuse.code]
        assert rig.broken == []


async def test_close_commits_what_waits_and_refuses_what_comes() -> None:
    async with running() as rig:
        rig.submit(*(draft(i) for i in range(1, 11)))
        rig.store.fail_next("unknown_stored")
        await rig.sequencer.close()
        assert rig.answers == [(i, i) for i in range(1, 11)]
        with pytest.raises(Unavailable):
            rig.submit(draft(11))


async def test_close_ends_although_the_store_never_settles() -> None:
    async with running(commit_timeout_s=0.05) as rig:

        async def gone(*args: str) -> Message | None:
            raise Unavailable("gone")

        rig.memory.find = gone  # type: ignore[method-assign,assignment]
        rig.store.fail_next("unknown_stored")
        rig.submit(draft(1))
        async with asyncio.timeout(PATIENCE_S):
            await rig.sequencer.close()
        assert rig.answers == []
