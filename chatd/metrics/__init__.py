"""What the server counts. Plain integers on the hot path; Prometheus reads them when it asks.

No user's name leaves through the registry: which conversation is hot is told by `Metrics.hot_conversations` alone.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from random import randrange

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import CollectorRegistry

from chatd import __version__
from chatd.errors import OutcomeUnknown, StoreBroken, Unavailable
from chatd.metrics import process
from chatd.metrics.histogram import Histogram
from chatd.metrics.hot import HotConversations
from chatd.metrics.latencies import Latencies
from chatd.metrics.specs import CLOSED_BY, HOT_RANKS, OTHER, SPECS, STORE_ERRORS, Spec

PREFIX = "chatd_"
TIMED_MESSAGES = 50
"""About so many in a `Sampler`'s interval; of more a part is timed, and each counts for as many as it stands for."""
BUCKETS = {spec.name: spec.buckets for spec in SPECS}


class Metrics:
    """The counters of one server, and their registry. Increment the attributes.

    ``gauges``: functions to a value, of gauges and of counters that others count; ``labelled``: to a value a label.
    ``now_s`` is monotonic, ``now_ms`` Unix time.
    """

    messages_committed = 0
    messages_duplicate = 0
    messages_refused = 0
    messages_trimmed = 0
    messages_live = 0
    messages_read = 0
    receipts_sent = 0
    presence_frames = 0
    typing_frames = 0
    commits = 0
    commits_failed = 0
    commits_unknown = 0
    push_delivered = 0
    push_retried = 0
    push_refused = 0
    push_gone = 0
    push_given_up = 0
    push_clears = 0
    hints_heard = 0
    hints_dropped = 0
    bus_gaps = 0
    reconciled = 0
    frames_received = 0
    frames_refused = 0
    connections_opened = 0
    reconnects = 0
    resumes = 0
    resets = 0
    gaps_repaired = 0
    catch_ups = 0
    stride = 1  # one message in so many is timed, see `pick`
    weight = 1  # of the message whose commit is told now: 0, it is not timed
    skip = 0  # so many more are not

    def __init__(
        self,
        *,
        now_s: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.gauges: dict[str, Callable[[], float]] = {
            "hot_window_messages": lambda: self.hot.total,
            "process_cpu_seconds": process.cpu_seconds,
            "process_resident_memory_bytes": process.resident_bytes,
            "process_open_fds": process.open_files,
            "process_max_fds": process.open_files_max,
            "process_start_time_seconds": process.started_s,
        }
        self.labelled: dict[str, Callable[[], Mapping[str, float]]] = {
            "hot_conversation_messages": self._hot_by_rank,
            "connections_closed": lambda: self.connections_closed,
            "store_errors": lambda: self.store_errors,
        }
        self.connections_closed = dict.fromkeys(CLOSED_BY, 0)
        self.store_errors = dict.fromkeys(STORE_ERRORS, 0)
        self.commit_seconds = Histogram(BUCKETS["commit_seconds"])
        self.commit_drafts = Histogram(BUCKETS["commit_drafts"])
        self.commit_marks = Histogram(BUCKETS["commit_marks"])
        self.fsync_seconds = Histogram(BUCKETS["fsync_seconds"])
        self.sent_seconds = Histogram(BUCKETS["sent_seconds"])
        self.delivered_online_seconds = Histogram(BUCKETS["delivered_online_seconds"])
        self.delivered_offline_seconds = Histogram(BUCKETS["delivered_offline_seconds"])
        self.read_seconds = Histogram(BUCKETS["read_seconds"])
        self.loop_lag_seconds = Histogram(BUCKETS["loop_lag_seconds"])
        self.hot = HotConversations()
        self.latencies = Latencies(
            self.delivered_online_seconds,
            self.delivered_offline_seconds,
            self.read_seconds,
            now_s=now_s,
            now_ms=now_ms,
        )

    def pick(self) -> int:
        """For how many messages the next one stands in the timings; 0: it is not timed."""
        self.skip -= 1
        return 0 if self.skip > 0 else self.picked()

    def picked(self) -> int:
        """The same where ``skip`` was counted down. By chance, or a regular traffic had the same ones timed always."""
        self.skip = randrange(1, 2 * self.stride) if self.stride > 1 else 0  # noqa: S311 - no secret
        return self.stride

    def expect(self, messages: int) -> None:
        """So many messages came since the last sample, and as many are expected until the next one."""
        self.stride = max(1, messages // TIMED_MESSAGES)
        self.skip = min(self.skip, 2 * self.stride - 1)

    def closed(self, code: int) -> None:
        """A connection ended with this close code."""
        name = str(code)
        self.connections_closed[name if name in self.connections_closed else OTHER] += 1

    def store_failed(self, exc: BaseException) -> None:
        """A call of the store ended so; what is not its fault is not counted."""
        if isinstance(exc, Unavailable):
            self.store_errors["unavailable"] += 1
        elif isinstance(exc, OutcomeUnknown | TimeoutError):
            self.store_errors["unknown"] += 1
        elif isinstance(exc, StoreBroken):
            self.store_errors["broken"] += 1

    def hot_conversations(self) -> list[tuple[str, int]]:
        """The conversations with most messages in the last half to whole minute, and how many; at most HOT_RANKS.

        Their names are users' names: for an administrator's eyes.
        """
        return self.hot.top(HOT_RANKS)

    def _hot_by_rank(self) -> dict[str, float]:
        return {str(rank): count for rank, (_, count) in enumerate(self.hot_conversations(), 1)}

    def collect(self) -> Iterator[Metric]:
        """What Prometheus calls."""
        info = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily(f"{PREFIX}build", "Which server this is; always 1.", value=info)
        for spec in SPECS:
            yield self._family(spec)

    def _family(self, spec: Spec) -> Metric:
        name = PREFIX + spec.name
        if spec.kind == "histogram":
            histogram: Histogram = getattr(self, spec.name)
            bounds = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
            buckets = list(zip(bounds, histogram.cumulative(), strict=True))
            return HistogramMetricFamily(name, spec.help, buckets=buckets, sum_value=histogram.sum)
        family = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
        if spec.label:
            values, labelled = self.labelled[spec.name](), family(name, spec.help, labels=[spec.label])
            for label in spec.values:
                labelled.add_metric([label], values.get(label, 0))
            return labelled
        read = self.gauges.get(spec.name)
        return family(name, spec.help, value=read() if read else getattr(self, spec.name, 0))


__all__ = ["HOT_RANKS", "SPECS", "TIMED_MESSAGES", "Metrics", "Spec"]
