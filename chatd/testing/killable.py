"""``python -m chatd.testing.killable --data-dir D``: the real server as a process that can be killed at a named point.

It writes one JSON line to its standard output when it listens, ``{"port": …, "incarnation": …, "migrated": […]}``, and
logs JSON lines to its standard error. Lines on its standard input are orders: ``kill-at POINT:N`` arms the trap,
``counts`` is answered with ``{"messages": …}``. The end of its standard input is its own, so it never outlives who
started it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any, cast

import msgspec
import structlog

from chatd import configuration
from chatd.app import Server
from chatd.errors import EXIT_FAILED, EXIT_START, StartError
from chatd.store.base import Store
from chatd.store.sqlite import SqliteStore
from chatd.store.sqlite.schema import Migration, migrations
from chatd.testing.killing import PLANTS, POINTS, PUSH_POINTS, Point, Trap, TrappedStore, set_traps
from chatd.testing.server import GENEROUS

KNOWN_POINTS = dict.fromkeys((*POINTS, *PUSH_POINTS))
PUSHING = {
    "push.private_endpoints": True,
    "push.delay_s": 0.1,
    "push.retry_s_min": 0.02,
    "push.retry_s_max": 0.1,
    "push.timeout_s": 2.0,
}
EXTRA_SQL = "DROP TABLE IF EXISTS extra; CREATE TABLE extra AS SELECT key, {number} AS number FROM message;\n"


def extra_migrations(count: int) -> list[Migration]:
    """The real steps and ``count`` more, each of which writes a row a message."""
    steps = migrations()
    for number in range(len(steps) + 1, len(steps) + 1 + count):
        sql = EXTRA_SQL.format(number=number).replace("; ", ";\n")
        steps.append(Migration(number, f"extra_{number}", sql, f"extra {number}"))
    return steps


def _say(**fields: Any) -> None:
    sys.stdout.write(msgspec.json.encode(fields).decode() + "\n")
    sys.stdout.flush()


def _point(text: str) -> tuple[Point, int]:
    point, _, passings = text.partition(":")
    if point not in KNOWN_POINTS:
        raise argparse.ArgumentTypeError(f"{point} is none of {', '.join(KNOWN_POINTS)}")
    return point, int(passings or 1)


async def _obey(store: Store | TrappedStore, trap: Trap) -> None:
    """Take orders until there are no more."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().split():
        if line[0] == "kill-at":
            trap.arm(*_point(line[1]))
            _say(armed=line[1])
        elif line[0] == "counts":
            _say(messages=(await store.counts()).messages)


def _clustered(url: str, bus_url: str, replicas: int) -> dict[str, Any]:
    """One of several processes on this Redis, with short bounds for what a lost hint hides."""
    return {
        "store.kind": "redis",
        "store.redis_url": url,
        "store.redis_replicas": replicas,
        "store.redis_timeout_s": 2.0,
        "cluster.bus_url": bus_url,
        "cluster.reconcile_s": 1.0,
        "cluster.spread_s": 0.2,
        "cluster.lease_s": 2.0,
    }


async def _serve_clustered(args: argparse.Namespace, overrides: dict[str, Any]) -> None:
    clustered = _clustered(args.redis, args.bus or args.redis, args.replicas)
    settings = configuration.load(env={}, overrides={**overrides, **clustered})
    server = Server(settings, on_broken=lambda exc: os._exit(EXIT_FAILED))
    try:
        await server.start()
    except StartError as exc:  # Redis is away, and whoever started this process does so again
        sys.stderr.write(f"chatd: {exc}\n")
        sys.exit(EXIT_START)
    _say(port=server.port, incarnation=server.store.incarnation, migrated=[])
    await _obey(server.store, Trap())
    await server.stop()


async def _serve(args: argparse.Namespace) -> None:
    trap = Trap()
    if args.kill_at is not None:
        trap.arm(*args.kill_at)
    overrides = {
        **GENEROUS,
        "server.data_dir": str(args.data_dir),
        "server.port": args.port,
        "limits.window_messages_max": args.window,
        **(PUSHING if args.pushing else {}),
    }
    if args.redis:
        await _serve_clustered(args, overrides)
        return
    settings = configuration.load(env={}, overrides=overrides)
    sqlite = SqliteStore(
        args.data_dir,
        settings.store,
        migrations=extra_migrations(args.extra_migrations),
        on_migration=lambda step: trap.here("in_migration"),
    )
    store = TrappedStore(sqlite, trap, args.plant)
    server = Server(settings, store=cast(Store, store), on_broken=lambda exc: os._exit(EXIT_FAILED))
    await server.start()
    set_traps(server, store, trap)
    _say(port=server.port, incarnation=store.incarnation, migrated=sqlite.migrated)
    await _obey(store, trap)
    await server.stop()


def main(argv: list[str] | None = None) -> None:
    """Parse, serve until standard input ends."""
    parser = argparse.ArgumentParser("python -m chatd.testing.killable", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--kill-at", type=_point, metavar="POINT:N", help=f"POINT is one of {', '.join(KNOWN_POINTS)}")
    parser.add_argument("--plant", choices=PLANTS, help="a bug to put in")
    parser.add_argument("--extra-migrations", type=int, default=0, metavar="N", help="steps after the real schema")
    parser.add_argument("--window", type=int, default=16, help="limits.window_messages_max")
    parser.add_argument("--pushing", action="store_true", help="pushes soon, and to endpoints on loopback")
    parser.add_argument("--redis", metavar="URL", help="be one of several processes on this Redis, without traps")
    parser.add_argument("--bus", metavar="URL", help="with --redis: another Redis that carries their hints")
    parser.add_argument("--replicas", type=int, default=0, help="with --redis: store.redis_replicas")
    args = parser.parse_args(argv)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    with contextlib.suppress(ImportError):  # a platform without uvloop
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(args))
        return
    asyncio.run(_serve(args))


if __name__ == "__main__":
    main()
