"""Turns: each key once in a long while, and once in a short one after a doubt."""

from __future__ import annotations

from collections import Counter

import pytest

from chatd.routing.turns import Turns

KEYS = range(1_000, 2_000)


def taken(turns: Turns, seconds: int) -> Counter[int]:
    """How often each key has its turn in the next seconds."""
    found: Counter[int] = Counter()
    for _ in range(seconds):
        turns.tick()
        found.update(key for key in KEYS if turns.due(key))
    return found


@pytest.mark.parametrize(("reconcile_s", "calm_s", "period"), [(30, 300, 300), (30, 301, 330), (7, 1, 7), (1, 1, 1)])
def test_without_a_doubt_each_has_one_turn_in_the_long_while(reconcile_s: float, calm_s: float, period: int) -> None:
    turns = Turns(reconcile_s=reconcile_s, calm_s=calm_s)
    for _ in range(2):
        assert taken(turns, period) == Counter(dict.fromkeys(KEYS, 1))


def test_they_are_spread_evenly() -> None:
    turns = Turns(reconcile_s=10, calm_s=50)
    assert {sum(taken(turns, 1).values()) for _ in range(50)} == {len(KEYS) // 50}


@pytest.mark.parametrize("at", [0, 1, 29, 30, 95])
def test_after_a_doubt_each_has_its_turn_in_the_short_while(at: int) -> None:
    turns = Turns(reconcile_s=30, calm_s=3_600)
    taken(turns, 100 + at)
    turns.doubt()
    assert taken(turns, 30) == Counter(dict.fromkeys(KEYS, 1))
    assert sum(taken(turns, 30).values()) < len(KEYS) / 10  # and then it is over


def test_a_doubt_in_a_doubt_begins_anew() -> None:
    turns = Turns(reconcile_s=30, calm_s=3_600)
    taken(turns, 100)
    turns.doubt()
    taken(turns, 20)
    turns.doubt()
    assert taken(turns, 30) == Counter(dict.fromkeys(KEYS, 1))
