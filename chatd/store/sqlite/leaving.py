"""The history of a file on its way to another store. See `chatd.store.moving`."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from chatd.model import Device, Marks, Subscription, conv_of
from chatd.store.base import Counts
from chatd.store.moving import (
    CONVERSATIONS_PER_PAGE,
    PAGE_BYTES_MAX,
    USERS_PER_PAGE,
    Entry,
    Held,
    Invite,
    Kept,
    Mark,
    Notes,
    Piece,
    Rest,
    User,
)
from chatd.store.sqlite import SqliteStore
from chatd.store.sqlite.accounts import account_of
from chatd.store.sqlite.engine import QUERY
from chatd.store.sqlite.push import KEPT
from chatd.store.sqlite.rows import ERASED, VISIBLE, damaged, is_whole, pair_of

# Each part walks an index of its own, so a page costs a page, however large the tables are.
_NAMED: Final = (
    ("account", "user"),
    ("conversation", "a"),
    ("conversation", "b"),
    ("device", "user"),
    ("enrolled", "user"),
    ("block", "blocker"),
    ("subscription", "user"),
)
_NAMES: Final = " UNION ".join(
    f"SELECT * FROM (SELECT DISTINCT {column} FROM {table} WHERE {column} > :after ORDER BY 1 LIMIT :limit)"  # noqa: S608
    for table, column in _NAMED
)
_ALL_NAMES: Final = f"{_NAMES} ORDER BY 1 LIMIT :limit"


class SqliteSource:
    """`Source` over an open store: its lock keeps every server away."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._engine = store.engine

    @property
    def incarnation(self) -> str:
        """See `Source`."""
        return self._store.incarnation

    async def counts(self) -> Counts:
        """See `Reader`."""
        return await self._store.counts()

    async def all_convs(self) -> AsyncGenerator[Sequence[str], None]:
        """See `Source`."""
        key, limit = 0, CONVERSATIONS_PER_PAGE
        while True:
            args = (key, limit)
            rows = await self._engine.read(partial(_rows, QUERY["leaving_convs"], args))
            if not rows:
                break
            yield [conv_of(a, b) for _, a, b in rows]
            key = rows[-1][0]
        rows = await self._engine.read(lambda db: db.execute(QUERY["leaving_blocks"]).fetchall())
        for at in range(0, len(rows), limit):
            yield [conv_of(a, b) for a, b in rows[at : at + limit]]

    async def all_users(self) -> AsyncGenerator[Sequence[str], None]:
        """See `Source`."""
        after = ""
        while True:
            args = {"after": after, "limit": USERS_PER_PAGE}
            rows = await self._engine.read(partial(_rows, _ALL_NAMES, args))
            if not rows:
                return
            yield [name for (name,) in rows]
            after = rows[-1][0]

    async def notes(self, convs: Sequence[str]) -> list[Notes]:
        """See `Reader`."""
        return await self._engine.read(lambda db: [_notes(db, conv) for conv in convs])

    async def entries(self, pieces: Sequence[Piece]) -> list[list[Entry]]:
        """See `Reader`."""
        bytes_max = PAGE_BYTES_MAX // max(1, len(pieces))
        return await self._engine.read(lambda db: [_entries(db, piece, bytes_max) for piece in pieces])

    async def users(self, names: Sequence[str]) -> list[User]:
        """See `Reader`."""
        return await self._engine.read(lambda db: [_user(db, name) for name in names])

    async def rest(self) -> Rest:
        """See `Reader`."""

        def work(db: sqlite3.Connection) -> Rest:
            invites = db.execute("SELECT hash, admin, expires_ms FROM invite ORDER BY hash")
            kept = db.execute("SELECT name, value FROM meta ORDER BY name")
            return Rest(
                tuple(Invite(raw, bool(admin), expires_ms) for raw, admin, expires_ms in invites),
                tuple((name.removeprefix(KEPT), value) for name, value in kept if name.startswith(KEPT)),
            )

        return await self._engine.read(work)

    async def erased(self, convs: Sequence[str]) -> dict[str, int]:
        """See `Source`."""

        def work(db: sqlite3.Connection) -> dict[str, int]:
            counts = (
                (conv, db.execute(QUERY["leaving_erased"], (ERASED, *pair_of(conv))).fetchone()) for conv in convs
            )
            return {conv: count for conv, (count,) in counts if count}

        return await self._engine.read(work)

    async def leave(self) -> None:
        """See `Source`."""
        name = secrets.token_hex(8)
        await self._engine.write(
            lambda db: db.execute("UPDATE meta SET value = ? WHERE name = 'incarnation'", (name,)) and None
        )


def _rows(sql: str, args: Any, db: sqlite3.Connection) -> list[Any]:
    return db.execute(sql, args).fetchall()


def _entries(db: sqlite3.Connection, piece: Piece, bytes_max: int) -> list[Entry]:
    pair = pair_of(piece.conv)
    key, *_, last_hidden, _, _ = db.execute(QUERY["load_conversation"], pair).fetchone()
    hidden = 0  # how many are, up to the last one seen
    if last_hidden:
        (hidden,) = db.execute(QUERY["leaving_hidden"], (key, piece.after)).fetchone()
    found: list[Entry] = []
    size = 0
    rows = db.execute(QUERY["leaving_messages"], (key, piece.after, piece.limit))
    for row in rows:
        seq, raw, member, body, ts_ms, state, _ = row
        if not is_whole(piece.conv, row):
            raise damaged(piece.conv, seq)
        size += len(body) if body.isascii() else len(body.encode())
        if found and size > bytes_max:
            break
        hidden += state != VISIBLE
        found.append(Entry(seq, member, raw, ts_ms, hidden if state == VISIBLE else -hidden, body, state == ERASED))
    rows.close()
    return found


def _notes(db: sqlite3.Connection, conv: str) -> Notes:
    pair = pair_of(conv)
    blocks, frozen = _blocks(db, pair)
    row = db.execute(QUERY["load_conversation"], pair).fetchone()
    if row is None:
        return Notes(conv, blocks=blocks, frozen=frozen)
    key, head, ts_ms, *last, last_hidden, trimmed, trimmed_ms = row
    hidden, visible = 0, (last[0], last[1])
    if last_hidden:
        hidden, *seen = db.execute(QUERY["leaving_visible"], (key,)).fetchone()
        hidden, visible = hidden or 0, (seen[0], seen[1])
    marks = sorted(Mark(*mark) for mark in db.execute(QUERY["leaving_marks"], (key,)))
    told = [
        Marks(
            max((m.delivered for m in marks if m.member == member), default=0),
            max((m.read for m in marks if m.member == member), default=0),
        )
        for member in (0, 1)
    ]
    pushed = dict(db.execute("SELECT member, seq FROM pushed WHERE conversation = ?", (key,)).fetchall())
    return Notes(
        conv,
        head=head,
        ts_ms=ts_ms,
        last=(last[0], last[1]),
        visible=visible,
        hidden=hidden,
        ids=head - trimmed,  # an index of the table of messages
        told=(told[0], told[1]),
        marks=tuple(marks),
        blocks=blocks,
        frozen=frozen,
        pushed=(pushed.get(0, 0), pushed.get(1, 0)),
        trimmed=(trimmed, trimmed_ms),
    )


def _blocks(db: sqlite3.Connection, pair: tuple[str, str]) -> tuple[tuple[bool, bool], tuple[Marks, Marks] | None]:
    """Who blocks, and what each is told of the other meanwhile: the marks of the first block, as all reads have it."""
    blocks = [False, False]
    seen: tuple[list[Marks], list[Marks]] = ([], [])
    for blocker, *numbers in db.execute(QUERY["frozen"], {"a": pair[0], "b": pair[1]}):
        member = pair.index(blocker)
        blocks[member] = True
        seen[member].append(Marks(*numbers[:2]))
        seen[1 - member].append(Marks(*numbers[2:]))
    if not any(blocks):
        return (False, False), None
    first = [min(marks, key=lambda m: (m.delivered, m.read)) for marks in seen]
    return (blocks[0], blocks[1]), (first[0], first[1])


def _user(db: sqlite3.Connection, name: str) -> User:
    kept = None
    row = db.execute(QUERY["leaving_account"], (name,)).fetchone()
    if row is not None:
        deleted, last_seen_ms, *rest = row
        kept = Kept(account_of(rest), bool(deleted), last_seen_ms)
    devices = db.execute(QUERY["leaving_devices"], (name,))
    subscriptions = db.execute(QUERY["leaving_subscriptions"], (name,))
    enrolled = db.execute("SELECT device FROM enrolled WHERE user = ? ORDER BY device", (name,))
    convs = db.execute(QUERY["leaving_index"], {"user": name})
    return User(
        name,
        kept,
        devices=tuple(Held(Device(*row[:5]), row[5]) for row in devices),
        subscriptions=tuple(_subscription(row) for row in subscriptions),
        enrolled=tuple(device for (device,) in enrolled),
        blocks=tuple(peer for (peer,) in db.execute(QUERY["blocks"], (name,))),
        convs=tuple(conv_of(a, b) for a, b in convs),
    )


def _subscription(row: Sequence[Any]) -> Subscription:
    user, device, kind, endpoint, keys, created_ms = row
    known = msgspec.json.decode(keys, type=dict[str, str])
    return Subscription(user, device, kind, endpoint, known, created_ms)
