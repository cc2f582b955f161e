"""The recorder: files of several processes, and frames that record themselves."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import msgspec
import pytest

from chatd.protocol import CaughtUp, ConversationList, ConversationRow, Entry, Messages, Pong, Receipt, Sent
from chatd.testing.history import Recorder, check

CONV = "alice:bob"


def entry(n: int) -> Entry:
    """Message number n."""
    return Entry(seq=n, ts=1000 + n, id=f"id-{n}", sender="alice", body=f"body {n}")


def test_processes_dump_and_merge(tmp_path: Path) -> None:
    first, second = Recorder("p1", count().__next__), Recorder("p2", count().__next__)
    alice, bob = first.device("alice", "a"), second.device("bob", "b")
    bob.opened("b1", "i1", watermarks={CONV: 0})
    bob.seen("b1", CONV, entry(1))
    second.dump(tmp_path / "p2.jsonl")
    alice.opened("a1", "i1", watermarks={})
    alice.invoke(CONV, "id-1", "body 1")
    first.dump(tmp_path / "p1.jsonl")
    alice.ok(CONV, "id-1", 1, 1001)
    first.final(CONV, "i1", [entry(1)])
    first.dump(tmp_path / "p1.jsonl")
    with (tmp_path / "p2.jsonl").open("ab") as file:
        file.write(b'{"event":"seen","at":')  # killed in the middle of a line
    merged = Recorder.load(tmp_path / "p2.jsonl", tmp_path / "p1.jsonl")
    assert merged == second.events + first.events
    assert check(merged).clean


def test_a_bad_line_is_no_history(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(b'{"event":"seen"}\n')
    with pytest.raises(msgspec.DecodeError):
        Recorder.load(tmp_path / "p.jsonl")


def test_frames_record_themselves() -> None:
    by_frame, by_hand = Recorder("p", lambda: 0.0), Recorder("p", lambda: 0.0)
    alice, same = by_frame.device("alice", "a"), by_hand.device("alice", "a")
    row = ConversationRow(
        conv=CONV,
        peer="bob",
        head=3,
        delivered=3,
        read=2,
        peer_delivered=1,
        peer_read=0,
        unread=1,
        updated=1003,
    )
    for frame in (
        Messages(conv=CONV, messages=(entry(1), entry(2))),
        Messages(conv=CONV, messages=(entry(1),), ref=7),  # an answer to history
        Sent(id="id-3", conv=CONV, seq=3, ts=1003),
        Sent(id="id-3", conv=CONV, seq=3, ts=1003, duplicate=True),
        Receipt(conv=CONV, user="bob", delivered=2, read=1),
        ConversationList(conversations=(row,)),
        CaughtUp(since="s"),
        Pong(now=1),
    ):
        alice.received("a1", frame)
    same.seen("a1", CONV, entry(1))
    same.seen("a1", CONV, entry(2))
    same.ok(CONV, "id-3", 3, 1003)
    same.seen("a1", CONV, Entry(seq=3, ts=1003, id="id-3", sender="alice"), "sent")
    same.ok(CONV, "id-3", 3, 1003)
    same.marks(CONV, "bob", 2, 1)
    same.marks(CONV, "alice", 3, 2)
    same.marks(CONV, "bob", 1, 0)
    same.caught_up("a1")
    assert by_frame.events == by_hand.events
