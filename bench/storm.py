"""A reconnect storm: ``python -m bench.storm``. Thousands of devices lose their network within a second and come back.

While they do, each lacking some messages, other users go on writing to each other at a steady rate. Three bounds: all
are caught up in time, the p99 of the others' sends is at most RATIO_MAX times what it was before, and the memory of the
server's processes is back where it was. The history checker judges all that anybody saw. Exit code 1 when a bound is
missed or a fault found. Against ``chatd cluster`` on a Redis of its own, or with ``--sqlite`` one ``chatd serve``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from msgspec import Struct

from bench.crowd import Order
from bench.presence import say
from chatd.cli.process import loop_factory
from chatd.settings import LimitSettings, StoreSettings
from chatd.store.base import Store
from chatd.store.sqlite import SqliteStore
from chatd.testing.history import Recorder, check
from chatd.testing.load.cluster import ClusterProcess, store_of
from chatd.testing.load.fleet import Fleet, allow_files, prepare_in
from chatd.testing.load.measures import percentile_ms
from chatd.testing.load.process import BenchError, ServerProcess, cpu_by_part, rss_by_part
from chatd.testing.load.talk import Talk, pair_names
from chatd.testing.redis_server import RedisServer

CAUGHT_UP_S_MAX = 60.0
RATIO_MAX = 3.0
RSS_GROWTH_MAX = 0.1
SETTLE_S_MAX = 60.0
SETTLED_KIB = 512
QUIET_S = 0.5
QUIET_CORES = 0.4
MEMBERS_PER_WRITER = 100
AS_SHIPPED = {
    "CHATD_LIMITS_UPGRADES_PER_S": f"{LimitSettings().upgrades_per_s}",
    "CHATD_LIMITS_UPGRADES_BURST": f"{LimitSettings().upgrades_burst}",
}
DATA = "redis"
"""Its memory holds the messages: it grows by what was written, and is told, not judged."""


class Phase(Struct):
    """What the others saw in one phase, in ms, and what the server spent in it."""

    seconds: float
    sends: int
    sent_p50_ms: float
    sent_p99_ms: float
    delivered_p50_ms: float
    delivered_p99_ms: float
    late_p99_ms: float
    cores: dict[str, float]


class Storm(Struct):
    """One run. ``*_kib``: resident memory by part, with all connected, before and after."""

    before: Phase
    storm: Phase
    after: Phase
    back: dict[str, float]
    before_kib: dict[str, int]
    after_kib: dict[str, int]
    faults: int

    @property
    def ratio(self) -> float:
        """The worse of the two p99 over what it was before."""
        sent = self.storm.sent_p99_ms / self.before.sent_p99_ms
        return max(sent, self.storm.delivered_p99_ms / self.before.delivered_p99_ms)

    @property
    def growth(self) -> float:
        """How much more memory the processes hold that are not the store: 0 none, 1 twice as much."""
        before, after = (sum(n for part, n in kib.items() if part != DATA) for kib in (self.before_kib, self.after_kib))
        return after / before - 1


class Watch:
    """Cuts what a `Talk` measured into phases: what ended between two calls of `take`."""

    def __init__(self, talk: Talk, server: ServerProcess) -> None:
        self._talk = talk
        self._server = server
        self.begin()

    def begin(self) -> None:
        """A phase begins."""
        self._began_s = time.perf_counter()
        self._cpu = cpu_by_part(self._server)
        for figures in (self._talk.to_sent_s, self._talk.to_recipient_s, self._talk.late_s):
            figures.clear()

    def take(self) -> Phase:
        """It is over."""
        talk, seconds = self._talk, time.perf_counter() - self._began_s
        cores = {part: (used - self._cpu[part]) / seconds for part, used in cpu_by_part(self._server).items()}
        if not talk.to_sent_s or not talk.to_recipient_s:
            raise BenchError("the others were not answered in a whole phase")
        return Phase(
            seconds=round(seconds, 1),
            sends=len(talk.to_sent_s),
            sent_p50_ms=round(percentile_ms(talk.to_sent_s, 0.50), 2),
            sent_p99_ms=round(percentile_ms(talk.to_sent_s, 0.99), 2),
            delivered_p50_ms=round(percentile_ms(talk.to_recipient_s, 0.50), 2),
            delivered_p99_ms=round(percentile_ms(talk.to_recipient_s, 0.99), 2),
            late_p99_ms=round(percentile_ms(talk.late_s, 0.99), 2),
            cores={part: round(share, 2) for part, share in cores.items()},
        )


@contextlib.asynccontextmanager
async def crowd_of(order: Order, directory: Path) -> AsyncIterator[Callable[[str], Any]]:
    """The process of those who drop; call with a step's name to have it done. Raises: BenchError."""
    path = directory / "order.json"
    path.write_bytes(msgspec.json.encode(order))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.crowd", str(path)), stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    told, said = process.stdin, process.stdout

    async def step(name: str) -> dict[str, float]:
        told.write(f"{name}\n".encode())
        line = await said.readline()
        if not line:
            raise BenchError(f"the crowd ended in the step {name}")
        return msgspec.json.decode(line, type=dict[str, float])

    try:
        yield step
    finally:
        told.close()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        await process.wait()


async def settled_kib(server: ServerProcess, hold_s: float) -> dict[str, int]:
    """Memory by part once the whole has stayed within SETTLED_KIB for ``hold_s``, or after SETTLE_S_MAX."""
    began_s = since_s = time.perf_counter()
    kib = rss_by_part(server)
    while (now_s := time.perf_counter()) - since_s < hold_s and now_s - began_s < SETTLE_S_MAX:
        await asyncio.sleep(0.25)
        now = rss_by_part(server)
        if abs(sum(now.values()) - sum(kib.values())) > SETTLED_KIB:
            kib, since_s = now, now_s
    return rss_by_part(server)


async def quiet(server: ServerProcess) -> None:
    """Until what was written has been told to everybody, which a cluster does after it has answered."""
    async with asyncio.timeout(SETTLE_S_MAX):
        while True:
            cpu_s = sum(cpu_by_part(server).values())
            await asyncio.sleep(QUIET_S)
            if sum(cpu_by_part(server).values()) - cpu_s < QUIET_CORES * QUIET_S:
                return


async def measure(
    options: argparse.Namespace, server: ServerProcess, store: Callable[[], Store], directory: Path, seed: int
) -> Storm:
    """One storm against a server that is not started yet, on an empty store."""
    names = pair_names(options.pairs)
    members = [f"m{n:05}" for n in range(options.devices)]
    writers = [f"w{n:03}" for n in range(-(-options.devices // MEMBERS_PER_WRITER))]
    tokens = await prepare_in(store(), [*(user for pair in names for user in pair), *members, *writers])
    recorder = Recorder("others")
    async with server:
        order = Order(
            server.port,
            [(user, tokens[user], writers[n % len(writers)]) for n, user in enumerate(members)],
            {user: tokens[user] for user in writers},
            options.missed,
            options.drop,
            seed,
            str(directory / "crowd.jsonl"),
        )
        talkers = {user: tokens[user] for pair in names for user in pair}
        async with crowd_of(order, directory) as crowd, Fleet(server, talkers, recorder) as fleet:
            await crowd("come")
            talk = Talk(fleet, names, "v7")
            found = await _phases(options, server, talk, crowd)
            await talk.settle()
            await fleet.read_logs(talk.readers)
            await crowd("end")
    recorder.dump(directory / "others.jsonl")
    counting = store()
    await counting.open()
    try:
        recorder.counted("store", (await counting.counts()).messages)
    finally:
        await counting.close()
    recorder.dump(directory / "others.jsonl")
    report = check(Recorder.load(directory / "others.jsonl", directory / "crowd.jsonl"))
    if not report.clean:
        sys.stderr.write(f"{report}\n")
    found.faults = len(report.anomalies)
    return found


async def _phases(options: argparse.Namespace, server: ServerProcess, talk: Talk, crowd: Callable[[str], Any]) -> Storm:
    forever_s = 10 * (SETTLE_S_MAX + options.seconds) + CAUGHT_UP_S_MAX
    talking = asyncio.create_task(talk.at_rate(options.rate, forever_s))
    try:
        await asyncio.sleep(2.0)
        before_kib = await settled_kib(server, options.hold)
        watch = Watch(talk, server)
        await asyncio.sleep(options.seconds)
        before = watch.take()
        await crowd("miss")
        await quiet(server)
        watch.begin()
        back = await crowd("storm")
        storm = watch.take()
        watch.begin()
        await asyncio.sleep(options.seconds)
        after = watch.take()
        after_kib = await settled_kib(server, options.hold)
    finally:
        talking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await talking
    return Storm(before, storm, after, back, before_kib, after_kib, 0)


async def one_run(options: argparse.Namespace, seed: int) -> Storm:
    """A fresh directory, a fresh store, one storm."""
    directory = Path(tempfile.mkdtemp(prefix="chatd-bench-", dir=options.dir))
    try:
        if options.sqlite:
            settings = StoreSettings(synchronous="normal")
            server = ServerProcess(directory, settings=AS_SHIPPED)
            return await measure(options, server, lambda: SqliteStore(directory / "data", settings), directory, seed)
        with RedisServer(appendfsync=options.appendfsync) as redis:
            cluster = ClusterProcess(directory, redis, options.workers, AS_SHIPPED)
            return await measure(options, cluster, lambda: store_of(redis), directory, seed)
    finally:
        shutil.rmtree(directory)


def tell(run: Storm) -> None:
    """Print one run."""
    for name in ("before", "storm", "after"):
        phase = {key: value for key, value in msgspec.to_builtins(getattr(run, name)).items() if key != "cores"}
        cores: Mapping[str, float] = getattr(run, name).cores
        say(name, {**phase, **{f"{part}_cores": share for part, share in cores.items()}})
    say("back", dict(run.back))
    say("rss_kib", {part: [run.before_kib[part], kib] for part, kib in run.after_kib.items()})


def main() -> int:
    """Returns: 1 when a bound is missed in the median of the runs, or the checker found a fault."""
    parser = argparse.ArgumentParser("python -m bench.storm", description=__doc__)
    parser.add_argument("--devices", type=int, default=3_000, help="that drop")
    parser.add_argument("--missed", type=int, default=5, help="messages that each of them lacks")
    parser.add_argument("--drop", type=float, default=1.0, help="seconds within which all drop")
    parser.add_argument("--pairs", type=int, default=50, help="of the others")
    parser.add_argument("--rate", type=float, default=100.0, help="messages/s of the others")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the phases before and after")
    parser.add_argument("--hold", type=float, default=5.0, help="seconds for which memory must stand still")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sqlite", action="store_true", help="one process on one file, instead of a cluster on Redis")
    parser.add_argument("--appendfsync", choices=("always", "everysec", "no"), default="everysec")
    parser.add_argument("--runs", type=int, default=1, help="the medians of which are judged")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", help="where the store lies: the disk that is measured")
    options = parser.parse_args()
    allow_files()
    runs = []
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        for n in range(options.runs):
            runs.append(runner.run(one_run(options, options.seed + n)))
            tell(runs[-1])
    caught_up_s = median(run.back["caught_up_s"] for run in runs)
    ratio = median(run.ratio for run in runs)
    growth = median(run.growth for run in runs)
    faults = sum(run.faults for run in runs)
    say("caught_up_s", {"median": round(caught_up_s, 1), "max": CAUGHT_UP_S_MAX})
    say("p99_ratio", {"median": round(ratio, 2), "max": RATIO_MAX, "runs": [round(run.ratio, 2) for run in runs]})
    say("rss_growth", {"median": round(growth, 3), "max": RSS_GROWTH_MAX})
    say("faults", {"all": faults})
    return int(caught_up_s > CAUGHT_UP_S_MAX or ratio > RATIO_MAX or growth > RSS_GROWTH_MAX or faults > 0)


if __name__ == "__main__":
    sys.exit(main())
