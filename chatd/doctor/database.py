"""The database: its log, its pages, every message, and with ``full`` its indexes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from chatd.doctor.finding import Finding, size
from chatd.errors import StartError
from chatd.store.sqlite import FILE_NAME, LOCK_NAME
from chatd.store.sqlite.rows import damaged_rows, damaged_texts
from chatd.store.sqlite.schema import check_applied, differences, migrations
from chatd.store.sqlite.wholeness import check_end, check_log, looking, problems

CHECK = "database"
LOG_CHECK = "write-ahead log"
LOG_BYTES_WARN = 1024 * 1024 * 1024
BACKUP = "stop the server, keep the directory as it is, and put a backup back with `chatd restore`"


class Looked(Struct, frozen=True):
    """``newest_ms``: when the newest message was stored, Unix ms; 0: none, or it is not known."""

    findings: list[Finding]
    newest_ms: int = 0


def examine(directory: Path, *, full: bool) -> Looked:
    """Look at the file of a directory; a server may write to it."""
    path = directory / FILE_NAME
    if not path.exists() and not path.with_name(f"{path.name}-wal").exists():
        return Looked([Finding(CHECK, "ok", "there is none yet; the first start makes it")])
    findings: list[Finding] = []
    try:
        with looking(directory / LOCK_NAME) as server:
            still = server is None
            if still:
                check_end(path)
            sure = check_log(path) if still else True
        with closing(sqlite3.connect(_uri(path, still=still), uri=True, isolation_level=None)) as db:
            findings += _log(path, sure=sure)
            findings += _pages(db, path, full=full)
            return Looked(findings, _newest_ms(db, findings))
    except StartError as exc:
        return Looked([*findings, Finding(CHECK, "fail", str(exc), BACKUP)])
    except (TypeError, ValueError) as exc:  # what the file says of itself is no number, or none
        return Looked([*findings, Finding(CHECK, "fail", f"{path} is damaged: {exc}", BACKUP)])
    except (sqlite3.Error, OSError) as exc:
        out = "look at the other lines first: its owner, the disk; else put a backup back"
        return Looked([*findings, Finding(CHECK, "fail", f"{path} cannot be read: {exc}", out)])


def _uri(path: Path, *, still: bool) -> str:
    """Without a log nothing has to be made beside the file, not even on a full disk."""
    log = path.with_name(f"{path.name}-wal")
    plain = still and not (log.exists() and log.stat().st_size)
    return f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if plain else ''}"


def _log(path: Path, *, sure: bool) -> Iterator[Finding]:
    log = path.with_name(f"{path.name}-wal")
    length = log.stat().st_size if log.exists() else 0
    if not sure:
        found = "there is no index beside it (a power cut, or a copy by hand): it may have lost its end unnoticed"
        yield Finding(LOG_CHECK, "warn", found, "if the files were copied, use `chatd backup` and `chatd restore`")
    elif length > LOG_BYTES_WARN:
        found = f"{size(length)}: something reads an old state for long, as a backup"
        yield Finding(LOG_CHECK, "warn", found, "let it end; the log is moved into the database then")
    else:
        yield Finding(LOG_CHECK, "ok", f"{size(length)}, and nothing of it is missing")


def _pages(db: sqlite3.Connection, path: Path, *, full: bool) -> Iterator[Finding]:
    found = [Finding(CHECK, "fail", f"{path} is damaged: {line}", BACKUP) for line in problems(db, full=full)]
    if not found:
        lines = [f"{name} is not as it was made" for name in differences(db, migrations())]
        lines = lines or [*damaged_texts(db), *damaged_rows(db)]
        found = [Finding(CHECK, "fail", f"{path} is damaged: {line}", BACKUP) for line in lines]
    yield from found
    if found:
        return
    check_applied(db, path, migrations())
    looked = "every page, message and index" if full else "every page and message; `--full` looks at indexes, too"
    yield Finding(CHECK, "ok", f"{size(path.stat().st_size)}, whole: {looked}")


def _newest_ms(db: sqlite3.Connection, findings: list[Finding]) -> int:
    if any(one.state == "fail" for one in findings):
        return 0
    return int(db.execute("SELECT coalesce(max(ts_ms), 0) FROM conversation").fetchone()[0])
