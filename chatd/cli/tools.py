"""``chatd bench``, ``chatd completion`` and ``chatd version``."""

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
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete chatd's commands and options: `source <(chatd completion bash)`."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"{shell}: no completion for this shell")
    click.echo(kind(context.find_root().command, {}, "chatd", "_CHATD_COMPLETE").source())


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
