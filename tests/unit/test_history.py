"""The checker against histories made by hand: every kind of anomaly once, and clean ones that look suspicious."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from chatd.protocol import Entry
from chatd.testing.history import DeviceRecorder, Kind, Recorder, Report, check

CONV = "alice:bob"


def entry(n: int, seq: int | None = None, *, body: str | None = None, sender: str = "alice") -> Entry:
    """Message number n, at its own seq unless told."""
    seq = n if seq is None else seq
    return Entry(seq=seq, ts=1000 + seq, id=f"id-{n}", sender=sender, body=f"body {n}" if body is None else body)


class Chat:
    """Alice writes to Bob, a device each; every step is a good one, and a test adds the bad one."""

    def __init__(self) -> None:
        self.recorder = Recorder("p1", count().__next__)
        self.alice = self.recorder.device("alice", "a")
        self.bob = self.recorder.device("bob", "b")
        self.log: list[Entry] = []
        self.open(self.alice, "a1", 0)
        self.open(self.bob, "b1", 0)

    def open(self, device: DeviceRecorder, connection: str, watermark: int, incarnation: str = "i1") -> None:
        device.opened(connection, incarnation, watermarks={CONV: watermark})

    def invoke(self, *numbers: int) -> None:
        for n in numbers:
            self.alice.invoke(CONV, f"id-{n}", f"body {n}")

    def ok(self, n: int, seq: int | None = None) -> None:
        at = entry(n, seq)
        self.alice.ok(CONV, f"id-{n}", at.seq, at.ts)

    def see(self, *entries: Entry, connection: str = "b1") -> None:
        for one in entries:
            self.bob.seen(connection, CONV, one)

    def sent(self, *numbers: int, seen: bool = True) -> None:
        """The whole good way of these messages, but for Bob's seeing them if told."""
        for n in numbers:
            self.invoke(n)
            self.ok(n)
            self.alice.seen("a1", CONV, entry(n), "sent")
            if seen:
                self.see(entry(n))
            self.log.append(entry(n))

    def end(self, *log: Entry, settled: bool = True) -> Report:
        """Read the log (as it is without bugs, unless one is given), count, and check."""
        read = list(log) or self.log
        if settled:
            self.alice.settled()
            self.bob.settled()
        for one in read:
            self.recorder.final(CONV, "i1", [one])
        self.recorder.counted("store", sum(one.seq - (one.first or one.seq) + 1 for one in read))
        return check(self.recorder.events)


def lost_from_log(chat: Chat) -> Report:
    chat.sent(1, 2, 3)
    return chat.end(entry(1), entry(2), settled=False)


def lost_from_the_middle(chat: Chat) -> Report:
    chat.sent(1, 2, 3)
    return chat.end(entry(1), entry(3))


def lost_without_reading(chat: Chat) -> Report:
    chat.sent(1, 2)
    return check(chat.recorder.events)


def lost_on_a_settled_device(chat: Chat) -> Report:
    chat.sent(1, 2)
    chat.sent(3, seen=False)
    return chat.end()


def lost_before_caught_up(chat: Chat) -> Report:
    chat.sent(1)
    chat.bob.closed("b1")
    chat.sent(2, 3, seen=False)
    chat.open(chat.bob, "b2", 1)
    chat.see(entry(2), connection="b2")
    chat.bob.caught_up("b2")
    chat.see(entry(3), connection="b2")
    return chat.end()


def lost_before_hello(chat: Chat) -> Report:
    chat.sent(1)
    chat.bob.closed("b1")
    chat.sent(2, 3, seen=False)
    chat.bob.asked("b2")
    chat.open(chat.bob, "b2", 1)
    chat.see(entry(2), connection="b2")
    chat.bob.caught_up("b2")
    chat.see(entry(3), connection="b2")
    return chat.end()


def lost_in_an_old_incarnation(chat: Chat) -> Report:
    old = chat.recorder.device("bob", "old")
    old.opened("o1", "i0", watermarks={})
    chat.sent(1)
    chat.bob.settled()
    old.settled()
    return chat.end()


def duplicated_in_log(chat: Chat) -> Report:
    chat.sent(1, 2)
    chat.invoke(1)
    chat.see(entry(1, 3))
    chat.alice.seen("a1", CONV, entry(1, 3))
    return chat.end(entry(1), entry(2), entry(1, 3))


def duplicated_seq_in_log(chat: Chat) -> Report:
    chat.sent(1, 2)
    return chat.end(entry(1), entry(2), entry(2))


def duplicated_on_a_connection(chat: Chat) -> Report:
    chat.sent(1, 2)
    chat.see(entry(1))
    return chat.end()


def duplicated_to_the_application(chat: Chat) -> Report:
    chat.sent(1, 2)
    chat.open(chat.bob, "application", 0)
    chat.see(entry(1), entry(2), entry(2), connection="application")
    return chat.end()


def reordered_on_a_connection(chat: Chat) -> Report:
    chat.sent(1)
    chat.sent(2, 3, seen=False)
    chat.see(entry(3), entry(2))
    return chat.end()


def reordered_sends(chat: Chat) -> Report:
    chat.invoke(1, 2)
    chat.ok(1, 2)
    chat.ok(2, 1)
    return chat.end(entry(2, 1), entry(1, 2), settled=False)


def reordered_by_an_unknown_one(chat: Chat) -> Report:
    chat.invoke(1)
    chat.alice.unknown(CONV, "id-1")
    chat.invoke(2)
    chat.ok(2, 1)
    return chat.end(entry(2, 1), entry(1, 2), settled=False)


def reordered_below_what_was_seen(chat: Chat) -> Report:
    chat.sent(1)
    chat.bob.invoke(CONV, "id-9", "body 9")
    chat.bob.ok(CONV, "id-9", 1, 1001)
    # two messages at one seq cannot both be in the log; with its place gone, only the order is left to judge
    return chat.end(Entry(seq=1, ts=1001, gone="deleted"), settled=False)


def reordered_log(chat: Chat) -> Report:
    chat.sent(1, 2, 3)
    return chat.end(entry(1), entry(3), entry(2))


def reordered_time(chat: Chat) -> Report:
    chat.sent(1)
    chat.invoke(2)
    chat.alice.ok(CONV, "id-2", 2, 5)
    late = Entry(seq=2, ts=5, id="id-2", sender="alice", body="body 2")
    return chat.end(entry(1), late, settled=False)


def gapped_log(chat: Chat) -> Report:
    chat.invoke(1, 2)
    chat.ok(1)
    chat.ok(2, 3)
    return chat.end(entry(1), entry(2, 3), settled=False)


def gapped_on_a_connection(chat: Chat) -> Report:
    chat.sent(1)
    chat.sent(2, seen=False)
    chat.sent(3)
    return chat.end()


def gapped_between_connections(chat: Chat) -> Report:
    chat.sent(1)
    chat.sent(2, 3, seen=False)
    chat.bob.opened("b2", "i1", watermarks={})
    chat.see(entry(3), connection="b2")
    return chat.end()


def gapped_by_a_watermark(chat: Chat) -> Report:
    chat.sent(1)
    chat.sent(2, seen=False)
    chat.open(chat.bob, "b2", 2)
    return chat.end()


def phantom_from_nobody(chat: Chat) -> Report:
    chat.sent(1)
    chat.see(entry(2))
    chat.alice.seen("a1", CONV, entry(2))
    return chat.end(entry(1), entry(2))


def phantom_body(chat: Chat) -> Report:
    chat.sent(1)
    chat.sent(2, seen=False)
    chat.see(entry(2, body="other"))
    return chat.end()


def phantom_body_in_log(chat: Chat) -> Report:
    chat.invoke(1)
    chat.ok(1)
    return chat.end(entry(1, body="other"), settled=False)


def phantom_seq_of_two(chat: Chat) -> Report:
    chat.invoke(1, 2)
    chat.see(entry(1))
    chat.ok(2, 1)
    return chat.end(entry(2, 1), settled=False)


def phantom_that_was_refused(chat: Chat) -> Report:
    chat.invoke(1)
    chat.alice.fail(CONV, "id-1", "forbidden")
    return chat.end(entry(1), settled=False)


def phantom_shown_before_its_commit(chat: Chat) -> Report:
    chat.sent(1)
    chat.invoke(2)
    chat.see(entry(2))
    chat.alice.unknown(CONV, "id-2")
    return chat.end(entry(1))


def phantom_answer(chat: Chat) -> Report:
    chat.ok(1)
    return chat.end()


def marks_lower(chat: Chat) -> Report:
    chat.sent(1, 2)
    chat.bob.marked(CONV, 2)
    chat.alice.marks(CONV, "bob", 2, 0)
    chat.alice.marks(CONV, "bob", 1, 0)
    return chat.end()


def marks_read_above_delivered(chat: Chat) -> Report:
    chat.sent(1, 2)
    chat.bob.marked(CONV, 2, read=True)
    chat.alice.marks(CONV, "bob", 1, 2)
    return chat.end()


def marks_above_head(chat: Chat) -> Report:
    chat.sent(1)
    chat.bob.marked(CONV, 5)
    chat.alice.marks(CONV, "bob", 5, 0)
    return chat.end()


def marks_above_what_was_acked(chat: Chat) -> Report:
    chat.sent(1, 2)
    chat.bob.marked(CONV, 2)
    chat.bob.marked(CONV, 1, read=True)
    chat.alice.marks(CONV, "bob", 2, 2)
    return chat.end()


def answer_changed(chat: Chat) -> Report:
    chat.sent(1)
    chat.sent(2)
    chat.invoke(1)
    chat.ok(1, 2)
    return chat.end()


def answer_not_where_it_is(chat: Chat) -> Report:
    chat.invoke(1, 2)
    chat.ok(2)
    return chat.end(entry(1), Entry(seq=2, ts=1002, gone="deleted"), entry(2, 3), settled=False)


def answer_after_refusal(chat: Chat) -> Report:
    chat.invoke(1)
    chat.alice.fail(CONV, "id-1", "forbidden")
    chat.ok(1)
    return chat.end(entry(1), settled=False)


def counts_differ(chat: Chat) -> Report:
    chat.sent(1, 2)
    chat.recorder.counted("metric", 3)
    return chat.end()


BAD: list[tuple[Kind, Callable[[Chat], Report]]] = [
    ("lost", lost_from_log),
    ("lost", lost_from_the_middle),
    ("lost", lost_without_reading),
    ("lost", lost_on_a_settled_device),
    ("lost", lost_before_caught_up),
    ("lost", lost_before_hello),
    ("lost", lost_in_an_old_incarnation),
    ("duplicated", duplicated_in_log),
    ("duplicated", duplicated_seq_in_log),
    ("duplicated", duplicated_on_a_connection),
    ("duplicated", duplicated_to_the_application),
    ("reordered", reordered_on_a_connection),
    ("reordered", reordered_sends),
    ("reordered", reordered_by_an_unknown_one),
    ("reordered", reordered_below_what_was_seen),
    ("reordered", reordered_log),
    ("reordered", reordered_time),
    ("gapped", gapped_log),
    ("gapped", gapped_on_a_connection),
    ("gapped", gapped_between_connections),
    ("gapped", gapped_by_a_watermark),
    ("phantom", phantom_from_nobody),
    ("phantom", phantom_body),
    ("phantom", phantom_body_in_log),
    ("phantom", phantom_seq_of_two),
    ("phantom", phantom_that_was_refused),
    ("phantom", phantom_shown_before_its_commit),
    ("phantom", phantom_answer),
    ("mark moved back", marks_lower),
    ("mark moved back", marks_read_above_delivered),
    ("mark moved back", marks_above_head),
    ("mark moved back", marks_above_what_was_acked),
    ("answer changed", answer_changed),
    ("answer changed", answer_not_where_it_is),
    ("answer changed", answer_after_refusal),
    ("count mismatch", counts_differ),
]


@pytest.mark.parametrize(("kind", "history"), BAD, ids=[h.__name__ for _, h in BAD])
def test_one_bug_is_one_anomaly(kind: Kind, history: Callable[[Chat], Report]) -> None:
    report = history(Chat())
    assert [a.kind for a in report.anomalies] == [kind], str(report)
    assert not report.clean
    assert kind in str(report)


def clean_plain(chat: Chat) -> Report:
    chat.sent(1, 2, 3)
    chat.bob.marked(CONV, 3)
    chat.bob.marked(CONV, 2, read=True)
    chat.alice.marks(CONV, "bob", 3, 2)
    chat.alice.marks(CONV, "bob", 3, 2)
    return chat.end()


def clean_retries(chat: Chat) -> Report:
    chat.sent(1)
    chat.invoke(2, 3)
    chat.alice.unknown(CONV, "id-2")
    chat.invoke(2)
    chat.ok(2)
    chat.ok(3)
    chat.ok(2)
    chat.see(entry(2), entry(3))
    return chat.end(entry(1), entry(2), entry(3), settled=False)


def clean_unknown_that_appeared_and_not(chat: Chat) -> Report:
    chat.invoke(1, 2, 3)
    chat.alice.unknown(CONV, "id-1")
    chat.alice.unknown(CONV, "id-2")
    chat.see(entry(1))
    return chat.end(entry(1), settled=False)


def clean_refused_then_sent_again(chat: Chat) -> Report:
    chat.invoke(2, 3)
    chat.alice.fail(CONV, "id-2", "forbidden")
    chat.alice.fail(CONV, "id-3", "too_large")
    chat.sent(1, 2)
    return chat.end()


def clean_id_reuse(chat: Chat) -> Report:
    chat.sent(1)
    chat.alice.invoke(CONV, "id-1", "another body")
    chat.alice.fail(CONV, "id-1", "id_reuse")
    return chat.end()


def clean_same_id_of_two_senders(chat: Chat) -> Report:
    chat.sent(1)
    chat.bob.invoke(CONV, "id-1", "mine")
    chat.bob.ok(CONV, "id-1", 2, 1002)
    chat.log.append(Entry(seq=2, ts=1002, id="id-1", sender="bob", body="mine"))
    chat.see(chat.log[-1])
    chat.alice.seen("a1", CONV, chat.log[-1])
    return chat.end()


def clean_overlap_below_the_watermark(chat: Chat) -> Report:
    chat.sent(1, 2)
    chat.bob.closed("b1")
    chat.sent(3, seen=False)
    chat.open(chat.bob, "b2", 2)
    chat.see(entry(1), entry(2), entry(3), connection="b2")
    chat.bob.caught_up("b2")
    return chat.end()


def clean_acked_while_hello_was_on_its_way(chat: Chat) -> Report:
    chat.sent(1)
    chat.bob.closed("b1")
    chat.bob.asked("b2")
    chat.sent(2, seen=False)
    chat.open(chat.bob, "b2", 1)
    chat.bob.caught_up("b2")
    chat.see(entry(2), connection="b2")
    return chat.end()


def clean_new_device_starts_late(chat: Chat) -> Report:
    chat.sent(1, 2, 3)
    tablet = chat.recorder.device("bob", "tablet")
    tablet.opened("t1", "i1", watermarks={})
    tablet.seen("t1", CONV, entry(3))
    tablet.caught_up("t1")
    tablet.settled()
    return chat.end()


def clean_server_remembers_the_position(chat: Chat) -> Report:
    chat.sent(1, 2)
    chat.bob.closed("b1")
    chat.bob.opened("b2", "i1", watermarks={})
    chat.see(entry(2), connection="b2")
    chat.sent(3, seen=False)
    chat.see(entry(3), connection="b2")
    return chat.end()


def clean_hidden_message(chat: Chat) -> Report:
    chat.sent(1, 2, seen=False)
    chat.see(entry(1), Entry(seq=2, ts=1002, gone="hidden"))
    chat.bob.settled()
    return chat.end(entry(1), Entry(seq=2, ts=1002, gone="hidden"))


def clean_reset_to_a_restored_store(chat: Chat) -> Report:
    """Incarnation i0 lost message 2; its number names another one in i1, and the client sends 2 again."""
    chat.open(chat.alice, "a0", 0, "i0")
    chat.open(chat.bob, "b0", 0, "i0")
    for n in (1, 2):
        chat.invoke(n)
        chat.ok(n)
        chat.see(entry(n), connection="b0")
    chat.bob.marked(CONV, 2)
    chat.alice.marks(CONV, "bob", 2, 0)
    for device, connection in ((chat.alice, "a2"), (chat.bob, "b2")):
        device.opened(connection, "i1", reset=True, watermarks={CONV: 2})
    chat.alice.marks(CONV, "bob", 1, 0)
    chat.invoke(3, 2)
    chat.ok(3, 2)
    chat.ok(2, 3)
    log = [entry(1), entry(3, 2), entry(2, 3)]
    for one in log:
        chat.alice.seen("a2", CONV, one)
    chat.see(*log, connection="b2")
    return chat.end(*log)


def clean_http_only(chat: Chat) -> Report:
    script = chat.recorder.device("alice", "script")
    script.invoke(CONV, "id-1", "body 1")
    script.ok(CONV, "id-1", 1, 1001)
    return chat.end(entry(1), settled=False)


CLEAN = [
    clean_plain,
    clean_retries,
    clean_unknown_that_appeared_and_not,
    clean_refused_then_sent_again,
    clean_id_reuse,
    clean_same_id_of_two_senders,
    clean_overlap_below_the_watermark,
    clean_acked_while_hello_was_on_its_way,
    clean_new_device_starts_late,
    clean_server_remembers_the_position,
    clean_hidden_message,
    clean_reset_to_a_restored_store,
    clean_http_only,
]


@pytest.mark.parametrize("history", CLEAN, ids=[h.__name__ for h in CLEAN])
def test_no_false_alarm(history: Callable[[Chat], Report]) -> None:
    report = history(Chat())
    assert report.anomalies == [], str(report)
    assert report.clean
    assert "history: clean" in str(report)


def test_counts_tell_how_much_was_judged() -> None:
    report = clean_unknown_that_appeared_and_not(Chat())
    assert report.counts == {
        "events": 11,
        "sends": 3,
        "ok": 0,
        "failed": 0,
        "unknown": 3,
        "unknown but stored": 1,
        "final": 1,
        "seen": 1,
        "logs": 1,
        "incarnations": 1,
    }


def test_a_seq_far_away_costs_nothing() -> None:
    chat = Chat()
    chat.sent(1)
    chat.see(entry(2, 2**53 - 1))
    kinds = [a.kind for a in chat.end(entry(1), entry(2, 2**53 - 1), settled=False).anomalies]
    assert kinds.count("gapped") == 2


def test_an_entry_on_no_connection_is_a_broken_record() -> None:
    chat = Chat()
    chat.see(entry(1), connection="never opened")
    with pytest.raises(ValueError, match="bob/b recorded something on never opened"):
        check(chat.recorder.events)


def test_a_long_report_is_cut() -> None:
    chat = Chat()
    chat.sent(1)
    chat.see(*[entry(1)] * 50)
    report = chat.end()
    assert len(report.anomalies) == 50
    assert str(report).count("\n") < 30
    assert "and 30 more" in str(report)


def expired(last: int, first: int = 1) -> Entry:
    return Entry(seq=last, ts=1000 + last, gone="expired", first=first if first < last else None)


def test_what_expired_is_not_lost() -> None:
    chat = Chat()
    chat.sent(1, 2)
    chat.sent(3, 4, seen=False)
    chat.see(expired(4, 3))
    chat.sent(5, 6)
    report = chat.end(expired(5), chat.log[5])
    assert report.anomalies == []
    assert report.counts["final"] == 6


def test_what_is_behind_the_expired_can_be_lost() -> None:
    chat = Chat()
    chat.sent(1, 2, 3, 4, 5)
    report = chat.end(expired(2), chat.log[2], chat.log[4])
    assert [found.kind for found in report.anomalies] == ["lost"]


def test_a_place_leaves_no_gap_behind_it() -> None:
    chat = Chat()
    chat.sent(1)
    chat.sent(2, 3, 4, 5, seen=False)
    chat.see(expired(4, 3))
    chat.see(entry(5))
    kinds = [found.kind for found in chat.end(expired(4), chat.log[4]).anomalies]
    assert kinds == ["gapped"], "#2 was in no place"
