"""What is timed, once a message, whichever device was first; and what is not."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from chatd.metrics import latencies as timing
from chatd.metrics.histogram import Histogram
from chatd.metrics.latencies import TRACKED_MAX, UNDELIVERED_MESSAGES_MAX, UNREAD_STEPS_MAX, Latencies
from chatd.model import Message

CONV = "alice:bob"


class Rig:
    def __init__(self) -> None:
        self.online, self.offline, self.read = Histogram((1, 10, 100)), Histogram((1, 10, 100)), Histogram((1, 10, 100))
        self.now_s = 1_000.0
        self.latencies = Latencies(
            self.online,
            self.offline,
            self.read,
            now_s=lambda: self.now_s,
            now_ms=lambda: int(self.now_s * 1000),
        )

    def page(self, *seqs: int, ts_s: float = 900.0, sender: str = "alice") -> Sequence[Message]:
        return [Message(CONV, seq, "", sender, "", int(ts_s * 1000)) for seq in seqs]

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.online.count, self.offline.count, self.read.count


def test_a_live_message_is_timed_to_its_first_acknowledgement_and_from_there_to_its_reading() -> None:
    rig = Rig()
    rig.latencies.live(CONV, "bob", 1)
    rig.latencies.live(CONV, "bob", 2)
    rig.now_s += 5
    rig.latencies.grew(CONV, "bob", 1, 0)
    assert (rig.online.counts, rig.counts) == ([0, 1, 0, 0], (1, 0, 0))
    rig.now_s += 45
    rig.latencies.grew(CONV, "bob", 2, 1)
    assert rig.online.counts == [0, 1, 1, 0]
    assert rig.online.sum == 55
    assert (rig.read.counts, rig.read.sum) == ([0, 0, 1, 0], 45)
    rig.latencies.grew(CONV, "bob", 2, 2)
    assert rig.counts == (2, 0, 2)
    assert len(rig.latencies) == 0, "nothing is remembered of what is settled"


def test_a_mark_that_covers_many_times_each_of_them() -> None:
    rig = Rig()
    for seq in range(1, 11):
        rig.latencies.live(CONV, "bob", seq)
    rig.latencies.grew(CONV, "bob", 10, 10)
    assert rig.counts == (10, 0, 10)


def test_a_message_that_stands_for_many_counts_as_many() -> None:
    rig = Rig()
    rig.latencies.live(CONV, "bob", 1, weight=7)
    rig.latencies.live(CONV, "bob", 9, weight=3)
    rig.latencies.grew(CONV, "bob", 8, 8)
    assert (rig.counts, len(rig.latencies)) == ((7, 0, 7), 1)
    rig.latencies.grew(CONV, "bob", 9, 9)
    assert (rig.counts, len(rig.latencies)) == ((10, 0, 10), 0)


def test_a_message_of_another_process_is_as_old_as_its_time_says() -> None:
    rig = Rig()
    rig.latencies.live_elsewhere("bob", rig.page(1, ts_s=950)[0])
    rig.latencies.live_elsewhere("bob", rig.page(2, ts_s=2_000)[0])  # a clock ahead of ours
    rig.latencies.grew(CONV, "bob", 2, 0)
    assert rig.online.counts == [1, 0, 1, 0]


def test_what_another_process_timed_is_not_timed_again_and_its_reading_is_timed_where_it_arrived() -> None:
    one, two = Rig(), Rig()
    for rig in (one, two):
        rig.latencies.live(CONV, "bob", 1)
        rig.latencies.live(CONV, "bob", 2)
    one.latencies.grew(CONV, "bob", 1, 0)
    two.latencies.heard(CONV, "bob", 1, 0)
    two.now_s += 20
    two.latencies.grew(CONV, "bob", 2, 2)
    assert (one.counts, two.counts) == ((1, 0, 0), (1, 0, 1))
    assert (two.online.counts, two.read.sum) == ([0, 0, 1, 0], 0)
    one.now_s += 20
    one.latencies.heard(CONV, "bob", 2, 2)
    assert (one.counts, one.read.sum) == ((1, 0, 1), 20)
    for rig in (one, two):
        assert (len(rig.latencies), rig.latencies.times) == (0, 0)
    one.latencies.heard(CONV, "bob", 3, 3)


def test_who_was_away_is_counted_apart_by_the_time_of_the_message() -> None:
    rig = Rig()
    rig.latencies.lacks(CONV, "bob", 3, 8)
    rig.latencies.late("bob", rig.page(4, 5, 6))
    rig.latencies.grew(CONV, "bob", 5, 5)
    assert (rig.offline.counts, rig.offline.sum) == ([0, 0, 2, 0], 200)
    rig.latencies.late("bob", rig.page(7, 8))
    rig.latencies.live(CONV, "bob", 9)
    rig.latencies.grew(CONV, "bob", 9, 9)
    assert rig.counts == (1, 5, 6)
    assert len(rig.latencies) == 0


def test_what_another_device_of_the_user_has_is_not_timed_again() -> None:
    rig = Rig()
    rig.latencies.late("bob", rig.page(1, 2, 3))
    assert len(rig.latencies) == 0, "no device said that its user lacks it"
    rig.latencies.lacks(CONV, "bob", 2, 4)
    rig.latencies.late("bob", rig.page(1, 2, 3, 4))
    rig.latencies.late("bob", rig.page(1, 2, 3, 4))
    rig.latencies.grew(CONV, "bob", 4, 0)
    rig.latencies.late("bob", rig.page(3, 4))
    rig.latencies.grew(CONV, "bob", 4, 4)
    assert rig.counts == (0, 2, 2)


def test_what_went_out_live_and_is_read_from_the_log_as_well_counts_as_live() -> None:
    rig = Rig()
    rig.latencies.live(CONV, "bob", 5)
    rig.latencies.lacks(CONV, "bob", 3, 5)
    rig.latencies.late("bob", rig.page(4, 5))
    rig.latencies.grew(CONV, "bob", 5, 0)
    assert rig.counts == (1, 1, 0)


def test_own_hidden_and_trimmed_messages_are_nobody_s_delivery() -> None:
    rig = Rig()
    rig.latencies.lacks(CONV, "bob", 0, 9)
    hidden = Message(CONV, 4, "", "alice", "", 0, hidden=True)
    trimmed = Message(CONV, 3, "", "", "", 0, first=1)
    rig.latencies.late("bob", [trimmed, hidden, *rig.page(5, sender="bob"), *rig.page(6)])
    rig.latencies.grew(CONV, "bob", 9, 9)
    assert rig.counts == (0, 1, 1)


def test_everything_is_bounded() -> None:
    rig = Rig()
    for seq in range(1, 1_000):
        rig.latencies.live(CONV, "bob", seq)
    rig.latencies.grew(CONV, "bob", 999, 0)
    assert rig.online.count == UNDELIVERED_MESSAGES_MAX
    for seq in range(1_000, 1_200):
        rig.latencies.live(CONV, "bob", seq)
        rig.latencies.grew(CONV, "bob", seq, 0)
    rig.latencies.grew(CONV, "bob", 1_199, 1_199)
    assert rig.read.count == UNREAD_STEPS_MAX
    for number in range(TRACKED_MAX + 10):
        rig.latencies.live(f"alice:bob{number}", f"bob{number}", 1)
    assert len(rig.latencies) == TRACKED_MAX
    rig.latencies.grew("alice:bob0", "bob0", 1, 0)
    assert rig.online.count == UNDELIVERED_MESSAGES_MAX + 200, "the one that came first is forgotten"


def test_the_times_of_all_pairs_are_bounded_and_none_is_lost_from_their_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "TIMES_MAX", 100)
    rig, chance = Rig(), random.Random(7)
    heads = {f"alice:bob{number}": 0 for number in range(40)}
    marks = dict.fromkeys(heads, 0)
    for _ in range(5_000):
        conv = chance.choice(list(heads))
        user = conv.partition(":")[2]
        match chance.randrange(5):
            case 0 | 1:
                heads[conv] += 1
                rig.latencies.live(conv, user, heads[conv])
            case 2:
                rig.latencies.lacks(conv, user, marks[conv], heads[conv])
                seqs = range(marks[conv] + 1, heads[conv] + 1)
                rig.latencies.late(user, [Message(conv, seq, "", "alice", "", 0) for seq in seqs] or rig.page(1))
            case 3:
                rig.latencies.heard(conv, user, chance.randint(0, marks[conv]), chance.randint(0, marks[conv]))
            case _:
                marks[conv] = chance.randint(marks[conv], heads[conv])
                rig.latencies.grew(conv, user, marks[conv], chance.randint(0, marks[conv]))
        tracks = rig.latencies._tracks.values()
        assert rig.latencies.times == sum(len(t.live) + len(t.late) + len(t.unread) for t in tracks)
        assert rig.latencies.times <= 100
    assert rig.online.count > 100
    assert rig.offline.count > 10
    assert rig.read.count > 100
