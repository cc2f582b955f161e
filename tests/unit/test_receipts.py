"""Marks between two commits."""

from __future__ import annotations

from chatd.errors import OutcomeUnknown, Overloaded, Refusal, Unavailable
from chatd.model import Advance, Grown
from chatd.receipts import Receipts


def advance(device: str, delivered: int, read: int = 0, conv: str = "alice:bob") -> Advance:
    return Advance(conv, "alice", device, delivered, read)


def test_a_device_costs_one_row_with_its_maxima() -> None:
    receipts = Receipts()
    for one in (advance("x", 5), advance("x", 3, 3), advance("x", 4), advance("y", 1)):
        receipts.add(one)
    assert len(receipts) == 2
    assert receipts.take(10).advances == [advance("x", 5, 3), advance("y", 1)]
    assert len(receipts) == 0
    assert receipts.take(10).advances == []


def test_those_who_wait_hear_of_their_commit() -> None:
    receipts, heard = Receipts(), list[Grown | Refusal]()
    receipts.add(advance("x", 5), heard.append)
    receipts.add(advance("x", 6), heard.append)
    assert len(receipts) == 2  # who waits counts too
    taken = receipts.take(10)
    assert heard == []
    grown = Grown("alice:bob", "alice", 6, 0, grew=True)
    taken.committed({("alice:bob", "alice"): grown})
    assert heard == [grown, grown]


def test_one_commit_takes_at_most_so_many_and_the_oldest_first() -> None:
    receipts, heard = Receipts(), list[str]()
    for device in "xyz":
        receipts.add(advance(device, 1), lambda _, device=device: heard.append(device))  # type: ignore[misc]
    first = receipts.take(2)
    assert first.advances == [advance("x", 1), advance("y", 1)]
    grown = {("alice:bob", "alice"): Grown("alice:bob", "alice", 1, 0, grew=True)}
    first.committed(grown)
    assert heard == ["x", "y"]
    second = receipts.take(2)
    assert second.advances == [advance("z", 1)]
    second.committed(grown)
    assert heard == ["x", "y", "z"]


def test_an_unknown_outcome_goes_into_the_next_commit() -> None:
    receipts, heard = Receipts(), list[Grown | Refusal]()
    receipts.add(advance("x", 5, 5), heard.append)
    taken = receipts.take(10)
    receipts.add(advance("x", 9))
    receipts.put_back(taken)
    again = receipts.take(10)
    assert again.advances == [advance("x", 9, 5)]
    assert heard == []
    again.failed(Overloaded("full", retry_after_ms=7))
    assert [type(one) for one in heard] == [Overloaded]


def test_a_failure_is_told_as_a_refusal() -> None:
    receipts, heard = Receipts(), list[Grown | Refusal]()
    receipts.add(advance("x", 5), heard.append)
    receipts.take(10).failed(OutcomeUnknown("no answer"))
    assert [(type(one), str(one)) for one in heard] == [(Unavailable, "no answer")]
