"""The kill harness finds nothing in chatd, and does find each bug that is planted."""

from __future__ import annotations

import pytest

from chatd.testing.harness import run
from chatd.testing.killing import POINTS, Plant

CYCLES = 12
PLANTED_CYCLES_MAX = 20


@pytest.mark.slow
async def test_every_point_is_survived() -> None:
    summary = await run(CYCLES, seed=12)

    assert not summary.anomalies, str(summary) + str(summary.examples)
    assert summary.cycles == CYCLES
    assert set(summary.kills) == {"random", *POINTS}, str(summary)
    assert summary.messages > 30 * CYCLES
    assert summary.reconnects > CYCLES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "kinds"),
    [
        ("ack_before_commit", {"lost"}),
        ("no_unique_key", {"duplicated"}),
        ("fan_out_before_commit", {"phantom", "reordered"}),
        ("last_mark", {"mark moved back"}),
    ],
)
async def test_a_planted_bug_is_found(plant: Plant, kinds: set[str]) -> None:
    summary = await run(PLANTED_CYCLES_MAX, seed=4, plant=plant, stop_when_found=True)

    assert kinds & set(summary.anomalies), str(summary)
