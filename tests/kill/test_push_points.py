"""The server dies on the way from a message to its push, at every named point; the push comes all the same."""

from __future__ import annotations

import pytest

from chatd.testing.harness.push import run
from chatd.testing.killing import PUSH_POINTS

pytestmark = pytest.mark.slow


async def test_a_push_outlives_a_kill_at_every_point() -> None:
    summary = await run(14, seed=7)
    assert summary.lost == []
    assert summary.faults == []
    assert set(PUSH_POINTS) <= summary.kills.keys(), str(summary)
    assert summary.repeated >= 1, str(summary)
