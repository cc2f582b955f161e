"""SQLite underneath: one thread with the only connection that writes and checkpoints, a few that read.

SQLite before 3.51.3 can lose commits when two connections write and checkpoint one WAL file (sqlite.org/wal.html,
"WAL-reset bug"); a single writing connection cannot meet it. Driver errors end here, as chatd's own.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import TypeVar

from chatd.errors import StoreBroken, Unavailable
from chatd.newfile import open_or_make

T = TypeVar("T")

STATEMENTS_CACHED_MAX = 256
_abandoned: list[sqlite3.Connection] = []  # of broken stores: closing one would checkpoint, which is an fsync again
_BROKEN = {
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}  # with all that these codes are extended to


class Damaged(Unavailable):
    """Something that is stored is not what was stored; the rest of the store is good."""


def queries() -> dict[str, str]:
    """The named statements of ``queries.sql``."""
    text = resources.files(__package__).joinpath("queries.sql").read_text("utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (p.strip() for p in parts[2::2]), strict=True))


QUERY = queries()


@contextmanager
def translating() -> Iterator[None]:
    """Driver errors become the contract's."""
    try:
        yield
    except sqlite3.Error as exc:
        code = getattr(exc, "sqlite_errorcode", 0)
        name = getattr(exc, "sqlite_errorname", type(exc).__name__)
        if code in _BROKEN:
            raise StoreBroken(f"SQLite: {exc} ({name}): the disk cannot be trusted; restart to recover") from exc
        if code & 0xFF in _DAMAGED:
            raise StoreBroken(f"SQLite: {exc} ({name}): `chatd doctor` says more; put a backup back") from exc
        if code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:
            raise Unavailable("the disk is full: free space in the data directory", retry_after_ms=5_000) from exc
        if "Could not decode" in str(exc):  # its text would tell the body
            raise Damaged("a text in the database is damaged: see `chatd doctor --full`") from None
        raise Unavailable(f"the store failed: {exc} ({name})", retry_after_ms=1_000) from exc


def _end(db: sqlite3.Connection) -> None:
    """End a transaction: it is in the log, and with synchronous = FULL the log is on the disk."""
    db.execute("COMMIT")


class Engine:
    """The threads and connections of one database file. Every method that takes a function runs it in a thread."""

    def __init__(self, path: Path, *, synchronous: str, checkpoint_pages: int, readers: int) -> None:
        self.path = path
        self._synchronous = synchronous
        self._checkpoint_pages = checkpoint_pages
        self._writer = ThreadPoolExecutor(1, "chatd-sqlite-writer")
        self._readers = ThreadPoolExecutor(readers, "chatd-sqlite-reader")
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._db: sqlite3.Connection | None = None
        self._shm_fd = -1
        self.on_rollback: Callable[[], None] = lambda: None  # runs in the writing thread
        self.on_commit: Callable[[float], None] = lambda took_s: None  # the same: a COMMIT took so long
        self._broken: StoreBroken | None = None

    async def open(self, prepare: Callable[[sqlite3.Connection], T]) -> T:
        """Open the writing connection and run ``prepare`` on it before anything else."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._open, prepare)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` in one durable transaction: it is all committed when this returns, or nothing is.

        A caller that is cancelled does not stop the transaction.
        """
        if self._db is None:
            raise Unavailable("the store is closed")
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._writer, self._transaction, work))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` on a read-only connection, in one snapshot."""
        if self._db is None:
            raise Unavailable("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._snapshot, work)

    async def truncate_log(self) -> bool:
        """Move the whole log into the database and make it empty. False: somebody reads what is in it."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._truncate)

    @property
    def broken(self) -> bool:
        """Whether the disk failed: nothing is written any more."""
        return self._broken is not None

    async def close(self) -> None:
        """Finish what is under way, checkpoint, close."""
        if self._db is None:
            self._writer.shutdown(wait=False)
            self._readers.shutdown(wait=False)
            return
        loop = asyncio.get_running_loop()
        db, self._db = self._db, None
        if self._broken is not None:
            _abandoned.append(db)
            self._writer.shutdown(wait=False)
            self._readers.shutdown(wait=False)
            return
        await loop.run_in_executor(None, self._readers.shutdown)
        for connection in self._opened:
            connection.close()
        await loop.run_in_executor(self._writer, self._close, db)
        self._writer.shutdown(wait=False)

    def _connect(self, *, read_only: bool) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=STATEMENTS_CACHED_MAX,
            timeout=5.0,
        )
        connection.execute("PRAGMA query_only = 1" if read_only else "PRAGMA query_only = 0")
        return connection

    def _open(self, prepare: Callable[[sqlite3.Connection], T]) -> T:
        os.close(open_or_make(self.path))  # the log beside it gets its mode
        with translating():
            db = self._connect(read_only=False)
            try:
                db.execute("PRAGMA page_size = 1024")  # small rows in hot pages: a third of the bytes that 4096 writes
                mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                if mode != "wal":
                    raise Unavailable(f"{self.path}: no write-ahead log on this file system ({mode})")
                db.execute(f"PRAGMA synchronous = {self._synchronous}")
                db.execute("PRAGMA wal_autocheckpoint = 0")  # we checkpoint, so that its fsync errors are seen
                db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
                db.execute("PRAGMA cache_size = -8192")
                db.execute("PRAGMA temp_store = MEMORY")  # or a savepoint makes a file at each commit
                result = prepare(db)
                with suppress(Unavailable), translating():  # on a full disk the log stays, and is enough
                    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except BaseException:
                db.close()
                raise
            self._shm_fd = os.open(f"{self.path}-shm", os.O_RDONLY)
            self._db = db
            return result

    def _close(self, db: sqlite3.Connection) -> None:
        os.close(self._shm_fd)
        try:
            with suppress(Unavailable), translating():
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            db.close()

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        db = self._db
        if db is None:
            raise Unavailable("the store is closed")
        if self._broken is not None:
            raise self._broken
        try:
            with translating():
                try:
                    db.execute("BEGIN IMMEDIATE")
                    result = work(db)
                    began_s = time.monotonic()
                    _end(db)
                    self.on_commit(time.monotonic() - began_s)
                except BaseException:
                    self.on_rollback()
                    if db.in_transaction:
                        with suppress(sqlite3.Error):  # the error that led here is the one to tell
                            db.execute("ROLLBACK")
                    raise
            self._checkpoint(db)
        except StoreBroken as exc:
            self._broken = exc
            raise
        return result

    def _truncate(self) -> bool:
        db = self._db
        if db is None:
            raise Unavailable("the store is closed")
        with translating():
            db.execute("PRAGMA busy_timeout = 0")  # nobody's commit waits for a reader
            try:
                return bool(db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
            finally:
                db.execute("PRAGMA busy_timeout = 5000")

    def _checkpoint(self, db: sqlite3.Connection) -> None:
        """Move the log into the database when it is long. A full disk only lets the log grow; it is told by writes."""
        frames = int.from_bytes(
            os.pread(self._shm_fd, 4, 16), sys.byteorder
        )  # mxFrame, sqlite.org/walformat.html §2.2.1
        if frames < self._checkpoint_pages:
            return
        with suppress(Unavailable), translating():
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _snapshot(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with translating():
            db: sqlite3.Connection | None = getattr(self._local, "db", None)
            if db is None:
                db = self._connect(read_only=True)
                self._local.db = db
                self._opened.append(db)
            db.execute("BEGIN")
            try:
                return work(db)
            finally:
                db.execute("COMMIT")
