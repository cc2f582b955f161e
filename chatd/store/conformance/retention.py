"""Trimming: the oldest messages go, and nothing that hangs on the numbers moves."""

from __future__ import annotations

import asyncio

from chatd.errors import IdReuse
from chatd.model import ID_AHEAD_MS_MAX, Advance, Draft, Pushed, trimmed_place
from chatd.store.base import Store
from chatd.store.conformance.kit import (
    Backend,
    advance,
    check,
    draft,
    equal,
    expect,
    present,
    say,
    seqs,
    stored,
    upto,
    uuid,
)
from chatd.store.conformance.life import reopened

CONV = "alice:bob"
DAY_MS = 86_400_000


def v7(ms: int, number: int) -> str:
    """A UUID of version 7 that was made at ``ms``."""
    text = f"{ms:012x}"
    return f"{text[:8]}-{text[8:]}-7000-8000-{number:012x}"


async def fill_by_time(store: Store, count: int, *, conv: str = CONV, sender: str = "alice", first: int = 1) -> None:
    """Messages whose numbers are seconds."""
    await say(store, *(draft(n, conv=conv, sender=sender, ts_ms=n * 1_000) for n in range(first, first + count)))


async def trim_all(store: Store, older_than_ms: int, *, limit: int = 1_000) -> int:
    """A whole walk. Returns: how many messages it deleted."""
    count, cursor = 0, None
    for _ in range(1_000):
        step = await store.trim(older_than_ms=older_than_ms, cursor=cursor, limit=limit)
        count, cursor = count + step.messages, step.cursor
        if cursor is None:
            return count
    raise AssertionError("a walk that trims does not come to its end")


@check
async def what_is_trimmed_leaves_its_place(backend: Backend) -> None:
    store = await backend.fresh()
    await fill_by_time(store, 10)
    equal(await trim_all(store, 1_000), 0, "nothing is older than the first message")
    equal(await trim_all(store, 5_000), 4, "messages older than the fifth")
    equal(await trim_all(store, 5_000), 0, "the same again")
    kept = list(await store.read(CONV, after=4, limit=50))
    equal(seqs(kept), upto(5, 10), "what is kept keeps its numbers")
    equal([m.body for m in kept], [f"body {n}" for n in upto(5, 10)], "and its bodies")

    async def piece(first: int, last: int, rest: list[int], **where: int) -> None:
        got = list(await store.read(CONV, **where))
        equal(got[:1], [trimmed_place(CONV, first, last, 4_000)], f"the place of what was trimmed, read {where}")
        equal(seqs(got[1:]), rest, f"what follows it, read {where}")

    await piece(1, 4, upto(5, 10), after=0, limit=50)
    await piece(3, 4, [5], after=2, limit=2)
    await piece(4, 4, [], after=3, limit=1)
    await piece(1, 4, upto(5, 10), limit=7)
    await piece(1, 4, upto(5, 10), before=11, limit=50)
    await piece(1, 4, [5], before=6, limit=50)
    await piece(1, 4, [], before=5, limit=50)
    await piece(1, 2, [], before=3, limit=50)
    equal(seqs(await store.read(CONV, limit=6)), upto(5, 10), "no room for the place")
    equal(seqs(await store.read(CONV, before=9, limit=3)), [6, 7, 8], "a piece that does not reach down to it")
    equal(list(await store.read(CONV, before=1, limit=3)), [], "nothing is before the first")
    equal(list(await store.read(CONV, after=10, limit=3)), [], "nothing is after the head")
    got = await store.read(CONV, limit=50, bytes_max=13)
    equal(seqs(got), [9, 10], "a piece that is cut by its bytes")
    equal(await store.find(CONV, "alice", uuid(4)), None, "find of a trimmed message")
    present(await store.find(CONV, "alice", uuid(5)), "find of a kept message")


@check
async def a_log_may_be_trimmed_to_its_end(backend: Backend) -> None:
    store = await backend.fresh()
    await fill_by_time(store, 3)
    await advance(store, 3, 2)
    await store.enroll("bob", "laptop", initial_history=2, newest_max=10)
    await fill_by_time(store, 2, conv="bob:carol", sender="carol", first=50)
    page = await store.conversations("bob", "phone", limit=10)
    equal(await trim_all(store, 10_000), 3, "all of one conversation")
    equal(await store.heads([CONV]), {CONV: 3}, "the head stays")
    equal(list(await store.read(CONV, after=0, limit=9)), [trimmed_place(CONV, 1, 3, 3_000)], "its whole log")
    equal(list(await store.read(CONV, after=3, limit=9)), [], "after the head")
    equal(await store.position(CONV, "bob", "laptop"), 1, "positions stay")
    marks = (await store.marks(CONV, "bob")).devices["phone"]
    equal((marks.delivered, marks.read), (3, 2), "marks stay")
    again = await store.conversations("bob", "phone", limit=10)
    equal([v.conv for v in again.conversations], [v.conv for v in page.conversations], "the listing keeps its order")
    since = await store.conversations("bob", "phone", since=page.since, limit=10)
    equal([v.conv for v in since.conversations], [], "nothing changed since")
    view = again.conversations[1]
    equal((view.head, view.updated_ms, view.unread), (3, 3_000, 0), "head, time and unread of a trimmed conversation")
    equal(view.last, trimmed_place(CONV, 3, 3, 3_000), "its last message is a place")
    equal(seqs(await say(store, draft(9, ts_ms=1_000))), [4], "the next seq")
    (new,) = await store.read(CONV, after=3, limit=9)
    equal((new.seq, new.ts_ms), (4, 3_000), "time does not run back behind what was trimmed")
    equal((await store.counts()).messages, 6, "counts are of all that were ever stored")
    equal(await trim_all(store, 10_000), 1, "what came later can go as well")
    equal(list(await store.read(CONV, after=1, limit=9)), [trimmed_place(CONV, 2, 4, 3_000)], "the place grows")


@check
async def what_is_trimmed_is_neither_unread_nor_owed(backend: Backend) -> None:
    store = await backend.fresh()
    await fill_by_time(store, 4)
    await store.block("bob", "alice", on=True)
    await fill_by_time(store, 2, first=5)
    await store.block("bob", "alice", on=False)
    await fill_by_time(store, 4, first=7)
    await store.block("bob", "alice", on=True)
    await fill_by_time(store, 1, first=11)
    await store.block("bob", "alice", on=False)
    await fill_by_time(store, 1, conv="bob:carol", sender="bob", first=50)

    async def unread(want: int, newest: int | None) -> None:
        page = await store.conversations("bob", "phone", limit=10)
        owed = await store.owed(CONV, "bob")
        counts = ({v.conv: v.unread for v in page.conversations}[CONV], owed.unread, owed.badge)
        equal((*counts, await store.badge("bob")), (want,) * 4, "unread in the listing, for a push, in all")
        equal(owed.newest.seq if owed.newest else None, newest, "the message that is owed")
        walk = await store.unpushed(limit=10, newer_than_ms=0, every_user=True)
        rows = [(r.seq, r.shown) for r in walk.rows if (r.conv, r.user) == (CONV, "bob")]
        equal(rows, [(newest, 0)] if newest else [], "the walk over what is owed")

    await unread(8, 10)
    await trim_all(store, 3_000)
    await unread(6, 10)
    await advance(store, 0, 3, device="laptop")
    await store.commit([], [Advance(CONV, "alice", "phone", 11, 0)])
    await trim_all(store, 6_000)  # the last one that goes is hidden
    await unread(4, 10)
    await trim_all(store, 9_000)
    await unread(2, 10)
    await trim_all(store, 11_000)
    await unread(0, None)
    await store.pushed([Pushed(CONV, "bob", 10)])
    await fill_by_time(store, 2, first=12)
    page = await store.conversations("bob", "phone", limit=10)
    equal({v.conv: v.unread for v in page.conversations}[CONV], 2, "what comes later is unread again")
    present((await store.owed(CONV, "bob")).newest, "and owed")


@check
async def a_repeat_of_a_trimmed_message_is_refused(backend: Backend) -> None:
    store = await backend.fresh()
    now_ms = 1_790_000_000_000
    ids = [v7(now_ms + n * DAY_MS, n) for n in range(10)]
    first = [Draft(CONV, "alice", id_, "x", now_ms + n * DAY_MS) for n, id_ in enumerate(ids)]
    await store.commit(first, [])
    await trim_all(store, now_ms + 5 * DAY_MS)
    results = (await store.commit(first, [])).appended
    equal([isinstance(one, IdReuse) for one in results], [True] * 5 + [False] * 5, "repeats of what was trimmed")
    equal([one.message.seq for one in stored(results[5:])], upto(6, 10), "repeats of what is kept")
    expect(all(one.duplicate for one in stored(results[5:])), "they are duplicates")
    trimmed_ms = now_ms + 4 * DAY_MS
    young = Draft(CONV, "bob", v7(trimmed_ms + ID_AHEAD_MS_MAX + 1, 77), "y", now_ms)
    old = Draft(CONV, "bob", v7(trimmed_ms + ID_AHEAD_MS_MAX, 78), "y", now_ms)
    other = Draft("alice:carol", "alice", ids[0], "x", now_ms)
    unknown = draft(5, body="an id without a time")
    results = (await store.commit([old, young, other, unknown, young], [])).appended
    expect(isinstance(results[0], IdReuse), "an id that may be one of those that were trimmed")
    equal([one.message.seq for one in stored(results[1:])], [11, 1, 12, 11], "ids that cannot be, or do not tell")
    results = (await store.commit([Draft(CONV, "alice", ids[9], "other", now_ms)], [])).appended
    expect(isinstance(results[0], IdReuse), "another body under a kept id")


@check
async def walks_that_trim_do_not_disturb_each_other(backend: Backend) -> None:
    store = await backend.fresh()
    peers = [f"peer{n:03}" for n in range(120)]
    await store.commit([draft(n, conv=f"alice:{peers[n // 2]}", ts_ms=n) for n in range(240)], [])
    await store.commit([draft(n, ts_ms=1) for n in upto(1, 2_500)], [])

    async def write() -> None:
        for n in range(20):
            await say(store, draft(9_000 + n, ts_ms=5_000), draft(n, conv="bob:carol", sender="bob", ts_ms=5_000))

    first = await store.trim(older_than_ms=1_000, limit=10)
    expect(first.messages <= 10_000 and first.cursor is not None, "a step is bounded, and says that there is more")
    walks = await asyncio.gather(trim_all(store, 1_000, limit=7), trim_all(store, 1_000, limit=50), write())
    equal(first.messages + sum(walks[:2]), 2_740, "each message is trimmed once")
    log = list(await store.read(CONV, after=0, limit=50))
    equal((log[0].first, seqs(log)), (1, upto(2_500, 2_520)), "the log of one that was written to meanwhile")
    for peer in peers:
        (place,) = await store.read(f"alice:{peer}", after=0, limit=9)
        equal((place.first, place.seq), (1, 2), f"the log with {peer}")


@check
async def trims_survive_a_reopen(backend: Backend) -> None:
    store = await backend.fresh()
    await fill_by_time(store, 5)
    await trim_all(store, 4_000)
    store = await reopened(backend, store)
    equal(list(await store.read(CONV, after=0, limit=1)), [trimmed_place(CONV, 1, 3, 3_000)], "the place")
    equal(seqs(await say(store, draft(6, ts_ms=6_000))), [6], "the next seq")
    equal(await trim_all(store, 5_000), 1, "a later walk goes on")
