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
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from chatd.errors import StartError, Unavailable
from chatd.store.base import Counts
from chatd.store.sqlite import FILE_NAME, LOCK_NAME
from chatd.store.sqlite.engine import QUERY
from chatd.store.sqlite.schema import migrations
from chatd.store.sqlite.wholeness import check_end, check_log, holder, index_kept, problems

MAGIC = b"chatd backup 1\n\x00"
TAIL_BYTES = 8 + len(MAGIC)
MANIFEST_BYTES_MAX = 4 * 1024 * 1024
PAGES_PER_STEP = 4_096
PIECE_BYTES = 1024 * 1024
PART = ".part"


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
    if target.exists():
        raise StartError(f"{target} is there already and stays as it is; name another file")
    still = holder(directory / LOCK_NAME) is None
    if still and not salvage:
        check_end(path)
        check_log(path)
    part = target.with_name(target.name + PART)
    # What tells that the log was cut must outlast its salvage: the old directory is not to be served after it.
    with _made(part) as file, index_kept(path) if still and salvage else nullcontext():
        try:
            _copy(path, part, tell)
            manifest = _described(file, part, version=version, now_ms=now_ms, config=config)
            raw = msgspec.json.encode(manifest)
            file.seek(0, os.SEEK_END)
            file.write(raw + len(raw).to_bytes(8, "big") + MAGIC)
            file.flush()
            os.fsync(file.fileno())
            _publish(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    return manifest


@contextmanager
def _made(part: Path) -> Iterator[BinaryIO]:
    """The file that the backup grows in; what an earlier one left there is thrown away."""
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "r+b") as file:
        if os.fstat(fd).st_uid != os.geteuid():
            raise StartError(f"{part} belongs to somebody else, who could read the backup: delete it")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise StartError(f"{part}: another backup writes it; wait for it, or name another file") from exc
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 0)
        yield file


def _copy(path: Path, part: Path, tell: Tell) -> None:
    uri = f"{path.absolute().as_uri()}?mode=ro"
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
        if getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise Unavailable(f"{part.parent}: the disk is full") from exc
        raise StartError(f"{path}: {exc}: `chatd doctor` says more") from exc


def _described(file: BinaryIO, part: Path, *, version: str, now_ms: int, config: str | None) -> Manifest:
    """Look through the copy. Raises: StartError – it is damaged, as its source is."""
    with closing(sqlite3.connect(f"{part.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as copy:
        for line in problems(copy, full=False):
            raise StartError(f"the database is damaged, and a backup of it would be, too: {line}; `chatd doctor`")
        counts, schema, incarnation = _told(copy)
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


def _publish(part: Path, target: Path) -> None:
    """Give it its name, unless that was taken meanwhile."""
    try:
        os.link(part, target)
    except FileExistsError as exc:
        raise StartError(f"{target} came to be meanwhile and stays as it is; name another file") from exc
    except OSError:  # a file system without links
        part.replace(target)
    part.unlink(missing_ok=True)
    _sync(target.parent)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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


def put_back(name: Path, directory: Path, *, config_name: str, config: Callable[[str], str], verify: bool) -> Manifest:
    """Make a data directory of a backup, with a new incarnation; the checksum and the counts are compared.

    ``config``: makes the text that is written as ``config_name`` of the one in the backup. ``verify``: look at every
    index and every message as well. Either all of it is there at the end, or no database.
    Raises: StartError – the backup is damaged, or the directory is not empty; OSError.
    """
    with name.open("rb") as file:
        manifest = manifest_of(file, name)
        _check_empty(directory)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        part = directory / (FILE_NAME + PART)
        try:
            fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            file.seek(0)
            with open(fd, "r+b") as copy:
                if _digest(file, manifest.bytes, copy) != manifest.sha256:
                    raise StartError(f"{name} is damaged: its checksum is not that of its manifest; take another one")
            with closing(sqlite3.connect(part, isolation_level=None)) as db:
                _begin_anew(db, manifest, name, verify=verify)
            if manifest.config is not None:
                (directory / config_name).touch(mode=0o600)
                (directory / config_name).write_text(config(manifest.config), "utf-8")
            with part.open("rb") as copy:
                os.fsync(copy.fileno())
            part.replace(directory / FILE_NAME)
            _sync(directory)
        except BaseException:
            for one in (part, part.with_name(f"{part.name}-journal"), directory / config_name):
                with suppress(FileNotFoundError):
                    one.unlink()
            raise
    return manifest


def _check_empty(directory: Path) -> None:
    if directory.exists():
        found = sorted(one.name for one in directory.iterdir() if one.name != FILE_NAME + PART)
        if found:
            raise StartError(
                f"{directory} is not empty ({found[0]}): a backup is put back into a new directory; "
                "name one with --data-dir"
            )
    if shutil.disk_usage(next(one for one in (directory, *directory.absolute().parents) if one.exists())).free == 0:
        raise StartError(f"{directory}: the disk is full")


def _begin_anew(db: sqlite3.Connection, manifest: Manifest, name: Path, *, verify: bool) -> None:
    from chatd.store.sqlite.rows import damaged_rows

    db.execute("PRAGMA journal_mode = DELETE")
    for line in problems(db, full=verify):
        raise StartError(f"{name} is damaged: {line}; take another one")
    counts, schema, incarnation = _told(db)
    newest = migrations()[-1].number
    if schema > newest:
        raise StartError(f"{name} has schema {schema}, this chatd knows {newest}: run chatd {manifest.version}")
    if (counts, schema, incarnation) != (manifest.counts, manifest.schema, manifest.incarnation):
        raise StartError(f"{name} is damaged: it does not hold what its manifest says; take another one")
    if verify:
        for line in damaged_rows(db):
            raise StartError(f"{name} is damaged: {line}; take another one")
    values = {"incarnation": secrets.token_hex(8), "open_since_boot": ""}
    db.executemany("INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", values.items())
