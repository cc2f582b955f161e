"""Whether a file is what was left: its log not cut, its end there, its pages in order.

SQLite takes a write-ahead log up to the first frame that is damaged and forgets the rest without a word. What was
committed stands in the index beside the log (``-shm``), too: it is written after the log, so after a kill -9 it tells
what must be there. It has to be read before any connection makes it anew, and stays as it was if something is missing.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from chatd.errors import StartError

# sqlite.org/walformat.html §2.1 and §2.2.1, sqlite.org/fileformat2.html §1.3
LOG_HEADER_BYTES = 32
INDEX_HEADER_BYTES = 48
BACKFILL_OFFSET = 2 * INDEX_HEADER_BYTES
FRAME_HEADER_BYTES = 24
PROBLEMS_MAX = 20
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SALVAGE = "put a backup back, or save what is left with `chatd backup --salvage` and restore that"


class LogCut(StartError):
    """Commits that were answered are missing in the write-ahead log."""


class _Index(NamedTuple):
    """What the index tells: ``frames`` are committed, ``backfilled`` of them are in the database already."""

    frames: int
    backfilled: int
    salts: bytes


def boot() -> str:
    """Names this run of the machine, or is empty where none does."""
    return BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""


def check_log(path: Path) -> bool:
    """Check the write-ahead log of a database that nobody has open. Returns: whether there was an index to tell.

    False: there is a log without one, as after a power cut or a copy by hand; then all pages were looked at.
    Raises: LogCut, StartError – damaged. What told so is left as it was, for whoever asks next.
    """
    log, index = path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")
    header = _head(log, LOG_HEADER_BYTES)
    told = _index(_head(index, BACKFILL_OFFSET + 4))
    if told is None and len(header) < LOG_HEADER_BYTES:
        return True
    good = len(header) == LOG_HEADER_BYTES and _sum(header[:24], _order(header)) == struct.unpack(">2I", header[24:])
    if told is not None and (not told.frames or (good and header[16:24] != told.salts)):
        return True
    with index_kept(path):
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            if told is None:
                _check_pages(db, path)
            else:
                _check_frames(db, log, told, lambda: _index(_head(index, BACKFILL_OFFSET + 4)))
        except sqlite3.DatabaseError:  # whoever opens it is told
            return True
        finally:
            db.close()
    return told is not None


@contextmanager
def index_kept(path: Path) -> Iterator[None]:
    """Leave the index beside a log as it was, whatever SQLite makes of it meanwhile; nobody else has it open."""
    index = path.with_name(f"{path.name}-shm")
    before = index.read_bytes() if index.exists() else None
    try:
        yield
    finally:
        if before is not None:
            with open(os.open(index, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
                file.write(before)  # in its place: the disk may be full
                file.truncate(len(before))
        else:
            index.unlink(missing_ok=True)


def _check_frames(db: sqlite3.Connection, log: Path, told: _Index, now: Callable[[], _Index | None]) -> None:
    """Compare what was committed with what SQLite finds good when it makes the index anew. Raises: LogCut."""
    db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (since,) = db.execute("SELECT value FROM meta WHERE name = 'open_since_boot'").fetchone() or ("",)
    anew = now()
    found = 0 if anew is None else anew.frames
    if found >= told.frames or (found == 0 and told.backfilled >= told.frames):
        return
    if since not in ("", boot()):
        return  # without fsync a power cut may take the end of the log; then the incarnation changes
    raise LogCut(f"{log}: {told.frames} frames were committed, and {found} of them are good: it was cut; {SALVAGE}")


def check_end(path: Path) -> None:
    """Before `check_log`: a database is there, and if it has no log, all of its pages. Raises: StartError."""
    head, log = _head(path, 100), _head(path.with_name(f"{path.name}-wal"), LOG_HEADER_BYTES)
    if not head and log:  # SQLite would throw the log away
        raise StartError(f"{path} is missing, and its write-ahead log is there: put a backup back")
    if not head and path.exists():
        raise StartError(f"{path} is empty: put a backup back, or delete it to begin with nothing")
    if len(head) < 100 or log:
        return
    size, changed, pages, valid_for = struct.unpack_from(">H", head, 16)[0], head[24:28], head[28:32], head[92:96]
    wanted = int.from_bytes(pages, "big") * (65_536 if size == 1 else size)
    there = path.stat().st_size
    if changed == valid_for and there < wanted:
        raise StartError(f"{path}: {wanted} bytes were written, and {there} are there: it was cut; put a backup back")


def _check_pages(db: sqlite3.Connection, path: Path) -> None:
    """Look at every page, where the log alone cannot tell. Raises: StartError – damaged, or the log was cut."""
    for line in problems(db, full=True):
        raise StartError(f"{path}: damaged: {line}; put a backup back")
    (pages,), (size,) = db.execute("PRAGMA page_count").fetchone(), db.execute("PRAGMA page_size").fetchone()
    there = path.stat().st_size // size
    if there > pages:  # a file does not become smaller (but by VACUUM), and has some of what the log lacks
        raise LogCut(f"{path}-wal: it makes {pages} pages, and the database has {there}: it was cut; {SALVAGE}")


def problems(db: sqlite3.Connection, *, full: bool) -> Iterator[str]:
    """What is wrong with the pages of a database, a line each, at most `PROBLEMS_MAX`; ``full``: its indexes, too."""
    check = "integrity_check" if full else "quick_check"
    try:
        for (line,) in db.execute(f"PRAGMA {check}({PROBLEMS_MAX})"):
            if line != "ok":
                yield " ".join(line.removeprefix("*** in database main ***").split())
    except sqlite3.DatabaseError as exc:
        yield str(exc)


def _head(path: Path, count: int) -> bytes:
    """The first bytes of a file; none when it is not there."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except FileNotFoundError:
        return b""


def _order(header: bytes) -> str:
    """The byte order of the checksums of a log."""
    return ">" if header[3] & 1 else "<"


def _sum(data: bytes, order: str) -> tuple[int, int]:
    """The checksum of sqlite.org/fileformat2.html §4.2."""
    one = other = 0
    for x, y in struct.iter_unpack(f"{order}2I", data):
        one = (one + x + other) & 0xFFFFFFFF
        other = (other + y + one) & 0xFFFFFFFF
    return one, other


def _index(raw: bytes) -> _Index | None:
    """What an index tells, or None: it is none, or was being written."""
    first, again = raw[:INDEX_HEADER_BYTES], raw[INDEX_HEADER_BYTES:BACKFILL_OFFSET]
    if len(raw) < BACKFILL_OFFSET + 4 or first != again or first[12] != 1:
        return None
    native = "<" if sys.byteorder == "little" else ">"
    if _sum(first[:40], native) != struct.unpack(f"{native}2I", first[40:]):
        return None
    (frames,) = struct.unpack_from(f"{native}I", first, 16)
    (backfilled,) = struct.unpack_from(f"{native}I", raw, BACKFILL_OFFSET)
    return _Index(frames, backfilled, first[32:40])


@contextmanager
def looking(lock: Path) -> Iterator[str | None]:
    """Gives the id of the process that uses a directory, or None: nobody does, and nobody begins to meanwhile.

    ``lock``: the file that a server locks. One that starts waits for who looks, but not for long: look shortly.
    """
    import fcntl

    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # nobody can have locked what is not there
        yield None
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            yield os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "?"
        else:
            yield None
    finally:
        os.close(fd)


def holder(lock: Path) -> str | None:
    """The id of the process that uses a directory, or None: nobody does. ``lock``: the file that it locks."""
    with looking(lock) as pid:
        return pid
