"""``python -m chatd.testing.hostile``: a hostile run and its figures; exit code 1 when the server did not stand it."""

from __future__ import annotations

import asyncio

import click

from chatd.testing.hostile.run import run

STALL_MS_MAX = 50.0
RSS_GROWTH_KIB_MAX = 20 * 1024


@click.command()
@click.option("--frames", type=click.IntRange(1, 100_000_000), default=200_000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed sends the same frames.")
def main(frames: int, seed: int) -> None:
    """Throw hostile frames at a server process and say what it made of them."""
    report = asyncio.run(run(frames=frames, seed=seed))
    click.echo(report.as_text())
    for complaint in report.complaints[:50]:
        click.echo(complaint)
    stood = not report.complaints and report.exit_code == 0 and report.stall_cpu_ms <= STALL_MS_MAX
    raise SystemExit(0 if stood and report.rss_growth_kib <= RSS_GROWTH_KIB_MAX else 1)


if __name__ == "__main__":
    main()
