"""Hostile frames against a server process, in small; `python -m chatd.testing.hostile` is the whole of it."""

from __future__ import annotations

import pytest

from chatd.testing.hostile import Corpus
from chatd.testing.hostile.corpus import horrors, violations
from chatd.testing.hostile.run import run


def test_the_same_seed_gives_the_same_frames() -> None:
    one, same, other = Corpus(1), Corpus(1), Corpus(2)
    frames = [one.one() for _ in range(500)]
    assert frames != [other.one() for _ in range(500)]
    spoiled = sum(a != b for a, b in zip(frames, (same.one() for _ in range(500)), strict=True))
    assert spoiled < 250  # the honest frames' message ids are new each time, nothing else


def test_the_corpus_is_all_there() -> None:
    assert len(Corpus(1)) == len(list(horrors())) + len(list(violations())) > 1_000
    assert len(set(Corpus(1).whole())) > 900


@pytest.mark.slow
async def test_the_server_stands_it_and_honest_users_chat_on() -> None:
    report = await run(frames=6_000, seed=4)
    assert report.complaints == []
    assert report.exit_code == 0
    assert report.frames >= 6_000
    assert report.judged > 1_000
    assert {"1002", "4400"} <= set(report.ends)
    assert report.delivered > 10
    assert report.stall_cpu_ms < 50
    assert report.rss_growth_kib < 20 * 1024
