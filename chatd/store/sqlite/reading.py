"""Reads: pieces of logs, listings, marks. Each runs in one snapshot on a read-only connection."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from chatd.model import (
    SEQ_MAX,
    ConversationPage,
    ConversationView,
    Marks,
    MarksView,
    Message,
    conv_of,
    trimmed_place,
    with_trimmed,
)
from chatd.store.sqlite.engine import QUERY
from chatd.store.sqlite.rows import damaged, is_whole, message, pair_of


def read(
    db: sqlite3.Connection, conv: str, *, after: int | None, before: int | None, limit: int, bytes_max: int
) -> list[Message]:
    """`MessageStore.read`."""
    pair = pair_of(conv)
    if after is not None:
        rows = db.execute(QUERY["read_after"], (*pair, after, limit))
    else:
        rows = db.execute(QUERY["read_before"], (*pair, SEQ_MAX + 1 if before is None else before, limit))
    log: list[Message] = []
    size = 0
    for row in rows:
        found = message(conv, pair, row)
        size += len(found.body) if found.body.isascii() else len(found.body.encode())
        if log and size > bytes_max:
            break
        log.append(found)
    full = len(log) == limit or size > bytes_max
    rows.close()
    if after is None:
        log.reverse()
    for one, following in pairwise(log):
        if following.seq != one.seq + 1:
            raise damaged(conv, one.seq + 1)
    if full and after is not None and log[0].seq == after + 1:
        return log
    extent = db.execute(QUERY["extent"], pair).fetchone()
    if extent is None:
        return log
    trimmed, trimmed_ms, head = extent
    _check_ends(conv, log, after=after, before=before, full=full, trimmed=trimmed, head=head)
    if not trimmed:
        return log
    return with_trimmed(log, conv, trimmed, trimmed_ms, after=after, before=before, limit=limit)


def _check_ends(
    conv: str, log: list[Message], *, after: int | None, before: int | None, full: bool, trimmed: int, head: int
) -> None:
    """A piece of a log must begin and end where it should; an index may have lost messages. Raises: Damaged."""
    begin = trimmed + 1 if after is None else max(after, trimmed) + 1
    end = head if before is None else min(before - 1, head)
    if begin > end:
        return
    if not log:
        raise damaged(conv, end if after is None else begin)
    if log[0].seq != begin and not (full and after is None):
        raise damaged(conv, begin)
    if log[-1].seq != end and not (full and after is not None):
        raise damaged(conv, log[-1].seq + 1)


def to_trim(
    db: sqlite3.Connection, after: int, limit: int, older_than_ms: int
) -> tuple[int, int, list[tuple[int, str]]]:
    """Of the next ``limit`` conversations: the last key, how many there are, and those that have old messages."""
    upto, count = db.execute(QUERY["page_of_conversations"], (after, limit)).fetchone()
    if not count:
        return 0, 0, []
    span = {"after": after, "upto": upto, "older_than_ms": older_than_ms}
    return upto, count, [(key, conv_of(a, b)) for key, a, b in db.execute(QUERY["to_trim"], span)]


def conversations(
    db: sqlite3.Connection,
    incarnation: str,
    user: str,
    device: str,
    *,
    since: str | None,
    cursor: str | None,
    limit: int,
) -> ConversationPage:
    """`MessageStore.conversations`."""
    walk = _walk(cursor, incarnation)
    if walk is None:
        (newest,) = db.execute(QUERY["newest_change"], {"user": user}).fetchone()
        walk = _Walk(SEQ_MAX, SEQ_MAX, _mark_of(since, incarnation), newest)
    rows = db.execute(
        QUERY["conversations"],
        {
            "user": user,
            "since": walk.since,
            "changed": walk.changed,
            "key": walk.key,
            "limit": limit,
        },
    ).fetchall()
    more = None
    if len(rows) == limit:
        more = f"c{rows[-1][8]}.{rows[-1][0]}.{walk.since}.{walk.newest}.{incarnation}"
    views = tuple(_view(db, row, user, device) for row in rows)
    return ConversationPage(views, f"s{walk.newest}.{incarnation}", more)


class _Walk(NamedTuple):
    """Where a walk over the listing is, where it ends, and the newest change when it began."""

    changed: int
    key: int
    since: int
    newest: int


def _mark_of(since: str | None, incarnation: str) -> int:
    match = re.fullmatch(r"s(\d{1,15})\.(\w+)", since or "", re.ASCII)
    return int(match[1]) if match and match[2] == incarnation else -1


def _walk(cursor: str | None, incarnation: str) -> _Walk | None:
    match = re.fullmatch(r"c(\d{1,15})\.(\d{1,15})\.(-?\d{1,15})\.(\d{1,15})\.(\w+)", cursor or "", re.ASCII)
    if match is None or match[5] != incarnation:
        return None
    return _Walk(*(int(n) for n in match.groups()[:4]))


def _view(db: sqlite3.Connection, row: Sequence[Any], user: str, device: str) -> ConversationView:
    key, a, b, head, ts_ms, last_a, last_b, hidden, _, trimmed, trimmed_ms, *last = row
    pair = (a, b)
    member = 0 if user == a else 1
    own, position = [0, 0], 0
    peer = [0, 0]
    for whose, name, held, delivered, read_to in db.execute(QUERY["load_marks"], (key,)):
        if whose == member:
            own = [max(own[0], delivered), max(own[1], read_to)]
            if name == device:
                position = held
        if whose == (1 - member if a != b else member):
            peer = [max(peer[0], delivered), max(peer[1], read_to)]
    frozen = _frozen(db, pair, user)
    conv = conv_of(a, b)
    return ConversationView(
        conv=conv,
        peer=pair[1 - member],
        head=head,
        delivered=own[0],
        read=own[1],
        peer_delivered=peer[0] if frozen is None else frozen.delivered,
        peer_read=peer[1] if frozen is None else frozen.read,
        unread=0 if a == b else unread(db, key, max(own[1], (last_a, last_b)[member], trimmed), head, hidden),
        updated_ms=ts_ms,
        position=position,
        last=_last(conv, pair, last, head) if head > trimmed else trimmed_place(conv, head, head, trimmed_ms),
    )


def _last(conv: str, pair: tuple[str, str], row: Sequence[Any], head: int) -> Message | None:
    """The last message, or None if it is damaged: a listing without it is better than none."""
    if row[0] != head or not is_whole(conv, row):
        damaged(conv, head)
        return None
    return message(conv, pair, row)


def unread(db: sqlite3.Connection, key: int, base: int, head: int, hidden: int) -> int:
    """How many above ``base`` are visible, where all are the peer's; ``hidden``: the last seq that is not visible."""
    if hidden <= base:
        return head - base
    return int(db.execute(QUERY["unread_visible"], (key, base)).fetchone()[0])


def _frozen(db: sqlite3.Connection, pair: tuple[str, str], user: str) -> Marks | None:
    """The peer's marks as they were when a block began, or None: nobody blocks."""
    seen: list[Marks] = []
    for blocker, *marks in db.execute(QUERY["frozen"], {"a": pair[0], "b": pair[1]}):
        blocker_marks, blocked_marks = Marks(*marks[:2]), Marks(*marks[2:])
        seen.append(blocked_marks if blocker == user else blocker_marks)
    return min(seen, key=lambda m: (m.delivered, m.read)) if seen else None


def marks(db: sqlite3.Connection, conv: str, user: str) -> MarksView:
    """`MessageStore.marks`."""
    pair = pair_of(conv)
    member = 0 if user == pair[0] else 1
    other = member if pair[0] == pair[1] else 1 - member
    devices: dict[str, Marks] = {}
    peer = Marks()
    row = db.execute(QUERY["load_conversation"], pair).fetchone()
    if row is None:
        return MarksView(conv, 0, devices, peer)
    for whose, name, _, delivered, read_to in db.execute(QUERY["load_marks"], (row[0],)):
        if whose == member:
            devices[name] = Marks(delivered, read_to)
        if whose == other:
            peer = Marks(max(peer.delivered, delivered), max(peer.read, read_to))
    return MarksView(conv, row[1], devices, _frozen(db, pair, user) or peer)
