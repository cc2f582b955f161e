"""Positions in a log: once, in order, and a gap is known as one."""

from __future__ import annotations

from chatd.client.watermarks import Watermarks
from chatd.protocol import Entry

CONV = "alice:bob"


def entries(first: int, last: int) -> list[Entry]:
    return [Entry(seq=seq, ts=0, id="i", sender="bob", body="b") for seq in range(first, last + 1)]


def give(w: Watermarks, first: int, last: int, room: int = 100) -> list[int]:
    return [entry.seq for entry in w.messages(CONV, entries(first, last), room)]


def test_what_is_known_is_ignored_and_what_is_next_is_taken() -> None:
    w = Watermarks()
    w.load(CONV, 3)
    assert give(w, 1, 3) == []
    assert give(w, 2, 5) == [4, 5]
    assert give(w, 4, 5) == []
    assert give(w, 6, 6) == [6]
    assert w.behind() == []


def test_a_gap_is_taken_only_when_it_is_filled() -> None:
    w = Watermarks()
    w.load(CONV, 3)
    assert give(w, 5, 6) == []
    assert w.behind() == [CONV]
    assert w.seen(CONV) == 3
    assert give(w, 4, 5) == [4, 5]
    assert w.behind() == [CONV]
    assert give(w, 6, 6) == [6]
    assert w.behind() == []


def test_the_first_messages_of_an_unknown_conversation_say_where_it_begins() -> None:
    w = Watermarks()
    assert give(w, 51, 53) == [51, 52, 53]
    assert give(w, 50, 50) == []


def test_without_room_they_stay_for_a_fetch() -> None:
    w = Watermarks()
    assert give(w, 1, 5, room=2) == [1, 2]
    assert give(w, 3, 5, room=0) == []
    assert w.behind() == [CONV]
    assert [e.seq for e in w.messages(CONV, entries(3, 5), 9, fetched=True)] == [3, 4, 5]
    assert w.behind() == []


def test_a_gone_entry_keeps_its_place() -> None:
    w = Watermarks()
    w.load(CONV, 1)
    log = [Entry(seq=2, ts=0, gone="deleted"), *entries(3, 3)]
    assert [e.seq for e in w.messages(CONV, log, 9)] == [2, 3]


def test_own_messages_move_the_position_when_they_come_next() -> None:
    w = Watermarks()
    w.load(CONV, 3)
    assert w.sent(CONV, 4, 9, caught_up=True)
    assert not w.sent(CONV, 4, 9, caught_up=True)
    assert not w.sent(CONV, 6, 9, caught_up=True)
    assert w.behind() == [CONV]
    assert not w.sent(CONV, 5, 0, caught_up=True)
    assert w.seen(CONV) == 4


def test_an_own_first_message_begins_an_unknown_conversation() -> None:
    w = Watermarks()
    assert w.sent("alice:new", 1, 9, caught_up=False)
    assert w.sent("alice:old", 77, 9, caught_up=True)
    assert w.behind() == []


def test_an_own_message_before_catch_up_does_not_hide_what_is_still_to_come() -> None:
    w = Watermarks()
    assert not w.sent(CONV, 57, 9, caught_up=False)
    assert w.behind() == []
    assert give(w, 55, 56) == [55, 56]
    assert w.behind() == [CONV]
    w.caught_up()
    assert w.seen(CONV) == 56


def test_an_own_message_that_catch_up_did_not_bring_begins_the_log() -> None:
    w = Watermarks()
    w.sent(CONV, 57, 9, caught_up=False)
    assert give(w, 58, 58) == []
    w.caught_up()
    assert w.behind() == [CONV]
    assert w.seen(CONV) == 56


def test_hello_carries_the_newest_taken() -> None:
    w = Watermarks()
    for conv in ("a", "b", "c"):
        w.load(conv, 1)
    w.take("a", 2)
    assert w.newest(2) == {"c": 1, "a": 2}
    assert list(w.newest(9)) == ["b", "c", "a"]


def test_another_history_forgets_everything() -> None:
    w = Watermarks()
    w.load(CONV, 9)
    give(w, 12, 12)
    w.forget()
    assert w.newest(9) == {}
    assert w.behind() == []
    assert give(w, 1, 2) == [1, 2]
