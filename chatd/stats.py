"""What a process tells its operator about itself, and what is read out of that: sums, rates, quantiles. Pure.

A reader may be of another version than the process: fields it does not know are skipped, absent ones have a default,
and counters, gauges and histograms stand under the names that `/metrics` gives them, without ``chatd_`` and ``_total``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct

HOT_MAX = 20
SLOW_DEVICES_MAX = 10
HISTORY_SAMPLES_MAX = 240

WorkerState = Literal["starting", "ready", "away", "draining", "drained"]


class Buckets(Struct, frozen=True):
    """A histogram. ``counts[i]``: values above ``bounds[i - 1]``, at most ``bounds[i]``; the last has no bound above.

    ``sum``: of all values, in their unit, which is seconds unless the name says otherwise.
    """

    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()
    sum: float = 0.0

    @property
    def count(self) -> float:
        """How many values there are."""
        return sum(self.counts)


class Hot(Struct, frozen=True):
    """A conversation with many messages; ``count`` may be an estimate."""

    conv: str
    count: float


class SlowDevice(Struct, frozen=True, kw_only=True):
    """A connected device that owes acknowledgements, or does not take what it is owed.

    ``unacked``: messages sent to it and not acknowledged. ``behind``: there are more that it is yet to be sent.
    ``owed_bytes``: written to its socket and not taken. ``full_s``: for how long its socket has been full, or 0.
    """

    user: str
    device: str
    unacked: int = 0
    behind: bool = False
    owed_bytes: int = 0
    full_s: float = 0.0

    @property
    def rank(self) -> tuple[float, int, int, bool]:
        """The larger, the slower."""
        return (self.full_s, self.owed_bytes, self.unacked, self.behind)


class Snapshot(Struct, frozen=True, kw_only=True, tag_field="kind", tag="server"):
    """One serving process at one moment. ``at_ms``: Unix ms. ``up_s``: since its start, monotonic.

    ``ready``: it serves and its store can be used; else ``why`` says in words what is missing. ``incarnation``: the
    name of the history in the store. ``users``: with at least one connection. ``rss_bytes``, ``open_files``,
    ``open_files_max``: of the process; 0: this system does not tell. ``host``: the name of its machine.
    ``cluster_processes``: those that live by its bus, this one among them; 0: it has none.
    """

    name: str = ""
    host: str = ""
    cluster_processes: int = 0
    pid: int = 0
    version: str = ""
    at_ms: int = 0
    up_s: float = 0.0
    ready: bool = False
    draining: bool = False
    why: str = ""
    store: str = ""
    durability: str = ""
    incarnation: str = ""
    connections: int = 0
    users: int = 0
    rss_bytes: int = 0
    open_files: int = 0
    open_files_max: int = 0
    counters: Mapping[str, float] = {}
    gauges: Mapping[str, float] = {}
    histograms: Mapping[str, Buckets] = {}
    hot: tuple[Hot, ...] = ()
    slow: tuple[SlowDevice, ...] = ()

    @property
    def key(self) -> str:
        """Names one life of one process: what it counted began with it."""
        return f"{self.name}#{self.pid}"


class Worker(Struct, frozen=True, kw_only=True):
    """A worker as its supervisor sees it. ``starts``: how often it was started, 1 when it never died."""

    name: str
    state: WorkerState = "starting"
    pid: int = 0
    starts: int = 0


class ClusterSnapshot(Struct, frozen=True, kw_only=True, tag_field="kind", tag="cluster"):
    """A supervisor with its router at one moment. ``nodes_ready`` of ``nodes`` on other hosts can be reached."""

    pid: int = 0
    version: str = ""
    at_ms: int = 0
    up_s: float = 0.0
    draining: bool = False
    workers: tuple[Worker, ...] = ()
    nodes: int = 0
    nodes_ready: int = 0

    @property
    def ready(self) -> bool:
        """Whether a new connection finds a place, and every worker is where it should be."""
        somewhere = self.nodes_ready or any(one.state == "ready" for one in self.workers)
        return not self.draining and bool(somewhere) and all(one.state in ("ready", "drained") for one in self.workers)


class Reading(Struct, frozen=True, kw_only=True):
    """What happened between two looks. ``rates``: of counters, per second. ``values``: the histograms' new values.

    ``levels``: the gauges at the second look, and ``connections``, ``users`` and ``rss_bytes`` beside them.
    """

    span_s: float = 0.0
    rates: Mapping[str, float] = {}
    values: Mapping[str, Buckets] = {}
    levels: Mapping[str, float] = {}

    def rate(self, *names: str) -> float:
        """The sum of some rates; what nobody counts is 0."""
        return sum(self.rates.get(name, 0.0) for name in names)


def quantile(values: Buckets, q: float) -> float | None:
    """The value that a share ``q`` of all does not exceed, within its bucket by its share of it. None: no values.

    ∞: it lies above the last bound.
    """
    count = values.count
    if not count:
        return None
    rank, below, lower = q * count, 0.0, 0.0
    for bound, inside in zip(values.bounds, values.counts, strict=False):
        if inside and below + inside >= rank:
            return lower + (bound - lower) * max(0.0, rank - below) / inside
        below += inside
        lower = bound
    return math.inf


def total(snapshots: Sequence[Snapshot]) -> Snapshot:
    """All processes as if they were one: sums; the worst of what cannot be added; up as long as the youngest."""
    if len(snapshots) == 1:
        return snapshots[0]
    gauges: dict[str, float] = {}
    for one in snapshots:
        for name, value in one.gauges.items():
            worst = name.endswith("_seconds")  # a lag of two processes is not twice as long
            gauges[name] = max(gauges.get(name, value), value) if worst else gauges.get(name, 0.0) + value
    faults = [f"{one.name or one.pid}: {one.why}" for one in snapshots if one.why]
    return Snapshot(
        name=f"{len(snapshots)} processes",
        version=_one_of(one.version for one in snapshots),
        at_ms=max((one.at_ms for one in snapshots), default=0),
        up_s=min((one.up_s for one in snapshots), default=0.0),
        ready=bool(snapshots) and all(one.ready for one in snapshots),
        draining=bool(snapshots) and all(one.draining for one in snapshots),
        why="; ".join(faults),
        store=_one_of(one.store for one in snapshots),
        durability=_one_of(one.durability for one in snapshots),
        incarnation=_one_of(one.incarnation for one in snapshots),
        connections=sum(one.connections for one in snapshots),
        users=sum(one.users for one in snapshots),
        rss_bytes=sum(one.rss_bytes for one in snapshots),
        open_files=sum(one.open_files for one in snapshots),
        open_files_max=sum(one.open_files_max for one in snapshots),
        counters=_sums(one.counters for one in snapshots),
        gauges=gauges,
        histograms=_joined(one.histograms for one in snapshots),
        hot=_hottest(one.hot for one in snapshots),
        slow=slowest(device for one in snapshots for device in one.slow),
    )


def between(before: Sequence[Snapshot], after: Sequence[Snapshot]) -> Reading:
    """What the processes counted that are in both; each by its own clock. One that started anew is not compared."""
    olds = {one.key: one for one in before}
    rates: list[dict[str, float]] = []
    values: list[dict[str, Buckets]] = []
    span_s = 0.0
    for new in after:
        old = olds.get(new.key)
        if old is None or new.up_s <= old.up_s:
            continue
        took_s = new.up_s - old.up_s
        span_s = max(span_s, took_s)
        rates.append({n: max(0.0, v - old.counters.get(n, 0.0)) / took_s for n, v in new.counters.items()})
        values.append({n: _less(h, old.histograms.get(n)) for n, h in new.histograms.items()})
    now = total(after)
    levels = {**now.gauges, "connections": now.connections, "users": now.users, "rss_bytes": now.rss_bytes}
    return Reading(span_s=span_s, rates=_sums(rates), values=_joined(values), levels=levels)


def slowest(devices: Iterable[SlowDevice], most: int = SLOW_DEVICES_MAX) -> tuple[SlowDevice, ...]:
    """The slowest first."""
    return tuple(sorted(devices, key=lambda one: one.rank, reverse=True)[:most])


class History:
    """The last readings, oldest first, at most ``samples_max``: what a sparkline is drawn from."""

    def __init__(self, samples_max: int = HISTORY_SAMPLES_MAX) -> None:
        self.readings: deque[Reading] = deque(maxlen=samples_max)
        self._last: Sequence[Snapshot] = ()

    def add(self, snapshots: Sequence[Snapshot]) -> None:
        """Another look; the first one gives no reading yet, and neither does the same one again."""
        if self._last:
            reading = between(self._last, snapshots)
            if reading.span_s:
                self.readings.append(reading)
        self._last = snapshots

    @property
    def now(self) -> Reading:
        """The newest reading; an empty one before there is any."""
        return self.readings[-1] if self.readings else Reading()


def _one_of(texts: Iterable[str]) -> str:
    return ", ".join(sorted(set(texts)))


def _sums(tables: Iterable[Mapping[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for table in tables:
        for name, value in table.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def _joined(tables: Iterable[Mapping[str, Buckets]]) -> dict[str, Buckets]:
    """Histograms with the same bounds are added; of others the first stands, for versions may differ."""
    joined: dict[str, Buckets] = {}
    for table in tables:
        for name, one in table.items():
            so_far = joined.setdefault(name, one)
            if so_far is not one and so_far.bounds == one.bounds:
                counts = tuple(a + b for a, b in zip(so_far.counts, one.counts, strict=True))
                joined[name] = Buckets(one.bounds, counts, so_far.sum + one.sum)
    return joined


def _less(new: Buckets, old: Buckets | None) -> Buckets:
    if old is None or old.bounds != new.bounds or len(old.counts) != len(new.counts):
        return new
    counts = tuple(max(0.0, a - b) for a, b in zip(new.counts, old.counts, strict=True))
    return Buckets(new.bounds, counts, new.sum - old.sum)


def _hottest(tables: Iterable[Sequence[Hot]]) -> tuple[Hot, ...]:
    """A conversation is written to in the processes of both its users."""
    sums = _sums({hot.conv: hot.count for hot in table} for table in tables)
    return tuple(Hot(conv, count) for conv, count in sorted(sums.items(), key=lambda row: (-row[1], row[0]))[:HOT_MAX])
