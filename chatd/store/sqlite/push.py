"""Subscriptions, and what is owed to whom. See `chatd.store.base.PushStore`.

What is owed is read from the rows that commits and acknowledgements write anyway; only pushed marks are its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from chatd.model import Message, Owed, Pushed, Subscription, Unpushed, UnpushedPage, conv_of, members_of, peer_of
from chatd.store.sqlite.engine import QUERY, Engine
from chatd.store.sqlite.reading import unread
from chatd.store.sqlite.rows import message, pair_of

KEPT = "kept "  # before the names of `keep` in the meta table, where the store has its own


class SqlitePush:
    """`PushStore` over the engine of a file."""

    engine: Engine

    async def put_subscription(self, subscription: Subscription) -> bool:
        """See `PushStore`."""
        one = subscription
        keys = msgspec.json.encode(one.keys).decode()
        args = (one.kind, one.endpoint, keys, one.created_ms, one.user, one.device)
        return await self.engine.write(lambda db: db.execute(QUERY["put_subscription"], args).rowcount > 0)

    async def remove_subscription(self, user: str, device: str, endpoint: str | None = None) -> bool:
        """See `PushStore`."""
        args = {"user": user, "device": device, "endpoint": endpoint}
        return await self.engine.write(lambda db: db.execute(QUERY["remove_subscription"], args).rowcount > 0)

    async def subscriptions(self, user: str, now_ms: int) -> Sequence[Subscription]:
        """See `PushStore`."""
        args = {"user": user, "now_ms": now_ms}
        rows = await self.engine.read(lambda db: db.execute(QUERY["subscriptions"], args).fetchall())
        return [
            Subscription(owner, device, kind, endpoint, msgspec.json.decode(keys, type=dict[str, str]), created_ms)
            for owner, device, kind, endpoint, keys, created_ms in rows
        ]

    async def owed(self, conv: str, user: str) -> Owed:
        """See `PushStore`."""
        return await self.engine.read(lambda db: _owed(db, conv, user))

    async def badge(self, user: str) -> int:
        """See `PushStore`."""
        return await self.engine.read(lambda db: _badge(db, user))

    async def pushed(self, marks: Sequence[Pushed]) -> None:
        """See `PushStore`."""
        told = []
        for one in marks:
            peer, pair = peer_of(one.conv, one.user), members_of(one.conv)
            if pair is not None and peer not in (None, one.user):
                told.append((*pair, pair.index(one.user), one.seq))
        rows = msgspec.json.encode(told).decode()

        def work(db: sqlite3.Connection) -> None:
            db.execute(QUERY["raise_pushed"], (rows,))

        await self.engine.write(work)

    async def unpushed(
        self, *, cursor: str | None = None, limit: int, newer_than_ms: int, every_user: bool
    ) -> UnpushedPage:
        """See `PushStore`."""
        after = int(cursor or 0)
        return await self.engine.read(lambda db: _unpushed(db, after, limit, newer_than_ms, every_user))

    async def keep(self, name: str, value: str) -> str:
        """See `PushStore`."""

        def work(db: sqlite3.Connection) -> str:
            db.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT DO NOTHING", (KEPT + name, value))
            return str(db.execute("SELECT value FROM meta WHERE name = ?", (KEPT + name,)).fetchone()[0])

        return await self.engine.write(work)


def _owed(db: sqlite3.Connection, conv: str, user: str) -> Owed:
    pair = pair_of(conv)
    row = db.execute(QUERY["load_conversation"], pair).fetchone()
    peer = peer_of(conv, user)
    if row is None or peer is None or peer == user:
        return Owed(None, 0, _badge(db, user))
    key, head, _, *last, hidden, trimmed, _ = row
    member = pair.index(user)
    delivered, read, told = db.execute(QUERY["push_state"], {"key": key, "member": member}).fetchone()
    newest = None
    if last[1 - member] > max(delivered, told, trimmed) and not _apart(db, pair):
        newest = _newest(db, conv, key, member, above=max(delivered, told), upto=last[1 - member])
    return Owed(newest, unread(db, key, max(read, last[member], trimmed), head, hidden), _badge(db, user))


def _badge(db: sqlite3.Connection, user: str) -> int:
    return int(db.execute(QUERY["badge"], {"user": user}).fetchone()[0])


def _apart(db: sqlite3.Connection, pair: tuple[str, str]) -> bool:
    """Whether either of the two blocks the other."""
    return db.execute(QUERY["load_blocks"], {"a": pair[0], "b": pair[1]}).fetchone() is not None


def _newest(db: sqlite3.Connection, conv: str, key: int, member: int, *, above: int, upto: int) -> Message | None:
    """The newest visible message of the other user in a range of seqs."""
    span = {"key": key, "above": above, "upto": upto, "sender": 1 - member}
    row = db.execute(QUERY["newest_visible"], span).fetchone()
    return None if row is None else message(conv, pair_of(conv), row)


def _unpushed(db: sqlite3.Connection, after: int, limit: int, newer_than_ms: int, every_user: bool) -> UnpushedPage:
    upto, count = db.execute(QUERY["page_of_conversations"], (after, limit)).fetchone()
    if not count:
        return UnpushedPage(())
    span = {"after": after, "upto": upto, "newer_than_ms": newer_than_ms, "every_user": every_user}
    rows = []
    for key, a, b, member, last, hidden, base, shown, young, apart in db.execute(QUERY["unpushed"], span).fetchall():
        conv = conv_of(a, b)
        seq = 0 if apart or last <= base else last
        if seq and hidden >= seq:  # it may be the hidden one; one that is visible may stand below it
            found = _newest(db, conv, key, member, above=base, upto=last)
            seq = found.seq if found else 0
        if shown or (seq and young):
            rows.append(Unpushed(conv, (a, b)[member], seq, shown))
    return UnpushedPage(tuple(rows), str(upto) if count == limit else None)
