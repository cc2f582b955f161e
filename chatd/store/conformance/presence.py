"""Presence: who may watch whom, when somebody was here last, and who lets that be seen."""

from __future__ import annotations

import asyncio

from chatd.model import Account, Acquaintance, Device
from chatd.store.base import Store
from chatd.store.conformance.kit import Backend, Skipped, advance, check, equal, expect, fill, present

ME = "mike"
PEERS = [f"peer{n}" for n in range(6)]
TOKEN, INVITE = b"\0" * 31 + b"t", b"\0" * 31 + b"i"


def account(user: str, *, shows: bool = True) -> Account:
    return Account(user, None, admin=False, disabled=False, created_ms=1_000, shows_last_seen=shows)


def pair(user: str, peer: str) -> str:
    return f"{min(user, peer)}:{max(user, peer)}"


async def town(backend: Backend, *users: str) -> Store:
    """A store in which mike has written to each of the others; all have accounts."""
    store = await backend.fresh()
    for number, user in enumerate((ME, *users)):
        await store.add_account(account(user))
        if user != ME:
            await fill(store, 1, first=number, conv=pair(ME, user), sender=ME)
    return store


@check
async def who_shares_a_conversation_may_be_watched(backend: Backend) -> None:
    store = await town(backend, *PEERS[:3])
    await store.add_account(account("stranger"))
    await fill(store, 1, conv="peer0:stranger", sender="stranger")
    asked = ["stranger", PEERS[2], "nobody", PEERS[0], "no:name", "", PEERS[1], ME]
    got = await store.acquainted(ME, asked)
    equal(list(got), [PEERS[2], PEERS[0], PEERS[1]], "acquainted: those with a conversation, in the order given")
    equal(set(got.values()), {Acquaintance(shows_last_seen=True)}, "nobody was seen yet")
    equal(list(await store.acquainted(PEERS[0], [ME, PEERS[1]])), [ME], "who was only written to may watch, too")
    equal(await store.acquainted(ME, []), {}, "nobody asked for")
    equal(await store.acquainted("nobody", PEERS), {}, "a user without conversations")
    many = [f"user{n}" for n in range(990)] + PEERS[:3]
    equal(list(await store.acquainted(ME, many)), PEERS[:3], "nearly a thousand may be asked for")


@check
async def a_conversation_begins_with_its_first_message(backend: Backend) -> None:
    store = await town(backend)
    await store.add_account(account("peer0"))
    await advance(store, 3, conv="mike:peer0", user=ME)
    equal(await store.acquainted(ME, PEERS), {}, "a mark in a conversation without messages is no conversation")
    await store.block(ME, "peer0", on=True)
    await store.block(ME, "peer0", on=False)
    equal(await store.acquainted(ME, PEERS), {}, "nor is a block that was taken back")
    await fill(store, 1, conv="mike:peer0", sender="peer0")
    equal(list(await store.acquainted(ME, PEERS)), ["peer0"], "a message is")


@check
async def nobody_watches_over_a_block(backend: Backend) -> None:
    store = await town(backend, *PEERS[:2])
    await store.block(ME, PEERS[0], on=True)
    equal(list(await store.acquainted(ME, PEERS)), [PEERS[1]], "whom the user blocks")
    equal(list(await store.acquainted(PEERS[0], [ME])), [], "who blocks the user")
    await store.block(PEERS[0], ME, on=True)
    await store.block(ME, PEERS[0], on=False)
    equal(list(await store.acquainted(ME, PEERS)), [PEERS[1]], "one block of two is left, the other's")
    equal(list(await store.acquainted(PEERS[0], [ME])), [], "one block of two is left, the own")
    await store.block(PEERS[0], ME, on=False)
    equal(list(await store.acquainted(ME, PEERS)), PEERS[:2], "no block is left")
    equal(list(await store.acquainted(PEERS[0], [ME])), [ME], "no block is left: the other one")


@check
async def a_deleted_account_is_not_watched(backend: Backend) -> None:
    store = await town(backend, *PEERS[:3])
    await fill(store, 1, first=50, conv="ghost:mike", sender="ghost")
    await store.seen({PEERS[0]: 5_000})
    await store.set_disabled(PEERS[1], True)
    await store.delete_account(PEERS[0])
    got = list(await store.acquainted(ME, [*PEERS, "ghost"]))
    equal(got, PEERS[1:3], "neither deleted nor without an account; a disabled account is there")


@check
async def notes_to_self_are_an_acquaintance(backend: Backend) -> None:
    store = await town(backend, PEERS[0])
    equal(list(await store.acquainted(ME, [ME])), [], "no notes to self")
    await fill(store, 1, first=50, conv="mike:mike", sender=ME)
    equal(list(await store.acquainted(ME, [PEERS[0], ME])), [PEERS[0], ME], "notes to self: the user, if asked for")
    equal(list(await store.acquainted(ME, [PEERS[0]])), [PEERS[0]], "not asked for: not told")


@check
async def last_seen_is_a_maximum(backend: Backend) -> None:
    store = await town(backend, *PEERS[:3])

    async def times() -> list[int | None]:
        return [one.last_seen_ms for one in (await store.acquainted(ME, PEERS)).values()]

    await store.seen({})
    equal(await times(), [None, None, None], "nobody was seen")
    await store.seen({PEERS[0]: 5_000, PEERS[1]: 1_700_000_000_000, "nobody": 7_000})
    equal(await times(), [5_000, 1_700_000_000_000, None], "seen; a user without an account is left out")
    await store.seen({PEERS[0]: 4_000, PEERS[1]: 1_700_000_000_001, PEERS[2]: 1})
    equal(await times(), [5_000, 1_700_000_000_001, 1], "the later time stays, whatever comes last")
    await store.add_account(account("nobody"))
    await fill(store, 1, first=50, conv="mike:nobody", sender=ME)
    equal((await store.acquainted(ME, ["nobody"]))["nobody"], Acquaintance(True), "the early time left no trace")
    crowd = {f"user{n}": 9_000 for n in range(9_998)}
    await store.seen({**crowd, PEERS[0]: 9_000, PEERS[2]: 9_000})
    equal(await times(), [9_000, 1_700_000_000_001, 9_000], "ten thousand at once")


@check
async def times_that_race_end_at_their_maximum(backend: Backend) -> None:
    store = await town(backend, PEERS[0])
    await asyncio.gather(*(store.seen({PEERS[0]: n * 7 % 41}) for n in range(1, 41)))  # 1 … 40, shuffled
    got = await store.acquainted(ME, PEERS)
    equal(got, {PEERS[0]: Acquaintance(True, 40)}, "forty times at once end at the latest")


@check
async def everybody_chooses_to_show_last_seen(backend: Backend) -> None:
    store = await town(backend, *PEERS[:2])
    await store.put_device(Device(PEERS[0], "d1", "", 1_000), TOKEN)
    expect(await store.set_shows_last_seen(PEERS[0], False), "a choice is stored")
    await store.seen({PEERS[0]: 5_000, PEERS[1]: 6_000})
    got = await store.acquainted(ME, PEERS)
    want = {PEERS[0]: Acquaintance(False, 5_000), PEERS[1]: Acquaintance(True, 6_000)}
    equal(got, want, "each one's own choice; the time is known all the same")
    equal(await store.account(PEERS[0]), account(PEERS[0], shows=False), "account")
    equal(await store.account(PEERS[1]), account(PEERS[1]), "another's account is untouched")
    shown = {one.user: one.shows_last_seen for one in await store.accounts(limit=10)}
    equal(shown, {ME: True, PEERS[0]: False, PEERS[1]: True}, "accounts")
    _, owner = present(await store.identity(TOKEN), "identity")
    equal(owner, account(PEERS[0], shows=False), "identity")
    expect(await store.set_shows_last_seen(PEERS[0], False), "the same choice again is stored, too")
    expect(await store.set_shows_last_seen(PEERS[0], True), "and another one")
    equal((await store.acquainted(ME, PEERS))[PEERS[0]], Acquaintance(True, 5_000), "the choice was taken back")
    await store.delete_account(PEERS[0])
    gone = [await store.set_shows_last_seen(user, False) for user in (PEERS[0], "nobody")]
    equal(gone, [False, False], "no such user")


@check
async def a_choice_outlives_other_changes_of_the_account(backend: Backend) -> None:
    store = await town(backend)
    await store.add_invite(INVITE, admin=True, expires_ms=5_000)
    expect(await store.add_account(account("alice", shows=False)), "an account that begins with the choice")
    expect(await store.redeem_invite(INVITE, account("bob", shows=False), 1_000) is True, "so does an invited one")
    for user in ("alice", "bob"):
        await store.set_password(user, "hash")
        await store.set_disabled(user, True)
        await store.put_device(Device(user, "d1", "", 1_000), user.encode() * 4)
        await store.set_disabled(user, False)
        await store.remove_device(user, "d1")
        await store.seen({user: 5_000})
        kept = present(await store.account(user), user)
        equal(kept.shows_last_seen, False, f"the choice of {user} after other changes")
        equal((kept.password_hash, kept.disabled, kept.admin), ("hash", False, user == "bob"), f"and {user} else")
        await store.set_shows_last_seen(user, True)
        now = present(await store.account(user), user)
        equal((now.password_hash, now.admin), ("hash", user == "bob"), f"a choice changes nothing else of {user}")


@check
async def presence_survives_a_reopen(backend: Backend) -> None:
    store = await town(backend, *PEERS[:2])
    await store.set_shows_last_seen(PEERS[0], False)
    await store.seen({PEERS[0]: 5_000})
    before = await store.acquainted(ME, PEERS)
    again = await backend.reopen(store)
    if again is None:
        raise Skipped("nothing of this backend survives a close")
    equal(await again.acquainted(ME, PEERS), before, "acquaintances")
    await again.seen({PEERS[0]: 4_000})
    equal((await again.acquainted(ME, PEERS))[PEERS[0]], Acquaintance(False, 5_000), "the maximum goes on")
    equal(await again.account(PEERS[0]), account(PEERS[0], shows=False), "the choice")
