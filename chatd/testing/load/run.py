"""The standard set: what is measured, in which order, how it is printed and saved."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shlex
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from chatd import __version__
from chatd.errors import EXIT_FAILED, ChatdError
from chatd.testing.history import Report
from chatd.testing.load import measures, storage
from chatd.testing.load.measures import Bench
from chatd.testing.load.process import SERVE

CATCH_UP_CONVERSATIONS = 20
STORE_PARTS = 10
MEASURES = ("start", "saturation", "steady", "catch_up", "idle", "store", "filled")


class Run:
    """One run of the bench: `results` is what is saved as JSON, ready or not."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._command = shlex.split(options.server) if options.server else SERVE
        self._faults = 0
        self.results: dict[str, Any] = {"machine": machine(), "ids": options.ids, "details": {}}

    async def all(self) -> None:
        """Measure what was asked for. Raises: BenchError."""
        work = {
            "start": self._start,
            "saturation": self._saturation,
            "steady": self._steady,
            "catch_up": self._catch_up,
            "idle": self._idle,
            "store": self._store,
            "filled": self._filled,
        }
        for name in MEASURES:
            if name in self._options.only:
                await work[name]()
        self._tell("faults", self._faults)

    async def _start(self) -> None:
        with self._bench() as bench:
            found = [await measures.start_ms(bench) for _ in range(self._options.runs)]
        self._tell("start_ms", round(median(found)))

    async def _saturation(self) -> None:
        o = self._options
        with self._bench() as bench:
            found = await measures.saturation(bench, pairs=o.pairs, seconds=o.seconds, windows=o.runs)
        self._judge(found.report)
        self._detail("saturation", found.windows)
        self._tell("delivered_per_s", round(found.middle(lambda w: w.delivered_per_s)))
        self._tell("cpu_us_per_delivered", round(found.middle(lambda w: w.cpu_us), 1))
        self._tell("disk_bytes_per_message", {"saturation": round(found.middle(lambda w: w.disk_bytes))})

    async def _steady(self) -> None:
        o = self._options
        half = self.results.get("delivered_per_s", 0) / 2
        for name, per_s in ((f"{o.rate:g}_per_s", o.rate), ("half_saturation", half)):
            if per_s:
                runs = []
                for _ in range(o.runs):
                    with self._bench() as bench:
                        runs.append(await measures.steady(bench, pairs=o.pairs, per_s=per_s, seconds=o.seconds))
                    self._judge(runs[-1].report)
                self._latencies(name, runs)

    def _latencies(self, name: str, runs: list[measures.Steady]) -> None:
        self._detail(name, [{k: v for k, v in msgspec.to_builtins(run).items() if k != "report"} for run in runs])
        for part in ("p50_ms", "p99_ms"):
            figures = {
                what: round(median(getattr(run, f"{what}_{part}") for run in runs), 2)
                for what in ("delivered", "receipt")
            }
            self._tell(part, {name: figures})

    async def _catch_up(self) -> None:
        o, runs = self._options, []
        for _ in range(o.runs):
            with self._bench() as bench:
                found = await measures.catch_up(bench, messages=o.catch_up, conversations=CATCH_UP_CONVERSATIONS)
            self._judge(found.report)
            runs.append(found)
        self._tell("catch_up_per_s", round(median(run.per_s for run in runs)))
        self._tell("catch_up_cpu_us", round(median(run.cpu_us for run in runs), 1))

    async def _idle(self) -> None:
        with self._bench() as bench:
            found = await measures.idle(bench, connections=self._options.idle, hold_s=self._options.hold)
        self._judge(found.report)
        self._tell("idle_rss_kib", round(found.rss_kib, 1))

    async def _store(self) -> None:
        o = self._options
        with self._bench() as bench:
            found = await storage.segments(
                bench.directory / "data", messages=o.store_messages, parts=STORE_PARTS, ids=o.ids
            )
        self._detail("store", found)
        disk = median(segment.disk_bytes for segment in found)
        self._tell("disk_bytes_per_message", {f"batch_{storage.BATCH}": round(disk)})
        self._tell("store_cpu_us_per_message", round(median(segment.cpu_us for segment in found), 1))
        self._tell("flat_ratio", {"store": round(storage.flat_ratio(found), 2)})

    async def _filled(self) -> None:
        """The server on a store that holds the messages already, against the server on an empty one."""
        o = self._options
        empty = self.results.get("cpu_us_per_delivered")
        with self._bench() as bench:
            found = await measures.saturation(
                bench, pairs=o.pairs, seconds=o.seconds, windows=o.runs, filled=o.store_messages
            )
        self._judge(found.report)
        self._detail("filled", found.windows)
        full = round(found.middle(lambda w: w.cpu_us), 1)
        self._tell("cpu_us_per_delivered_filled", full)
        if empty:
            self._tell("flat_ratio", {"server": round(full / empty, 2)})

    @contextmanager
    def _bench(self) -> Iterator[Bench]:
        """A fresh directory on the disk that is measured; it goes with the measure."""
        directory = Path(tempfile.mkdtemp(prefix="chatd-bench-", dir=self._options.dir))
        try:
            yield Bench(directory, self._command, self._options.ids)
        finally:
            shutil.rmtree(directory)

    def _judge(self, report: Report) -> None:
        self._faults += len(report.anomalies)
        if not report.clean:
            sys.stderr.write(f"{report}\n")

    def _detail(self, name: str, value: object) -> None:
        self.results["details"][name] = msgspec.to_builtins(value)

    def _tell(self, key: str, value: Any) -> None:
        """Print a line; a dict is added to what stands under its key."""
        if isinstance(value, dict):
            self.results.setdefault(key, {}).update(value)
        else:
            self.results[key] = value
        sys.stdout.write(f"{key:28} {msgspec.json.encode(value).decode()}\n")
        sys.stdout.flush()


def machine() -> dict[str, Any]:
    """What was measured on."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "chatd": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1_min": os.getloadavg()[0],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Raises: SystemExit – usage, or help."""
    parser = argparse.ArgumentParser(prog="chatd bench", description="Measure a chatd server on this machine (Linux).")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), help="measure just these")
    parser.add_argument("--pairs", type=int, default=50, help="pairs of users that write to each other")
    parser.add_argument("--seconds", type=float, default=8, help="length of one run")
    parser.add_argument("--runs", type=int, default=3, help="runs of a measure; their median is told")
    parser.add_argument("--rate", type=float, default=200, help="messages/s of the quiet open loop")
    parser.add_argument("--ids", choices=("v7", "v4"), default="v7", help="version of the messages' UUIDs")
    parser.add_argument("--catch-up", type=int, default=20_000, help="messages that a device missed")
    parser.add_argument("--idle", type=int, default=5_000, help="idle connections")
    parser.add_argument("--hold", type=float, default=30, help="seconds for which idle memory must stand still")
    parser.add_argument("--store-messages", type=int, default=2_000_000, help="messages that the store grows to")
    parser.add_argument("--dir", type=Path, default=Path(), help="directory on the disk to measure")
    parser.add_argument("--json", type=Path, help="save the results here")
    parser.add_argument("--server", help="command that serves; default: chatd serve of this interpreter")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Measure, print a line a figure, save JSON. Returns: 0, or 1: the checker found faults, or nothing came of it."""
    chosen = options(argv)
    run = Run(chosen)
    try:
        asyncio.run(run.all())
    except ChatdError as exc:
        sys.stderr.write(f"chatd bench: {exc}\n")
        return EXIT_FAILED
    if chosen.json is not None:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_bytes(msgspec.json.format(msgspec.json.encode(run.results)) + b"\n")
    return EXIT_FAILED if run.results["faults"] else 0
