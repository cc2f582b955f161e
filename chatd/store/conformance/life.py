"""Opening, closing, and what is still there afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from chatd.errors import Unavailable
from chatd.model import Account, Device, Marks, Pushed, Subscription
from chatd.store.base import Store
from chatd.store.conformance.kit import (
    Backend,
    Skipped,
    advance,
    check,
    draft,
    equal,
    expect,
    fill,
    say,
    seqs,
    stored,
    upto,
    uuid,
)

ALICE = Account("alice", None, admin=False, disabled=False, created_ms=1_000)
PHONE = Device("alice", "phone", "", 1_000)
PUSH = Subscription("alice", "phone", "webpush", "https://push/1", {}, 1_000)
TOKEN, INVITE, USED = b"\0" * 31 + b"t", b"\0" * 31 + b"i", b"\0" * 31 + b"u"


async def reopened(backend: Backend, store: Store) -> Store:
    again = await backend.reopen(store)
    if again is None:
        raise Skipped("nothing of this backend survives a close")
    return again


@check
async def a_store_says_what_it_is(backend: Backend) -> None:
    store = await backend.fresh()
    expect(store.durability in ("replicated", "fsync", "os", "memory"), f"durability is {store.durability!r}")
    name = store.incarnation
    expect(name.isascii() and 1 <= len(name) <= 64, f"incarnation {name!r}: 1 to 64 ASCII characters")
    expect((await backend.fresh()).incarnation != name, "another history has another incarnation")
    await store.probe()


@check
async def a_closed_store_is_unavailable(backend: Backend) -> None:
    store = await backend.fresh()
    await fill(store, 1)
    await store.close()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "commit": lambda: store.commit([draft(2)], []),
        "commit of nothing": lambda: store.commit([], []),
        "erase": lambda: store.erase("alice"),
        "find": lambda: store.find("alice:bob", "alice", uuid(1)),
        "read": lambda: store.read("alice:bob", limit=1),
        "heads": lambda: store.heads(["alice:bob"]),
        "conversations": lambda: store.conversations("alice", "phone", limit=1),
        "position": lambda: store.position("alice:bob", "alice", "phone"),
        "marks": lambda: store.marks("alice:bob", "alice"),
        "enroll": lambda: store.enroll("alice", "phone", initial_history=1, newest_max=1),
        "block": lambda: store.block("alice", "bob", on=True),
        "blocks": lambda: store.blocks("alice"),
        "trim": lambda: store.trim(older_than_ms=1, limit=1),
        "probe": store.probe,
        "counts": store.counts,
        "add_account": lambda: store.add_account(ALICE),
        "account": lambda: store.account("alice"),
        "accounts": lambda: store.accounts(limit=1),
        "set_password": lambda: store.set_password("alice", "x"),
        "set_disabled": lambda: store.set_disabled("alice", True),
        "set_admin": lambda: store.set_admin("alice", True),
        "delete_account": lambda: store.delete_account("alice"),
        "put_device": lambda: store.put_device(PHONE, None),
        "identity": lambda: store.identity(TOKEN),
        "device": lambda: store.device("alice", "phone"),
        "devices": lambda: store.devices("alice"),
        "remove_device": lambda: store.remove_device("alice", "phone"),
        "add_invite": lambda: store.add_invite(INVITE, admin=False, expires_ms=1),
        "redeem_invite": lambda: store.redeem_invite(INVITE, ALICE, 0),
        "acquainted": lambda: store.acquainted("alice", ["bob"]),
        "seen": lambda: store.seen({"alice": 1}),
        "set_shows_last_seen": lambda: store.set_shows_last_seen("alice", False),
        "put_subscription": lambda: store.put_subscription(PUSH),
        "remove_subscription": lambda: store.remove_subscription("alice", "phone"),
        "subscriptions": lambda: store.subscriptions("alice", 0),
        "owed": lambda: store.owed("alice:bob", "alice"),
        "badge": lambda: store.badge("alice"),
        "pushed": lambda: store.pushed([Pushed("alice:bob", "bob", 1)]),
        "unpushed": lambda: store.unpushed(limit=1, newer_than_ms=0, every_user=True),
        "keep": lambda: store.keep("name", "value"),
    }
    for name, call in calls.items():
        try:
            await call()
        except Unavailable:
            continue
        raise AssertionError(f"{name} after close must raise Unavailable")


@check
async def calls_under_way_are_finished_by_close(backend: Backend) -> None:
    store = await backend.fresh()
    calls = [asyncio.ensure_future(store.commit([draft(n)], [])) for n in upto(1, 20)]
    await asyncio.sleep(0)  # all of them have begun
    await store.close()
    done = await asyncio.gather(*calls, return_exceptions=True)
    failed = [one for one in done if isinstance(one, BaseException)]
    equal(failed, [], "commits that began before close")
    store = await reopened(backend, store)
    log = await store.read("alice:bob", limit=50)
    equal(sorted(m.id for m in log), [uuid(n) for n in upto(1, 20)], "and all of them are stored")


@check
async def logs_survive_a_reopen(backend: Backend) -> None:
    store = await backend.fresh()
    name = store.incarnation
    messages = await say(store, draft(1, ts_ms=5_000), draft(2, sender="bob"), draft(3, body="🙂"))
    store = await reopened(backend, store)
    equal(store.incarnation, name, "the incarnation is the history's")
    equal(list(await store.read("alice:bob", limit=10)), messages, "the log")
    (repeat,) = stored((await store.commit([draft(1)], [])).appended)
    equal((repeat.message, repeat.duplicate), (messages[0], True), "a repeat gets the first answer, for ever")
    (new,) = await say(store, draft(4, ts_ms=10))
    equal((new.seq, new.ts_ms), (4, 5_000), "seq and ts go on where they were")
    store = await reopened(backend, store)
    equal(seqs(await store.read("alice:bob", limit=10)), upto(1, 4), "the log after two reopens")


@check
async def marks_survive_a_reopen(backend: Backend) -> None:
    store = await backend.fresh()
    await fill(store, 10)
    await store.enroll("bob", "tablet", initial_history=3, newest_max=5)
    await advance(store, 6, 2)
    await store.block("bob", "alice", on=True)
    await fill(store, 1, first=11)
    await advance(store, 8, 8)
    before = [await store.conversations(user, "tablet", limit=5) for user in ("alice", "bob")]
    store = await reopened(backend, store)
    after = [await store.conversations(user, "tablet", limit=5) for user in ("alice", "bob")]
    for one, other in zip(before, after, strict=True):
        equal(other.conversations, one.conversations, "the list of conversations")
    equal((await store.marks("alice:bob", "bob")).devices["phone"], Marks(8, 8), "a device's marks")
    equal((await store.marks("alice:bob", "alice")).peer, Marks(6, 2), "marks that a block froze")
    equal(list(await store.blocks("bob")), ["alice"], "a block")
    await store.enroll("bob", "tablet", initial_history=9, newest_max=5)
    equal(await store.position("alice:bob", "bob", "tablet"), 7, "a device stays enrolled")
    quiet = await store.conversations("bob", "phone", since=before[1].since, limit=5)
    equal(quiet.conversations, (), "a since from before the reopen: nothing changed")
    await fill(store, 1, conv="bob:carol", sender="carol")
    changed = await store.conversations("bob", "phone", since=before[1].since, limit=5)
    equal([view.conv for view in changed.conversations], ["bob:carol"], "and what changed after it")


@check
async def accounts_survive_a_reopen(backend: Backend) -> None:
    store = await backend.fresh()
    await store.add_account(ALICE)
    await store.add_account(Account("gone", "hash", admin=True, disabled=True, created_ms=1))
    await store.delete_account("gone")
    await store.put_device(PHONE, TOKEN)
    await store.add_invite(INVITE, admin=True, expires_ms=5_000)
    await store.add_invite(USED, admin=False, expires_ms=5_000)
    bob = Account("bob", "hash", admin=False, disabled=False, created_ms=2_000)
    await store.redeem_invite(USED, bob, 1_000)
    store = await reopened(backend, store)
    equal(list(await store.accounts(limit=10)), [ALICE, bob], "accounts")
    equal(await store.identity(TOKEN), (PHONE, ALICE), "a token")
    carol = Account("carol", None, admin=True, disabled=False, created_ms=3_000)
    equal(await store.redeem_invite(USED, carol, 1_000), None, "a used invite stays used")
    equal(await store.redeem_invite(INVITE, carol, 1_000), True, "an unused one stays good")
    expect(not await store.add_account(Account("gone", None, admin=False, disabled=False, created_ms=9)), "taken")
