"""Marks and positions: maxima, bounds, receipts, and where a device's log starts."""

from __future__ import annotations

import asyncio

from chatd.model import Advance, Grown, Marks
from chatd.store.conformance.kit import Backend, advance, check, draft, equal, expect, fill

CONV = "alice:bob"


@check
async def marks_only_grow(backend: Backend) -> None:
    store = await backend.fresh()
    await fill(store, 10)
    for delivered, read, want, grew in [
        (4, 0, Marks(4, 0), True),
        (4, 0, Marks(4, 0), False),
        (2, 0, Marks(4, 0), False),
        (0, 6, Marks(6, 6), True),  # read implies delivered
        (7, 3, Marks(7, 6), True),
        (1, 1, Marks(7, 6), False),
        (50, 8, Marks(10, 8), True),  # the head is the bound
        (50, 50, Marks(10, 10), True),
        (60, 60, Marks(10, 10), False),
    ]:
        got = await advance(store, delivered, read)
        what = f"advance to delivered={delivered} read={read}"
        equal(got, Grown(CONV, "bob", want.delivered, want.read, grew), what)
        view = await store.marks(CONV, "bob")
        equal(view.devices, {"phone": want}, f"{what}: the device's marks")


@check
async def a_users_mark_is_the_maximum_over_devices(backend: Backend) -> None:
    store = await backend.fresh()
    await fill(store, 10)
    await advance(store, 8, 2, device="phone")
    for delivered, read, device, want in [
        (5, 0, "tablet", (8, 2, False)),
        (5, 4, "tablet", (8, 4, True)),
        (9, 0, "laptop", (9, 4, True)),
        (9, 3, "phone", (9, 4, False)),
    ]:
        got = await advance(store, delivered, read, device=device)
        what = f"{device} to delivered={delivered} read={read}: (delivered, read, grew) of the user"
        equal((got.delivered, got.read, got.grew), want, what)
    mine, theirs = await store.marks(CONV, "bob"), await store.marks(CONV, "alice")
    want_devices = {"phone": Marks(9, 3), "tablet": Marks(5, 4), "laptop": Marks(9, 0)}
    equal(mine.devices, want_devices, "each device has its own marks")
    equal((mine.head, mine.peer), (10, Marks()), "the peer did not read anything")
    equal((theirs.devices, theirs.peer), ({}, Marks(9, 4)), "the peer sees the user's marks, not the devices")


@check
async def grown_has_an_entry_for_each_user_and_conversation(backend: Backend) -> None:
    store = await backend.fresh()
    await fill(store, 5)
    await fill(store, 5, conv="bob:carol", sender="bob")
    done = await store.commit(
        [],
        [
            Advance("bob:carol", "carol", "phone", 2),
            Advance(CONV, "bob", "phone", 3),
            Advance("bob:carol", "carol", "phone", 4, 1),
            Advance(CONV, "alice", "phone", 0),
            Advance(CONV, "bob", "tablet", 2, 2),
            Advance("bob:carol", "carol", "phone", 1),
        ],
    )
    want = [
        Grown("bob:carol", "carol", 4, 1, grew=True),
        Grown(CONV, "bob", 3, 2, grew=True),
        Grown(CONV, "alice", 0, 0, grew=False),
    ]
    equal(list(done.grown), want, "grown: each (conv, user) once, in order of first appearance, after the call")
    equal(list(done.appended), [], "no drafts, nothing in appended")


@check
async def marks_may_reach_the_drafts_of_their_call(backend: Backend) -> None:
    store = await backend.fresh()
    drafts = [draft(1), draft(2)]
    done = await store.commit(drafts, [Advance(CONV, "alice", "phone", 2, 2)])
    equal(list(done.grown), [Grown(CONV, "alice", 2, 2, grew=True)], "the bound is the head after the drafts")
    done = await store.commit([draft(1)], [Advance(CONV, "alice", "phone", 9, 9)])
    equal(list(done.grown), [Grown(CONV, "alice", 2, 2, grew=False)], "a duplicate does not raise the head")


@check
async def marks_without_messages_do_nothing(backend: Backend) -> None:
    store = await backend.fresh()
    equal(await advance(store, 5, 5), Grown(CONV, "bob", 0, 0, grew=False), "no message: no mark")
    equal((await store.marks(CONV, "bob")).peer, Marks(), "marks of a conversation without messages")
    equal((await store.counts()).conversations, 0, "an advance makes no conversation")
    await fill(store, 3)
    equal(await advance(store, 0), Grown(CONV, "bob", 0, 0, grew=False), "the early mark left no trace")
    equal(await store.position(CONV, "bob", "phone"), 0, "nor a position")


@check
async def marks_that_race_end_at_their_maximum(backend: Backend) -> None:
    store = await backend.fresh()
    await fill(store, 40)
    order = [n * 7 % 41 for n in range(1, 41)]  # 1 … 40, shuffled
    grown = await asyncio.gather(*(advance(store, n, n // 2) for n in order))
    view = await store.marks(CONV, "bob")
    equal(view.devices, {"phone": Marks(40, 20)}, "forty advances at once end at the largest")
    for want, got in zip(order, grown, strict=True):
        expect(got.delivered >= want, f"an advance to {want} returned {got.delivered}: less than it asked for")


@check
async def position_is_what_a_device_holds(backend: Backend) -> None:
    store = await backend.fresh()
    await fill(store, 10)
    equal(await store.position(CONV, "bob", "phone"), 0, "position of a device that never told")
    await advance(store, 4)
    equal(await store.position(CONV, "bob", "phone"), 4, "position after an ack")
    await advance(store, 2)
    equal(await store.position(CONV, "bob", "phone"), 4, "position after an older ack")
    await advance(store, 0, 6)
    equal(await store.position(CONV, "bob", "phone"), 6, "position after a read")
    equal(await store.position(CONV, "bob", "tablet"), 0, "position of the other device")
    equal(await store.position(CONV, "alice", "phone"), 0, "position of the peer's device of the same name")
    equal(await store.position("alice:zoe", "alice", "phone"), 0, "position in an unknown conversation")


@check
async def a_new_device_starts_near_the_head(backend: Backend) -> None:
    store = await backend.fresh()
    for number, peer in enumerate(["carol", "dave", "erin"]):
        await fill(store, 10, first=1 + number * 10, conv=f"bob:{peer}", sender="bob")
    await fill(store, 2, first=31, conv="alice:bob")
    await store.enroll("bob", "phone", initial_history=4, newest_max=2)

    async def starts(device: str) -> list[int]:
        return [
            await store.position(conv, "bob", device) for conv in ("alice:bob", "bob:erin", "bob:dave", "bob:carol")
        ]

    equal(await starts("phone"), [0, 6, 10, 10], "two newest start at max(0, head - 4), others at the head")
    equal(await starts("tablet"), [0, 0, 0, 0], "another device is not enrolled")
    equal((await store.marks("bob:erin", "bob")).devices.get("phone", Marks()), Marks(), "marks are not touched")
    await fill(store, 10, first=41, conv="bob:erin", sender="bob")
    await fill(store, 3, first=51, conv="bob:zoe", sender="bob")
    equal(await store.position("bob:zoe", "bob", "phone"), 0, "a conversation that begins later starts at 0")
    await store.enroll("bob", "phone", initial_history=1, newest_max=100)
    equal(await starts("phone"), [0, 6, 10, 10], "an enrolled device keeps its positions")
    await advance(store, 8, conv="bob:erin")
    equal(await starts("phone"), [0, 8, 10, 10], "and its acks move them on")


@check
async def a_device_may_start_again(backend: Backend) -> None:
    store = await backend.fresh()
    await fill(store, 10)
    await store.enroll("bob", "phone", initial_history=3, newest_max=10)
    await advance(store, 10, 9)
    await store.enroll("bob", "phone", initial_history=5, newest_max=10)
    equal(await store.position(CONV, "bob", "phone"), 10, "not again: the position stays")
    await store.enroll("bob", "phone", initial_history=5, newest_max=10, again=True)
    equal(await store.position(CONV, "bob", "phone"), 5, "again: the start, below the delivered mark")
    equal((await store.marks(CONV, "bob")).devices, {"phone": Marks(10, 9)}, "again: the marks stay")
    page = await store.conversations("bob", "phone", limit=10)
    equal([v.position for v in page.conversations], [5], "the list shows the same position")
    await advance(store, 8)
    equal(await store.position(CONV, "bob", "phone"), 8, "an ack moves on from the new start")
    equal((await store.marks(CONV, "bob")).devices, {"phone": Marks(10, 9)}, "and the marks still stay")
