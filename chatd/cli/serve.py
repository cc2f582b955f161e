"""``chatd serve``: one server in one process, from the settings to the exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from chatd.cli.common import load_settings, place_options, program
from chatd.errors import EXIT_FAILED
from chatd.settings import ServerSettings, Settings

if TYPE_CHECKING:
    from chatd.app import Server

END_GRACE_S = 5.0
"""Beyond ``timing.drain_s``: what the store may need for its last commit and checkpoint."""
SPARE_FILES = 256


@click.command()
@place_options
@click.option("--host", help="Address to listen on. Default: 127.0.0.1.")
@click.option("--port", type=int, help="TCP port; 0 takes a free one. Default: 8080.")
def serve(config: Path | None, data_dir: str | None, host: str | None, port: int | None) -> None:
    """Run the server until SIGTERM or ^C; a second one does not wait for anything."""
    settings = load_settings(config, data_dir, {"server.host": host, "server.port": port})
    _configure_logging(settings.server)
    _raise_open_files(settings.limits.connections_max + SPARE_FILES)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    from chatd.app import Server

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stopping.is_set():
            _end_now()  # as after kill -9: what was answered is on the disk
        stopping.set()
        loop.call_later(settings.timing.drain_s + END_GRACE_S, _end_now)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    server = Server(settings, on_broken=lambda exc: _end_now())
    await server.start()
    try:
        await server.serve_admin()
        click.echo(_greeting(server, await _next_steps(server)))
        await stopping.wait()
    finally:
        await server.stop(drain_s=settings.timing.drain_s)


def _end_now() -> NoReturn:
    """End the process without closing anything: closing a store would be another fsync."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_FAILED)


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


async def _next_steps(server: Server) -> list[str]:
    me, url = program(), server.url
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


def _configure_logging(server: ServerSettings) -> None:
    """To standard error, one event a line; what libraries log through the standard library looks the same."""
    import structlog

    console = server.log_format == "console" or (server.log_format == "auto" and sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[server.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    shape: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    )
    structlog.configure(
        processors=[*shared, *shape],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *shape],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.INFO))


def _raise_open_files(wanted: int) -> None:
    """A connection needs a file: take what the hard limit allows, as far as it is wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # it does not exist everywhere
        return asyncio.new_event_loop
    return uvloop.new_event_loop
