"""What a client must remember over a restart, in one SQLite file of its own, or nowhere.

What holds: a message is in the file before `send` returns, and leaves it only after its final answer, so a send
is repeated with its id until it is answered. A watermark is stored only after the application asked for the
event after it, in one transaction with the marks and the bookmark that belong to it. So within one process the
application gets each message once; after a crash it may get the last few again, from the first that it was not
known to be done with, and never misses one. The file also holds the token: it is created with mode 0600.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import aiosqlite

from chatd.client.core import Saved, Unread, Unsaved
from chatd.client.events import ConversationMarks
from chatd.client.outqueue import Pending
from chatd.errors import StartError, Unavailable
from chatd.model import Marks

VERSION = 2


class Storage:
    """One client's file; without a path every call does nothing and everything stored is empty.

    Raises (every method after `open`): Unavailable – SQLite could not do it; nothing of the call was stored.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self._db: aiosqlite.Connection | None = None

    async def open(self) -> None:
        """Open or create the file, for this process alone.

        Raises: StartError – it is in use, not a client's file, of a newer version, or cannot be written.
        """
        if self._path is None:
            return
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = await aiosqlite.connect(self._path, isolation_level=None, timeout=1.0)
            await self._prepare(self._db)
        except (OSError, sqlite3.Error) as exc:
            await self.close()
            busy = getattr(exc, "sqlite_errorname", "") == "SQLITE_BUSY"
            raise StartError(f"{self._path}: {'another client uses it' if busy else exc}") from exc
        except StartError:
            await self.close()
            raise

    async def _prepare(self, db: aiosqlite.Connection) -> None:
        await db.execute("PRAGMA locking_mode = EXCLUSIVE")
        await db.execute("PRAGMA journal_mode = WAL")
        await db.execute("PRAGMA synchronous = FULL")
        rows = list(await db.execute_fetchall("PRAGMA user_version"))
        if rows[0][0] > VERSION:
            raise StartError(f"{self._path}: written by a newer version of chatd")
        if rows[0][0] == 1:  # it did not count unread messages: everything is listed anew
            await db.execute("ALTER TABLE conversations ADD COLUMN head INTEGER NOT NULL DEFAULT 0")
            await db.execute("ALTER TABLE conversations ADD COLUMN floor INTEGER NOT NULL DEFAULT 0")
            await db.execute("DELETE FROM identity WHERE name = 'since'")
        await db.executescript((files("chatd.client") / "storage.sql").read_text("utf-8"))
        await db.execute(f"PRAGMA user_version = {VERSION}")

    async def close(self) -> None:
        """Let go of the file."""
        db, self._db = self._db, None
        if db is not None:
            await db.close()

    async def identity(self) -> dict[str, str]:
        """What `remember` stored: user, token, incarnation, since."""
        return {str(name): str(value) for name, value in await self._rows("SELECT name, value FROM identity")}

    async def outbox(self) -> list[Pending]:
        """The sends without a final answer, in order."""
        rows = await self._rows("SELECT position, id, body, to_user, conv FROM outbox ORDER BY position")
        return [Pending(order, name, body, to=to, conv=conv) for order, name, body, to, conv in rows]

    async def conversations(self) -> list[Saved]:
        """The stored positions and marks, the newest last."""
        rows = await self._rows(
            "SELECT conv, taken, read_wanted, delivered, read, peer_delivered, peer_read, head, floor"
            " FROM conversations ORDER BY changed"
        )
        return [
            Saved(conv, taken, wanted, ConversationMarks(Marks(*marks[:2]), Marks(*marks[2:4])), Unread(*marks[4:]))
            for conv, taken, wanted, *marks in rows
        ]

    async def add(self, entry: Pending) -> None:
        """Store a send."""
        row = (entry.order, entry.id, entry.to, entry.conv, entry.body)
        insert = "INSERT INTO outbox (position, id, to_user, conv, body) VALUES (?, ?, ?, ?, ?)"
        await self._write([(insert, [row])])

    async def remember(self, **identity: str | None) -> None:
        """Store what is given; None removes it."""
        await self._write(_identity(identity))

    async def save(self, unsaved: Unsaved) -> None:
        """Store what changed, all or none."""
        rows: list[_Row] = [
            (s.conv, s.taken, s.read_wanted, *_flat(s.marks), s.unread.head, s.unread.floor)
            for s in unsaved.conversations
        ]
        replace = (
            "INSERT OR REPLACE INTO conversations (conv, taken, read_wanted, delivered, read,"
            " peer_delivered, peer_read, head, floor) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        delete = "DELETE FROM outbox WHERE position = ?"
        answered: list[_Row] = [(position,) for position in unsaved.answered]
        await self._write([(replace, rows), (delete, answered), *_identity({"since": unsaved.since})])

    async def reset(self, incarnation: str) -> None:
        """Another history: forget positions and marks, keep the outbox."""
        forget: _Statement = ("DELETE FROM conversations", [()])
        await self._write([forget, *_identity({"incarnation": incarnation, "since": None})])

    async def _rows(self, query: str) -> Iterable[sqlite3.Row]:
        if self._db is None:
            return []
        async with self._lock:
            try:
                return await self._db.execute_fetchall(query)
            except sqlite3.Error as exc:
                raise Unavailable(f"{self._path}: {exc}") from exc

    async def _write(self, statements: Iterable[_Statement]) -> None:
        async with self._lock:
            db = self._db
            if db is None:
                return
            try:
                await db.execute("BEGIN IMMEDIATE")
                try:
                    for statement, rows in statements:
                        await db.executemany(statement, rows)
                    await db.execute("COMMIT")
                except BaseException:  # also a cancellation: it must not leave the transaction open
                    await db.rollback()
                    raise
            except sqlite3.Error as exc:
                raise Unavailable(f"{self._path}: {exc}") from exc


_Row = tuple[object, ...]
_Statement = tuple[str, list[_Row]]


def _identity(identity: dict[str, str | None]) -> list[_Statement]:
    put: list[_Row] = [(name, value) for name, value in identity.items() if value is not None]
    drop: list[_Row] = [(name,) for name, value in identity.items() if value is None]
    replace = "INSERT OR REPLACE INTO identity (name, value) VALUES (?, ?)"
    delete = "DELETE FROM identity WHERE name = ?"
    return [(replace, put), (delete, drop)]


def _flat(marks: ConversationMarks) -> tuple[int, int, int, int]:
    return marks.mine.delivered, marks.mine.read, marks.peer.delivered, marks.peer.read
