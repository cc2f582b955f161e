"""``chatd status``, ``chatd top`` and ``chatd drain``: what an operator asks of servers that run."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import click

from chatd.cli.common import Failed, load_settings, place_options
from chatd.cli.looking import LOOK_S_MAX, Look, called, look, must_be_there, names
from chatd.cli.process import END_GRACE_S
from chatd.errors import EXIT_FAILED

ASK_AGAIN_S = 0.2
DRAIN_GRACE_S = 10.0
"""How long a drain may take beyond what the server itself allows for its end."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON for programs, one line a process.")
@click.option(
    "--over",
    "over_s",
    type=click.FloatRange(0.5, 60),
    default=1.0,
    show_default=True,
    help="Seconds over which rates are measured.",
)
@place_options
def status(config: Path | None, data_dir: str | None, as_json: bool, over_s: float) -> None:
    """Tell how the running server is: exit code 0 ready, 1 not ready, 4 none runs."""
    directory = Path(load_settings(config, data_dir).server.data_dir)
    before, after = asyncio.run(_looks(directory, over_s if not as_json else 0.0))
    if as_json:
        for line in _json_lines(after):
            click.echo(line)
    else:
        from chatd.cli.report import report

        click.echo("\n".join(report(before, after)))
    if not after.ready:
        sys.exit(EXIT_FAILED)


async def _looks(directory: Path, over_s: float) -> tuple[Look, Look]:
    """Two looks, so long apart; with 0 the same one twice."""
    before = must_be_there(await look(directory), directory)
    if not over_s:
        return before, before
    await asyncio.sleep(over_s)
    return before, must_be_there(await look(directory), directory)


def _json_lines(found: Look) -> list[str]:
    import msgspec

    structs = [*([found.cluster] if found.cluster else []), *found.servers]
    return [json.dumps(msgspec.to_builtins(one), ensure_ascii=False) for one in structs]


@click.command()
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(0.5, 60),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@place_options
def top(config: Path | None, data_dir: str | None, every_s: float) -> None:
    """Watch the running server: rates, latencies, hot conversations, slow devices. q or ^C ends it."""
    from chatd.cli import terminal

    directory = Path(load_settings(config, data_dir).server.data_dir)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failed("top needs a terminal; `chatd status` prints one look, `chatd status --json` is for programs")
    asyncio.run(terminal.top(directory, every_s))


@click.command()
@click.argument("worker", default="")
@click.option("--no-wait", is_flag=True, help="Do not wait for its end.")
@place_options
def drain(config: Path | None, data_dir: str | None, worker: str, no_wait: bool) -> None:
    """End the running server in order, as SIGTERM does; of a cluster all of it, or one WORKER."""
    settings = load_settings(config, data_dir)
    wait_s = 0.0 if no_wait else settings.timing.drain_s + END_GRACE_S + DRAIN_GRACE_S
    asyncio.run(_drain(Path(settings.server.data_dir), worker, wait_s))


async def _drain(directory: Path, worker: str, wait_s: float) -> None:
    from chatd import admin

    found = must_be_there(await look(directory), directory)
    if found.cluster is not None:
        socket = directory / admin.SOCKET_NAME
        await admin.call(socket, "drain", {"worker": worker}, timeout_s=LOOK_S_MAX)
        if worker:
            await _until_drained(directory, worker, wait_s)
        else:
            await _until_ended(directory, {"the cluster": found.cluster.pid}, wait_s)
        return
    chosen = {called(one): one for one in found.servers if worker in ("", one.name, str(one.pid))}
    if not chosen:
        raise Failed(f"no {worker} runs there: there are {names(found.servers)}")
    for name, one in chosen.items():
        if not one.pid:
            raise Failed(f"{name}: {one.why}; nothing was done")
        await admin.call(directory / found.sockets[name], "drain", {}, timeout_s=LOOK_S_MAX)
    await _until_ended(directory, {name: one.pid for name, one in chosen.items()}, wait_s)


async def _until_drained(directory: Path, worker: str, wait_s: float) -> None:
    """Wait until a worker of a cluster is away for good."""
    if not wait_s:
        click.echo(f"{worker} is draining.")
        return
    try:
        async with asyncio.timeout(wait_s):
            while True:
                cluster = must_be_there(await look(directory), directory).cluster
                state = next((one.state for one in cluster.workers if one.name == worker), "") if cluster else ""
                if state != "draining":
                    break
                await asyncio.sleep(ASK_AGAIN_S)
    except TimeoutError as exc:
        raise Failed(f"{worker} still runs after {wait_s:g} s") from exc
    if state != "drained":
        raise Failed(f"{worker} was started again meanwhile: it is {state or 'not there'}")
    click.echo(f"{worker} has ended. SIGHUP to the cluster, which restarts the others as well, brings it back.")


async def _until_ended(directory: Path, pids: dict[str, int], wait_s: float) -> None:
    """Wait until these processes are gone; their connections are counted down meanwhile."""
    if not wait_s:
        click.echo(f"{', '.join(pids)}: draining.")
        return
    shown = -1
    try:
        async with asyncio.timeout(wait_s):
            while any(map(_runs, pids.values())):
                left = sum(one.connections for one in (await look(directory)).servers)
                if left != shown and sys.stderr.isatty():
                    shown = left
                    click.echo(f"draining: {left} connections left", err=True)
                await asyncio.sleep(ASK_AGAIN_S)
    except TimeoutError as exc:
        raise Failed(f"{', '.join(pids)}: still running after {wait_s:g} s") from exc
    click.echo(f"{', '.join(pids)}: ended.")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, so it is there
        return True
    return True
