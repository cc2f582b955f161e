"""What a cluster costs, part by part: ``python -m bench.workers``. ``chatd cluster`` on a Redis of its own, and a load.

*Saturation*: pairs of users with one message in flight each, against 1, 2 and 4 workers, with ``appendfsync`` everysec
and always. *Rates*: so many messages a second against two workers, for a message is cheaper the more there are of them
at a time. *Cluster*: both, on a Redis Cluster. *Connections*: idle users by the thousand, what each costs to come, in
memory, and while it does nothing.

CPU is that of the processes themselves (user and system, from /proc); the load's own is told apart from it. Everything
runs on one machine, so more workers than processors give no more messages: what counts is the CPU a message. A run goes
through all kinds one after the other, the next one backwards; what is told are medians. The history checker judges what
all of them saw. Exit code 1: it found a fault.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from msgspec import Struct

from bench.__main__ import RESULTS
from bench.presence import say
from bench.storm import quiet, settled_kib
from chatd.cli.process import loop_factory
from chatd.settings import ClusterSettings
from chatd.testing.history import Recorder
from chatd.testing.load.cluster import ClusterProcess, Redis, servers_of, store_of
from chatd.testing.load.fleet import Fleet, judge_in, prepare_in
from chatd.testing.load.process import cpu_by_part
from chatd.testing.load.run import machine
from chatd.testing.load.talk import Talk, pair_names
from chatd.testing.redis_cluster import RedisCluster
from chatd.testing.redis_server import Appendfsync, RedisServer

WARM_UP_S = 2.0
WARM_CONNECTIONS = 100
OFTEN_S, NEVER_S = 30.0, 86_400.0
SETTLE_HOLD_S = 2.0
MEASURES = ("saturation", "rates", "cluster", "connections")
PARTS = ("router", "workers", "redis")


class Kind(Struct, frozen=True):
    """What a cluster is like."""

    workers: int
    appendfsync: Appendfsync
    per_s: float | None = None
    masters: int = 1
    calm_s: float = ClusterSettings().reconcile_calm_s

    def __str__(self) -> str:
        fields = {name: value for name, value in msgspec.to_builtins(self).items() if value is not None}
        return " ".join(f"{name}={value}" for name, value in fields.items())


class Saturation(Struct, frozen=True):
    """``*_us``: CPU a delivered message, by part; ``*_cores``: how much of one processor. At a rate, too.

    ``memory_bytes``, ``file_bytes``: what a message adds to the memory of Redis and to its file of commands.
    """

    delivered_per_s: float
    router_us: float
    workers_us: float
    redis_us: float
    load_us: float
    router_cores: float
    workers_cores: float
    redis_cores: float
    load_cores: float
    memory_bytes: float
    file_bytes: float
    faults: int


class Connections(Struct, frozen=True):
    """Of each: CPU to come (``*_us``), resident memory (``*_kib``), CPU a second of doing nothing (``*_idle_us``)."""

    per_s: float
    router_us: float
    workers_us: float
    redis_us: float
    router_kib: float
    workers_kib: float
    redis_kib: float
    router_idle_us: float
    workers_idle_us: float
    redis_idle_us: float
    faults: int


class Bench:
    """One cluster after the other. ``options`` are those of the command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options

    async def saturation(self, kind: Kind, directory: Path, redis: Redis) -> Saturation:
        """Everybody sends, and sends again when the receipt has come; or all together at a rate."""
        options, names, recorder = self._options, pair_names(self._options.pairs), Recorder("load")
        tokens = await prepare_in(store_of(redis), [user for pair in names for user in pair])
        async with self._cluster(kind, directory, redis) as cluster, Fleet(cluster, tokens, recorder) as fleet:
            talk = Talk(fleet, names, "v7")
            sending: asyncio.Task[None] | None = None
            if kind.per_s is None:
                talk.start()
            else:
                sending = asyncio.create_task(talk.at_rate(kind.per_s, WARM_UP_S + options.seconds + 1.0))
            await fleet.pause(WARM_UP_S)
            delivered, cpu_s, held = talk.delivered, cpu_by_part(cluster), _held(redis)
            load_s, began_s = time.process_time(), time.perf_counter()
            await fleet.pause(options.seconds)
            delivered, wall_s = talk.delivered - delivered, time.perf_counter() - began_s
            spent_s = {part: used - cpu_s[part] for part, used in cpu_by_part(cluster).items()}
            spent_s["load"] = time.process_time() - load_s
            memory, file = (now - before for now, before in zip(_held(redis), held, strict=True))
            if sending is not None:
                await sending
            await talk.settle()
            await fleet.read_logs(talk.readers)
        report = await judge_in(store_of(redis), recorder)
        return Saturation(
            delivered_per_s=round(delivered / wall_s, 1),
            **{f"{part}_us": round(used * 1e6 / max(1, delivered), 2) for part, used in spent_s.items()},
            **{f"{part}_cores": round(used / wall_s, 3) for part, used in spent_s.items()},
            memory_bytes=round(memory / max(1, delivered), 1),
            file_bytes=round(file / max(1, delivered), 1),
            faults=_told(report),
        )

    async def connections(self, kind: Kind, directory: Path, redis: Redis) -> Connections:
        """A user each, said hello, caught up; what the first WARM_CONNECTIONS need belongs to the processes."""
        options, recorder = self._options, Recorder("load")
        users = [f"u{n:05}" for n in range(WARM_CONNECTIONS + options.connections)]
        tokens = await prepare_in(store_of(redis), users)
        first = {user: tokens[user] for user in users[:WARM_CONNECTIONS]}
        async with self._cluster(kind, directory, redis) as cluster, Fleet(cluster, first, recorder) as fleet:
            kib = await settled_kib(cluster, SETTLE_HOLD_S)
            cpu_s, began_s = cpu_by_part(cluster), time.perf_counter()
            await fleet.connect(tokens, users[WARM_CONNECTIONS:])
            wall_s = time.perf_counter() - began_s
            come_s = {part: used - cpu_s[part] for part, used in cpu_by_part(cluster).items()}
            await quiet(cluster)
            grown_kib = {part: now - kib[part] for part, now in (await settled_kib(cluster, SETTLE_HOLD_S)).items()}
            cpu_s, began_s = cpu_by_part(cluster), time.perf_counter()
            await fleet.pause(options.hold)
            idle_s = {part: used - cpu_s[part] for part, used in cpu_by_part(cluster).items()}
            seconds = (time.perf_counter() - began_s) * len(users)
            await fleet.read_logs({})
        report = await judge_in(store_of(redis), recorder)
        return Connections(
            per_s=round(options.connections / wall_s, 1),
            **{f"{part}_us": round(used * 1e6 / options.connections, 1) for part, used in come_s.items()},
            **{f"{part}_kib": round(kib / options.connections, 2) for part, kib in grown_kib.items()},
            **{f"{part}_idle_us": round(used * 1e6 / seconds, 3) for part, used in idle_s.items()},
            faults=_told(report),
        )

    async def one(self, what: str, kind: Kind) -> Saturation | Connections:
        """One measure of one kind, with everything new."""
        directory = Path(tempfile.mkdtemp(prefix="chatd-bench-", dir=self._options.dir))
        try:
            with _redis(kind) as redis:
                measure = self.connections if what == "connections" else self.saturation
                return await measure(kind, directory, redis)
        finally:
            shutil.rmtree(directory)

    def _cluster(self, kind: Kind, directory: Path, redis: Redis) -> ClusterProcess:
        return ClusterProcess(directory, redis, kind.workers, {"CHATD_CLUSTER_RECONCILE_CALM_S": f"{kind.calm_s:g}"})


def _redis(kind: Kind) -> Redis:
    if kind.masters > 1:
        return RedisCluster(kind.masters, appendfsync=kind.appendfsync)
    return RedisServer(appendfsync=kind.appendfsync)


def _held(redis: Redis) -> tuple[int, int]:
    """Bytes in the memory and in the file of commands of all its servers."""
    memory = file = 0
    for server in servers_of(redis):
        lines = f"{server.command('INFO', 'memory')}\n{server.command('INFO', 'persistence')}".splitlines()
        told = dict(line.split(":", 1) for line in lines if ":" in line)
        memory += int(told["used_memory_dataset"])
        file += int(told["aof_current_size"])
    return memory, file


def _told(report: Any) -> int:
    if not report.clean:
        sys.stderr.write(f"{report}\n")
    return len(report.anomalies)


def middle(runs: list[Any]) -> dict[str, float]:
    """The median of each figure over runs of one kind; of faults the sum."""
    rows = [msgspec.to_builtins(run) for run in runs]
    return {
        name: sum(row[name] for row in rows) if name == "faults" else median(row[name] for row in rows)
        for name in rows[0]
    }


def share(figures: dict[str, float]) -> float:
    """The router's part of the CPU of all that serves, in percent."""
    return 100 * figures["router_us"] / sum(figures[f"{part}_us"] for part in PARTS)


def main() -> int:
    """Returns: 1 when the checker found a fault."""
    parser = argparse.ArgumentParser("python -m bench.workers", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=MEASURES)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument(
        "--appendfsync", nargs="+", choices=("always", "everysec", "no"), default=["everysec", "always"]
    )
    parser.add_argument("--masters", type=int, default=3, help="of the Redis Cluster")
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--rates", type=float, nargs="*", default=[200.0, 1_000.0, 4_000.0], help="messages/s")
    parser.add_argument("--seconds", type=float, default=6.0, help="of saturation and of each rate")
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--hold", type=float, default=10.0, help="seconds for which connections do nothing")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dir", help="where Redis and the workers keep their files: the disk that is measured")
    parser.add_argument("--json", type=Path, help="where to save; bench/results/workers-<date>.json unless given")
    options = parser.parse_args()
    work = [("saturation", Kind(n, fsync)) for n in options.workers for fsync in options.appendfsync]
    work += [("rates", Kind(2, "everysec", per_s)) for per_s in options.rates]
    work += [("cluster", Kind(2, fsync, masters=options.masters)) for fsync in options.appendfsync]
    work += [("cluster", Kind(2, "everysec", per_s, options.masters)) for per_s in options.rates]
    # Each second a thirtieth of them is compared with the store, or nearly nobody: the difference is what that costs.
    work += [("connections", Kind(n, "everysec", calm_s=s)) for n in options.workers for s in (OFTEN_S, NEVER_S)]
    work = [step for step in work if step[0] in options.only]
    found: dict[tuple[str, Kind], list[Any]] = {step: [] for step in work}
    bench = Bench(options)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        for n in range(options.runs):
            for what, kind in work if n % 2 == 0 else reversed(work):
                found[what, kind].append(runner.run(bench.one(what, kind)))
                say(f"run {n + 1}, {what} {kind}", msgspec.to_builtins(found[what, kind][-1]))
    results: list[dict[str, Any]] = []
    for (what, kind), runs in found.items():
        figures = middle(runs)
        say(f"{what} {kind}", figures)
        say("router_percent", round(share(figures), 2))
        results.append({"what": what, "kind": kind, "medians": figures, "runs": runs})
    path = options.json or RESULTS / f"workers-{datetime.now(UTC):%Y-%m-%dT%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode({"machine": machine(), "results": results})) + b"\n")
    return int(any(result["medians"]["faults"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
