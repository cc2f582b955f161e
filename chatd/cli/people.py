"""``chatd export`` and ``chatd erase``: all that is kept of one user, to take along or to be gone."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

from chatd.cli.administer import Place, with_place
from chatd.cli.common import Failed
from chatd.cli.process import tidy_at_sigterm
from chatd.newfile import new_file

Call = Callable[..., Awaitable[Any]]
AGAIN_S = 1.0
WALKS_MAX = 10


@click.command()
@click.argument("user")
@click.argument("file", metavar="[FILE]", type=click.Path(path_type=Path), required=False)
@with_place
def export(place: Place, user: str, file: Path | None) -> None:
    """Write all that is kept of a user as JSON lines, to a new FILE of mode 0600 or to standard output.

    Account, devices, blocks, push subscriptions without their keys, and every conversation with its marks and messages.
    The last line is {"type": "end", …}; without it something is missing.
    """
    if file is None or str(file) == "-":
        asyncio.run(_export(place, user, lambda line: click.echo(json.dumps(line, ensure_ascii=False))))
        return
    tidy_at_sigterm()
    with new_file(file) as (out, _):
        asyncio.run(_export(place, user, lambda line: out.write(f"{json.dumps(line, ensure_ascii=False)}\n".encode())))
    click.echo(f"{file}: all that is kept of {user}. It is as secret as the messages in it.", err=True)


async def _export(place: Place, user: str, write: Callable[[Any], object]) -> None:
    """Page by page; what grows with the user is only the list of its conversations."""
    messages = 0
    async with place.opened() as call:
        for line in await call("export_account", user=user):
            write(line)
        convs = await _convs(call, user)
        for conv in convs:
            write(await call("export_marks", user=user, conv=conv))
            after = 0
            while page := await call("export_messages", user=user, conv=conv, after=after):
                for line in page:
                    write(line)
                after = page[-1]["seq"]
                messages += len(page)
    write({"type": "end", "conversations": len(convs), "messages": messages})


async def _convs(call: Call, user: str) -> list[str]:
    """All of the user's conversations; a second walk finds those that moved away from the first one."""
    names: dict[str, None] = {}
    since = None
    for _ in range(2):
        page = await call("export_conversations", user=user, since=since)
        since = page["since"]
        names.update(dict.fromkeys(page["convs"]))
        while page["cursor"] is not None:
            page = await call("export_conversations", user=user, cursor=page["cursor"])
            names.update(dict.fromkeys(page["convs"]))
    return list(names)


@click.command()
@click.argument("user")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_place
def erase(place: Place, user: str, yes: bool) -> None:
    """Delete a user and the text of every message that it wrote, for ever. Nobody can take its name again.

    Others keep what they wrote, and see in its conversations that a message was deleted.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise Failed(f"erasing {user} cannot be undone, and there is no terminal to ask: say --yes")
        click.confirm(f"Erase {user} and all that it wrote, for ever?", abort=True)
    count, left = asyncio.run(_erase(place, user))
    click.echo(f"{user} is erased, with the text of {count} messages.")
    for line in left:
        click.echo(line, err=True)


async def _erase(place: Place, user: str) -> tuple[int, list[str]]:
    """Walk until a walk finds nothing: what was under way when the user's connections ended may come behind one."""
    count = 0
    async with place.opened() as call:
        for _ in range(WALKS_MAX):
            found, cursor = 0, None
            while True:
                step = await call("erase_user", user=user, cursor=cursor)
                found, cursor = found + step["messages"], step["cursor"]
                if cursor is None:
                    break
            count += found
            if not found:
                return count, step["left"]
            await asyncio.sleep(AGAIN_S)
    raise Failed(f"{user} goes on writing: see what sends in its name, and run the same command again")
