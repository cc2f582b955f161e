"""A message's row: what its columns mean, and the checksum that tells whether they are what was stored.

SQLite notices when the structure of a page is damaged, and does not when a bit of a text or of a number in it flips.
So each row has a checksum over all that is told of a message, and each reader computes it again.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import structlog

from chatd.errors import BadFrame
from chatd.model import Message, conv_of, members_of
from chatd.store.sqlite.engine import Damaged

VISIBLE: Final = 0
HIDDEN: Final = 1  # from its recipient
ERASED: Final = 2  # from everybody; the body is empty
DAMAGED_TOLD_MAX = 1_000
PROBLEMS_MAX = 20
RETRY_AFTER_MS = 5_000

log = structlog.get_logger("chatd.store")
_told: set[tuple[str, int]] = set()


def id_bytes(text: str) -> bytes:
    """The 16 bytes of a UUID."""
    return bytes.fromhex(text.replace("-", ""))


def id_text(raw: bytes) -> str:
    """The canonical text of a UUID's 16 bytes."""
    h = raw.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def pair_of(conv: str) -> tuple[str, str]:
    """The two users of a conversation."""
    pair = members_of(conv)
    if pair is None:
        raise BadFrame(f"no conversation is called {conv[:200]!r}")
    return pair


def checksum(conv: str, seq: int, raw: bytes, member: int, body: str, ts_ms: int, state: int) -> int:
    """CRC-32 of a message; ``raw``: its id, ``state``: the column ``hidden``."""
    return zlib.crc32(body.encode(), zlib.crc32(raw, zlib.crc32(f"{conv} {seq} {member} {ts_ms} {state}".encode())))


def is_whole(conv: str, row: Sequence[Any]) -> bool:
    """Whether a row (see `message`) is what was stored; one that an older chatd stored is taken as it is."""
    _, raw, member, body, *_, check = row
    if check is None:
        return isinstance(raw, bytes) and isinstance(body, str) and member in (0, 1)
    try:
        return bool(checksum(conv, *row[:6]) == check)
    except (AttributeError, TypeError):  # what says of what type a value is was damaged
        return False


def message(conv: str, pair: tuple[str, str], row: Sequence[Any]) -> Message:
    """A message from its row: seq, id, sender, body, ts_ms, hidden, checksum. Raises: Damaged."""
    seq, raw, sender, body, ts_ms, state, _ = row
    if not is_whole(conv, row):
        raise damaged(conv, seq)
    return Message(conv, seq, id_text(raw), pair[sender], body, ts_ms, bool(state), erased=state == ERASED)


def damaged(conv: str, seq: int) -> Damaged:
    """The error for a place in a log that is not what was stored; it is logged once."""
    if (conv, seq) not in _told and len(_told) < DAMAGED_TOLD_MAX:
        _told.add((conv, seq))
        log.critical("message_damaged", conv=conv, seq=seq, way_out="chatd doctor --full; put a backup back")
    return Damaged(
        f"message {seq} of {conv} is damaged in the database: see `chatd doctor --full`", retry_after_ms=RETRY_AFTER_MS
    )


def damaged_texts(db: sqlite3.Connection) -> Iterator[str]:
    """The tables beside the messages that have a text which is none, a line each."""
    tables = db.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('message', 'sqlite_stat1')"
    )
    for (table,) in tables.fetchall():
        try:
            for _ in db.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 - its name is its own
                pass
        except sqlite3.OperationalError:
            yield f"a text in the table {table} is none"


def damaged_rows(db: sqlite3.Connection) -> Iterator[str]:
    """What is wrong with the messages of a database, a line each, at most `PROBLEMS_MAX`; all of them are read."""
    count = 0
    db.text_factory = lambda raw: raw.decode("utf-8", "replace")
    trims, checks = _has(db, "conversation", "trimmed"), _has(db, "message", "checksum")  # an older chatd had neither
    convs = f"SELECT key, a, b, head, {'trimmed' if trims else '0'} FROM conversation ORDER BY key"  # noqa: S608
    rows = (
        f"SELECT seq, id, sender, body, ts_ms, hidden, {'checksum' if checks else 'NULL'} FROM message "  # noqa: S608
        "WHERE conversation = ? ORDER BY seq"
    )
    for key, a, b, head, trimmed in db.execute(convs):
        conv, last = conv_of(a, b), trimmed
        for row in db.execute(rows, (key,)):
            problem = None
            if row[0] != last + 1:
                problem = f"messages {last + 1} to {row[0] - 1} of {conv} are missing"
            elif not is_whole(conv, row):
                problem = f"message {row[0]} of {conv} is not what was stored"
            last = row[0]
            if problem:
                yield problem
                count += 1
                if count == PROBLEMS_MAX:
                    return
        if last != head:
            yield f"{conv} ends at message {last}, and its last one is {head}"
            count += 1
            if count == PROBLEMS_MAX:
                return


def _has(db: sqlite3.Connection, table: str, column: str) -> bool:
    return db.execute("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", (table, column)).fetchone() is not None
