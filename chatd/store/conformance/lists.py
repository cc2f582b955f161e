"""Lists of conversations: order, views, unread, since and cursor."""

from __future__ import annotations

from chatd.model import ConversationPage, ConversationView
from chatd.store.base import Counts, Store
from chatd.store.conformance.kit import Backend, advance, check, draft, equal, expect, fill, present, say

PEERS = [f"peer{n:02}" for n in range(10)]


def peers(page: ConversationPage) -> list[str]:
    return [view.peer for view in page.conversations]


async def talk(store: Store, count: int = 10, first: int = 1) -> None:
    """Alice writes one message to each of the first ``count`` peers, in their order."""
    for number, peer in enumerate(PEERS[:count]):
        await fill(store, 1, first=first + number, conv=f"alice:{peer}")


async def walk(store: Store, limit: int, since: str | None = None, *, repeat_since: bool = False) -> list[str]:
    """The peers on all of alice's pages, each page asked for with the cursor of the one before."""
    page = await store.conversations("alice", "phone", since=since, limit=limit)
    got = peers(page)
    for _ in range(50):
        expect(len(page.conversations) <= limit, f"a page has more than its limit of {limit}")
        if page.cursor is None:
            return got
        expect(len(page.cursor) <= 256, "a cursor fits its frame: at most 256 characters")
        page = await store.conversations(
            "alice", "phone", since=since if repeat_since else None, cursor=page.cursor, limit=limit
        )
        got += peers(page)
    raise AssertionError("the cursors do not come to an end")


@check
async def a_view_tells_all_about_a_conversation(backend: Backend) -> None:
    store = await backend.fresh()
    await fill(store, 3)
    messages = await say(store, draft(1, sender="bob", ts_ms=7_000), draft(2, sender="bob", ts_ms=2_000))
    await advance(store, 3, 2, device="tablet")
    await advance(store, 2, 1, device="phone")
    await advance(store, 4, user="alice")
    want = ConversationView(
        conv="alice:bob",
        peer="alice",
        head=5,
        delivered=3,
        read=2,
        peer_delivered=4,
        peer_read=0,
        unread=0,
        updated_ms=7_000,
        position=2,
        last=messages[-1],
    )
    page = await store.conversations("bob", "phone", limit=10)
    equal(list(page.conversations), [want], "bob's view on his phone")
    equal(page.cursor, None, "the last page has no cursor")
    (view,) = (await store.conversations("alice", "phone", limit=10)).conversations
    got = (view.peer, view.delivered, view.read, view.peer_delivered, view.peer_read, view.unread, view.position)
    equal(got, ("bob", 4, 0, 3, 2, 2, 4), "alice's view (peer, marks, peer's marks, unread, position)")
    equal(peers(await store.conversations("carol", "phone", limit=10)), [], "a stranger sees nothing")


@check
async def unread_is_computed(backend: Backend) -> None:
    store = await backend.fresh()

    async def unread(user: str, want: int, what: str) -> None:
        (view,) = (await store.conversations(user, "phone", limit=10)).conversations
        equal(view.unread, want, f"unread of {user}: {what}")

    await fill(store, 5)
    await unread("bob", 5, "five messages of the peer")
    await unread("alice", 0, "own messages are not unread")
    await advance(store, 5)
    await unread("bob", 5, "delivered is not read")
    await advance(store, 5, 2)
    await unread("bob", 3, "above the own read mark")
    await advance(store, 4, 4, device="tablet")
    await unread("bob", 1, "the read mark of any own device")
    await fill(store, 1, first=1, sender="bob")
    await unread("bob", 0, "above the own last sent message")
    await fill(store, 2, first=6)
    await unread("bob", 2, "new ones of the peer")
    await fill(store, 1, first=2, sender="bob")
    await fill(store, 1, first=8)
    await unread("bob", 1, "above the own last sent message again")
    await unread("alice", 0, "alice sent the last one")
    await advance(store, 10, 10)
    await unread("bob", 0, "all read")


@check
async def notes_to_self_are_a_conversation(backend: Backend) -> None:
    store = await backend.fresh()
    await fill(store, 3, conv="alice:alice")
    await advance(store, 2, 1, conv="alice:alice", user="alice")
    (view,) = (await store.conversations("alice", "phone", limit=10)).conversations
    equal((view.conv, view.peer, view.head, view.unread), ("alice:alice", "alice", 3, 0), "notes to self")
    equal((view.delivered, view.read), (2, 1), "the marks of notes to self")
    equal(await store.counts(), Counts(0, 1, 3), "it counts as one conversation")


@check
async def the_newest_change_comes_first(backend: Backend) -> None:
    store = await backend.fresh()
    await talk(store, 4)
    page = await store.conversations("alice", "phone", limit=10)
    equal(peers(page), PEERS[3::-1], "the conversation with the newest message comes first")
    await fill(store, 1, first=50, conv=f"alice:{PEERS[1]}")
    await advance(store, 1, conv=f"alice:{PEERS[2]}", user=PEERS[2])
    page = await store.conversations("alice", "phone", limit=10)
    equal(peers(page), [PEERS[n] for n in (2, 1, 3, 0)], "a message and a mark are changes")


@check
async def order_does_not_hang_on_the_clock(backend: Backend) -> None:
    store = await backend.fresh()
    await say(store, draft(1, conv="alice:carol", ts_ms=9_000))
    await say(store, draft(2, conv="alice:dave", ts_ms=5))
    page = await store.conversations("alice", "phone", limit=10)
    equal(peers(page), ["dave", "carol"], "the newest change by order of commit, whatever the clock says")


@check
async def since_gives_what_changed_after_it(backend: Backend) -> None:
    store = await backend.fresh()
    empty = await store.conversations("alice", "phone", limit=10)
    equal(peers(empty), [], "no conversations")
    await talk(store, 5)
    page = await store.conversations("alice", "phone", since=empty.since, limit=10)
    equal(peers(page), PEERS[4::-1], "all that began after the empty page")
    expect(len(page.since) <= 256, "a since fits its frame: at most 256 characters")
    quiet = await store.conversations("alice", "phone", since=page.since, limit=10)
    equal(peers(quiet), [], "nothing changed")
    await fill(store, 1, first=20, conv=f"alice:{PEERS[3]}", sender=PEERS[3])
    await advance(store, 1, conv=f"alice:{PEERS[0]}", user=PEERS[0])
    await fill(store, 1, conv="bob:carol", sender="bob")
    changed = await store.conversations("alice", "phone", since=page.since, limit=10)
    equal(peers(changed), [PEERS[0], PEERS[3]], "a message and a mark after since")
    again = await store.conversations("alice", "phone", since=quiet.since, limit=10)
    equal(peers(again), [PEERS[0], PEERS[3]], "a page with nothing on it has a since, too")
    await advance(store, 1, conv=f"alice:{PEERS[1]}", user="alice", device="tablet")
    own = await store.conversations("alice", "phone", since=changed.since, limit=10)
    equal(peers(own), [PEERS[1]], "a mark of the user's own other device is a change")


@check
async def cursors_give_each_conversation_once(backend: Backend) -> None:
    store = await backend.fresh()
    await talk(store)
    for limit in (1, 3, 5, 9, 10, 11):
        got = await walk(store, limit)
        equal(got, PEERS[::-1], f"pages of {limit}: each conversation once, newest change first")
    since = (await store.conversations("alice", "phone", limit=1)).since
    await talk(store, 5, first=100)
    for repeat_since in (True, False):
        got = await walk(store, 2, since, repeat_since=repeat_since)
        equal(got, PEERS[4::-1], f"pages that began with a since go on with it (since again: {repeat_since})")


@check
async def a_change_between_pages_is_found_by_since(backend: Backend) -> None:
    store = await backend.fresh()
    await talk(store)
    page = first = await store.conversations("alice", "phone", limit=3)
    seen = peers(page)
    await fill(store, 1, first=50, conv=f"alice:{PEERS[2]}")  # moves from a later page to the top
    await fill(store, 1, first=51, conv=f"alice:{PEERS[9]}")  # was seen already
    while page.cursor is not None:
        page = await store.conversations("alice", "phone", cursor=page.cursor, limit=3)
        seen += peers(page)
    unchanged = [peer for peer in seen if peer not in (PEERS[2], PEERS[9])]
    equal(unchanged, [p for p in PEERS[::-1] if p not in (PEERS[2], PEERS[9])], "the others: each exactly once")
    late = await store.conversations("alice", "phone", since=first.since, limit=10)
    equal(peers(late), [PEERS[9], PEERS[2]], "what changed meanwhile changed after the first page's since")


@check
async def a_foreign_since_or_cursor_counts_as_absent(backend: Backend) -> None:
    store, other = await backend.fresh(), await backend.fresh()
    await talk(other)
    page = await other.conversations("alice", "phone", limit=2)
    await talk(store, 3)
    strange = ["", "x", "0", "-1", "9" * 40, "١", "🙂" * 9, "a/b/c", "null", "{}", page.since]
    for text in [*strange, present(page.cursor, "a page with more after it has a cursor")]:
        got = await store.conversations("alice", "phone", since=text, limit=10)
        equal(peers(got), PEERS[2::-1], f"since={text!r}, which this store did not make")
        got = await store.conversations("alice", "phone", cursor=text, limit=10)
        equal(peers(got), PEERS[2::-1], f"cursor={text!r}, which this store did not make")


@check
async def counts_are_totals(backend: Backend) -> None:
    store = await backend.fresh()
    equal(await store.counts(), Counts(0, 0, 0), "an empty store")
    await fill(store, 3)
    await fill(store, 2, conv="bob:carol", sender="carol")
    await store.commit([draft(1), draft(1, body="other")], [])
    equal(await store.counts(), Counts(0, 2, 5), "repeats and refusals do not count")
