"""``chatd serve``: one server in one process, from the settings to the exit code."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatd.cli.common import cleartext_option, load_settings, place_options, program, refuse_tls
from chatd.cli.logs import configure_logging
from chatd.cli.process import END_GRACE_S, SPARE_FILES, end_now, loop_factory, notify_ready, raise_open_files, say
from chatd.settings import Settings

if TYPE_CHECKING:
    from chatd.app import Server
STDIN = 0


@click.command()
@place_options
@click.option("--host", help="Address to listen on. Default: 127.0.0.1.")
@click.option("--port", type=int, help="TCP port; 0 takes a free one. Default: 8080.")
@cleartext_option
@click.option(
    "--handed",
    type=click.Path(path_type=Path),
    help="Instead of a port: a unix socket on which routers of this host hand connections over.",
)
@click.option("--metrics-listen", hidden=True, help="Instead of server.metrics_listen.")
@click.option("--supervised", is_flag=True, hidden=True, help="End in order when standard input ends.")
@click.option("--name", default="", hidden=True, help="What it is called among the workers of a cluster.")
def serve(
    config: Path | None,
    data_dir: str | None,
    host: str | None,
    port: int | None,
    allow_cleartext: bool | None,
    handed: Path | None,
    metrics_listen: str | None,
    supervised: bool,
    name: str,
) -> None:
    """Run the server until SIGTERM or ^C; a second one does not wait for anything."""
    given = {
        "server.host": host,
        "server.port": port,
        "server.allow_cleartext": allow_cleartext,
        "server.metrics_listen": metrics_listen,
    }
    settings = load_settings(config, data_dir, given)
    if handed is not None:
        refuse_tls(settings.server)
    configure_logging(settings.server)
    raise_open_files(settings.limits.connections_max + SPARE_FILES)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(settings, handed, name, supervised=supervised))


async def _serve(settings: Settings, handed: Path | None, name: str, *, supervised: bool) -> None:
    from chatd.app import Server

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stopping.is_set():
            end_now()  # as after kill -9: what was answered is on the disk
        stopping.set()
        loop.call_later(settings.timing.drain_s + END_GRACE_S, end_now)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    if supervised:
        loop.add_reader(STDIN, _read_to_the_end, stopping, on_signal)
    server = Server(settings, on_broken=lambda exc: end_now())
    await server.start(handed=handed)
    if server.listening.certificate is not None:  # else SIGHUP is what it always was: the end of the terminal
        loop.add_signal_handler(signal.SIGHUP, server.listening.certificate.renew)
    try:
        server.operations.on_drain = lambda: None if stopping.is_set() else on_signal()
        await server.serve_admin(name)
        if handed is None:
            say(_greeting(server, await next_steps(server, server.url)))
            notify_ready()
        await stopping.wait()
    finally:
        await server.stop(drain_s=settings.timing.drain_s)


def _read_to_the_end(stopping: asyncio.Event, on_end: Callable[[], None]) -> None:
    """Nothing is read there; its end is that of the supervisor."""
    if not os.read(STDIN, 4_096):
        asyncio.get_running_loop().remove_reader(STDIN)
        if not stopping.is_set():
            on_end()


def _greeting(server: Server, next_steps: list[str]) -> str:
    """What a person wants to know after the start: where it is, where its data is, and what to do next."""
    memory = server.settings.store.kind == "memory"
    data = "in memory only: gone at exit" if memory else Path(server.settings.server.data_dir).absolute()
    registration = {
        "open": "open: whoever reaches this address may register",
        "invite": f"by invite: `{program()} user invite` makes one",
        "closed": f"closed: `{program()} user add NAME` makes an account",
    }[server.accounts.registration]
    lines = [f"chatd serves on {server.url}", f"  data          {data}", f"  registration  {registration}", ""]
    return "\n".join([*lines, *next_steps, "", "^C ends it."])


async def next_steps(server: Server, url: str) -> list[str]:
    """What to type next, at this URL; where nobody has an account yet, the first administrator's invite."""
    me = program()
    if server.accounts.registration == "open" or await server.accounts.list_users(limit=1):
        pair = (("alice", "bob"), ("bob", "alice"))
        return ["Next, in two other terminals:", *(f"  {me} chat {who}@{url} --to {peer}" for who, peer in pair)]
    invite = await server.accounts.first_admin_invite()
    if invite is None:
        return ["There is no account yet. The first administrator:", f"  {me} user add NAME --admin"]
    return [
        "There is no account yet. The first administrator registers here, once, within 24 hours:",
        f"  {url}/join#{invite}",
        "or in a terminal:",
        f"  {me} chat NAME@{url} --invite {invite}",
    ]
