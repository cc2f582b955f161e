"""``chatd backup`` and ``chatd restore``: one file that holds all of a server, and the way back."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatd import __version__, configuration
from chatd.cli.common import Failed, find_config, load_settings, place_options, program
from chatd.cli.process import tidy_at_sigterm

if TYPE_CHECKING:
    from chatd.store.sqlite.backup import Manifest

TELL_S = 2.0
DATA_DIR = re.compile(r"^data_dir\s*=.*$", re.MULTILINE)


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--salvage", is_flag=True, help="Also of a database whose log was cut: what is left of it.")
@place_options
def backup(config: Path | None, data_dir: str | None, file: Path, salvage: bool) -> None:
    """Copy all of a server into one new FILE, mode 0600, whether or not it runs. Keep it as secret as the server."""
    from chatd.store.sqlite import backup as copies

    if str(file) == "-":
        raise Failed("a backup is looked through again before it gets its name, and a pipe has none: name a file")
    settings = load_settings(config, data_dir)
    if settings.store.kind == "redis":
        raise Failed(
            "store.kind is redis: its messages are Redis' to back up, by its RDB or AOF files (BGSAVE), and deleting "
            "the key `life` after such a copy was put back makes clients begin anew: see Backup in docs/operations.md"
        )
    if settings.store.kind == "memory":
        raise Failed("store.kind is memory: there is nothing to back up")
    path = find_config(config, data_dir)
    tidy_at_sigterm()
    with _told(file):
        made = copies.take(
            Path(settings.server.data_dir),
            file,
            version=__version__,
            now_ms=time.time_ns() // 1_000_000,
            config=None if path is None else path.read_text("utf-8"),
            salvage=salvage,
            tell=_teller(),
        )
    back = f"{program()} restore {shlex.quote(str(file))} --data-dir DIR"
    click.echo(f"{file}: {_holds(made)}. Put it back with `{back}`.")


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--data-dir", help="The new directory. Default: ./data.")
@click.option("--verify", is_flag=True, help="Look at every index and every message, too.")
def restore(file: Path, data_dir: str | None, verify: bool) -> None:
    """Make a new data directory of a backup. Its history gets a new name, so that no device waits for what is lost."""
    from chatd.store.sqlite import backup as copies

    directory = Path(configuration.load(overrides={"server.data_dir": data_dir}).server.data_dir).absolute()
    tidy_at_sigterm()
    with _told(file):
        made = copies.put_back(file, directory, config=lambda text: _moved(text, directory), verify=verify)
    looked = "checksum, counts, indexes and messages" if verify else "checksum and counts"
    click.echo(f"{directory}: {_holds(made)}; {looked} are right, and the history has a new name.")
    click.echo(f"Next: {program()} serve --data-dir {shlex.quote(str(directory))}")


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """What the system says of a file is one line."""
    try:
        yield
    except OSError as exc:
        raise Failed(f"{exc.filename or file}: {exc.strerror or exc}") from exc


def _teller() -> Callable[[int, int], None]:
    told_s = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= TELL_S:
            told_s = time.monotonic()
            click.echo(f"copying: {done} of {total} pages", err=True)

    return tell


def _holds(made: Manifest) -> str:
    counts = made.counts
    return f"{counts.users} users, {counts.conversations} conversations, {counts.messages} messages"


def _moved(text: str, directory: Path) -> str:
    """A configuration file for this data directory."""
    return DATA_DIR.sub(lambda _: f"data_dir = {configuration.toml_value(str(directory))}", text, count=1)
