"""Erasing a user: all that it wrote goes for ever, and nothing that hangs on the numbers moves."""

from __future__ import annotations

import asyncio

from chatd.errors import IdReuse
from chatd.model import Account, Device, Message, Subscription
from chatd.store.base import Store
from chatd.store.conformance.kit import (
    Backend,
    advance,
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
from chatd.store.conformance.life import reopened

CONV = "alice:bob"
TOKEN = b"\1" * 32
STEPS_MAX = 1_000


async def erase(store: Store, user: str) -> int:
    """A whole walk. Returns: of how many messages it took the bodies."""
    count, cursor = 0, None
    for _ in range(STEPS_MAX):
        step = present(await store.erase(user, cursor=cursor), f"erase of {user}")
        count, cursor = count + step.messages, step.cursor
        if cursor is None:
            return count
    raise AssertionError("a walk that erases does not come to its end")


async def accounts(store: Store, *users: str) -> None:
    """Make users."""
    for user in users:
        await store.add_account(Account(user, f"hash of {user}", admin=False, disabled=False, created_ms=1))


async def whole(store: Store, conv: str = CONV) -> list[Message]:
    """A whole log."""
    log: list[Message] = []
    while page := await store.read(conv, after=log[-1].seq if log else 0, limit=500):
        log += page
    return log


@check
async def erased_messages_leave_their_places(backend: Backend) -> None:
    store = await backend.fresh()
    await accounts(store, "alice", "bob")
    await say(store, *(draft(n, sender=("alice", "bob")[n % 2], ts_ms=n * 1_000) for n in upto(1, 8)))
    await fill(store, 1, first=9, conv="alice:alice")
    await fill(store, 2, first=10, conv="bob:carol", sender="carol")
    await advance(store, 5, 2)
    before = await whole(store)
    page = await store.conversations("bob", "phone", limit=10)
    equal(await erase(store, "alice"), 5, "messages that alice wrote")
    log = await whole(store)
    equal([(m.seq, m.ts_ms) for m in log], [(m.seq, m.ts_ms) for m in before], "seqs and times stay")
    equal([m.erased for m in log], [m.sender == "alice" for m in before], "all of alice's are erased, none of bob's")
    equal({m.body for m in log if m.erased}, {""}, "what an erased message says")
    equal([m for m in log if not m.erased], [m for m in before if m.sender == "bob"], "bob's stay as they were")
    equal([m.body for m in await whole(store, "alice:alice")], [""], "notes to self")
    equal(seqs(await store.read(CONV, before=5, limit=2)), [3, 4], "a piece of the log")
    equal([m.erased for m in await whole(store, "bob:carol")], [False, False], "a conversation of others")
    equal(await store.heads([CONV]), {CONV: 8}, "the head stays")
    marks = (await store.marks(CONV, "bob")).devices["phone"]
    equal((marks.delivered, marks.read), (5, 2), "marks stay")
    again = await store.conversations("bob", "phone", limit=10)
    equal([v.conv for v in again.conversations], [v.conv for v in page.conversations], "the listing keeps its order")
    view = next(v for v in again.conversations if v.conv == CONV)
    expect(present(view.last, "the last message of the listing").erased, "the last message of the listing is a place")
    found = present(await store.find(CONV, "alice", uuid(2)), "find of an erased message")
    equal((found.seq, found.body, found.erased), (2, "", True), "find of an erased message")
    results = (await store.commit([draft(2), draft(2, body=""), draft(20, sender="bob")], [])).appended
    expect(isinstance(results[0], IdReuse) and isinstance(results[1], IdReuse), "a repeat of an erased message")
    equal([one.message.seq for one in stored(results[2:])], [9], "the next seq")


@check
async def what_is_erased_is_neither_unread_nor_owed(backend: Backend) -> None:
    store = await backend.fresh()
    await accounts(store, "alice", "bob")
    await fill(store, 3)
    await store.block("bob", "alice", on=True)
    await fill(store, 2, first=4)
    await store.block("bob", "alice", on=False)
    await fill(store, 2, first=6)
    await fill(store, 2, first=50, conv="bob:carol", sender="carol")
    await advance(store, 0, 1, device="laptop")

    async def unread(want: int, newest: int | None, others: int = 2) -> None:
        page = await store.conversations("bob", "phone", limit=10)
        owed = await store.owed(CONV, "bob")
        counts = ({v.conv: v.unread for v in page.conversations}[CONV], owed.unread)
        equal(counts, (want, want), "unread in the listing and for a push")
        equal((owed.badge, await store.badge("bob")), (want + others,) * 2, "unread in all")
        equal(owed.newest.seq if owed.newest else None, newest, "the message that is owed")
        walk = await store.unpushed(limit=10, newer_than_ms=0, every_user=True)
        rows = [r.seq for r in walk.rows if (r.conv, r.user) == (CONV, "bob")]
        equal(rows, [newest] if newest else [], "the walk over what is owed")

    await unread(4, 7)
    equal(await erase(store, "alice"), 7, "also what was hidden")
    await unread(0, None)
    equal(await store.badge("alice"), 0, "nothing is unread for who was erased")
    await store.trim(older_than_ms=10_000, limit=100)
    equal(await erase(store, "alice"), 0, "what was trimmed is gone already")
    await say(store, draft(60, sender="alice", ts_ms=20_000))
    await unread(1, 8, others=0)  # it was on its way
    equal(await erase(store, "alice"), 1, "what came later")
    await unread(0, None, others=0)


@check
async def an_erased_user_is_gone(backend: Backend) -> None:
    store = await backend.fresh()
    await accounts(store, "alice", "bob", "carol")
    await fill(store, 1)
    await store.put_device(Device("alice", "phone", "", 1), TOKEN)
    await store.put_subscription(Subscription("alice", "phone", "webpush", "https://push/1", {}, 1))
    await store.block("alice", "bob", on=True)
    await store.block("carol", "alice", on=True)
    await store.enroll("alice", "phone", initial_history=5, newest_max=10)
    equal(await store.erase("nobody"), None, "erase of a name that nobody had")
    await erase(store, "alice")
    equal(await store.account("alice"), None, "the account")
    equal([one.user for one in await store.accounts(limit=10)], ["bob", "carol"], "the listing of accounts")
    equal(await store.identity(TOKEN), None, "the token")
    equal(list(await store.devices("alice")), [], "the devices")
    equal(list(await store.subscriptions("alice", 2)), [], "the subscriptions")
    equal(list(await store.blocks("alice")), [], "the user's blocks")
    equal(list(await store.blocks("carol")), ["alice"], "others' blocks stay")
    expect(
        not await store.add_account(Account("alice", None, admin=False, disabled=False, created_ms=2)),
        "the name stays taken",
    )
    equal(await erase(store, "alice"), 0, "the same again")
    await fill(store, 1, first=70, conv="bob:carol", sender="bob")
    await store.delete_account("bob")
    equal(await erase(store, "bob"), 1, "a user that was deleted before")
    equal((await store.counts()).messages, 2, "counts are of all that were ever stored")


@check
async def erasing_goes_on_where_it_was_left(backend: Backend) -> None:
    store = await backend.fresh()
    await accounts(store, "alice", "bob")
    for first in range(0, 2_400, 400):
        drafts = [draft(n, sender=("alice", "bob")[n % 3 == 0], ts_ms=n) for n in upto(first + 1, first + 400)]
        await say(store, *drafts)
    await fill(store, 3, first=5_000, conv="alice:zoe")
    step = present(await store.erase("alice"), "the first step")
    expect(step.cursor is not None and step.messages < 1_600, "a step is bounded")
    await store.trim(older_than_ms=100, limit=10)  # somebody else goes on meanwhile
    await say(store, draft(6_000, sender="bob", ts_ms=9_000))
    await asyncio.gather(erase(store, "alice"), erase(store, "bob"), erase(store, "alice"))
    log = await whole(store)
    equal(seqs(log), upto(99, 2_401), "the log has no hole, and its beginning is the place of what was trimmed")
    equal([m.seq for m in log[1:] if not m.erased], [], "everything of both is erased")
    equal((await erase(store, "alice"), await erase(store, "bob")), (0, 0), "nothing is left")
    equal({m.body for m in await whole(store, "alice:zoe")}, {""}, "a later conversation")
    page = await store.conversations("bob", "phone", limit=10)
    equal([v.unread for v in page.conversations], [0], "unread afterwards")


@check
async def erasures_survive_a_reopen(backend: Backend) -> None:
    store = await backend.fresh()
    await accounts(store, "alice", "bob")
    await fill(store, 3)
    await erase(store, "alice")
    store = await reopened(backend, store)
    equal([(m.body, m.erased) for m in await whole(store)], [("", True)] * 3, "erased messages")
    equal(await store.account("alice"), None, "the account")
