"""A client that stops reading costs a number, not a queue; the figures for 100,000 messages are in the bench."""

from __future__ import annotations

from pathlib import Path

from bench.slow_reader import run

MESSAGES = 3_000


async def test_a_client_that_stops_reading_gets_everything_later_and_costs_no_memory(tmp_path: Path) -> None:
    figures = await run(MESSAGES, tmp_path)
    assert figures["read_in_order_at_the_end"] == MESSAGES
    assert figures["rss_growth_kib"] < 2_048
