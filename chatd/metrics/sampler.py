"""What is done without an occasion: how late is the event loop, how many messages are timed, which ones were hot."""

from __future__ import annotations

import asyncio

from chatd.metrics import Metrics

SAMPLE_S = 0.25
TURN_S = 30.0
STALL_S_MAX = 60.0
"""A longer stall counts as one of this length."""


class Sampler:
    """A timer of the running event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = self._turn_s = 0.0
        self._messages = 0

    def start(self) -> None:
        """Begin."""
        self._turn_s = asyncio.get_running_loop().time() + TURN_S
        self._again()

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()

    def _again(self) -> None:
        loop = asyncio.get_running_loop()
        self._due_s = loop.time() + SAMPLE_S
        self._timer = loop.call_at(self._due_s, self._sample)

    def _sample(self) -> None:
        """Who came during a stall waited for the rest of it: it counts once for each sample that it kept from us."""
        now_s = asyncio.get_running_loop().time()
        late_s = min(max(0.0, now_s - self._due_s), STALL_S_MAX)
        while True:
            self._metrics.loop_lag_seconds.observe(late_s)
            late_s -= SAMPLE_S
            if late_s <= 0:
                break
        messages = self._metrics.messages_committed + self._metrics.hints_heard
        self._metrics.expect(messages - self._messages)
        self._messages = messages
        if now_s >= self._turn_s:
            self._turn_s = now_s + TURN_S
            self._metrics.hot.turn()
        self._again()
