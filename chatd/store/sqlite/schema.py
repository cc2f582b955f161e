"""The file's own life: numbered migrations with checksums, a copy before each upgrade, the incarnation."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from importlib import resources
from pathlib import Path

from msgspec import Struct

from chatd.errors import StartError
from chatd.newfile import PART, sync

CHANGES_RESERVED = 1_000_000


class Migration(Struct, frozen=True):
    """One step of the schema. ``checksum`` is of its text: an applied step must never be edited."""

    number: int
    name: str
    sql: str
    checksum: str


def migrations() -> list[Migration]:
    """All steps, in order; numbers are 1…n."""
    steps = []
    for file in resources.files(__package__).joinpath("migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name)
        if match:
            sql = file.read_text("utf-8")
            steps.append(Migration(int(match[1]), match[2], sql, hashlib.sha256(sql.encode()).hexdigest()))
    return sorted(steps, key=lambda m: m.number)


def migrate(
    db: sqlite3.Connection,
    path: Path,
    steps: list[Migration],
    *,
    on_step: Callable[[Migration], None] = lambda _: None,
) -> list[int]:
    """Bring the schema up to date; each step is one transaction. Returns the numbers applied.

    ``on_step`` is called inside a step's transaction, before its commit.
    Raises: StartError – the file is from a newer chatd, or an applied step's text has changed.
    """
    db.execute(
        "CREATE TABLE IF NOT EXISTS migration"
        " (number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_ms INTEGER NOT NULL)"
    )
    applied = check_applied(db, path, steps)
    missing = [s for s in steps if s.number not in applied]
    if missing and applied:
        _copy(db, path.with_name(f"{path.name}.before-{missing[0].number:04d}"))
    for step in missing:
        db.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(step.sql):
                db.execute(statement)
            db.execute(
                "INSERT INTO migration VALUES (?, ?, ?, ?)",
                (step.number, step.name, step.checksum, int(time.time() * 1000)),
            )
            on_step(step)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    return [s.number for s in missing]


def check_applied(db: sqlite3.Connection, path: Path, steps: list[Migration]) -> dict[int, str]:
    """The checksums of the steps that were applied. Raises: StartError – this chatd does not know them."""
    applied = dict(db.execute("SELECT number, checksum FROM migration").fetchall())
    newest = steps[-1].number
    if applied and max(applied) > newest:
        raise StartError(
            f"{path} has schema {max(applied)}, this chatd knows {newest}: run the newer one or restore a copy"
        )
    for step in steps:
        if step.number in applied and applied[step.number] != step.checksum:
            raise StartError(f"{path}: migration {step.number} ({step.name}) is not the one that was applied to it")
    return applied


def differences(db: sqlite3.Connection, steps: list[Migration]) -> list[str]:
    """What of the schema is not as the steps that were applied made it: the names of tables and indexes."""
    made = sqlite3.connect(":memory:", isolation_level=None)
    try:
        applied = {number for (number,) in db.execute("SELECT number FROM migration")}
        made.execute("CREATE TABLE migration (number INTEGER)")
        for step in steps:
            if step.number in applied:
                made.executescript(step.sql)
        rows = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'migration' ORDER BY name"
        there = dict(db.execute(rows).fetchall())
        return [name for name, sql in made.execute(rows) if there.get(name) != sql]
    finally:
        made.close()


def _statements(sql: str) -> list[str]:
    statements, buffer = [], ""
    for line in sql.splitlines(keepends=True):
        buffer += line
        if sqlite3.complete_statement(buffer):
            statements.append(buffer)
            buffer = ""
    return statements


def _copy(db: sqlite3.Connection, path: Path) -> None:
    part = path.with_name(path.name + PART)
    part.unlink(missing_ok=True)
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with closing(sqlite3.connect(part)) as copy:
            db.backup(copy)
        os.fsync(fd)
        part.replace(path)
        sync(path.parent)
    except BaseException:  # on a full disk half a copy would be what fills it
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


class Life(Struct):
    """What a file remembers of itself at opening. ``changed``: numbers up to it may have been used."""

    incarnation: str
    changed: int
    next_key: int


def begin_life(db: sqlite3.Connection, *, durable: bool, boot: str) -> Life:
    """Read or make the incarnation, and reserve a range of change numbers.

    Without fsync a reboot that found the store open may have lost commits: then the incarnation changes.
    """
    db.execute("BEGIN IMMEDIATE")
    meta = dict(db.execute("SELECT name, value FROM meta").fetchall())
    incarnation = meta.get("incarnation")
    lost = not durable and meta.get("open_since_boot", boot) not in ("", boot)
    if incarnation is None or lost:
        incarnation = secrets.token_hex(8)
    changed = int(meta.get("changed", "0"))
    values = {
        "incarnation": incarnation,
        "changed": str(changed + CHANGES_RESERVED),
        "open_since_boot": "" if durable else boot,
    }
    db.executemany("INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", values.items())
    next_key = db.execute("SELECT coalesce(max(key), 0) + 1 FROM conversation").fetchone()[0]
    db.execute("COMMIT")
    return Life(incarnation, changed, next_key)


def reserve_changes(db: sqlite3.Connection, used: int) -> None:
    """Move the reserved range of change numbers on, inside the caller's transaction."""
    db.execute("UPDATE meta SET value = ? WHERE name = 'changed'", (str(used + CHANGES_RESERVED),))


def end_life(db: sqlite3.Connection) -> None:
    """Note an orderly end."""
    db.execute("UPDATE meta SET value = '' WHERE name = 'open_since_boot'")
