"""A value is counted where Prometheus expects it."""

from __future__ import annotations

from chatd.metrics.histogram import Histogram


def test_a_value_on_a_bound_belongs_below_it() -> None:
    histogram = Histogram((1, 2, 5))
    for value in (0, 1, 1.5, 2, 5, 5.1):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1, 1]
    assert histogram.cumulative() == [2, 4, 5, 6]
    assert (histogram.count, histogram.sum) == (6, 14.6)


def test_a_value_can_count_for_many() -> None:
    histogram = Histogram((1,))
    histogram.observe(0.5, 10)
    assert (histogram.counts, histogram.sum) == ([10, 0], 5.0)
