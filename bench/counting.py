"""What timing and tracing cost a message: ``python -m bench.counting``. Sequencer and fan-out over a store in memory,
no sockets, and a collector that takes everything.

With all messages timed, with as many as a busy server times, with one in a hundred and with all of them traced, and
with neither, in turns; told is the least CPU of each.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from typing import cast

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from chatd.delivery import Delivery, Recipient
from chatd.metrics import Metrics
from chatd.metrics.latencies import Latencies
from chatd.model import Advance, Appended, Draft
from chatd.sequencer import Sequencer
from chatd.settings import LimitSettings, TracingSettings
from chatd.store.memory import MemoryStore
from chatd.tracing_otel import OtelTracer

PAIRS = 128
BUSY_STRIDE = 50


class Device:
    """A recipient that takes everything and does nothing."""

    since_us = 0
    device = "phone"

    def __init__(self, user: str) -> None:
        self.user = user

    def live(self, message: object, payload: bytes) -> None:
        """See `Recipient`."""

    def receipt(self, grown: object, payload: bytes) -> None:
        """See `Recipient`."""


class Sender:
    """An origin that does nothing either."""

    def appended(self, draft: Draft, result: Appended, ref: object) -> None:
        """See `Origin`."""

    def refused(self, draft: Draft, refusal: Exception, ref: object) -> None:
        """See `Origin`."""
        raise refusal


class NotCounted(Metrics):
    """Times nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.latencies = cast(Latencies, self)
        self.skip = 1_000_000_000

    def grew(self, conv: str, user: str, delivered: int, read: int) -> None:
        """See `Latencies`."""


class Discarding(SpanExporter):
    """A collector that takes everything at once."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See `SpanExporter`."""
        return SpanExportResult.SUCCESS


def tracing(ratio: float) -> tuple[OtelTracer, TracerProvider]:
    """A tracer, and what is to be shut down."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Discarding(), max_queue_size=100_000))
    tracer = OtelTracer(
        TracingSettings(ratio=ratio),
        provider,
        connected=lambda user: True,
        now_s=time.monotonic,
        now_ms=lambda: time.time_ns() // 1_000_000,
        random=random.random,
    )
    return tracer, provider


async def run(metrics: Metrics, messages: int, tracer: OtelTracer | None = None) -> float:
    """CPU of a message with its commit, fan-out and acknowledgement, in µs."""
    store = MemoryStore()
    await store.open()
    delivery = Delivery(metrics, connections_per_user_max=5)
    for number in range(PAIRS):
        delivery.add(cast(Recipient, Device(f"b{number}")))
    limits = LimitSettings(commit_interval_ms=0)
    fan_outs = (delivery,) if tracer is None else (tracer, delivery)
    sequencer = Sequencer(store, fan_outs, limits, metrics, now_s=time.monotonic, on_broken=lambda exc: None)
    sequencer.start()
    pairs = [(f"a{number}:b{number}", f"a{number}", f"b{number}") for number in range(PAIRS)]
    ids = (f"01890a5d-ac96-774b-bcce-{number:012x}" for number in range(messages))
    rounds = [[Draft(conv, one, next(ids), "x" * 64, 1) for conv, one, _ in pairs] for _ in range(messages // PAIRS)]
    sender, began_s = Sender(), time.process_time()
    for seq, drafts in enumerate(rounds, 1):
        for draft in drafts:
            trace = None if tracer is None else tracer.begin(draft, time.monotonic())
            sequencer.submit(draft, sender, trace=trace)
        while sequencer.queued:  # noqa: ASYNC110 - its own turns are what is measured
            await asyncio.sleep(0)
        for conv, _, other in pairs:
            sequencer.advance(Advance(conv, other, "phone", seq))
    took_s = time.process_time() - began_s
    await sequencer.close()
    return took_s / (len(rounds) * PAIRS) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.counting", description="What a message costs, timed and traced."
    )
    parser.add_argument("--messages", type=int, default=4_096)
    parser.add_argument("--runs", type=int, default=25)
    args = parser.parse_args()
    least = dict.fromkeys(("none", "busy timed", "all timed", "0.01 traced", "all traced"), float("inf"))
    for _ in range(args.runs):
        for name in least:
            metrics = Metrics() if name.endswith("timed") else NotCounted()
            metrics.stride = BUSY_STRIDE if name == "busy timed" else 1
            tracer = provider = None
            if name.endswith("traced"):
                tracer, provider = tracing(1.0 if name == "all traced" else 0.01)
            least[name] = min(least[name], asyncio.run(run(metrics, args.messages, tracer)))
            if provider is not None:
                provider.shutdown()
    for name, cost_us in least.items():
        print(f"{name:11}: {cost_us:6.2f} µs a message, {cost_us - least['none']:+.2f} µs")


if __name__ == "__main__":
    main()
