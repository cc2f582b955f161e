"""Several processes on one Redis, killed at random, Redis too: the history that their clients saw is judged."""

from __future__ import annotations

import pytest

from chatd.testing.harness.cluster import REDIS_EVERY, ROUTER_EVERY, run

pytestmark = pytest.mark.slow


async def test_nothing_is_lost_doubled_or_out_of_order_when_processes_die() -> None:
    summary = await run(REDIS_EVERY + 2, seed=5, workers=3)
    assert dict(summary.anomalies) == {}, str(summary)
    assert summary.kills["redis"] == 1
    assert summary.kills["worker"] >= REDIS_EVERY
    assert summary.messages > 0


async def test_nor_behind_the_router_when_that_dies_too() -> None:
    summary = await run(ROUTER_EVERY, seed=6, workers=2, router=True)
    assert dict(summary.anomalies) == {}, str(summary)
    assert summary.kills["router"] == 1
    assert summary.kills["worker"] >= ROUTER_EVERY - 2
