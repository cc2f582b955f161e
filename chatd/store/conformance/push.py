"""Push: subscriptions, and what a user is owed of a conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from chatd.model import Account, Device, Owed, Pushed, Subscription
from chatd.store.base import Store
from chatd.store.conformance.kit import Backend, Skipped, advance, check, draft, equal, expect, fill, say

CONV = "alice:bob"


def subscription(user: str, device: str, number: int = 1) -> Subscription:
    return Subscription(user, device, "webpush", f"https://push/{number}", {"auth": "ä☎", "p256dh": "="}, number)


async def subscribed(store: Store, *users: str) -> None:
    """Give each of these users a phone with a subscription."""
    for user in users:
        await store.put_device(Device(user, "phone", "", 1_000), None)
        expect(await store.put_subscription(subscription(user, "phone")), f"a subscription of {user}")


async def newest(store: Store, user: str = "bob", conv: str = CONV) -> int:
    """The seq of the message that the user is owed, 0 for none."""
    message = (await store.owed(conv, user)).newest
    return 0 if message is None else message.seq


# --- subscriptions -------------------------------------------------------------------------------------------


@check
async def a_device_has_one_subscription(backend: Backend) -> None:
    store = await backend.fresh()
    first, other = subscription("bob", "phone"), subscription("bob", "desk", 2)
    expect(not await store.put_subscription(first), "no such device")
    equal(list(await store.subscriptions("bob", 0)), [], "nothing was stored for no device")
    for user, device in (("bob", "phone"), ("bob", "desk"), ("alice", "phone")):
        await store.put_device(Device(user, device, "", 1_000), f"{user} {device}".ljust(32).encode())
    for one in (first, other, subscription("alice", "phone", 3)):
        expect(await store.put_subscription(one), f"a subscription of {one.user}'s {one.device}")
    equal(list(await store.subscriptions("bob", 5_000)), [other, first], "the user's, by device, as they were given")
    newer = Subscription("bob", "phone", "ntfy", "https://ntfy/topic", {}, 9_000)
    expect(await store.put_subscription(newer), "another one for the same device")
    equal(list(await store.subscriptions("bob", 5_000)), [other, newer], "takes the place of the older one")
    await store.put_device(Device("bob", "phone", "", 1_000), b"\0" * 32)
    equal(list(await store.subscriptions("bob", 5_000)), [other, newer], "a new token leaves it as it is")
    equal(list(await store.subscriptions("nobody", 5_000)), [], "a user without any")


@check
async def a_subscription_is_removed_by_its_endpoint(backend: Backend) -> None:
    store = await backend.fresh()
    await subscribed(store, "alice", "bob")
    expect(not await store.remove_subscription("bob", "phone", "https://push/9"), "it has another endpoint by now")
    equal(len(await store.subscriptions("bob", 0)), 1, "it is still there")
    expect(await store.remove_subscription("bob", "phone", "https://push/1"), "removed by its endpoint")
    expect(not await store.remove_subscription("bob", "phone", "https://push/1"), "once")
    expect(not await store.remove_subscription("bob", "phone"), "there is none")
    expect(not await store.remove_subscription("bob", "desk"), "no such device")
    equal(list(await store.subscriptions("bob", 0)), [], "it is gone")
    await subscribed(store, "bob")
    expect(await store.remove_subscription("bob", "phone"), "removed, whatever its endpoint")
    equal(list(await store.subscriptions("bob", 0)), [], "it is gone again")
    expect(await store.device("bob", "phone") is not None, "the device is not")
    equal(len(await store.subscriptions("alice", 0)), 1, "nor is another user's of the same endpoint")


@check
async def a_subscription_goes_with_its_device(backend: Backend) -> None:
    store = await backend.fresh()
    await store.add_account(Account("bob", None, admin=False, disabled=False, created_ms=1))
    await subscribed(store, "alice", "bob")
    await store.remove_device("bob", "phone")
    equal(list(await store.subscriptions("bob", 0)), [], "a revoked device")
    expect(not await store.remove_subscription("bob", "phone"), "there is none to remove")
    await store.put_device(Device("bob", "phone", "", 1_000), None)
    equal(list(await store.subscriptions("bob", 0)), [], "a new device of the same name")
    await subscribed(store, "bob")
    await store.delete_account("bob")
    equal(list(await store.subscriptions("bob", 0)), [], "a deleted account")
    expect(not await store.put_subscription(subscription("bob", "phone")), "its devices are gone")
    equal(len(await store.subscriptions("alice", 0)), 1, "another user's device of the same name")


@check
async def who_cannot_log_in_is_not_told(backend: Backend) -> None:
    store = await backend.fresh()
    await store.add_account(Account("bob", None, admin=False, disabled=False, created_ms=1))
    await subscribed(store, "bob")
    await store.put_device(Device("bob", "desk", "", 1_000, expires_ms=9_000), b"\0" * 32)
    await store.put_subscription(subscription("bob", "desk", 2))

    async def told(now_ms: int) -> list[str]:
        return [one.device for one in await store.subscriptions("bob", now_ms)]

    equal((await told(8_999), await told(9_001)), (["desk", "phone"], ["phone"]), "until a device expires")
    await store.put_device(Device("bob", "desk", "", 1_000, expires_ms=99_000), b"\1" * 32)
    equal(await told(9_001), ["desk", "phone"], "and again when it has a new token")
    await store.set_disabled("bob", True)
    equal(await told(0), [], "none while the account is disabled")
    await store.set_disabled("bob", False)
    equal(await told(0), ["desk", "phone"], "and again when it is enabled")


# --- what is owed --------------------------------------------------------------------------------------------


@check
async def what_no_device_took_is_owed(backend: Backend) -> None:
    store = await backend.fresh()
    first, second = await say(store, draft(1, ts_ms=5_000), draft(2, body="🙂 two"))
    equal(await store.owed(CONV, "bob"), Owed(second, 2, 2), "the newest message, and how many are unread")
    equal(await store.owed(CONV, "alice"), Owed(None, 0, 0), "nothing is owed to the sender")
    await advance(store, 1)
    equal(await store.owed(CONV, "bob"), Owed(second, 2, 2), "one of two was delivered")
    await advance(store, 2, 1, device="desk")
    equal(await store.owed(CONV, "bob"), Owed(None, 1, 1), "any device that took it ends it; unread goes on")
    (third,) = await say(store, draft(3))
    equal(await store.owed(CONV, "bob"), Owed(third, 2, 2), "a later message is owed again")
    await advance(store, 0, 3)
    equal(await store.owed(CONV, "bob"), Owed(None, 0, 0), "reading ends it, too")
    equal(first.seq, 1, "seqs")


@check
async def what_was_pushed_is_not_owed(backend: Backend) -> None:
    store = await backend.fresh()
    (_, second) = await say(store, draft(1), draft(2))
    await store.pushed([Pushed(CONV, "bob", 1)])
    equal(await store.owed(CONV, "bob"), Owed(second, 2, 2), "told of the first of two")
    await store.pushed([Pushed(CONV, "bob", 2)])
    equal(await store.owed(CONV, "bob"), Owed(None, 2, 2), "told of all; it is still unread")
    (third,) = await say(store, draft(3))
    equal(await store.owed(CONV, "bob"), Owed(third, 3, 3), "a later message is owed again")
    equal((await store.marks(CONV, "bob")).devices, {}, "a push is no mark of a device")


@check
async def pushed_marks_are_maxima(backend: Backend) -> None:
    store = await backend.fresh()
    await store.pushed([])
    await store.pushed([Pushed(CONV, "bob", 5), Pushed("alice:zoe", "zoe", 1)])
    await fill(store, 3)
    equal(await newest(store), 3, "without messages it does nothing")
    await store.pushed([Pushed(CONV, "bob", 3), Pushed(CONV, "bob", 1)])
    await store.pushed([Pushed(CONV, "bob", 2)])
    equal(await newest(store), 0, "a lower one changes nothing")
    await store.pushed([Pushed(CONV, "bob", 99)])
    await fill(store, 1, first=4)
    equal(await newest(store), 4, "the head is the bound")
    await fill(store, 1, first=5, sender="bob")
    await store.pushed([Pushed(CONV, "bob", 5)])
    equal((await newest(store), await newest(store, "alice")), (0, 5), "each user has an own one")
    await fill(store, 40, first=6)
    await asyncio.gather(*(store.pushed([Pushed(CONV, "bob", 5 + n * 7 % 41)]) for n in range(1, 41)))
    equal(await newest(store), 0, "forty at once end at the largest")
    await fill(store, 1, first=50)
    await store.pushed([Pushed(CONV if n % 3 else "bob:zoe", "bob", n) for n in range(10_000)])
    equal(await newest(store), 0, "ten thousand in a call")


@check
async def the_peers_newest_message_is_owed(backend: Backend) -> None:
    store = await backend.fresh()
    messages = await say(store, draft(1), draft(2), draft(3, sender="bob"), draft(4, sender="bob"))
    equal(await store.owed(CONV, "bob"), Owed(messages[1], 0, 0), "the peer's newest, below an own message")
    equal(await store.owed(CONV, "alice"), Owed(messages[3], 2, 2), "and the other way")
    await advance(store, 2)
    equal((await newest(store), await newest(store, "alice")), (0, 4), "only own messages are above the mark")
    await fill(store, 2, conv="bob:bob", sender="bob")
    equal(await store.owed("bob:bob", "bob"), Owed(None, 0, 0), "nothing is owed in notes to self")
    equal(await store.owed("bob:zoe", "bob"), Owed(None, 0, 0), "nor in an unknown conversation")
    equal(await store.owed("nobody:zoe", "zoe"), Owed(None, 0, 0), "nor to an unknown user")


@check
async def hidden_messages_are_never_owed(backend: Backend) -> None:
    store = await backend.fresh()
    (first,) = await say(store, draft(1))
    await store.block("bob", "alice", on=True)
    await fill(store, 2, first=2)
    await store.block("bob", "alice", on=False)
    equal(await store.owed(CONV, "bob"), Owed(first, 1, 1), "the newest visible one, below what is hidden")
    await store.pushed([Pushed(CONV, "bob", 1)])
    equal(await store.owed(CONV, "bob"), Owed(None, 1, 1), "what is hidden is not owed")
    (fourth,) = await say(store, draft(4))
    equal(await store.owed(CONV, "bob"), Owed(fourth, 2, 2), "a visible one above it is")
    await store.block("alice", "bob", on=True)
    await fill(store, 2, first=5, sender="bob")  # hidden from alice, and bob's own
    await store.block("alice", "bob", on=False)
    equal(await store.owed(CONV, "bob"), Owed(fourth, 0, 0), "own messages that are hidden from the other one")
    equal(await store.owed(CONV, "alice"), Owed(None, 0, 0), "which are not owed to that one")
    await advance(store, 4)
    equal(await newest(store), 0, "delivered: only what is hidden and the own is left")


@check
async def a_block_of_either_stops_what_was_owed(backend: Backend) -> None:
    store = await backend.fresh()
    await fill(store, 2)
    for blocker, blocked in (("bob", "alice"), ("alice", "bob")):
        await store.block(blocker, blocked, on=True)
        equal(await store.owed(CONV, "bob"), Owed(None, 2, 2), f"{blocker} blocks {blocked}: nothing is owed")
        await store.block(blocker, blocked, on=False)
        equal(await newest(store), 2, f"{blocker} unblocks {blocked}: undelivered is owed again")
    await store.block("alice", "bob", on=True)
    await store.block("bob", "alice", on=True)
    await store.block("alice", "bob", on=False)
    equal(await newest(store), 0, "one block of two is left")
    await advance(store, 2)
    await store.block("bob", "alice", on=False)
    equal(await newest(store), 0, "what was delivered meanwhile is not owed")


# --- how many are unread -------------------------------------------------------------------------------------


@check
async def the_badge_is_all_that_is_unread(backend: Backend) -> None:
    store = await backend.fresh()
    equal(await store.badge("bob"), 0, "no conversations")
    await fill(store, 3)
    await fill(store, 2, first=4, conv="bob:carol", sender="carol")
    await fill(store, 2, first=6, conv="bob:dave", sender="bob")
    await fill(store, 4, first=8, conv="bob:bob", sender="bob")
    await fill(store, 9, first=12, conv="alice:carol")
    got = [await store.badge(user) for user in ("bob", "alice", "carol", "dave")]
    equal(got, [5, 0, 9, 2], "unread of all conversations; neither own messages nor notes to self")
    await advance(store, 3, 1)
    await advance(store, 1, 1, device="desk")
    await advance(store, 3, 3, user="alice")
    await advance(store, 2, 0, conv="bob:carol")
    equal(await store.badge("bob"), 4, "what one device read is read; what was delivered, or the peer read, is not")
    await store.block("bob", "carol", on=True)
    await fill(store, 5, first=21, conv="bob:carol", sender="carol")
    equal(await store.badge("bob"), 4, "a blocked peer's later messages are not counted, the earlier ones are")
    await store.block("bob", "carol", on=False)
    await fill(store, 1, first=26, conv="bob:carol", sender="carol")
    equal(await store.badge("bob"), 5, "what is hidden stays so, what comes later counts")
    await fill(store, 1, first=27, conv="bob:carol", sender="bob")
    equal(await store.badge("bob"), 2, "an own message is a sign of reading")
    await store.block("bob", "carol", on=True)
    await fill(store, 1, first=28, conv="bob:carol", sender="carol")
    await store.block("bob", "carol", on=False)
    await fill(store, 1, first=29, conv="bob:carol", sender="carol")
    equal(await store.badge("bob"), 3, "one that is hidden right above it")


@check
async def unread_is_what_the_lists_say(backend: Backend) -> None:
    store = await backend.fresh()
    users = ["alice", "bob", "carol", "dave"]
    for n in range(1, 121):  # a walk through all that can happen, the same each time
        user, peer = users[n * n % 4], users[n * 7 % 11 % 4]
        conv = f"{min(user, peer)}:{max(user, peer)}"
        await fill(store, 1 + n % 3, first=n * 10, conv=conv, sender=user)
        await advance(store, n % 23, n * 5 % 19, conv=conv, user=peer, device=f"d{n % 2}")
        if user != peer and n % 5 == 0:
            await store.block(peer, user, on=n % 10 == 0)
        if n % 10 == 0:
            await _compare(store, users)


async def _compare(store: Store, users: Sequence[str]) -> None:
    """What `owed` and `badge` count against what the lists show."""
    for user in users:
        views = (await store.conversations(user, "d0", limit=50)).conversations
        total = sum(view.unread for view in views)
        equal(await store.badge(user), total, f"the badge of {user} against the list")
        for view in views:
            owed = await store.owed(view.conv, user)
            equal((owed.unread, owed.badge), (view.unread, total), f"owed to {user} in {view.conv} against the list")


# --- what survives -------------------------------------------------------------------------------------------


@check
async def a_kept_value_is_the_first_one(backend: Backend) -> None:
    store = await backend.fresh()
    names = ["vapid", "incarnation", "changed", "", "ä 'quoted'"]
    for name in names:
        equal(await store.keep(name, f"{name} 1"), f"{name} 1", f"the first value of {name!r}")
        equal(await store.keep(name, f"{name} 2"), f"{name} 1", f"the first value of {name!r} stays")
    equal(await store.keep("long", "ä" * 4_096), "ä" * 4_096, "a value of 4,096 characters")
    got = await asyncio.gather(*(store.keep("race", str(n)) for n in range(10)))
    equal(len(set(got)), 1, "ten that keep at once are told the same value")
    equal(await store.keep("race", "late"), got[0], "which is what is kept")
    incarnation = store.incarnation
    again = await backend.reopen(store)
    if again is None:
        raise Skipped("nothing of this backend survives a close")
    equal([await again.keep(name, "3") for name in names], [f"{name} 1" for name in names], "kept for ever")
    equal(again.incarnation, incarnation, "a name is the caller's: it meets nothing of the store's own")


@check
async def what_is_owed_survives_a_reopen(backend: Backend) -> None:
    store = await backend.fresh()
    await subscribed(store, "alice", "bob")
    await fill(store, 3)
    await fill(store, 2, first=4, sender="bob")
    await store.pushed([Pushed(CONV, "bob", 3), Pushed(CONV, "alice", 4)])
    before = [await store.owed(CONV, user) for user in ("alice", "bob")]
    equal([one.newest.seq if one.newest else 0 for one in before], [5, 0], "what is owed before")
    again = await backend.reopen(store)
    if again is None:
        raise Skipped("nothing of this backend survives a close")
    equal([await again.owed(CONV, user) for user in ("alice", "bob")], before, "what is owed")
    equal(list(await again.subscriptions("bob", 0)), [subscription("bob", "phone")], "a subscription")
    await again.pushed([Pushed(CONV, "bob", 1)])
    equal(await newest(again), 0, "a pushed mark")
    await fill(again, 1, first=6)
    equal(await newest(again), 6, "and what comes later is owed")
