"""What timing costs a message: ``python -m bench.counting``. Sequencer and fan-out over a store in memory, no sockets.

With all messages timed, with as many as a busy server times, and with none, in turns; told is the least CPU of each.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import cast

from chatd.delivery import Delivery, Recipient
from chatd.metrics import Metrics
from chatd.metrics.latencies import Latencies
from chatd.model import Advance, Appended, Draft
from chatd.sequencer import Sequencer
from chatd.settings import LimitSettings
from chatd.store.memory import MemoryStore

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


async def run(metrics: Metrics, messages: int) -> float:
    """CPU of a message with its commit, fan-out and acknowledgement, in µs."""
    store = MemoryStore()
    await store.open()
    delivery = Delivery(metrics, connections_per_user_max=5)
    for number in range(PAIRS):
        delivery.add(cast(Recipient, Device(f"b{number}")))
    limits = LimitSettings(commit_interval_ms=0)
    sequencer = Sequencer(store, (delivery,), limits, metrics, now_s=time.monotonic, on_broken=lambda exc: None)
    sequencer.start()
    pairs = [(f"a{number}:b{number}", f"a{number}", f"b{number}") for number in range(PAIRS)]
    ids = (f"01890a5d-ac96-774b-bcce-{number:012x}" for number in range(messages))
    rounds = [[Draft(conv, one, next(ids), "x" * 64, 1) for conv, one, _ in pairs] for _ in range(messages // PAIRS)]
    sender, began_s = Sender(), time.process_time()
    for seq, drafts in enumerate(rounds, 1):
        for draft in drafts:
            sequencer.submit(draft, sender)
        while sequencer.queued:  # noqa: ASYNC110 - its own turns are what is measured
            await asyncio.sleep(0)
        for conv, _, other in pairs:
            sequencer.advance(Advance(conv, other, "phone", seq))
    took_s = time.process_time() - began_s
    await sequencer.close()
    return took_s / (len(rounds) * PAIRS) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.counting", description="What timing costs a message.")
    parser.add_argument("--messages", type=int, default=4_096)
    parser.add_argument("--runs", type=int, default=25)
    args = parser.parse_args()
    least = dict.fromkeys(("none", "busy", "all"), float("inf"))
    for _ in range(args.runs):
        for name in least:
            metrics = NotCounted() if name == "none" else Metrics()
            metrics.stride = BUSY_STRIDE if name == "busy" else 1
            least[name] = min(least[name], asyncio.run(run(metrics, args.messages)))
    for name, cost_us in least.items():
        print(f"{name:5} timed: {cost_us:6.2f} µs a message, {cost_us - least['none']:+.2f} µs")


if __name__ == "__main__":
    main()
