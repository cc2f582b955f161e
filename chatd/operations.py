"""What an operator asks of a running server: how it is, who is connected, and to end in order."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import structlog
from msgspec import Struct
from prometheus_client import Metric

from chatd import __version__
from chatd.delivery import Delivery
from chatd.errors import Unavailable, Unsupported
from chatd.metrics import Metrics
from chatd.probing import Probe
from chatd.stats import HOT_MAX, SLOW_DEVICES_MAX, Buckets, Hot, SlowDevice, Snapshot
from chatd.store.base import Store

SNAPSHOT_EVERY_S = 0.5
"""Who asks more often gets the same answer again."""
SERIES_MAX = 500
CONNECTED_USERS_MAX = 1_000
PREFIX = "chatd_"

log = structlog.get_logger("chatd.operations")


class Operations:
    """The operator's side of one server.

    ``kind``: of the store, as the setting has it. ``ready``: whether the server serves, as `Probe` has it.
    ``draining``: whether it has begun to end. ``slowest``: so many connected devices, the slowest first. ``processes``:
    how many its cluster has; 0: it is in none. ``name``: what the process is called among its neighbours. ``on_drain``
    ends the process in order; None: it cannot be ended here.
    """

    def __init__(
        self,
        store: Store,
        kind: str,
        metrics: Metrics,
        delivery: Delivery,
        *,
        ready: Callable[[], bool],
        draining: Callable[[], bool],
        slowest: Callable[[int], Awaitable[Sequence[SlowDevice]]],
        processes: Callable[[], int] = lambda: 0,
        now_s: Callable[[], float],
        now_ms: Callable[[], int],
    ) -> None:
        self.name = ""
        self.on_drain: Callable[[], None] | None = None
        self._store = store
        self._kind = kind
        self._metrics = metrics
        self._delivery = delivery
        self._probe = Probe(store, ready=ready, now_s=now_s, on_error=metrics.store_failed)
        self._draining = draining
        self._slowest = slowest
        self._processes = processes
        self._now_s = now_s
        self._now_ms = now_ms
        self._began_s = now_s()
        self._last: Snapshot | None = None
        self._taking = asyncio.Lock()

    async def status(self) -> Snapshot:
        """How this process is; at most `SNAPSHOT_EVERY_S` old."""
        async with self._taking:
            up_s = self._now_s() - self._began_s
            if (
                self._last is None
                or up_s - self._last.up_s >= SNAPSHOT_EVERY_S
                or self._last.draining != self._draining()
            ):
                self._last = await self._taken()
            return self._last

    async def connected(self, users: list[str]) -> dict[str, int]:
        """How many devices of each of these users, at most `CONNECTED_USERS_MAX`, are connected to this process."""
        found = {user: sum(1 for _ in self._delivery.connected(user)) for user in users[:CONNECTED_USERS_MAX]}
        return {user: count for user, count in found.items() if count}

    async def drain(self) -> None:
        """Begin to end in order, as at SIGTERM; once more does nothing. Raises: Unsupported – it has no process."""
        if self.on_drain is None:
            raise Unsupported("this server is part of another program, which has to end it")
        if not self._draining():
            log.info("drain_asked_for")
            self.on_drain()

    async def _taken(self) -> Snapshot:
        why = ""
        try:
            await self._probe.check()
        except Unavailable as exc:
            why = "it is ending" if self._draining() else exc.message
        process = await asyncio.to_thread(_process)  # with very many open files it takes a while to count them
        slow = await self._slowest(SLOW_DEVICES_MAX)
        series = series_of(self._metrics.registry.collect())
        return Snapshot(
            name=self.name,
            host=platform.node(),
            cluster_processes=self._processes(),
            pid=os.getpid(),
            version=__version__,
            at_ms=self._now_ms(),
            up_s=self._now_s() - self._began_s,
            ready=not why,
            draining=self._draining(),
            why=why,
            store=self._kind,
            durability=self._store.durability,
            incarnation=self._store.incarnation,
            connections=int(series.gauges.get("connections", 0)),
            users=self._delivery.users,
            rss_bytes=process.rss_bytes,
            open_files=process.open_files,
            open_files_max=process.open_files_max,
            counters=series.counters,
            gauges=series.gauges,
            histograms=series.histograms,
            hot=tuple(Hot(conv, count) for conv, count in self._metrics.hot_conversations()[:HOT_MAX]),
            slow=tuple(slow),
        )


class Series(Struct, frozen=True):
    """A registry's values by name: ``messages_committed``, or ``connections_closed{code=1000}``."""

    counters: dict[str, float]
    gauges: dict[str, float]
    histograms: dict[str, Buckets]


def series_of(families: Iterable[Metric]) -> Series:
    """What a registry collected, at most `SERIES_MAX` of each kind."""
    series = Series({}, {}, {})
    for family in families:
        base = family.name.removeprefix(PREFIX)
        if family.type == "histogram":
            _add_histograms(series.histograms, base, family)
            continue
        into = series.counters if family.type == "counter" else series.gauges
        suffix = "_total" if family.type == "counter" else ""
        for sample in family.samples:
            if sample.name == family.name + suffix and len(into) < SERIES_MAX:
                into[base + _labels(sample.labels)] = sample.value
    return series


def _add_histograms(into: dict[str, Buckets], base: str, family: Metric) -> None:
    bounds: dict[str, list[tuple[float, float]]] = {}
    sums: dict[str, float] = {}
    for sample in family.samples:
        labels = dict(sample.labels)
        bound = labels.pop("le", None)
        name = base + _labels(labels)
        if sample.name.endswith("_bucket") and bound is not None:
            bounds.setdefault(name, []).append((float(bound), sample.value))
        elif sample.name.endswith("_sum"):
            sums[name] = sample.value
    for name, pairs in bounds.items():
        if len(into) < SERIES_MAX:
            pairs.sort()
            below = [0.0, *(up_to for _, up_to in pairs)]
            counts = tuple(b - a for a, b in pairwise(below))
            into[name] = Buckets(tuple(bound for bound, _ in pairs[:-1]), counts, sums.get(name, 0.0))


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f"{name}={value}" for name, value in sorted(labels.items())) + "}" if labels else ""


class _Process(Struct, frozen=True):
    rss_bytes: int
    open_files: int
    open_files_max: int


def _process() -> _Process:
    """What this process takes of its machine; 0 where that cannot be told."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    rss_bytes = open_files = 0
    try:
        rss_bytes = int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()
        open_files = len(os.listdir("/proc/self/fd"))
    except OSError:  # not Linux: nothing cheap tells it
        rss_bytes = 0
    return _Process(rss_bytes, open_files, soft if soft != resource.RLIM_INFINITY else 0)
