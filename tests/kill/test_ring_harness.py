"""A change of the ring under load, behind two routers of which one knows nothing of it: judged, and who moved."""

from __future__ import annotations

import pytest

from chatd.testing.harness.ring import run

pytestmark = pytest.mark.slow


async def test_a_change_of_the_ring_moves_whom_it_must_and_loses_nothing() -> None:
    (summary,) = await run(1, 0, seed=3, passengers=60, workers=2)
    assert dict(summary.anomalies) == {}, str(summary)
    assert summary.messages > 0
    assert len(summary.shares) == 1
