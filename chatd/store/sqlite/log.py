"""Commits: drafts become messages, marks rise. Everything here runs in the writing thread, inside one transaction.

What it remembers of a conversation is a cache of rows: loaded when first needed, thrown away when a transaction
fails. Many rows go to SQLite in one statement, since each statement costs a hand-over of the interpreter lock.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from chatd.errors import IdReuse
from chatd.model import ID_AHEAD_MS_MAX, Advance, Appended, Draft, Grown, Message, born_ms, conv_of
from chatd.store.base import ID_EXPIRED, Committed
from chatd.store.sqlite.engine import QUERY, Damaged, translating
from chatd.store.sqlite.rows import HIDDEN, VISIBLE, checksum, damaged, id_bytes, message, pair_of

ROWS_PER_STATEMENT_MAX = 128


class Conversation:
    """One conversation's row, marks and blocks, as the last commit left them."""

    __slots__ = (
        "blocked",
        "head",
        "hidden",
        "key",
        "last",
        "marks",
        "pair",
        "trimmed",
        "trimmed_ms",
        "ts_ms",
        "user_marks",
    )

    def __init__(self, key: int, pair: tuple[str, str]) -> None:
        self.key = key
        self.pair = pair
        self.head = 0
        self.ts_ms = 0
        self.last = [0, 0]
        self.hidden = 0
        self.trimmed = self.trimmed_ms = 0
        self.marks: dict[tuple[int, str], tuple[int, int, int]] = {}  # (member, device): position, delivered, read
        self.user_marks = [(0, 0), (0, 0)]
        self.blocked = [False, False]  # [0]: a blocks b, [1]: b blocks a

    def member(self, user: str) -> int:
        """0 for the first user of the pair, 1 for the second."""
        return 0 if user == self.pair[0] else 1


class Log:
    """The commit function and its cache. ``changed`` numbers the commits, also across restarts."""

    def __init__(self, *, conversations_cached_max: int, next_key: int, changed: int) -> None:
        self._cache: OrderedDict[str, Conversation] = OrderedDict()
        self._cached_max = conversations_cached_max
        self._next_key = next_key
        self.changed = changed

    def forget(self) -> None:
        """Throw the cache away: a transaction failed, or rows changed behind it."""
        self._cache.clear()

    def conversation(self, db: sqlite3.Connection, conv: str) -> Conversation:
        """The conversation, loaded or new; a new one has no row until a message is stored."""
        state = self._cache.get(conv)
        if state is not None:
            self._cache.move_to_end(conv)
            return state
        pair = pair_of(conv)
        row = db.execute(QUERY["load_conversation"], pair).fetchone()
        if row is None:
            state = Conversation(0, pair)
        else:
            state = Conversation(row[0], pair)
            state.head, state.ts_ms, *state.last, state.hidden, state.trimmed, state.trimmed_ms = row[1:]
            for member, device, position, delivered, read in db.execute(QUERY["load_marks"], (state.key,)):
                state.marks[member, device] = (position, delivered, read)
                have = state.user_marks[member]
                state.user_marks[member] = (max(have[0], delivered), max(have[1], read))
        for (blocker,) in db.execute(QUERY["load_blocks"], {"a": pair[0], "b": pair[1]}):
            state.blocked[state.member(blocker)] = True
        self._cache[conv] = state
        return state

    def commit(self, db: sqlite3.Connection, drafts: Sequence[Draft], advances: Sequence[Advance]) -> Committed:
        """Do what `MessageStore.commit` promises."""
        self.changed += 1
        touched: dict[int, Conversation] = {}
        appended: list[Appended | IdReuse] = []
        try:
            if drafts:
                appended = self._append(db, drafts, touched)
            grown = self._advance(db, advances, touched) if advances else []
            self._store_conversations(db, touched.values())
        except BaseException:
            self.forget()
            raise
        while len(self._cache) > self._cached_max:
            self._cache.popitem(last=False)
        return Committed(appended, grown)

    def _append(
        self, db: sqlite3.Connection, drafts: Sequence[Draft], touched: dict[int, Conversation]
    ) -> list[Appended | IdReuse]:
        """Optimistic: almost every id is new, and the unique index says so at no extra cost when it is not."""
        db.execute("SAVEPOINT append")
        known: dict[tuple[str, str, str], Message | IdReuse] = {}
        try:
            result = self._insert(db, drafts, known, touched)
        except sqlite3.IntegrityError:
            db.execute("ROLLBACK TO append")
            self.forget()
            touched.clear()
            known.clear()
            for draft in drafts:
                state = self.conversation(db, draft.conv)
                key = (state.key, state.member(draft.sender), id_bytes(draft.id))
                first = _stored(db, draft.conv, state.pair, key)
                if first is not None:
                    known[draft.conv, draft.sender, draft.id] = first
            result = self._insert(db, drafts, known, touched)
        db.execute("RELEASE append")
        return result

    def _insert(
        self,
        db: sqlite3.Connection,
        drafts: Sequence[Draft],
        known: dict[tuple[str, str, str], Message | IdReuse],
        touched: dict[int, Conversation],
    ) -> list[Appended | IdReuse]:
        result: list[Appended | IdReuse] = []
        rows: list[Any] = []
        for draft in drafts:
            name = (draft.conv, draft.sender, draft.id)
            first = known.get(name)
            if isinstance(first, IdReuse):
                result.append(first)
                continue
            if first is not None:
                same = first.body == draft.body and not first.erased
                result.append(Appended(first, True) if same else IdReuse("this id names a message with another body"))
                continue
            state = self.conversation(db, draft.conv)
            if not state.key:
                state.key = self._next_key
                self._next_key += 1
            member = state.member(draft.sender)
            if state.trimmed and self._may_be_trimmed(db, state, member, draft):
                result.append(IdReuse(ID_EXPIRED))
                continue
            seq = state.head + 1
            ts_ms = max(draft.ts_ms, state.ts_ms)
            hidden = state.blocked[1 - member] and state.pair[0] != state.pair[1]
            state.head, state.ts_ms, state.last[member] = seq, ts_ms, seq
            if hidden:
                state.hidden = seq
            touched[state.key] = state
            stored = Message(draft.conv, seq, draft.id, draft.sender, draft.body, ts_ms, hidden)
            known[name] = stored
            result.append(Appended(stored))
            raw, shown = id_bytes(draft.id), HIDDEN if hidden else VISIBLE
            check = checksum(draft.conv, seq, raw, member, draft.body, ts_ms, shown)
            rows.append((state.key, seq, member, raw, ts_ms, shown, draft.body, check))
        _insert_rows(db, "INSERT INTO message (conversation, seq, sender, id, ts_ms, hidden, body, checksum)", rows, "")
        return result

    def _may_be_trimmed(self, db: sqlite3.Connection, state: Conversation, member: int, draft: Draft) -> bool:
        """Whether this id is unknown, and so old that it may have been trimmed."""
        if not 0 < born_ms(draft.id) <= state.trimmed_ms + ID_AHEAD_MS_MAX:
            return False
        return db.execute(QUERY["find_by_key"], (state.key, member, id_bytes(draft.id))).fetchone() is None

    def trim(
        self, db: sqlite3.Connection, convs: Sequence[tuple[int, str]], older_than_ms: int, messages_max: int
    ) -> tuple[int, int | None]:
        """Delete the oldest messages of these conversations (key and name each), at most so many.

        Returns: how many, and the key of the conversation that may have more.
        """
        count = 0
        for key, name in convs:
            state = self.conversation(db, name)
            span = (key, state.trimmed, state.trimmed + messages_max - count)
            old = [row for row in db.execute(QUERY["oldest"], span) if row[1] < older_than_ms]
            if old:
                upto, ts_ms = old[-1]
                db.execute(QUERY["delete_messages"], (key, state.trimmed, upto))
                db.execute(QUERY["trimmed_to"], (upto, ts_ms, key))
                state.trimmed, state.trimmed_ms = upto, ts_ms
            count += len(old)
            if count >= messages_max:
                return count, key
        return count, None

    def unblock(self, db: sqlite3.Connection, user: str, peer: str) -> None:
        """Take a block back; the marks that were frozen show again."""
        state = self.conversation(db, conv_of(user, peer))
        db.execute(QUERY["remove_block"], (user, peer))
        self.changed += 1
        db.execute("UPDATE conversation SET changed = ? WHERE key = ?", (self.changed, state.key))
        self.forget()

    def _advance(
        self, db: sqlite3.Connection, advances: Sequence[Advance], touched: dict[int, Conversation]
    ) -> list[Grown]:
        before: dict[tuple[str, str], tuple[int, int]] = {}
        rows: dict[tuple[int, int, str], tuple[Any, ...]] = {}
        for advance in advances:
            state = self.conversation(db, advance.conv)
            member = state.member(advance.user)
            had = state.user_marks[member]
            before.setdefault((advance.conv, advance.user), had)
            was = state.marks.get((member, advance.device), (0, 0, 0))
            told = min(max(advance.delivered, advance.read), state.head)
            new_delivered, new_read = max(was[1], told), max(was[2], min(advance.read, state.head))
            mark = (max(was[0], told), new_delivered, new_read)
            if state.head == 0 or mark == was:
                continue
            state.marks[member, advance.device] = mark
            state.user_marks[member] = (max(had[0], new_delivered), max(had[1], new_read))
            touched[state.key] = state
            rows[state.key, member, advance.device] = (state.key, member, advance.device, *mark)
        _insert_rows(
            db,
            "INSERT INTO mark",
            list(rows.values()),
            "ON CONFLICT DO UPDATE SET position = excluded.position, delivered = excluded.delivered,"
            " read = excluded.read",
        )
        grown = []
        for (conv, user), old in before.items():
            state = self._cache[conv]
            now = state.user_marks[state.member(user)]
            grown.append(Grown(conv, user, now[0], now[1], now != old, state.blocked[0] or state.blocked[1]))
        return grown

    def _store_conversations(self, db: sqlite3.Connection, states: Iterable[Conversation]) -> None:
        rows = [(s.key, *s.pair, s.head, s.ts_ms, s.last[0], s.last[1], s.hidden, self.changed) for s in states]
        _insert_rows(
            db,
            "INSERT INTO conversation (key, a, b, head, ts_ms, last_a, last_b, hidden, changed)",
            rows,
            "ON CONFLICT (key) DO UPDATE SET head = excluded.head, ts_ms = excluded.ts_ms, last_a = excluded.last_a,"
            " last_b = excluded.last_b, hidden = excluded.hidden, changed = excluded.changed",
        )


def _stored(
    db: sqlite3.Connection, conv: str, pair: tuple[str, str], key: tuple[int, int, bytes]
) -> Message | IdReuse | None:
    """The message that an id names. If it is damaged, whoever repeats it is told so, and nobody else has to wait."""
    try:
        with translating():
            row = db.execute(QUERY["find_by_key"], key).fetchone()
        if row is not None and (row[1], row[2]) != (key[2], key[1]):  # an index that leads elsewhere
            raise damaged(conv, row[0])
        return None if row is None else message(conv, pair, row)
    except Damaged as exc:
        return IdReuse(exc.message)


def _insert_rows(db: sqlite3.Connection, head: str, rows: list[tuple[Any, ...]], tail: str) -> None:
    """Insert rows with as few statements as there are bits in their number (so that statements stay prepared)."""
    at, size = 0, ROWS_PER_STATEMENT_MAX
    while at < len(rows):
        while size > len(rows) - at:
            size //= 2
        values = ",".join(["(" + ",".join("?" * len(rows[at])) + ")"] * size)
        # An upsert after VALUES parses as it stands; nothing of a value is ever part of the text.
        db.execute(f"{head} VALUES {values} {tail}", [v for row in rows[at : at + size] for v in row])
        at += size
