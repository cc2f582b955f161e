"""The out-queue and the backoff, with literal times."""

from __future__ import annotations

import pytest

from chatd.client.outqueue import Backoff, OutQueue, Pending, Verdict
from chatd.errors import Overloaded


def highest() -> float:
    return 1.0


def queue(count: int = 0, *, to: str = "bob", flying_messages_max: int = 128) -> OutQueue:
    q = OutQueue(highest, messages_max=10, flying_messages_max=flying_messages_max)
    for i in range(1, count + 1):
        q.add(q.make(f"{to}{i}", f"body {i}", to=to))
    q.connected("alice")
    return q


def due(q: OutQueue, now_s: float) -> list[tuple[int | None, str]]:
    return [(frame.n, frame.id) for frame in q.due(now_s)]


def test_backoff_is_a_random_part_of_a_doubling_ceiling() -> None:
    backoff = Backoff(highest)
    assert [backoff.next_s() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    backoff.reset()
    assert backoff.next_s() == 0.5
    assert Backoff(lambda: 0.25).next_s() == 0.125


def test_backoff_never_waits_less_than_it_was_asked_to() -> None:
    backoff = Backoff(highest)
    assert backoff.next_s(retry_after_ms=7_000) == 7.0
    assert backoff.next_s(retry_after_ms=100) == 1.0


def test_sends_are_numbered_from_one_on_each_connection_and_sent_once() -> None:
    q = queue(2)
    assert due(q, 0.0) == [(1, "bob1"), (2, "bob2")]
    assert due(q, 99.0) == []
    q.connected("alice")
    assert due(q, 100.0) == [(1, "bob1"), (2, "bob2")]


def test_an_answered_send_is_not_repeated() -> None:
    q = queue(2)
    due(q, 0.0)
    entry = q.sent("bob1")
    assert entry is not None
    assert entry.body == "body 1"
    assert q.sent("bob1") is None
    q.connected("alice")
    assert due(q, 1.0) == [(1, "bob2")]
    assert len(q) == 1


def test_a_temporary_refusal_holds_its_conversation_and_no_other() -> None:
    q = queue(2)
    due(q, 0.0)
    assert q.refused("bob1", "overloaded", 500, 1.0, temporary=True) is Verdict.RETRY
    assert q.refused("bob2", "out_of_order", None, 1.0, temporary=True) is Verdict.RETRY
    q.add(q.make("bob3", "body 3", to="bob"))
    q.add(q.make("carol1", "body", to="carol"))
    assert due(q, 1.0) == [(3, "carol1")]
    assert q.deadline_s() == 1.5
    assert due(q, 1.4) == []
    assert due(q, 1.5) == [(4, "bob1"), (5, "bob2"), (6, "bob3")]


def test_a_repetition_waits_until_what_was_sent_after_it_is_answered() -> None:
    q = queue(3)
    due(q, 0.0)
    q.refused("bob1", "overloaded", 1, 1.0, temporary=True)
    assert due(q, 2.0) == []
    assert q.deadline_s() is None
    q.refused("bob2", "out_of_order", None, 2.0, temporary=True)
    assert due(q, 2.0) == []
    q.refused("bob3", "out_of_order", None, 2.0, temporary=True)
    assert due(q, 2.0) == [(4, "bob1"), (5, "bob2"), (6, "bob3")]


def test_a_refusal_without_a_time_backs_off() -> None:
    q = queue(1)
    for now_s, then_s in ((0.0, 0.5), (10.0, 11.0), (20.0, 22.0)):
        assert len(due(q, now_s)) == 1
        q.refused("bob1", "unavailable", None, now_s, temporary=True)
        assert q.deadline_s() == then_s


def test_what_the_server_asked_for_holds_on_the_next_connection() -> None:
    q = queue(1)
    due(q, 0.0)
    q.refused("bob1", "rate_limited", 60_000, 0.0, temporary=True)
    q.connected("alice")
    assert due(q, 59.9) == []
    assert due(q, 60.0) == [(1, "bob1")]


def test_a_permanent_refusal_lets_the_next_one_pass() -> None:
    q = queue(2)
    due(q, 0.0)
    assert q.refused("bob1", "not_found", None, 0.0, temporary=False) is Verdict.FAILED
    assert [entry.id for entry in q] == ["bob2"]
    assert q.get("bob1") is None


def test_out_of_order_for_the_first_of_a_conversation_asks_for_a_new_connection() -> None:
    q = queue(2)
    due(q, 0.0)
    q.sent("bob1")
    assert q.refused("bob2", "out_of_order", None, 0.0, temporary=True) is Verdict.RECONNECT
    assert q.deadline_s() == 0.5


def test_to_a_user_and_into_the_conversation_with_it_is_one_order() -> None:
    q = queue(1)
    q.add(q.make("c2", "second", conv="alice:bob"))
    due(q, 0.0)
    q.refused("bob1", "overloaded", 1_000, 0.0, temporary=True)
    q.refused("c2", "out_of_order", None, 0.0, temporary=True)
    assert due(q, 0.9) == []
    assert due(q, 1.0) == [(3, "bob1"), (4, "c2")]


def test_no_more_than_the_bound_are_sent_ahead_of_their_answers() -> None:
    q = queue(5, flying_messages_max=2)
    assert due(q, 0.0) == [(1, "bob1"), (2, "bob2")]
    assert due(q, 0.0) == []
    assert q.deadline_s() is None
    q.sent("bob1")
    assert due(q, 0.0) == [(3, "bob3")]


def test_who_was_too_fast_sends_one_and_then_more_as_they_are_answered() -> None:
    q = queue(8, flying_messages_max=4)
    assert len(due(q, 0.0)) == 4
    q.refused("bob1", "rate_limited", 20, 0.0, temporary=True)
    for late in ("bob2", "bob3", "bob4"):
        q.refused(late, "out_of_order", None, 0.0, temporary=True)
    assert due(q, 0.01) == []
    assert q.deadline_s() == 0.02
    sent: list[list[str]] = []
    while len(q):
        sent.append([frame.id for frame in q.due(0.02)])
        assert due(q, 0.02) == []  # not before an answer
        for message in sent[-1]:
            q.sent(message)
    assert sent == [["bob1"], ["bob2", "bob3"], ["bob4", "bob5", "bob6", "bob7"], ["bob8"]]


def test_a_rate_limit_in_one_conversation_slows_them_all() -> None:
    q = queue(2)
    for i in range(3):
        q.add(q.make(f"carol{i}", "x", to="carol"))
    assert len(due(q, 0.0)) == 5
    q.refused("bob1", "rate_limited", 20, 0.0, temporary=True)
    q.refused("bob2", "out_of_order", None, 0.0, temporary=True)
    q.sent("carol0")  # was stored before
    assert due(q, 0.02) == []  # two of carol are on their way
    q.sent("carol1")
    assert due(q, 0.02) == [(6, "bob1"), (7, "bob2")]


def test_a_full_outbox_refuses() -> None:
    q = queue(10)
    with pytest.raises(Overloaded, match="10 unsent"):
        q.make("one more", "body", to="bob")
    q.sent("bob1")
    assert q.make("one more", "body", to="bob").order == 11


def test_entries_of_an_earlier_run_keep_their_order_and_new_ones_follow() -> None:
    q = queue()
    q.add(Pending(41, "old", "body", to="bob"))
    q.add(q.make("new", "body", to="bob"))
    assert [entry.order for entry in q] == [41, 42]
    assert due(q, 0.0) == [(1, "old"), (2, "new")]
