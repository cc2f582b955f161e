"""A histogram that costs one bisection: no lock, no walk over its buckets."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


class Histogram:
    """Counts values by bucket. One thread observes; reading from another one may miss the newest value.

    ``bounds``: ascending, each the largest value of its bucket. ``counts``: a count a bucket, and one for what is above
    all bounds. ``sum``: of the values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def cumulative(self) -> list[int]:
        """For each bound, and at last for all: how many values were not above it."""
        return list(accumulate(self.counts))
