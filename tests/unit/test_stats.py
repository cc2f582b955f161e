"""What a process tells of itself, and what is read out of it: literal snapshots, literal numbers."""

from __future__ import annotations

import math

import msgspec
import pytest

from chatd.stats import (
    HOT_MAX,
    SLOW_DEVICES_MAX,
    Buckets,
    ClusterSnapshot,
    History,
    Hot,
    SlowDevice,
    Snapshot,
    Worker,
    between,
    quantile,
    total,
)

BOUNDS = (0.001, 0.01, 0.1)


def buckets(*counts: float) -> Buckets:
    return Buckets(BOUNDS, counts, sum=sum(counts) / 100)


@pytest.mark.parametrize(
    ("counts", "q", "expected"),
    [
        ((), 0.5, None),
        ((0, 0, 0, 0), 0.5, None),
        ((10, 0, 0, 0), 0.5, 0.0005),
        ((10, 0, 0, 0), 1.0, 0.001),
        ((5, 5, 0, 0), 0.5, 0.001),
        ((5, 5, 0, 0), 0.9, 0.0082),
        ((0, 4, 0, 0), 0.25, 0.00325),
        ((50, 49, 0, 1), 0.99, 0.01),
        ((50, 48, 0, 2), 0.99, math.inf),
        ((0, 0, 0, 1), 0.5, math.inf),
        ((0, 3, 0, 0), 0.0, 0.001),
    ],
)
def test_a_quantile_lies_in_its_bucket_by_its_share(
    counts: tuple[float, ...], q: float, expected: float | None
) -> None:
    found = quantile(Buckets(BOUNDS if counts else (), counts), q)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_rates_come_from_two_looks_at_one_process_by_its_own_clock() -> None:
    old = Snapshot(name="a", pid=7, at_ms=0, up_s=10.0, counters={"commits": 100.0, "gone": 5.0})
    new = Snapshot(name="a", pid=7, at_ms=9_999_999, up_s=12.0, counters={"commits": 130.0, "fresh": 4.0})
    reading = between([old], [new])
    assert reading.span_s == 2.0
    assert reading.rates == {"commits": 15.0, "fresh": 2.0}
    assert reading.rate("commits", "fresh", "unknown") == 17.0


def test_rates_of_processes_are_added_and_one_that_started_anew_is_not_compared() -> None:
    before = [
        Snapshot(name="a", pid=1, up_s=100.0, counters={"commits": 1_000.0}),
        Snapshot(name="b", pid=2, up_s=100.0, counters={"commits": 5_000.0}),
        Snapshot(name="c", pid=3, up_s=50.0, counters={"commits": 70.0}),
    ]
    after = [
        Snapshot(name="a", pid=1, up_s=101.0, counters={"commits": 1_010.0}),
        Snapshot(name="b", pid=22, up_s=0.5, counters={"commits": 9.0}),  # its successor
        Snapshot(name="c", pid=3, up_s=1.0, counters={"commits": 2.0}),  # the same pid again
    ]
    assert between(before, after).rates == {"commits": 10.0}
    assert between(before, before).span_s == 0.0
    assert between([], after).rates == {}


def test_histograms_are_subtracted_and_added_where_their_bounds_agree() -> None:
    before = [
        Snapshot(name="a", up_s=1.0, histograms={"commit_seconds": buckets(1, 2, 3, 4)}),
        Snapshot(name="b", up_s=1.0, histograms={"commit_seconds": Buckets((9.0,), (1, 1))}),
    ]
    after = [
        Snapshot(name="a", up_s=2.0, histograms={"commit_seconds": buckets(2, 2, 3, 6), "new": buckets(1, 0, 0, 0)}),
        Snapshot(name="b", up_s=2.0, histograms={"commit_seconds": buckets(0, 10, 0, 0)}),
    ]
    values = between(before, after).values
    assert values["commit_seconds"].counts == (1.0, 10.0, 0.0, 2.0)
    assert values["new"].counts == (1.0, 0.0, 0.0, 0.0)


def test_the_sum_of_processes_adds_what_can_be_added_and_shows_the_worst_of_the_rest() -> None:
    a = Snapshot(
        name="worker-0",
        version="1.0",
        up_s=100.0,
        ready=True,
        store="redis",
        connections=3,
        users=2,
        counters={"commits": 1.0},
        gauges={"push_lag_seconds": 2.0, "queue_drafts": 4.0},
        histograms={"commit_seconds": buckets(1, 0, 0, 0)},
        hot=(Hot("dm:a:b", 5), Hot("dm:a:c", 4)),
        slow=(SlowDevice(user="a", device="d", unacked=9),),
        rss_bytes=10,
    )
    b = Snapshot(
        name="worker-1",
        version="1.1",
        up_s=5.0,
        ready=False,
        why="the store does not answer",
        store="redis",
        connections=4,
        users=1,
        counters={"commits": 2.0, "fresh": 1.0},
        gauges={"push_lag_seconds": 1.0, "queue_drafts": 6.0},
        histograms={"commit_seconds": buckets(0, 1, 0, 0)},
        hot=(Hot("dm:a:c", 3),),
        slow=(SlowDevice(user="b", device="e", full_s=1.5),),
        rss_bytes=20,
    )
    both = total([a, b])
    assert (both.name, both.version, both.up_s, both.store) == ("2 processes", "1.0, 1.1", 5.0, "redis")
    assert (both.ready, both.draining, both.why) == (False, False, "worker-1: the store does not answer")
    assert (both.connections, both.users, both.rss_bytes) == (7, 3, 30)
    assert both.counters == {"commits": 3.0, "fresh": 1.0}
    assert both.gauges == {"push_lag_seconds": 2.0, "queue_drafts": 10.0}
    assert both.histograms["commit_seconds"].counts == (1.0, 1.0, 0.0, 0.0)
    assert both.hot == (Hot("dm:a:c", 7), Hot("dm:a:b", 5))
    assert [one.user for one in both.slow] == ["b", "a"]
    assert total([a]) is a
    assert not total([]).ready


def test_what_is_listed_is_bounded() -> None:
    many = [
        Snapshot(
            name=f"{n}",
            hot=tuple(Hot(f"dm:{n}:{i}", i) for i in range(HOT_MAX)),
            slow=tuple(SlowDevice(user=f"{n}", device=f"{i}", unacked=i) for i in range(SLOW_DEVICES_MAX)),
        )
        for n in range(3)
    ]
    assert len(total(many).hot) == HOT_MAX
    assert [one.unacked for one in total(many).slow] == [9, 9, 9, 8, 8, 8, 7, 7, 7, 6]


def test_the_history_keeps_the_last_readings() -> None:
    history = History(samples_max=3)
    assert history.now.rates == {}
    for second in range(6):
        look = [Snapshot(up_s=float(second), counters={"commits": float(second**2)})]
        history.add(look)
        history.add(look)  # the same look again says nothing
    assert [one.rates["commits"] for one in history.readings] == [5.0, 7.0, 9.0]
    assert history.now.rate("commits") == 9.0


def test_another_version_s_snapshot_is_read_as_far_as_it_is_known() -> None:
    newer = {"kind": "server", "pid": 7, "mood": "fine", "slow": [{"user": "a", "device": "d", "colour": 1}]}
    read = msgspec.convert(newer, Snapshot | ClusterSnapshot)
    assert isinstance(read, Snapshot)
    assert (read.pid, read.version, read.counters) == (7, "", {})
    assert read.slow == (SlowDevice(user="a", device="d"),)


def test_a_snapshot_survives_its_way_through_json() -> None:
    one = Snapshot(
        name="worker-0",
        up_s=1.5,
        ready=True,
        counters={"commits": 3.0},
        histograms={"commit_seconds": buckets(1, 2, 3, 4)},
        hot=(Hot("dm:a:b", 1),),
        slow=(SlowDevice(user="a", device="d", full_s=0.5),),
    )
    cluster = ClusterSnapshot(pid=1, workers=(Worker(name="worker-0", state="ready", pid=2, starts=1),))
    for each in (one, cluster):
        assert msgspec.json.decode(msgspec.json.encode(each), type=Snapshot | ClusterSnapshot) == each


@pytest.mark.parametrize(
    ("states", "nodes_ready", "draining", "ready"),
    [
        (("ready", "ready"), 0, False, True),
        (("ready", "away"), 0, False, False),
        (("ready", "drained"), 0, False, True),
        (("drained", "drained"), 0, False, False),
        ((), 1, False, True),
        ((), 0, False, False),
        (("ready",), 0, True, False),
    ],
)
def test_a_cluster_is_ready_when_every_worker_is_where_it_should_be(
    states: tuple[str, ...], nodes_ready: int, draining: bool, ready: bool
) -> None:
    workers = [{"name": f"worker-{n}", "state": state} for n, state in enumerate(states)]
    made = {"kind": "cluster", "workers": workers, "nodes_ready": nodes_ready, "draining": draining}
    assert msgspec.convert(made, ClusterSnapshot).ready is ready
