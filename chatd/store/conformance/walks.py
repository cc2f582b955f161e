"""The walk over all that is owed or shown: each exactly once, whatever the size of its pages."""

from __future__ import annotations

from chatd.model import Account, Pushed, Unpushed
from chatd.store.base import Store
from chatd.store.conformance.kit import Backend, Skipped, advance, check, draft, equal, expect, fill, say
from chatd.store.conformance.push import subscribed

LIMITS = (1, 2, 3, 7, 10_000)


async def walk(store: Store, limit: int, *, newer_than_ms: int = 0, every_user: bool = True) -> list[Unpushed]:
    """All rows of a walk in pages of ``limit``, in order of conversation and user."""
    rows: list[Unpushed] = []
    cursor = None
    for _ in range(1_000):
        page = await store.unpushed(cursor=cursor, limit=limit, newer_than_ms=newer_than_ms, every_user=every_user)
        rows += page.rows
        cursor = page.cursor
        if cursor is None:
            return sorted(rows, key=lambda row: (row.conv, row.user))
    raise AssertionError(f"pages of {limit}: a walk has an end")


async def town(store: Store) -> list[Unpushed]:
    """Fill a store with every kind of conversation; the rows that a walk is to give."""
    for number, peer in enumerate(("ann", "ben", "cat", "dan", "eve", "fay", "gus", "hal", "ivy", "jim")):
        await fill(store, 4, first=1 + number * 10, conv=f"{peer}:zoe", sender=peer)
    await advance(store, 4, conv="ann:zoe", user="zoe")  # taken
    await store.pushed([Pushed("ben:zoe", "zoe", 4)])  # on the screen
    await store.pushed([Pushed("cat:zoe", "zoe", 2)])  # on the screen, and more is owed
    await store.pushed([Pushed("dan:zoe", "zoe", 3)])
    await advance(store, 4, 3, conv="dan:zoe", user="zoe")  # told and read
    await advance(store, 4, 2, conv="ivy:zoe", user="zoe")
    await store.pushed([Pushed("ivy:zoe", "zoe", 3)])  # on the screen, taken by another device and not read
    await fill(store, 1, first=100, conv="eve:zoe", sender="zoe")  # both are owed something
    await store.pushed([Pushed("fay:zoe", "zoe", 1)])
    await store.block("fay", "zoe", on=True)  # on the screen, and nothing is owed any more
    await store.block("zoe", "jim", on=True)
    await store.block("zoe", "gus", on=True)
    await fill(store, 2, first=101, conv="gus:zoe", sender="gus")  # hidden above what is visible
    await store.block("zoe", "gus", on=False)
    await store.block("zoe", "ken", on=True)
    await fill(store, 2, first=103, conv="ken:zoe", sender="ken")  # hidden, all of it
    await store.block("zoe", "ken", on=False)
    await fill(store, 2, first=110, conv="zoe:zoe", sender="zoe")
    return [
        Unpushed("ben:zoe", "zoe", 0, 4),
        Unpushed("cat:zoe", "zoe", 4, 2),
        Unpushed("eve:zoe", "eve", 5, 0),
        Unpushed("eve:zoe", "zoe", 4, 0),
        Unpushed("fay:zoe", "zoe", 0, 1),
        Unpushed("gus:zoe", "zoe", 4, 0),
        Unpushed("hal:zoe", "zoe", 4, 0),
        Unpushed("ivy:zoe", "zoe", 0, 3),
    ]


@check
async def a_walk_gives_each_owed_or_shown_one_once(backend: Backend) -> None:
    store = await backend.fresh()
    equal(await walk(store, 10), [], "a walk over nothing")
    want = await town(store)
    for limit in LIMITS:
        equal(await walk(store, limit), want, f"pages of {limit}: each owed or shown one exactly once")
    for row in want:
        owed = (await store.owed(row.conv, row.user)).newest
        equal(row.seq, owed.seq if owed else 0, f"{row.conv}: what is owed to {row.user}, as owed tells it")


@check
async def a_walk_may_have_empty_pages(backend: Backend) -> None:
    store = await backend.fresh()
    for number in range(6):
        await fill(store, 1, first=number, conv=f"peer{number}:zoe", sender="zoe")
        await advance(store, 1, conv=f"peer{number}:zoe", user=f"peer{number}")
    await fill(store, 1, first=9, conv="yan:zoe", sender="zoe")
    page = await store.unpushed(limit=1, newer_than_ms=0, every_user=True)
    equal(page.rows, (), "nothing is owed on this page")
    expect(page.cursor is not None, "but there is more")
    for limit in LIMITS:
        equal(await walk(store, limit), [Unpushed("yan:zoe", "yan", 1, 0)], f"pages of {limit}: behind empty ones")


@check
async def a_walk_leaves_old_conversations_out(backend: Backend) -> None:
    store = await backend.fresh()
    for number, (peer, ts_ms) in enumerate([("ann", 1_000), ("ben", 4_999), ("cat", 5_000), ("dan", 9_000)]):
        await say(store, *(draft(number * 10 + n, conv=f"{peer}:zoe", sender=peer, ts_ms=ts_ms) for n in (1, 2)))
    await say(store, draft(50, conv="hal:zoe", sender="hal", ts_ms=1_000))
    await say(store, draft(51, conv="hal:zoe", sender="zoe", ts_ms=9_000))
    await advance(store, 2, conv="hal:zoe", user="hal")
    await store.pushed([Pushed("ann:zoe", "zoe", 1)])
    shown = Unpushed("ann:zoe", "zoe", 2, 1)
    rest = [Unpushed("cat:zoe", "zoe", 2, 0), Unpushed("dan:zoe", "zoe", 2, 0), Unpushed("hal:zoe", "zoe", 1, 0)]
    for limit in LIMITS:
        got = await walk(store, limit, newer_than_ms=5_000)
        equal(got, [shown, *rest], f"pages of {limit}: its last message counts; one that is shown is never too old")
    equal(await walk(store, 3, newer_than_ms=9_001), [shown], "all are too old; what is shown is not left out")
    await advance(store, 2, 2, conv="ann:zoe", user="zoe")
    equal(await walk(store, 3, newer_than_ms=5_000), rest, "nothing is shown any more")


@check
async def a_walk_may_be_of_subscribers_only(backend: Backend) -> None:
    store = await backend.fresh()
    want = await town(store)
    await subscribed(store, "eve", "hal")
    for limit in LIMITS:
        got = await walk(store, limit, every_user=False)
        equal(got, [row for row in want if row.user == "eve"], f"pages of {limit}: who has a subscription")
        equal(await walk(store, limit), want, f"pages of {limit}: every user")
    await subscribed(store, "zoe")
    equal(await walk(store, 3, every_user=False), want, "all of them have one")
    await store.remove_subscription("zoe", "phone")
    await store.remove_device("eve", "phone")
    equal(await walk(store, 3, every_user=False), [], "a subscription was removed, a device was")
    await store.add_account(Account("eve", None, admin=False, disabled=False, created_ms=1))
    await subscribed(store, "eve")
    equal(len(await walk(store, 3, every_user=False)), 1, "there is one again")
    await store.delete_account("eve")
    equal(await walk(store, 3, every_user=False), [], "an account was deleted")


@check
async def a_walk_misses_nobody_who_did_not_change(backend: Backend) -> None:
    store = await backend.fresh()
    want = await town(store)
    got: list[Unpushed] = []
    cursor = None
    for number in range(200, 300):
        page = await store.unpushed(cursor=cursor, limit=2, newer_than_ms=0, every_user=True)
        got += page.rows
        cursor = page.cursor
        if cursor is None:
            break
        await fill(store, 1, first=number, conv="hal:zoe", sender="hal")
        await fill(store, 1, first=number, conv=f"aaa{number}:zoe", sender="zoe")
        await store.pushed([Pushed("cat:zoe", "zoe", 4)])
        await advance(store, 9, 9, conv="cat:zoe", user="zoe")
    calm = {row.conv for row in want} - {"hal:zoe", "cat:zoe"}
    rows = sorted((row for row in got if row.conv in calm), key=lambda row: (row.conv, row.user))
    equal(rows, [row for row in want if row.conv in calm], "the others change meanwhile: each exactly once")


@check
async def a_walk_is_the_same_after_a_reopen(backend: Backend) -> None:
    store = await backend.fresh()
    want = await town(store)
    await subscribed(store, "zoe")
    again = await backend.reopen(store)
    if again is None:
        raise Skipped("nothing of this backend survives a close")
    for limit in LIMITS:
        equal(await walk(again, limit), want, f"pages of {limit}: all of it is still there")
    got = await walk(again, 3, every_user=False)
    equal(got, [row for row in want if row.user == "zoe"], "and who has a subscription")
