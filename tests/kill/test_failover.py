"""Redis fails over below several processes: what was answered is there, or everybody is told of another history."""

from __future__ import annotations

import pytest

from chatd.testing.harness.failover import run

pytestmark = pytest.mark.slow


async def test_what_a_replica_had_to_have_is_there_when_it_is_the_master() -> None:
    summary = await run(1, kind="sentinel", seed=3, workers=2)
    assert dict(summary.anomalies) == {}, str(summary)
    assert (summary.histories, summary.gone) == (1, 0)
    assert summary.kept > 0


async def test_slots_move_and_a_master_of_a_cluster_dies_and_all_that_was_answered_is_there() -> None:
    summary = await run(2, kind="cluster", seed=4, workers=2)
    assert dict(summary.anomalies) == {}, str(summary)
    assert summary.kills["slot moved"] > 6  # three conversations a cycle, and the channels of their members
    assert (summary.kills["master"], summary.gone) == (1, 0)
    assert summary.kept > 0


async def test_what_a_replica_never_got_is_gone_and_every_device_begins_anew() -> None:
    summary = await run(1, kind="cluster", seed=5, workers=2, lossy=True)
    assert dict(summary.anomalies) == {}, str(summary)
    assert summary.histories == 1
    assert summary.gone > 0
    assert summary.resets >= 8
