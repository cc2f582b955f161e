"""The event loop's lag, on a clock that a test moves."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from chatd.metrics import TIMED_MESSAGES, Metrics
from chatd.metrics.sampler import SAMPLE_S, STALL_S_MAX, TURN_S, Sampler


class Loop:
    """What the sampler asks of a loop."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.due: list[tuple[float, object]] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, when_s: float, callback: object) -> asyncio.TimerHandle:
        self.due.append((when_s, callback))
        return None  # type: ignore[return-value]

    def fire(self, late_s: float) -> None:
        when_s, callback = self.due.pop()
        self.now_s = when_s + late_s
        callback()  # type: ignore[operator]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr("chatd.metrics.sampler.asyncio.get_running_loop", lambda: loop)
    return loop


def test_a_sample_tells_how_late_the_loop_is(loop: Loop) -> None:
    metrics = Metrics()
    Sampler(metrics).start()
    for late_s in (0.0, 0.002, 0.2):
        loop.fire(late_s)
    lag = metrics.loop_lag_seconds
    assert (lag.count, round(lag.sum, 6)) == (3, 0.202)
    assert len(loop.due) == 1


def test_a_stall_counts_for_all_who_would_have_waited_during_it(loop: Loop) -> None:
    metrics = Metrics()
    Sampler(metrics).start()
    loop.fire(1.0)
    assert metrics.loop_lag_seconds.count == 1.0 / SAMPLE_S
    assert metrics.loop_lag_seconds.sum == 1.0 + 0.75 + 0.5 + 0.25


def test_a_machine_that_slept_for_a_night_is_no_endless_loop(loop: Loop) -> None:
    metrics = Metrics()
    Sampler(metrics).start()
    loop.fire(30_000.0)
    assert metrics.loop_lag_seconds.count == STALL_S_MAX / SAMPLE_S


def test_the_window_of_the_hot_conversations_turns(loop: Loop) -> None:
    metrics = Metrics()
    metrics.hot.add("alice:bob")
    Sampler(metrics).start()
    for _ in range(int(TURN_S / SAMPLE_S)):
        loop.fire(0.0)
    assert metrics.hot_conversations() == [("alice:bob", 1)]
    for _ in range(int(TURN_S / SAMPLE_S)):
        loop.fire(0.0)
    assert metrics.hot_conversations() == []


async def test_it_ends() -> None:
    sampler = Sampler(Metrics())
    sampler.stop()
    sampler.start()
    sampler.stop()
    assert sampler._timer is not None
    assert sampler._timer.cancelled()


def test_of_many_messages_a_part_is_timed_and_stands_for_all_of_them(loop: Loop) -> None:
    metrics = Metrics()
    Sampler(metrics).start()
    assert [metrics.pick() for _ in range(100)] == [1] * 100
    metrics.messages_committed += 2_000
    metrics.hints_heard += 500
    loop.fire(0.0)
    assert metrics.stride == 2_500 // TIMED_MESSAGES
    picked = [metrics.pick() for _ in range(100_000)]
    assert set(picked) == {0, metrics.stride}
    assert sum(picked) == pytest.approx(100_000, rel=0.1)
    gaps = {b - a for a, b in pairwise(n for n, weight in enumerate(picked) if weight)}
    assert len(gaps) > 50, "by chance"
    metrics.messages_committed += TIMED_MESSAGES
    loop.fire(0.0)
    assert [metrics.pick() for _ in range(20)][2:] == [1] * 18, "a quiet server times all of them, and at once"
