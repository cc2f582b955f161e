"""A backup under load, a kill, a restore elsewhere: devices that are ahead begin anew, and what is there is one log."""

from __future__ import annotations

import pytest

from chatd.testing.harness.restore import run


@pytest.mark.slow
async def test_devices_ahead_of_a_restored_backup_begin_anew() -> None:
    summary = await run(2, seed=6)

    assert dict(summary.anomalies) == {}, str(summary) + str(summary.examples)
    assert summary.cycles == 2
    assert summary.resets >= 16, str(summary)
    assert summary.kept > 50, str(summary)
    assert summary.gone > 0, str(summary)
