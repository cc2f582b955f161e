"""When a conversation is looked at for a push, with literal times; and that nothing is ever lost from view."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chatd.push.outbox import (
    ATTEMPTS_COUNTED_MAX,
    COLLAPSE_S,
    HEAP_GARBAGE_MAX,
    LOOK_AGAIN_S,
    SHOWN_MAX,
    Entry,
    Outbox,
    retry_delay_s,
)

CONV = "alice:bob"


def outbox(*, pending: int = 100, per_user: int = 10) -> Outbox:
    return Outbox(pending_max=pending, pending_per_user_max=per_user)


def taken(box: Outbox, now_s: float) -> Entry:
    entry = box.take(now_s)
    assert entry is not None
    return entry


def told(box: Outbox, entry: Entry, now_s: float) -> None:
    entry.told_seq = entry.seq
    box.done(entry, now_s)


def test_it_is_due_when_it_was_said_and_not_before() -> None:
    box = outbox()
    box.note("bob", CONV, 1, 10.0)
    box.note("bob", "bob:carol", 1, 12.0)
    box.note("bob", "bob:dave", 1, 9.0)
    assert box.next_s() == 9.0
    assert box.take(8.9) is None
    assert taken(box, 12.0).conv == "bob:dave"
    assert taken(box, 12.0).conv == CONV
    assert taken(box, 12.0).conv == "bob:carol"
    assert box.take(99.0) is None


def test_messages_collapse_and_an_earlier_time_holds() -> None:
    box = outbox()
    box.note("bob", CONV, 1, 10.0)
    box.note("bob", CONV, 2, 20.0)
    assert box.next_s() == 10.0
    box.note("bob", CONV, 3, 5.0)
    entry = taken(box, 5.0)
    assert entry.seq == 3
    assert box.take(100.0) is None  # it is under way


def test_what_a_device_took_is_not_looked_at() -> None:
    box = outbox()
    box.note("bob", CONV, 1, 10.0)
    box.note("bob", CONV, 2, 10.0)
    box.delivered("bob", CONV, 1)
    assert len(box) == 1
    box.delivered("bob", CONV, 2)
    assert len(box) == 0
    assert box.next_s() is None


def test_what_comes_while_one_is_under_way_is_due_after_it() -> None:
    box = outbox()
    box.note("bob", CONV, 1, 0.0)
    entry = taken(box, 0.0)
    entry.told_seq = 1
    box.note("bob", CONV, 2, 0.0)
    box.done(entry, 5.0)
    assert box.take(5.0) is None
    assert box.next_s() == 5.0 + COLLAPSE_S
    assert taken(box, 6.0).seq == 2


def test_what_is_expected_to_be_taken_is_due_only_if_it_is_not() -> None:
    box = outbox(pending=3)
    box.expect("bob", CONV, 1, 10.0)
    box.expect("bob", CONV, 2, 11.0)
    box.expect("carol", "alice:carol", 1, 12.0)
    assert (len(box), box.next_s()) == (2, 10.0)
    box.delivered("bob", CONV, 1)
    assert box.next_s() == 10.0  # of the two that were sent one is missing
    box.delivered("bob", CONV, 2)
    assert (len(box), box.next_s()) == (1, 12.0)
    box.expect("bob", CONV, 3, 13.0)
    box.note("bob", CONV, 4, 11.0)  # meanwhile nobody is there
    assert taken(box, 11.0).seq == 4
    assert taken(box, 12.0).conv == "alice:carol"
    assert box.take(99.0) is None
    box.expect("dave", "alice:dave", 1, 14.0)
    assert not box.overflowed
    box.expect("erin", "alice:erin", 1, 14.0)
    assert box.overflowed


def test_a_hint_about_an_older_message_does_not_hide_a_newer_one() -> None:
    box = outbox()
    box.expect("bob", CONV, 1, 10.0)
    box.expect("bob", CONV, 2, 11.0)
    box.hurry("bob", CONV, 1, 0.5)
    box.delivered("bob", CONV, 1)
    assert taken(box, 0.5).seq == 2


def test_a_burst_is_few_notifications() -> None:
    box, times = outbox(), []
    for step in range(100):  # ten messages a second for ten seconds
        now_s = step / 10
        box.note("bob", CONV, step + 1, now_s)
        while (entry := box.take(now_s)) is not None:
            times.append(now_s)
            told(box, entry, now_s)
    assert len(times) == 10
    assert box.take(11.0) is not None  # the last ones


def test_after_a_notification_and_a_rest_it_is_forgotten() -> None:
    box = outbox()
    box.note("bob", CONV, 1, 0.0)
    told(box, taken(box, 0.0), 0.0)
    assert len(box) == 1
    assert box.take(COLLAPSE_S) is None
    assert len(box) == 0


def test_a_message_heard_of_after_it_was_told_is_not_told_again() -> None:
    box = outbox()
    box.note("bob", CONV, 1, 0.0)
    entry = taken(box, 0.0)
    entry.told_seq = 2  # the store knew more
    box.note("bob", CONV, 2, 0.0)
    box.done(entry, 0.0)
    assert box.take(50.0) is None
    assert len(box) == 0


def fail(box: Outbox, entry: Entry, targets: dict[str, float], now_s: float) -> None:
    """An attempt on these targets: 0.0 – it was reached, else it waits until then."""
    entry.begin(entry.seq, targets, now_s)
    for name, until_s in targets.items():
        if until_s:
            entry.wait(name, until_s)
        else:
            entry.settle(name)
    box.retry(entry, now_s)


def test_a_failed_one_is_due_again_and_a_message_meanwhile_does_not_hurry_it() -> None:
    box = outbox()
    box.note("bob", CONV, 1, 0.0)
    fail(box, taken(box, 0.0), {"phone": 60.0}, 0.0)
    box.note("bob", CONV, 2, 1.0)
    assert box.next_s() == 60.0
    entry = taken(box, 60.0)
    assert (entry.seq, entry.attempts("phone"), entry.attempts("tablet")) == (2, 1, 0)
    box.delivered("bob", CONV, 2)
    fail(box, entry, {"phone": 99.0}, 60.0)
    assert len(box) == 0


def test_one_target_that_waits_holds_up_no_message_to_the_others() -> None:
    box = outbox()
    box.note("bob", CONV, 1, 0.0)
    fail(box, taken(box, 0.0), {"phone": 0.0, "tablet": 7_200.0}, 0.0)
    assert box.next_s() == 7_200.0
    box.note("bob", CONV, 2, 0.5)
    assert box.next_s() == COLLAPSE_S
    entry = taken(box, 60.0)
    assert entry.begin(2, ["phone", "tablet"], 60.0) == ["phone"]
    box.note("bob", CONV, 3, 60.0)  # while 2 is sent
    entry.settle("phone")
    box.retry(entry, 61.0)
    assert box.next_s() == 61.0 + COLLAPSE_S
    entry = taken(box, 7_200.0)
    assert entry.begin(3, ["phone", "tablet"], 7_200.0) == ["phone", "tablet"]


def test_a_target_that_is_new_is_told_and_one_that_is_no_more_is_not_waited_for() -> None:
    box = outbox()
    box.note("bob", CONV, 1, 0.0)
    fail(box, taken(box, 0.0), {"old": 7_200.0}, 0.0)
    box.note("bob", CONV, 2, 1.0)
    assert box.next_s() == LOOK_AGAIN_S
    entry = taken(box, LOOK_AGAIN_S)
    assert entry.begin(2, ["new"], LOOK_AGAIN_S) == ["new"]
    entry.settle("new")
    assert not entry.waits


def test_who_was_not_tried_has_not_failed() -> None:
    entry = Entry("bob", CONV, 1, 0.0)
    entry.wait("phone", 1.0, failed=False)
    assert entry.attempts("phone") == 0
    for _ in range(2 * ATTEMPTS_COUNTED_MAX):
        entry.wait("phone", 1.0)
    assert entry.attempts("phone") == ATTEMPTS_COUNTED_MAX


def test_what_could_not_be_tried_is_due_again_and_not_before() -> None:
    box = outbox()
    box.note("bob", CONV, 1, 0.0)
    box.again(taken(box, 0.0), 30.0)
    box.note("bob", CONV, 2, 1.0)
    assert box.next_s() == 30.0


def test_what_is_read_while_it_is_under_way_is_remembered() -> None:
    box = outbox()
    box.note("bob", CONV, 1, 0.0)
    entry = taken(box, 0.0)
    assert box.read("bob", CONV, 1) == 0
    assert entry.read == 1


def test_nothing_owed_forgets_it_but_not_what_came_meanwhile() -> None:
    box = outbox()
    box.note("bob", CONV, 1, 0.0)
    box.drop(taken(box, 0.0), 0.0)
    assert len(box) == 0
    box.note("bob", CONV, 2, 0.0)
    entry = taken(box, 0.0)
    box.note("bob", CONV, 3, 50.0)
    box.drop(entry, 1.0)
    assert taken(box, 1.0).seq == 3


def test_the_bounds_hold_and_are_told() -> None:
    box = outbox(pending=3, per_user=2)
    for number in range(3):
        box.note("bob", f"bob:c{number}", 1, 0.0)
    assert (len(box), box.overflowed) == (2, True)
    box.overflowed = False
    box.note("alice", CONV, 1, 0.0)
    assert (len(box), box.overflowed, box.has_room) == (3, False, False)
    box.note("carol", "alice:carol", 1, 0.0)
    assert (len(box), box.overflowed) == (3, True)
    box.delivered("bob", "bob:c0", 1)
    box.delivered("bob", "bob:c1", 1)
    assert box.has_room
    box.overflowed = False
    box.note("bob", "bob:c2", 1, 0.0)
    assert (len(box), box.overflowed) == (2, False)


def test_the_garbage_of_a_busy_hour_is_bounded() -> None:
    box = outbox()
    for number in range(10 * HEAP_GARBAGE_MAX):
        box.note("bob", CONV, number + 1, number + 10.0)
        box.delivered("bob", CONV, number + 1)
    assert len(box._heap) <= HEAP_GARBAGE_MAX + 2


def test_lag_is_how_long_the_oldest_one_waits() -> None:
    box = outbox()
    assert box.lag_s(5.0) == 0.0
    box.note("bob", CONV, 1, 10.0)
    assert (box.lag_s(9.0), box.lag_s(12.5)) == (0.0, 2.5)


def test_what_is_shown_is_cleared_once_when_all_of_it_is_read() -> None:
    box = outbox()
    box.show("bob", CONV, 5)
    assert box.read("bob", CONV, 4) == 0
    assert box.read("bob", CONV, 7) == 5
    assert box.read("bob", CONV, 9) == 0
    for number in range(SHOWN_MAX + 10):
        box.show("bob", f"bob:c{number}", 1)
    assert box.read("bob", "bob:c9", 1) == 0
    assert box.read("bob", "bob:c10", 1) == 1


def test_the_delay_is_a_random_part_of_a_doubling_bound() -> None:
    def delay(attempts: int, part: float, after_s: float | None = None) -> float:
        return retry_delay_s(attempts, least_s=2.0, most_s=60.0, after_s=after_s, random=lambda: part)

    assert [delay(n, 1.0) for n in range(7)] == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert delay(3, 0.25) == 4.0
    assert delay(0, 0.5, after_s=30.0) == 30.0
    assert delay(30, 0.5, after_s=1.0) == 30.0


OPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["message", "message", "message", "ack", "take", "take", "done", "fail", "drop", "wait", "walk"]
        ),
        st.sampled_from(["alice", "bob", "carol"]),
        st.integers(0, 3),
    ),
    max_size=80,
)


@given(ops=OPS)
@settings(max_examples=400, deadline=None)
def test_whatever_is_owed_is_pending_or_to_be_walked_for(ops: list[tuple[str, str, int]]) -> None:
    box = outbox(pending=6, per_user=3)
    heads: dict[tuple[str, str], int] = {}
    acked: dict[tuple[str, str], int] = {}
    pushed: dict[tuple[str, str], int] = {}
    busy: list[tuple[Entry, int]] = []  # with the newest message when it was looked at
    now_s = 0.0
    for op, user, number in ops:
        key = (user, f"conv{number}")
        if op == "message":
            heads[key] = heads.get(key, 0) + 1
            if number % 2:
                box.expect(*key, heads[key], now_s + 2)
            else:
                box.note(*key, heads[key], now_s + number)
        elif op == "ack" and key in heads:
            acked[key] = heads[key]
            box.delivered(*key, heads[key])
        elif op == "take" and (entry := box.take(now_s)) is not None:
            assert entry not in [one for one, _ in busy], "under way twice"
            busy.append((entry, heads[entry.user, entry.conv]))
        elif op in ("done", "fail", "drop") and busy:
            entry, head = busy.pop(0)
            its = (entry.user, entry.conv)
            if op == "done":
                entry.told_seq = pushed[its] = head
                box.done(entry, now_s)
            elif op == "fail":
                entry.begin(head, ["x"], now_s)
                entry.wait("x", now_s + number)
                box.retry(entry, now_s)
            elif acked.get(its, 0) >= head:  # the store says that nothing is owed
                box.drop(entry, now_s)
            else:
                box.again(entry, now_s)
        elif op == "wait":
            now_s += number
        elif op == "walk" and box.overflowed and box.has_room:
            box.overflowed = False
            for its, head in heads.items():
                if head > max(acked.get(its, 0), pushed.get(its, 0)):
                    box.note(*its, head, now_s)
        if box.overflowed:
            continue
        for its, head in heads.items():
            if head > max(acked.get(its, 0), pushed.get(its, 0)):
                assert its in box._entries or its in box._expected, f"{its} is owed #{head} and out of sight"
    while not box.overflowed and (at_s := box.next_s()) is not None:
        now_s = max(now_s, at_s)
        entry_or_none = box.take(now_s)
        if entry_or_none is not None:
            its = (entry_or_none.user, entry_or_none.conv)
            entry_or_none.told_seq = pushed[its] = heads[its]
            box.done(entry_or_none, now_s)
    assert len(box) == len(busy) or box.overflowed


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["message", "wait", "attempt", "attempt"]),
            st.sets(st.sampled_from(["phone", "tablet", "desk"])),  # who is reached, or subscribed from now on
            st.integers(0, 40),
        ),
        max_size=40,
    )
)
@settings(max_examples=300, deadline=None)
def test_every_target_is_told_of_the_newest_once_and_not_before_its_wait_is_over(
    steps: list[tuple[str, set[str], int]],
) -> None:
    box = outbox()
    head, now_s, pushed = 0, 0.0, 0
    targets = ["phone", "tablet", "desk"]
    told: dict[str, int] = {}
    until_s: dict[str, float] = {}
    rounds = [*steps, *([("finish", set(targets), 7_200)] * 6)]
    for op, reached, number in rounds:
        if op == "message":
            head += 1
            box.note("bob", CONV, head, now_s)
        if op in ("wait", "finish"):
            now_s += number
        if op in ("attempt", "finish") and (entry := box.take(now_s)) is not None:
            if pushed == head:
                box.drop(entry, now_s)
                continue
            for name in entry.begin(head, targets, now_s):
                assert isinstance(name, str)
                assert told.get(name, 0) < head, "told twice"
                assert until_s.get(name, 0.0) <= now_s, "too soon"
                if name in reached:
                    told[name] = head
                    entry.settle(name)
                else:
                    until_s[name] = now_s + number
                    entry.wait(name, until_s[name])
            if entry.waits:
                box.retry(entry, now_s)
            else:
                pushed = head
                box.done(entry, now_s)
    assert pushed == head
    assert len(box) == 0
    assert head == 0 or told == dict.fromkeys(targets, head)
