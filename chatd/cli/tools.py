"""``chatd bench`` and ``chatd version``."""

from __future__ import annotations

import platform
import sqlite3
import sys
from importlib import metadata

import click

from chatd import __version__


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure this machine: a server and a load in processes of their own. `chatd bench --help` has the options."""
    from chatd.testing.load import main

    sys.exit(main(list(arguments)))


@click.command()
def version() -> None:
    """Print the versions of chatd and of what it stands on."""
    click.echo(f"chatd {__version__}")
    click.echo(f"Python {platform.python_version()} ({platform.system()} {platform.machine()})")
    click.echo(f"SQLite {sqlite3.sqlite_version}")
    click.echo(f"aiohttp {metadata.version('aiohttp')}")
    try:
        click.echo(f"event loop: uvloop {metadata.version('uvloop')}")
    except metadata.PackageNotFoundError:
        click.echo("event loop: asyncio")
