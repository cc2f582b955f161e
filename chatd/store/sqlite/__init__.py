"""The embedded store: one SQLite file, durable commits in groups, one process a file."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from chatd.errors import InUse, StartError, StoreBroken, Unavailable
from chatd.model import (
    Advance,
    ConversationPage,
    Draft,
    Durability,
    MarksView,
    Message,
    conv_of,
    members_of,
)
from chatd.newfile import open_or_make
from chatd.settings import StoreSettings
from chatd.store.base import Committed, Counts, Trimmed
from chatd.store.sqlite import reading, schema, wholeness
from chatd.store.sqlite.accounts import SqliteAccounts
from chatd.store.sqlite.engine import QUERY, Engine
from chatd.store.sqlite.erasing import SqliteErasing
from chatd.store.sqlite.log import Log
from chatd.store.sqlite.presence import SqlitePresence
from chatd.store.sqlite.push import SqlitePush
from chatd.store.sqlite.rows import damaged, id_bytes, message, pair_of

log = structlog.get_logger("chatd.store")

FILE_NAME = "chatd.db"
LOCK_NAME = "chatd.lock"
LOOKS_MAX, LOOK_AGAIN_S = 200, 0.05  # how long a start waits for `chatd doctor` and its like
OWN = ("chatd.", "admin", "lost+found")  # how the names in a data directory begin
TRIMMED_MAX = 1_000  # in one transaction: meanwhile nothing else is written


class DirectoryInUse(InUse):
    """``holder``: the id of the process that uses it, or ``?``."""

    def __init__(self, directory: Path, holder: str) -> None:
        super().__init__(
            f"data directory {directory} is in use by process {holder}: "
            "stop it, or give this one another directory with --data-dir",
            holder,
        )


class SqliteStore(SqliteAccounts, SqliteErasing, SqlitePresence, SqlitePush):
    """`Store` over ``directory/chatd.db``. See chatd.store.base for what it promises."""

    def __init__(
        self,
        directory: Path,
        settings: StoreSettings,
        *,
        migrations: Sequence[schema.Migration] | None = None,
        on_migration: Callable[[schema.Migration], None] = lambda _: None,
    ) -> None:
        self.directory = directory
        self._settings = settings
        self._migrations = list(schema.migrations() if migrations is None else migrations)
        self._on_migration = on_migration
        self.engine = Engine(
            directory / FILE_NAME,
            synchronous=settings.synchronous.upper(),
            checkpoint_pages=settings.wal_autocheckpoint_pages,
            readers=settings.readers,
        )
        self.migrated: list[int] = []
        self._lock_fd = -1
        self._incarnation = ""
        self._log: Log
        self._changes_reserved = 0

    @property
    def durability(self) -> Durability:
        """``fsync`` with synchronous = full, ``os`` with normal."""
        return "fsync" if self._settings.synchronous == "full" else "os"

    @property
    def incarnation(self) -> str:
        """Kept in the file."""
        return self._incarnation

    @property
    def sqlite_version(self) -> str:
        """The version of the SQLite library in use."""
        return sqlite3.sqlite_version

    async def open(self) -> None:
        """Lock the directory, migrate the file, begin."""
        await self._lock()
        try:
            self._check()
            life = await self.engine.open(self._prepare)
        except StoreBroken as exc:
            self._unlock()
            raise StartError(
                f"{self.engine.path}: damaged, or no database ({exc.__cause__}): put a backup back"
            ) from exc
        except (Unavailable, OSError) as exc:
            self._unlock()
            raise StartError(f"{self.engine.path}: {exc}") from exc
        except (TypeError, ValueError) as exc:  # what the file says of itself is no number, or none
            self._unlock()
            raise StartError(f"{self.engine.path}: damaged ({exc}): put a backup back") from exc
        except BaseException:
            self._unlock()
            raise
        self._incarnation = life.incarnation
        self._changes_reserved = life.changed + schema.CHANGES_RESERVED
        self._log = Log(
            conversations_cached_max=self._settings.conversations_cached_max,
            next_key=life.next_key,
            changed=life.changed,
        )
        self.engine.on_rollback = self._log.forget

    async def close(self) -> None:
        """Finish, note an orderly end, give the directory free."""
        if self._lock_fd < 0:
            return
        try:
            if not self.engine.broken:
                await self.engine.write(schema.end_life)
        finally:
            await self.engine.close()
            self._unlock()

    def _check(self) -> None:
        """Before SQLite sees the file: whether it is this process's to use, and what was left. Raises: StartError."""
        path = self.engine.path
        for one in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            if one.exists() and not os.access(one, os.R_OK | os.W_OK):
                raise _not_ours(one, self.directory)
        wholeness.check_end(path)
        if not wholeness.check_log(path):
            log.warning("looked_at_all_pages", why="the write-ahead log had no index: a power cut, or copied files")

    def _prepare(self, db: sqlite3.Connection) -> schema.Life:
        self.migrated = schema.migrate(db, self.engine.path, self._migrations, on_step=self._on_migration)
        return schema.begin_life(db, durable=self.durability == "fsync", boot=wholeness.boot())

    async def _lock(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_private(self.directory)
            fd = open_or_make(self.directory / LOCK_NAME, os.O_NOFOLLOW)
        except OSError as exc:
            raise _refused(exc, self.directory) from exc
        try:
            await self._take(fd)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as exc:
            os.close(fd)
            raise StartError(f"data directory {self.directory}: {exc.strerror}: free space there") from exc
        except BaseException:
            os.close(fd)
            raise
        self._lock_fd = fd

    async def _take(self, fd: int) -> None:
        """Lock it. Who only looks shares the lock, and is waited for. Raises: StartError, OSError."""
        for _ in range(LOOKS_MAX):
            with suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
                raise DirectoryInUse(self.directory, holder or "?") from exc
            fcntl.flock(fd, fcntl.LOCK_UN)
            await asyncio.sleep(LOOK_AGAIN_S)
        raise StartError(
            f"data directory {self.directory}: `chatd doctor` or `chatd backup` looks at it: start when that is done"
        )

    def _unlock(self) -> None:
        os.close(self._lock_fd)
        self._lock_fd = -1

    async def commit(self, drafts: Sequence[Draft], advances: Sequence[Advance]) -> Committed:
        """One transaction, one fsync, for all of it."""

        def work(db: sqlite3.Connection) -> Committed:
            if self._log.changed + 1 >= self._changes_reserved:
                schema.reserve_changes(db, self._log.changed)
                self._changes_reserved = self._log.changed + schema.CHANGES_RESERVED
            return self._log.commit(db, drafts, advances)

        return await self.engine.write(work)

    async def find(self, conv: str, sender: str, id: str) -> Message | None:
        """Asked in the writing thread, behind every write that was begun before."""
        pair = pair_of(conv)
        args = (*pair, 0 if sender == pair[0] else 1, id_bytes(id))
        row = await self.engine.write(lambda db: db.execute(QUERY["find"], args).fetchone())
        if row is not None and (row[1], row[2]) != (args[3], args[2]):  # an index that leads elsewhere
            raise damaged(conv, row[0])
        return None if row is None else message(conv, pair, row)

    async def read(
        self,
        conv: str,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        bytes_max: int = 262_144,
    ) -> Sequence[Message]:
        """See `MessageStore.read`."""
        return await self.engine.read(
            lambda db: reading.read(db, conv, after=after, before=before, limit=limit, bytes_max=bytes_max)
        )

    async def heads(self, convs: Sequence[str]) -> dict[str, int]:
        """See `MessageStore.heads`."""

        def work(db: sqlite3.Connection) -> dict[str, int]:
            found: dict[str, int] = {}
            for conv in convs:
                pair = members_of(conv)
                row = db.execute(QUERY["head"], pair).fetchone() if pair is not None else None
                found[conv] = 0 if row is None else row[0]
            return found

        return await self.engine.read(work)

    async def conversations(
        self,
        user: str,
        device: str,
        *,
        since: str | None = None,
        cursor: str | None = None,
        limit: int,
    ) -> ConversationPage:
        """See `MessageStore.conversations`."""
        return await self.engine.read(
            lambda db: reading.conversations(
                db, self._incarnation, user, device, since=since, cursor=cursor, limit=limit
            )
        )

    async def position(self, conv: str, user: str, device: str) -> int:
        """See `MessageStore.position`."""
        pair = pair_of(conv)
        args = (*pair, 0 if user == pair[0] else 1, device)
        row = await self.engine.read(lambda db: db.execute(QUERY["position"], args).fetchone())
        return 0 if row is None or row[0] is None else int(row[0])

    async def marks(self, conv: str, user: str) -> MarksView:
        """See `MessageStore.marks`."""
        return await self.engine.read(lambda db: reading.marks(db, conv, user))

    async def enroll(
        self, user: str, device: str, *, initial_history: int, newest_max: int, again: bool = False
    ) -> None:
        """See `MessageStore.enroll`."""

        def work(db: sqlite3.Connection) -> None:
            new = db.execute("INSERT INTO enrolled VALUES (?, ?) ON CONFLICT DO NOTHING", (user, device)).rowcount
            if new or again:
                values = {"user": user, "device": device, "history": initial_history, "newest": newest_max}
                db.execute(QUERY["starts"], values)
                self._log.forget()

        await self.engine.write(work)

    async def trim(self, *, older_than_ms: int, cursor: str | None = None, limit: int) -> Trimmed:
        """Found by a reader; the writing thread has only what is to go, at most 1,000 messages in all."""
        after = int(cursor or 0)
        upto, looked_at, found = await self.engine.read(lambda db: reading.to_trim(db, after, limit, older_than_ms))
        end = str(upto) if looked_at == limit else None
        if not found:
            return Trimmed(0, end)
        count, unfinished = await self.engine.write(lambda db: self._log.trim(db, found, older_than_ms, TRIMMED_MAX))
        return Trimmed(count, end if unfinished is None else str(unfinished - 1))

    async def block(self, user: str, peer: str, *, on: bool) -> None:
        """See `MessageStore.block`."""
        conv = conv_of(user, peer)

        def work(db: sqlite3.Connection) -> None:
            state = self._log.conversation(db, conv)
            if on:
                mine, theirs = state.user_marks[state.member(user)], state.user_marks[state.member(peer)]
                db.execute(QUERY["add_block"], (user, peer, *mine, *theirs))
            else:
                self._log.unblock(db, user, peer)
            self._log.forget()

        await self.engine.write(work)

    async def blocks(self, user: str) -> Sequence[str]:
        """See `MessageStore.blocks`."""
        return await self.engine.read(lambda db: [r[0] for r in db.execute(QUERY["blocks"], (user,))])

    async def probe(self) -> None:
        """A durable write of one row."""
        row: Any = ("INSERT INTO meta VALUES ('probe', '') ON CONFLICT DO UPDATE SET value = value || ''",)
        await self.engine.write(lambda db: db.execute(*row) and None)

    async def counts(self) -> Counts:
        """See `MessageStore.counts`."""
        return await self.engine.read(lambda db: Counts(*db.execute(QUERY["counts"]).fetchone()))


def _refused(exc: OSError, directory: Path) -> StartError:
    path = Path(exc.filename or directory)
    if isinstance(exc, PermissionError) and path.exists():
        return _not_ours(path, directory)
    return StartError(f"data directory {directory}: {exc.strerror}; set server.data_dir")


def _not_ours(path: Path, directory: Path) -> StartError:
    me = os.geteuid()
    return StartError(
        f"{path}: it belongs to user {path.stat().st_uid}, and this process runs as {me}: run it as its owner, "
        f"or give it all of the directory: chown -R {me} {directory}"
    )


def _make_private(directory: Path) -> None:
    """Let nobody else look into a data directory; one that holds other things as well is not ours to close.

    Raises: StartError – others may write there; OSError.
    """
    if all(name.startswith(OWN) for name in os.listdir(directory)):
        directory.chmod(0o700)
    elif stat.S_IMODE(directory.stat().st_mode) & stat.S_IWOTH:
        raise StartError(
            f"data directory {directory}: everybody may write there, and it holds other things: name one of its own"
        )
