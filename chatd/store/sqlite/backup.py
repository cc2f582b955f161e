"""Backups of a file: taken while a server writes to it, and put back as another history.

A backup is one file: the database as it was at one moment, then a manifest in JSON, then its length (8 bytes, most
significant first) and `MAGIC`. SQLite does not look behind the last page, so a backup opens as a database, too.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from chatd.errors import StartError, Unavailable
from chatd.newfile import PART, new_file, open_or_make, sync
from chatd.settings import CONFIG_NAME
from chatd.store.base import Counts
from chatd.store.sqlite import FILE_NAME, LOCK_NAME, DirectoryInUse
from chatd.store.sqlite.engine import QUERY
from chatd.store.sqlite.schema import migrations
from chatd.store.sqlite.wholeness import check_end, check_log, index_kept, looking, problems

MAGIC = b"chatd backup 1\n\x00"
TAIL_BYTES = 8 + len(MAGIC)
MANIFEST_BYTES_MAX = 4 * 1024 * 1024
PAGES_PER_STEP = 4_096
PARTS = tuple(f"{FILE_NAME}{PART}{what}" for what in ("", "-journal", "-wal", "-shm"))
"""The database that a restore makes, and what SQLite may have beside it."""
PIECE_BYTES = 1024 * 1024


class Manifest(Struct, frozen=True):
    """What a backup holds. ``bytes``, ``sha256``: of the database before it. ``config``: the configuration file's text.

    ``version``: of the chatd that took it; ``schema``: the newest migration in it. ``incarnation``: of the history that
    it is a copy of.
    """

    version: str
    created_ms: int
    schema: int
    incarnation: str
    counts: Counts
    bytes: int
    sha256: str
    config: str | None = None


Tell = Callable[[int, int], None]
"""Told how many pages of how many are copied."""


def take(
    directory: Path,
    target: Path,
    *,
    version: str,
    now_ms: int,
    config: str | None = None,
    salvage: bool = False,
    tell: Tell = lambda done, total: None,
) -> Manifest:
    """Copy the database of a data directory into one new file, mode 0600, whether or not a server runs.

    It shows one moment: what was committed when it began. Meanwhile the write-ahead log grows by what is written.
    ``salvage``: also when its log was cut. Raises: StartError – what is there cannot be copied; OSError; Unavailable.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise StartError(f"no {FILE_NAME} in {directory}: name the data directory of the server with --data-dir")
    with new_file(target) as (file, part), ExitStack() as held:
        server = held.enter_context(looking(directory / LOCK_NAME))
        if server is None and salvage:
            # What tells that the log was cut must outlast its salvage: the old directory is not to be served after it.
            held.enter_context(index_kept(path))
        elif server is None:
            check_end(path)
            check_log(path)
            held.close()  # a server may start meanwhile: what is copied is what was there before
        _copy(path, part, tell)
        manifest = _described(file, part, version=version, now_ms=now_ms, config=config)
        raw = msgspec.json.encode(manifest)
        file.seek(0, os.SEEK_END)
        file.write(raw + len(raw).to_bytes(8, "big") + MAGIC)
    return manifest


def _copy(path: Path, part: Path, tell: Tell) -> None:
    # Where nothing can be written nobody writes, and SQLite needs no index beside the file.
    log = path.with_name(f"{path.name}-wal")
    read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY) and not (log.exists() and log.stat().st_size)
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if read_only else ''}"
    try:
        with (
            closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5.0)) as source,
            closing(sqlite3.connect(part, isolation_level=None)) as copy,
        ):
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")  # it is fsynced once, at its end
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from here on it sees one moment
            source.backup(copy, pages=PAGES_PER_STEP, progress=lambda _, left, total: tell(total - left, total))
    except sqlite3.DatabaseError as exc:
        if _is_full(exc):
            raise Unavailable(f"{part.parent}: the disk is full") from exc
        raise StartError(f"{path}: {exc}: `chatd doctor` says more") from exc


def _is_full(exc: sqlite3.Error) -> bool:
    code = getattr(exc, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_FULL or code in (sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE)


def _described(file: BinaryIO, part: Path, *, version: str, now_ms: int, config: str | None) -> Manifest:
    """Look through the copy. Raises: StartError – it is damaged, as its source is."""
    with closing(sqlite3.connect(f"{part.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as copy:
        for line in problems(copy, full=False):
            raise StartError(f"the database is damaged, and a backup of it would be, too: {line}; `chatd doctor`")
        try:
            counts, schema, incarnation = _told(copy)
        except (sqlite3.Error, TypeError) as exc:
            raise StartError(f"the database is not one of chatd's, or damaged ({exc}); `chatd doctor`") from exc
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    return Manifest(version, now_ms, schema, incarnation, counts, size, _digest(file, size), config)


def _told(db: sqlite3.Connection) -> tuple[Counts, int, str]:
    """Totals, newest migration and incarnation of a database."""
    counts = Counts(*db.execute(QUERY["counts"]).fetchone())
    (schema,) = db.execute("SELECT max(number) FROM migration").fetchone()
    (incarnation,) = db.execute("SELECT value FROM meta WHERE name = 'incarnation'").fetchone()
    return counts, schema, incarnation


def _digest(file: BinaryIO, size: int, into: BinaryIO | None = None) -> str:
    """SHA-256 of the next ``size`` bytes, which are copied if there is somewhere to copy them to."""
    digest, left = hashlib.sha256(), size
    while left and (piece := file.read(min(left, PIECE_BYTES))):
        digest.update(piece)
        if into is not None:
            into.write(piece)
        left -= len(piece)
    return digest.hexdigest()


def manifest_of(file: BinaryIO, name: Path) -> Manifest:
    """The manifest of an open backup. Raises: StartError – it is none, or lacks its end."""
    size = file.seek(0, os.SEEK_END)
    tail = b""
    if size > TAIL_BYTES:
        file.seek(-TAIL_BYTES, os.SEEK_END)
        tail = file.read()
    length = int.from_bytes(tail[:8], "big")
    if tail[8:] != MAGIC or length > min(MANIFEST_BYTES_MAX, size - TAIL_BYTES):
        raise StartError(f"{name} is no backup, or its end is missing: take another one")
    file.seek(-TAIL_BYTES - length, os.SEEK_END)
    try:
        manifest = msgspec.json.decode(file.read(length), type=Manifest)
    except msgspec.DecodeError as exc:
        raise StartError(f"{name}: its manifest is damaged ({exc}): take another backup") from exc
    if manifest.bytes != size - TAIL_BYTES - length:
        raise StartError(f"{name}: {manifest.bytes} bytes of a database were written, and it has others: take another")
    return manifest


def put_back(name: Path, directory: Path, *, config: Callable[[str], str], verify: bool) -> Manifest:
    """Make a data directory of a backup, with a new incarnation; the checksum and the counts are compared.

    ``config``: makes the text of `CONFIG_NAME` of the one in the backup. ``verify``: look at every
    index and every message as well. Either all of it is there at the end, or no database.
    Raises: StartError – the backup is damaged, or the directory is not empty or in use; Unavailable; OSError.
    """
    with name.open("rb") as file:
        manifest = manifest_of(file, name)
        newest = migrations()[-1].number
        if manifest.schema > newest:
            raise StartError(
                f"{name} has schema {manifest.schema}, this chatd knows {newest}: run chatd {manifest.version}"
            )
        _check_place(directory, manifest)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(directory):
            _check_place(directory, manifest)
            directory.chmod(0o700)
            part = directory / PARTS[0]
            try:
                _remove(directory, *_leftovers(directory))
                with _fresh(part) as copy:
                    file.seek(0)
                    if _digest(file, manifest.bytes, copy) != manifest.sha256:
                        raise StartError(
                            f"{name} is damaged: its checksum is not that of its manifest; take another one"
                        )
                _begin_anew(part, manifest, name, verify=verify)
                with part.open("rb") as copy:
                    os.fsync(copy.fileno())
                if manifest.config is not None:
                    with _fresh(directory / CONFIG_NAME) as text:
                        text.write(config(manifest.config).encode())
                        text.flush()
                        os.fsync(text.fileno())
                part.replace(directory / FILE_NAME)
                sync(directory)
                sync(directory.parent)
            except BaseException:
                _remove(directory, *PARTS, CONFIG_NAME, FILE_NAME, LOCK_NAME)
                raise
    return manifest


def _fresh(path: Path) -> BinaryIO:
    """A file that was not there, mode 0600. Raises: OSError – something has its name, a link to elsewhere perhaps."""
    return open(open_or_make(path, os.O_CREAT | os.O_EXCL), "r+b")


def _remove(directory: Path, *names: str) -> None:
    for name in names:
        with suppress(FileNotFoundError):
            (directory / name).unlink()


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """No server begins there meanwhile, and nobody else puts a backup back. Raises: DirectoryInUse; OSError."""
    fd = open_or_make(directory / LOCK_NAME, os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            raise DirectoryInUse(directory, holder or "?") from exc
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def _leftovers(directory: Path) -> list[str]:
    """What a restore leaves that was killed; without a part there is only its lock."""
    names = {one.name for one in directory.iterdir()}
    return sorted(names & {*PARTS, CONFIG_NAME}) if PARTS[0] in names else []


def _check_place(directory: Path, manifest: Manifest) -> None:
    """Raises: StartError – something is there, or too little room."""
    if directory.exists():
        known = {LOCK_NAME, *_leftovers(directory)}
        found = sorted(one.name for one in directory.iterdir() if one.name not in known)
        if found:
            raise StartError(
                f"{directory} is not empty ({found[0]}): a backup is put back into a new directory; "
                "name one with --data-dir"
            )
    free = shutil.disk_usage(next(one for one in (directory, *directory.absolute().parents) if one.exists())).free
    if free < manifest.bytes:
        raise StartError(f"{directory}: the disk is full: {manifest.bytes} bytes are needed, and {free} are free")


def _begin_anew(part: Path, manifest: Manifest, name: Path, *, verify: bool) -> None:
    """Look through the copy, and give its history a new name. Raises: StartError, Unavailable."""
    from chatd.store.sqlite.rows import damaged_rows

    try:
        with closing(sqlite3.connect(part, isolation_level=None)) as db:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")  # or it makes an index in a file, for others
            db.execute("PRAGMA journal_mode = DELETE")
            for line in problems(db, full=verify):
                raise StartError(f"{name} is damaged: {line}; take another one")
            if _told(db) != (manifest.counts, manifest.schema, manifest.incarnation):
                raise StartError(f"{name} is damaged: it does not hold what its manifest says; take another one")
            if verify:
                for line in damaged_rows(db):
                    raise StartError(f"{name} is damaged: {line}; take another one")
            values = {"incarnation": secrets.token_hex(8), "open_since_boot": ""}
            anew = "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
            db.executemany(anew, values.items())
    except sqlite3.Error as exc:
        if _is_full(exc):
            raise Unavailable(f"{part.parent}: the disk is full") from exc
        raise StartError(f"{name} is damaged, or no backup of a chatd ({exc}); take another one") from exc
