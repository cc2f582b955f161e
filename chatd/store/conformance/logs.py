"""Logs: seqs, ids, time, bodies, and reading."""

from __future__ import annotations

import asyncio

from chatd.errors import IdReuse
from chatd.model import Advance, Appended, Message
from chatd.store.conformance.kit import (
    Backend,
    check,
    draft,
    equal,
    expect,
    fill,
    present,
    say,
    seqs,
    stored,
    upto,
    uuid,
)

BODIES = (
    "x",
    " leading, trailing and\ttab ",
    "line one\nline two\r\nline three\r",
    'it\'s "quoted"; DROP TABLE messages; -- \\ % _ {} $1 ?',
    "emoji 👩‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿 and a lone 𝄞",
    "مرحبا بالعالم \u202eright to left\u202c שלום",
    "combining e\u0301 is not \u00e9; \ufeff and \u200b stay",
    "\u0001\u001f\u007f\u0085\u2028\u2029\uffff",
    "1",
    "1e3",
    "null",
    "ä" * 8_192,
)


@check
async def seqs_follow_the_order_of_the_drafts(backend: Backend) -> None:
    store = await backend.fresh()
    drafts = [
        draft(1, body="one"),
        draft(2, conv="alice:carol"),
        draft(3, sender="bob", ts_ms=1_001),
        draft(4, conv="alice:carol", sender="carol"),
        draft(5),
    ]
    done = await store.commit(drafts, [])
    equal(list(done.grown), [], "no advances, nothing in grown")
    messages = [one.message for one in stored(done.appended)]
    equal(seqs(messages), [1, 1, 2, 2, 3], "seqs of drafts of two conversations, in the order given")
    equal([m.id for m in messages], [d.id for d in drafts], "a result a draft, in the same order")
    expect(not any(one.duplicate for one in stored(done.appended)), "a new message is no duplicate")
    want = Message("alice:bob", 1, uuid(1), "alice", "one", 1_000)
    equal(messages[0], want, "the message is the draft with its seq")
    log = await store.read("alice:bob", limit=10)
    equal(list(log), [messages[0], messages[2], messages[4]], "the log holds what commit returned")
    equal(seqs(await say(store, draft(6))), [4], "the next commit goes on where the last one ended")


@check
async def concurrent_commits_share_one_log(backend: Backend) -> None:
    store = await backend.fresh()
    convs = ["alice:bob", "alice:carol", "alice:dave"]

    async def write(writer: int) -> None:
        numbers = range(writer * 6, writer * 6 + 6)
        messages = await say(store, *(draft(n, conv=convs[n % 3]) for n in numbers))
        for conv in convs:
            own = [m.seq for m in messages if m.conv == conv]
            equal(own, [own[0], own[0] + 1], "drafts of one call get consecutive seqs")

    async def watch() -> None:
        for _ in range(20):
            log = await store.read("alice:bob", after=0, limit=200)
            equal(seqs(log), upto(1, len(log)), "a reader sees no gap while commits are under way")

    await asyncio.gather(*(write(n) for n in range(40)), watch(), watch())
    for conv in convs:
        log = await store.read(conv, after=0, limit=200)
        equal(seqs(log), upto(1, 80), f"80 messages in 40 commits at the same time are 1…80 in {conv}")
        equal(len({m.id for m in log}), 80, "each message is there once")


@check
async def a_repeat_gets_the_first_answer(backend: Backend) -> None:
    store = await backend.fresh()
    one, two = stored((await store.commit([draft(1), draft(1, ts_ms=9_000)], [])).appended)
    equal((one.duplicate, two.duplicate), (False, True), "the second of two equal drafts in a call is a duplicate")
    equal(two.message, one.message, "it comes back with the first seq and ts")
    await fill(store, 5, first=2)
    (late,) = stored((await store.commit([draft(1, ts_ms=99_000)], [])).appended)
    equal((late.message, late.duplicate), (one.message, True), "a repeat in a later call gets the first answer")
    new, again = stored((await store.commit([draft(7), draft(2)], [])).appended)
    equal((new.message.seq, again.message.seq), (7, 2), "a duplicate takes no seq from its neighbours")
    equal(seqs(await store.read("alice:bob", limit=50)), upto(1, 7), "each message is in the log once")


@check
async def repeats_that_race_are_stored_once(backend: Backend) -> None:
    store = await backend.fresh()
    calls = await asyncio.gather(*(store.commit([draft(1), draft(n)], []) for n in range(2, 22)))
    firsts = [stored(done.appended)[0] for done in calls]
    equal(sum(not one.duplicate for one in firsts), 1, "of twenty equal drafts at once, one is the first")
    equal({one.message.seq for one in firsts}, {firsts[0].message.seq}, "all twenty get one seq")
    equal(seqs(await store.read("alice:bob", limit=50)), upto(1, 21), "the log has no gap and no second copy")


@check
async def an_id_is_the_senders_in_its_conversation(backend: Backend) -> None:
    store = await backend.fresh()
    drafts = [
        draft(1, body="a"),
        draft(1, sender="bob", body="b"),
        draft(1, conv="alice:carol", body="c"),
        draft(1, conv="alice:alice", body="d"),
    ]
    done = stored((await store.commit(drafts, [])).appended)
    equal([one.message.seq for one in done], [1, 2, 1, 1], "one id names a message for each (conv, sender)")
    equal([one.message.body for one in done], ["a", "b", "c", "d"], "each with its own body")
    expect(not any(one.duplicate for one in done), "none of them is a duplicate")


@check
async def id_reuse_is_a_value_and_the_others_are_stored(backend: Backend) -> None:
    store = await backend.fresh()
    await say(store, draft(1))
    drafts = [draft(2), draft(1, body="other"), draft(3), draft(3, body="other"), draft(4)]
    results = (await store.commit(drafts, [])).appended
    equal(
        [type(one) for one in results],
        [Appended, IdReuse, Appended, IdReuse, Appended],
        "an IdReuse in the place of each draft whose id has another body, also one of the same call",
    )
    log = await store.read("alice:bob", limit=10)
    equal([(m.seq, m.id) for m in log], [(n, uuid(n)) for n in upto(1, 4)], "no seq is lost to an IdReuse")
    equal(log[0].body, "body 1", "the first body stays")
    (blank,) = (await store.commit([draft(1, body="body 1 ")], [])).appended
    expect(isinstance(blank, IdReuse), "a body that differs in a blank is another body")


@check
async def time_never_runs_back_in_a_conversation(backend: Backend) -> None:
    store = await backend.fresh()
    messages = await say(store, draft(1, ts_ms=5_000), draft(2, ts_ms=3_000), draft(3, ts_ms=6_000))
    equal([m.ts_ms for m in messages], [5_000, 5_000, 6_000], "ts in one call with a clock that goes back")
    messages = await say(store, draft(4, ts_ms=10), draft(5, conv="alice:carol", ts_ms=10))
    equal([m.ts_ms for m in messages], [6_000, 10], "ts in a later call; another conversation has its own")
    log = await store.read("alice:bob", limit=10)
    equal([m.ts_ms for m in log], [5_000, 5_000, 6_000, 6_000], "the log shows the same ts")


@check
async def bodies_come_back_byte_for_byte(backend: Backend) -> None:
    store = await backend.fresh()
    drafts = [draft(n, body=body) for n, body in enumerate(BODIES, 1)]
    equal([m.body for m in await say(store, *drafts)], list(BODIES), "bodies that commit returns")
    for number, body in enumerate(BODIES, 1):
        (message,) = await store.read("alice:bob", after=number - 1, limit=1)
        equal(message.body.encode(), body.encode(), f"body {number} in the log")
        found = present(await store.find("alice:bob", "alice", uuid(number)), f"body {number} by its id")
        equal(found.body.encode(), body.encode(), f"body {number} by its id")
    repeats = stored((await store.commit(drafts, [])).appended)
    expect(all(one.duplicate for one in repeats), "the same bodies again are duplicates")


@check
async def find_knows_what_is_stored(backend: Backend) -> None:
    store = await backend.fresh()
    (message,) = await say(store, draft(1))
    equal(await store.find("alice:bob", "alice", uuid(1)), message, "find gives the message")
    for conv, sender, number in [
        ("alice:bob", "alice", 2),
        ("alice:bob", "bob", 1),
        ("alice:carol", "alice", 1),
    ]:
        equal(await store.find(conv, sender, uuid(number)), None, f"find of ({conv}, {sender}, {number})")


@check
async def read_gives_the_piece_asked_for(backend: Backend) -> None:
    store = await backend.fresh()
    await fill(store, 3, conv="alice:carol")
    await fill(store, 10)
    await fill(store, 3, first=4, conv="alice:carol")

    async def piece(want: list[int], *, after: int | None = None, before: int | None = None, limit: int) -> None:
        got = await store.read("alice:bob", after=after, before=before, limit=limit)
        equal(seqs(got), want, f"read after={after} before={before} limit={limit}")
        equal([m.body for m in got], [f"body {n}" for n in want], "each seq with its own body")

    await piece([1, 2, 3], after=0, limit=3)
    await piece([5, 6, 7], after=4, limit=3)
    await piece([9, 10], after=8, limit=200)
    await piece([], after=10, limit=5)
    await piece([], after=1_000, limit=5)
    await piece([3, 4, 5], before=6, limit=3)
    await piece([1, 2], before=3, limit=200)
    await piece([], before=1, limit=5)
    await piece([9, 10], before=1_000, limit=2)
    await piece([8, 9, 10], limit=3)
    await piece(upto(1, 10), limit=200)


@check
async def read_stops_at_its_bytes(backend: Backend) -> None:
    store = await backend.fresh()
    await say(store, *(draft(n, body="🙂" * 25) for n in upto(1, 10)))  # 100 bytes each, 25 characters

    async def piece(bytes_max: int, after: int | None, before: int | None) -> list[int]:
        log = await store.read("alice:bob", after=after, before=before, limit=50, bytes_max=bytes_max)
        size = sum(len(m.body.encode()) for m in log)
        what = f"read of {bytes_max} bytes after={after} before={before} gave {len(log)} bodies of 100 bytes"
        expect(len(log) == 1 or size <= bytes_max + 100, f"{what}: too many")
        expect(size >= min(bytes_max, 1_000) - 100 and len(log) >= 1, f"{what}: too few")
        equal(seqs(log), upto(log[0].seq, log[-1].seq), "a piece has no gap")
        return seqs(log)

    for bytes_max in (1, 100, 350, 10_000):
        equal((await piece(bytes_max, 0, None))[0], 1, "after keeps the end nearest to it")
        equal((await piece(bytes_max, None, 9))[-1] if bytes_max < 800 else 8, 8, "before keeps the end nearest")
        equal((await piece(bytes_max, None, None))[-1], 10, "neither keeps the end of the log")


@check
async def what_does_not_exist_is_empty(backend: Backend) -> None:
    store = await backend.fresh()
    for after, before in [(None, None), (0, None), (None, 5)]:
        log = await store.read("alice:zoe", after=after, before=before, limit=5)
        equal(list(log), [], "an unknown conversation is empty")
    await fill(store, 2)
    heads = await store.heads(["alice:bob", "alice:zoe"])
    equal(heads, {"alice:bob": 2, "alice:zoe": 0}, "heads of a known and an unknown conversation")
    equal(await store.heads([]), {}, "heads of nothing")
    done = await store.commit([], [])
    equal((list(done.appended), list(done.grown)), ([], []), "an empty commit does nothing")


@check
async def a_commit_may_be_large(backend: Backend) -> None:
    store = await backend.fresh()
    peers = [f"peer{n:03}" for n in range(100)]
    drafts = [draft(n, conv=f"alice:{peers[n // 5]}") for n in range(500)]
    advances = [Advance(f"alice:{peer}", peer, "phone", 5, 3) for peer in peers]
    done = await store.commit(drafts, advances)
    equal([one.message.seq for one in stored(done.appended)], [1, 2, 3, 4, 5] * 100, "seqs of 500 drafts")
    equal([(g.user, g.delivered, g.read) for g in done.grown], [(p, 5, 3) for p in peers], "100 marks")
    heads = await store.heads([f"alice:{peer}" for peer in peers])
    equal(set(heads.values()), {5}, "heads of 100 conversations")
    done = await store.commit([draft(n, conv="bob:carol", sender="bob", body="x") for n in range(10_000)], [])
    equal([one.message.seq for one in stored(done.appended)], upto(1, 10_000), "seqs of 10,000 drafts")
