"""The sketch: bounded whatever comes, exact while little comes, and the hottest are never missed."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from chatd.metrics.hot import KEPT_CONVERSATIONS, HotConversations


def test_few_conversations_are_counted_exactly_most_first() -> None:
    hot = HotConversations()
    for conv, times in (("a:b", 3), ("a:c", 1), ("a:d", 7)):
        for _ in range(times):
            hot.add(conv)
    assert hot.top(20) == [("a:d", 7), ("a:b", 3), ("a:c", 1)]
    assert hot.top(1) == [("a:d", 7)]
    assert hot.total == 11


def test_what_is_older_than_two_turns_is_forgotten() -> None:
    hot = HotConversations()
    hot.add("a:b")
    hot.turn()
    hot.add("a:b")
    hot.add("a:c")
    assert hot.top(2) == [("a:b", 2), ("a:c", 1)]
    hot.turn()
    assert (hot.top(2), hot.total) == ([("a:b", 1), ("a:c", 1)], 2)
    hot.turn()
    assert (hot.top(2), hot.total) == ([], 0)


@pytest.mark.parametrize("seed", range(5))
def test_the_hottest_of_many_are_found_and_never_counted_too_low(seed: int) -> None:
    chance = random.Random(seed)
    hot, truth = HotConversations(), Counter[str]()
    stream = [f"hot{n}:x" for n in range(20) for _ in range(2_000 + 100 * n)]
    stream += [f"cold{chance.randrange(30_000)}:x" for _ in range(60_000)]
    chance.shuffle(stream)
    for conv in stream:
        hot.add(conv)
        truth[conv] += 1
        assert len(hot._now.counts) <= 2 * KEPT_CONVERSATIONS
    found = hot.top(20)
    assert {conv for conv, _ in found} == {f"hot{n}:x" for n in range(20)}
    for conv, count in found:
        assert truth[conv] <= count <= truth[conv] + hot._now.base
    assert hot._now.base <= len(stream) / KEPT_CONVERSATIONS
    assert hot.total == len(stream)
