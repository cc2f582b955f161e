"""Blocks: what is hidden, whose marks stand still, and what the blocked one may notice: nothing."""

from __future__ import annotations

from chatd.model import ConversationView, Marks
from chatd.store.base import Store
from chatd.store.conformance.kit import Backend, advance, check, draft, equal, expect, fill, say, stored

CONV = "alice:bob"


async def view_of(store: Store, user: str) -> ConversationView:
    (view,) = (await store.conversations(user, "phone", limit=10)).conversations
    return view


@check
async def a_message_of_a_blocked_sender_is_hidden_for_ever(backend: Backend) -> None:
    store = await backend.fresh()
    await fill(store, 1)
    await store.block("bob", "alice", on=True)
    messages = await say(
        store, draft(2), draft(3, sender="bob"), draft(4, conv="alice:carol"), draft(5, conv="bob:carol", sender="bob")
    )
    got = [message.hidden for message in messages]
    equal(got, [True, False, False, False], "hidden: only what the blocked one sends to who blocks")
    await store.block("bob", "alice", on=False)
    await fill(store, 1, first=6)
    log = await store.read(CONV, limit=10)
    equal([m.hidden for m in log], [False, True, False, False], "hidden is decided at the commit, for ever")
    (repeat,) = stored((await store.commit([draft(2)], [])).appended)
    expect(repeat.duplicate and repeat.message.hidden, "a repeat after the unblock stays hidden")


@check
async def hidden_messages_are_not_unread(backend: Backend) -> None:
    store = await backend.fresh()
    await fill(store, 2)
    await store.block("bob", "alice", on=True)
    await fill(store, 3, first=3)
    view = await view_of(store, "bob")
    equal((view.unread, view.head), (2, 5), "unread and head while blocked")
    equal((await view_of(store, "alice")).unread, 0, "unread of the blocked one")
    await store.block("bob", "alice", on=False)
    equal((await view_of(store, "bob")).unread, 2, "unread after the unblock: hidden stays hidden")
    await fill(store, 1, first=6)
    equal((await view_of(store, "bob")).unread, 3, "unread with a message after the unblock")


@check
async def marks_stand_still_while_either_blocks(backend: Backend) -> None:
    store = await backend.fresh()
    await fill(store, 5)
    await fill(store, 5, sender="bob")
    equal((await advance(store, 3, 2)).private, False, "not private without a block")
    await advance(store, 6, 1, user="alice")
    await store.block("bob", "alice", on=True)
    grown = await advance(store, 8, 8)
    equal((grown.delivered, grown.read, grown.grew, grown.private), (8, 8, True, True), "marks of who blocks")
    grown = await advance(store, 9, 9, user="alice")
    equal((grown.delivered, grown.read, grown.grew, grown.private), (9, 9, True, True), "marks of the blocked one")
    await _told(store, bob=Marks(3, 2), alice=Marks(6, 1), when="since the block began")
    equal((await store.marks(CONV, "bob")).devices, {"phone": Marks(8, 8)}, "the own marks go on")
    equal((await view_of(store, "bob")).read, 8, "the own marks go on in the list")
    await store.block("bob", "alice", on=True)
    await store.block("alice", "bob", on=True)
    await _told(store, bob=Marks(3, 2), alice=Marks(6, 1), when="blocked again and by both: since the first")
    await store.block("bob", "alice", on=False)  # alice still blocks bob
    told = [(await store.marks(CONV, user)).peer for user in ("alice", "bob")]
    grown = await advance(store, 9, 8)
    equal((grown.grew, grown.private), (True, True), "private while one of two blocks is left")
    await _told(store, bob=told[0], alice=told[1], when="one of two blocks is left")
    await store.block("alice", "bob", on=False)
    await _told(store, bob=Marks(9, 8), alice=Marks(9, 9), when="no block is left")
    equal((await advance(store, 10)).private, False, "no block is left: not private")
    await store.block("alice", "bob", on=True)
    await advance(store, 10, 10)
    await _told(store, bob=Marks(10, 8), alice=Marks(9, 9), when="a new block freezes the marks of its time")


async def _told(store: Store, *, bob: Marks, alice: Marks, when: str) -> None:
    """What each of the two is told of the other's marks, in both places that tell."""
    for user, want in (("alice", bob), ("bob", alice)):
        equal((await store.marks(CONV, user)).peer, want, f"{when}: marks told to {user}")
        view = await view_of(store, user)
        equal(Marks(view.peer_delivered, view.peer_read), want, f"{when}: marks listed for {user}")


@check
async def a_block_may_come_before_the_conversation(backend: Backend) -> None:
    store = await backend.fresh()
    await store.block("bob", "alice", on=True)
    (message,) = await say(store, draft(1))
    expect(message.hidden, "the first message is hidden")
    await advance(store, 1, 1)
    await _told(store, bob=Marks(), alice=Marks(), when="blocked before the first message")
    await store.block("bob", "alice", on=False)
    await _told(store, bob=Marks(1, 1), alice=Marks(), when="unblocked")


@check
async def blocks_are_listed(backend: Backend) -> None:
    store = await backend.fresh()
    equal(list(await store.blocks("bob")), [], "blocks nobody")
    for peer in ("zoe", "alice", "mike", "alice"):
        await store.block("bob", peer, on=True)
    equal(list(await store.blocks("bob")), ["alice", "mike", "zoe"], "blocks, sorted, each once")
    equal(list(await store.blocks("alice")), [], "a block has one direction")
    await store.block("bob", "mike", on=False)
    await store.block("bob", "nobody", on=False)
    equal(list(await store.blocks("bob")), ["alice", "zoe"], "blocks after an unblock")
