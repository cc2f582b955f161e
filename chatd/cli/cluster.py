"""``chatd cluster``: a router and its workers on one host, in one command."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
import structlog
from msgspec import Struct

from chatd.cli.common import cleartext_option, load_settings, place_options, refuse_tls, self_command
from chatd.cli.logs import configure_logging
from chatd.cli.process import END_GRACE_S, loop_factory, notify_ready, raise_open_files, say
from chatd.errors import EXIT_FAILED, ChatdError, ConfigError, StartError
from chatd.limits import parse_networks
from chatd.settings import Settings, host_and_port

if TYPE_CHECKING:
    from chatd.routing.router import Router
    from chatd.routing.supervised import ClusterOperations

ROUTER_FILES = 65_536
_PLACES = ("--handed", "{handed}", "--name", "{name}")
END_S_AHEAD = 0.5
"""A worker that hangs is killed so long before `END_GRACE_S` is over."""


@click.command()
@place_options
@click.option("--host", help="Address to listen on. Default: 127.0.0.1.")
@click.option("--port", type=int, help="TCP port; 0 takes a free one. Default: 8080.")
@cleartext_option
@click.option("--workers", type=click.IntRange(0, 256), help="Processes on this host. Default: one a CPU.")
@click.option("--worker-command", hidden=True, help="For tests: runs a worker; {name} and {handed} are filled in.")
def cluster(
    config: Path | None,
    data_dir: str | None,
    host: str | None,
    port: int | None,
    allow_cleartext: bool | None,
    workers: int | None,
    worker_command: str | None,
) -> None:
    """Run many processes behind a router, until SIGTERM or ^C; SIGHUP restarts them one after the other."""
    from chatd.transport.tls import require_encryption

    given = {"server.host": host, "server.port": port, "server.allow_cleartext": allow_cleartext}
    settings = load_settings(config, data_dir, given)
    refuse_tls(settings.server)
    require_encryption(settings.server)
    own = worker_command is None
    if worker_command is None:
        if workers != 0:
            _check(settings)
        place = [*(("--config", str(config)) if config else ()), *(("--data-dir", data_dir) if data_dir else ())]
        address = ("--host", settings.server.host)
        metrics = ("--metrics-listen", "{metrics}") if settings.server.metrics_listen else ()
        worker_command = shlex.join([*self_command(), "serve", *place, *address, *metrics, "--supervised", *_PLACES])
    configure_logging(settings.server)
    raise_open_files(ROUTER_FILES)
    count = len(os.sched_getaffinity(0)) if workers is None else workers
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        in_order = runner.run(_cluster(settings, count, shlex.split(worker_command), greet_first=own and count > 0))
    if not in_order:
        sys.exit(EXIT_FAILED)


def _check(settings: Settings) -> None:
    """Raises: ConfigError – these processes could not share what they must."""
    if settings.store.kind in ("memory", "sqlite"):
        raise ConfigError(
            f'store.kind: many processes need a store that they share: "redis", not "{settings.store.kind}"; '
            "for one process say `chatd serve`"
        )
    if not settings.cluster.bus_url:
        raise ConfigError("cluster.bus_url: needed, or the processes would not hear of each other's messages")
    if settings.cluster.advertise:
        raise ConfigError("cluster.advertise: for `chatd serve`, which has a port of its own; these workers have none")


async def _cluster(settings: Settings, count: int, command: list[str], *, greet_first: bool) -> bool:
    """``greet_first``: tell the first administrator the way. Returns: whether all workers ended in order.

    Raises: StartError, ConfigError.
    """
    from chatd.routing.members_redis import RedisMembers
    from chatd.routing.membership import Membership
    from chatd.routing.router import Router
    from chatd.routing.supervised import ClusterOperations
    from chatd.routing.supervisor import Supervisor

    loop = asyncio.get_running_loop()
    names = [f"worker-{number}" for number in range(count)]
    with tempfile.TemporaryDirectory(prefix="chatd-") as directory:  # a unix path must be short
        paths = {name: Path(directory) / name for name in names}
        router = Router(
            paths,
            settings.cluster.nodes,
            head_s=settings.timing.head_s,
            proxies=parse_networks(settings.server.trusted_proxies),
        )
        commands = {}
        for number, (name, path) in enumerate(paths.items()):
            filled = {"{name}": name, "{handed}": str(path), "{metrics}": _metrics_listen(settings, number)}
            commands[name] = [_fill(part, filled) for part in command]
        supervisor = Supervisor(commands, router, end_s=settings.timing.drain_s + END_GRACE_S - END_S_AHEAD)
        stopping = asyncio.Event()

        def on_signal() -> None:
            if stopping.is_set():
                supervisor.kill()
            stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        loop.add_signal_handler(signal.SIGHUP, supervisor.restart)
        await router.start(settings.server.host, settings.server.port)
        members = None
        if url := settings.cluster.bus_url:
            members = Membership(RedisMembers(url), lease_s=settings.cluster.lease_s, on_change=router.follow)
            members.start()
        greeting = loop.create_task(_greet(router, names, settings, first=greet_first))
        supervisor.start()
        operations = ClusterOperations(
            supervisor,
            router,
            on_drain=lambda: None if stopping.is_set() else on_signal(),
            draining=stopping.is_set,
            now_s=loop.time,
            now_ms=lambda: time.time_ns() // 1_000_000,
        )
        admins = AsyncExitStack()
        try:
            await _serve_admin(operations, Path(settings.server.data_dir), admins)
            await stopping.wait()
        finally:
            greeting.cancel()
            in_order = await supervisor.stop()
            if members is not None:
                await members.close()
            await router.stop()
            await admins.aclose()
    return in_order


def _fill(part: str, filled: Mapping[str, str]) -> str:
    for hole, value in filled.items():
        part = part.replace(hole, value)
    return part


def _metrics_listen(settings: Settings, number: int) -> str:
    """Where this worker serves its metrics: each a port further than the one before it."""
    if not settings.server.metrics_listen:
        return ""
    host, port = host_and_port(settings.server.metrics_listen)
    return f"[{host}]:{port + number}" if ":" in host else f"{host}:{port + number}"


class _Supervised(Struct, frozen=True):
    """What the verbs of a cluster work on."""

    operations: ClusterOperations


async def _serve_admin(operations: ClusterOperations, directory: Path, stack: AsyncExitStack) -> None:
    """Let ``chatd status`` and its like reach the supervisor. It can do without: a directory may not be to be had."""
    from chatd import admin
    from chatd.routing.supervised import ClusterOperations

    verbs: admin.Verbs = {"status": ClusterOperations.status, "drain": ClusterOperations.drain}
    try:
        await stack.enter_async_context(admin.serving_beside(_Supervised(operations), directory, admin.STEM, verbs))
    except StartError as exc:
        structlog.get_logger("chatd.supervisor").warning("no_admin_socket", error=str(exc))


async def _greet(router: Router, names: list[str], settings: Settings, *, first: bool) -> None:
    """Say where it is as soon as every worker is ready, and how the ``first`` administrator comes in."""
    await router.until(lambda: all(router.ready(name) for name in names))
    host = settings.server.host
    host = f"[{host}]" if ":" in host else host
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - it is only shown
    url = f"http://{host}:{router.port}"
    next_steps = await _next_steps(settings, url) if first else []
    say("\n".join([f"chatd cluster serves on {url} with {len(names)} workers", "", *next_steps, "^C ends it."]))
    notify_ready()


async def _next_steps(settings: Settings, url: str) -> list[str]:
    """As `chatd serve` has them; none if the store cannot be asked now."""
    from chatd.app import Server
    from chatd.cli.serve import next_steps

    server = Server(settings)
    try:
        await server.open()
        try:
            return [*await next_steps(server, url), ""]
        finally:
            await server.stop()
    except ChatdError as exc:
        structlog.get_logger("chatd.supervisor").warning("no_next_steps", error=str(exc))
        return []
