"""What the server counts. Plain integers on the hot path; Prometheus reads them when it asks. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from msgspec import Struct
from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import CollectorRegistry


class Spec(Struct, frozen=True):
    """One metric. ``name`` without the prefix; a counter gets ``_total`` at the end."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str


SPECS = (
    Spec("messages_committed", "counter", "Messages committed by the store, each once."),
    Spec("messages_duplicate", "counter", "Sends that were answered with an earlier commit."),
    Spec("messages_refused", "counter", "Sends that were refused, for whatever reason."),
    Spec("messages_trimmed", "counter", "Messages that this process deleted, being older than retention.days."),
    Spec("messages_live", "counter", "Messages written to a device at once after their commit."),
    Spec("messages_read", "counter", "Messages read from the log for a device that was behind."),
    Spec("receipts_sent", "counter", "Receipt frames written to devices."),
    Spec("presence_frames", "counter", "Presence frames written to devices that watch, their answers not counted."),
    Spec("typing_frames", "counter", "Typing frames written to devices."),
    Spec("commits", "counter", "Commits of the store."),
    Spec("commits_failed", "counter", "Commits that the store refused."),
    Spec("commits_unknown", "counter", "Commits whose outcome had to be read back."),
    Spec("push_delivered", "counter", "Notifications that a push service took."),
    Spec("push_retried", "counter", "Notifications that did not get through and are tried again."),
    Spec("push_refused", "counter", "Notifications that a push service will never take."),
    Spec("push_gone", "counter", "Subscriptions that their push service called dead; they are removed."),
    Spec("push_given_up", "counter", "Notifications older than push.give_up_s; they are not sent."),
    Spec("push_clears", "counter", "Notifications taken off a screen, since they were read elsewhere."),
    Spec("push_pending", "gauge", "Conversations that may need a notification now."),
    Spec("push_lag_seconds", "gauge", "For how long the oldest due notification has waited."),
    Spec("hints_heard", "counter", "Hints from other processes."),
    Spec("hints_dropped", "counter", "Hints to other processes that were dropped, the bus being gone or full."),
    Spec("bus_gaps", "counter", "Times that hints from other processes may have been lost."),
    Spec("reconciled", "counter", "Sessions that were compared with the store, to find what a lost hint hid."),
    Spec("frames_received", "counter", "Frames from clients."),
    Spec("frames_refused", "counter", "Frames answered with an error."),
    Spec("connections_opened", "counter", "WebSocket connections opened."),
    Spec("connections_closed", "counter", "WebSocket connections ended, by either side or the network."),
    Spec("connections", "gauge", "WebSocket connections now."),
    Spec("queue_drafts", "gauge", "Messages that wait for their commit now."),
    Spec("catch_ups", "gauge", "Devices that are reading the log now."),
)


class Metrics:
    """The counters of one server, and their registry. Increment the attributes; gauges may be functions."""

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
    connections_closed = 0
    catch_ups = 0

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.gauges: dict[str, Callable[[], float]] = {}
        self.commit_seconds = Histogram(
            "chatd_commit_seconds",
            "Duration of a commit.",
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5),
            registry=self.registry,
        )

    def collect(self) -> Iterator[Metric]:
        """What Prometheus calls."""
        for spec in SPECS:
            if spec.kind == "counter":
                yield CounterMetricFamily(f"chatd_{spec.name}", spec.help, value=getattr(self, spec.name))
            else:
                read = self.gauges.get(spec.name)
                value = read() if read else getattr(self, spec.name, 0)
                yield GaugeMetricFamily(f"chatd_{spec.name}", spec.help, value=value)
