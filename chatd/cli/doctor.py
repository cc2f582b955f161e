"""``chatd doctor``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatd.cli.administer import as_json
from chatd.cli.common import load_settings, place_options
from chatd.errors import EXIT_FAILED, ConfigError, StartError

if TYPE_CHECKING:
    from chatd.doctor import Finding

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--full", is_flag=True, help="Look at every index of the database, too.")
@as_json
@place_options
@click.pass_context
def doctor(ctx: click.Context, config: Path | None, data_dir: str | None, full: bool, as_json: bool) -> None:
    """Look at configuration, files, disk, database, clock, port, limits and Redis, whether or not the server runs.

    Each line says what was found, and the way out if something is wrong; then the exit code is 1. Nothing is changed.
    """
    import msgspec

    from chatd.doctor import Finding, examine

    try:
        found = examine(load_settings(config, data_dir), full=full)
    except ConfigError as exc:
        found = [Finding("configuration", "fail", str(exc), "correct it; nothing else was looked at")]
    except StartError as exc:
        text = str(exc).removeprefix("data directory ")
        found = [Finding("data directory", "fail", text, "do what it says; nothing else was looked at")]
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found)))
    else:
        for one in found:
            _show(one)
    if any(one.state == "fail" for one in found):
        ctx.exit(EXIT_FAILED)


def _show(one: Finding) -> None:
    click.echo(f"{click.style(f'{one.state:4}', fg=COLOURS[one.state])}  {one.check}: {one.found}")
    if one.way_out:
        click.echo(f"      → {one.way_out}")
