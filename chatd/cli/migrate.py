"""``chatd migrate-store``: from one file to Redis."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click

from chatd.cli.common import Failed, load_settings
from chatd.errors import OutcomeUnknown, StartError, StoreBroken, Unavailable
from chatd.migration import Moved, Progress
from chatd.model import Durability
from chatd.settings import Settings

SCHEME = "sqlite:"
TELL_S = 2.0
AGAIN = "run the same command again, and it goes on where it was"


@click.command("migrate-store")
@click.argument("source", metavar="sqlite:PATH")
@click.argument("target", metavar="[redis://URL]", required=False)
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file. Default: chatd.toml in PATH.")
def migrate_store(source: str, target: str | None, config: Path | None) -> None:
    """Move all data of a server that is stopped from its file to Redis, and compare the two.

    PATH is the data directory. The URL is that of store.redis_url, and is taken from there unless given.
    """
    if not source.startswith(SCHEME):
        raise click.UsageError(f"the source is {SCHEME}PATH, with the data directory of a server")
    from chatd.store.sqlite import FILE_NAME

    path = Path(source.removeprefix(SCHEME))
    directory = path.parent if path.name == FILE_NAME else path
    if not (directory / FILE_NAME).is_file():
        raise StartError(f"no {FILE_NAME} in {directory}: name the data directory of the server")
    settings = load_settings(config, str(directory), {"store.redis_url": target})
    begun_s = time.monotonic()
    moved, durability = asyncio.run(_move(directory, settings))
    counts = moved.counts
    if moved.differences:
        what = "; ".join(moved.differences)
        if moved.before:
            raise Failed(f"not equal: the history moved there before, and one of the two was used since: {what}")
        raise Failed(f"not equal, so the target stays closed: {what}; empty it and begin anew")
    click.echo(
        f"Moved and equal on both sides: {counts.users} users, {counts.conversations} conversations, "
        f"{counts.messages} messages ({moved.copied} of them now) in {time.monotonic() - begun_s:.1f} s. "
        f"Durability of the target: {durability}."
    )


async def _move(directory: Path, settings: Settings) -> tuple[Moved, Durability]:
    from chatd.migration import move
    from chatd.store.redis.arriving import RedisTarget
    from chatd.store.sqlite import DirectoryInUse, SqliteStore
    from chatd.store.sqlite.leaving import SqliteSource

    store = SqliteStore(directory, settings.store)
    target = RedisTarget(settings.store)
    try:
        await store.open()
    except DirectoryInUse as exc:
        raise StartError(f"{directory} is in use by process {exc.holder}: stop it first") from exc
    try:
        await target.open()
        try:
            moved = await move(SqliteSource(store), target, _Teller())
        finally:
            await target.close()
    except (Unavailable, OutcomeUnknown, StoreBroken) as exc:
        raise Failed(f"{exc}: {AGAIN}") from exc
    finally:
        await store.close()
    return moved, target.durability


class _Teller:
    """Says how far it is, on standard error, every `TELL_S` and at the ends of a phase."""

    def __init__(self) -> None:
        self._last: Progress | None = None
        self._told_s = 0.0

    def __call__(self, now: Progress) -> None:
        now_s, last = time.monotonic(), self._last
        begins = last is None or last.phase != now.phase
        if begins or now_s - self._told_s >= TELL_S or (now.messages == now.total and now != last):
            click.echo(f"{now.phase}: {now.messages} of {now.total} messages", err=True)
            self._told_s = now_s
        self._last = now
