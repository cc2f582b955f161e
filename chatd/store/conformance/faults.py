"""Faults of the engine: what a failed commit may leave behind. The backend has to make them happen."""

from __future__ import annotations

from chatd.errors import OutcomeUnknown, Unavailable
from chatd.model import Advance, Marks
from chatd.store.base import Store
from chatd.store.conformance.kit import (
    Backend,
    Fault,
    Skipped,
    check,
    draft,
    equal,
    fill,
    present,
    seqs,
    stored,
    upto,
    uuid,
)

ADVANCES = [Advance("alice:bob", "bob", "phone", 2, 1)]


async def broken(backend: Backend, fault: Fault) -> Store:
    """A store with one message whose next commit fails."""
    store = await backend.fresh()
    await fill(store, 1)
    if not await backend.break_next(store, fault):
        raise Skipped(f"this backend cannot make a commit end in {fault!r}")
    return store


@check
async def gone_stores_nothing(backend: Backend) -> None:
    store = await broken(backend, "gone")
    drafts = [draft(2), draft(3, conv="alice:carol")]
    try:
        await store.commit(drafts, ADVANCES)
    except Unavailable:
        pass
    else:
        raise AssertionError("a commit while the engine is gone must raise Unavailable")
    equal(await store.heads(["alice:bob", "alice:carol"]), {"alice:bob": 1, "alice:carol": 0}, "nothing stored")
    equal((await store.marks("alice:bob", "alice")).peer, Marks(), "no mark raised")
    equal(await store.find("alice:bob", "alice", uuid(2)), None, "not found by its id")
    done = await store.commit(drafts, ADVANCES)
    equal([one.message.seq for one in stored(done.appended)], [2, 1], "the same call works later, without a gap")
    equal([one.duplicate for one in stored(done.appended)], [False, False], "and stores for the first time")
    equal((done.grown[0].delivered, done.grown[0].read), (2, 1), "and raises the marks")


@check
async def an_unknown_outcome_can_be_found_out(backend: Backend) -> None:
    store = await broken(backend, "unknown")
    drafts = [draft(2), draft(3)]
    try:
        await store.commit(drafts, ADVANCES)
    except OutcomeUnknown:
        pass
    else:
        raise AssertionError("a commit whose answer is lost must raise OutcomeUnknown")
    found = [await store.find("alice:bob", "alice", uuid(n)) for n in (2, 3)]
    landed = found[0] is not None
    equal(found[1] is not None, landed, "all of a commit is stored or none: find of both drafts agrees")
    equal(seqs(await store.read("alice:bob", limit=9)), upto(1, 3 if landed else 1), "find and the log agree")
    again = stored((await store.commit(drafts, ADVANCES)).appended)
    equal([one.duplicate for one in again], [landed, landed], "a repeat is a duplicate if find found it")
    if landed:
        equal(again[0].message, present(found[0], "draft 2"), "with the first seq and ts")
    log = await store.read("alice:bob", limit=9)
    equal([(m.seq, m.id) for m in log], [(n, uuid(n)) for n in (1, 2, 3)], "a repeat stores exactly once")
    equal((await store.marks("alice:bob", "alice")).peer, Marks(2, 1), "the marks are raised")
