"""How figures look in a terminal."""

from __future__ import annotations

import math

import pytest

from chatd.cli.figures import duration, latency, plain, rate, size, sparkline, took, whole
from chatd.stats import Buckets


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.9, "0 s"),
        (45, "45 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3_600, "1 h"),
        (3_605, "1 h"),
        (7_265, "2 h 1 min"),
        (3 * 86_400 + 4 * 3_600 + 59, "3 d 4 h"),
        (86_400 + 59, "1 d"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0, "0.00 µs"),
        (0.00035, "350 µs"),
        (0.00125, "1.25 ms"),
        (0.0125, "12.5 ms"),
        (0.125, "125 ms"),
        (0.9999, "1.00 s"),
        (2.5, "2.50 s"),
        (754, "754 s"),
        (math.inf, "∞"),
    ],
)
def test_a_latency_has_three_digits(seconds: float | None, text: str) -> None:
    assert took(seconds) == text


def test_what_lies_above_the_last_bound_says_so() -> None:
    assert latency(Buckets((0.1, 5.0), (0, 0, 1)), 0.5) == ">5.00 s"
    assert latency(Buckets((0.1, 5.0), (1, 0, 0)), 0.5) == "50.0 ms"
    assert latency(Buckets(), 0.5) == latency(None, 0.5) == "–"


def test_rates_counts_and_sizes() -> None:
    assert [rate(n) for n in (0, 0.004, 0.25, 9.999, 12.5, 99.96, 1234.5)] == [
        "0",
        "0.00",
        "0.25",
        "10.0",
        "12.5",
        "100",
        "1,234",
    ]
    assert [whole(n) for n in (0, 1_204.4)] == ["0", "1,204"]
    assert [size(n) for n in (0, 812, 65_536, 220_200_960, 5 * 2**40)] == [
        "0 B",
        "812 B",
        "64.0 KiB",
        "210 MiB",
        "5,120 GiB",
    ]


@pytest.mark.parametrize(
    ("values", "width", "bars"),
    [
        ([], 4, "    "),
        ([0, 0], 4, "  ▁▁"),
        ([1, 2, 4, 8], 4, "▁▂▄█"),
        ([8, 8, 8, 1, 8], 2, "▁█"),
        ([0.001, 1000], 2, "▁█"),
        ([None, 1, math.inf], 4, "  ██"),
        ([5], 0, ""),
        ([5], -3, ""),
    ],
)
def test_a_sparkline_shows_the_newest_at_the_right(values: list[float | None], width: int, bars: str) -> None:
    assert sparkline(values, width) == bars


def test_a_text_cannot_move_the_cursor_and_has_a_width() -> None:
    assert plain("a\x1b[2Jb\nc\u202ed", 20) == "a?[2Jb?c?d"
    assert plain("abcdef", 4) == "abc…"
    assert plain("abcd", 4) == "abcd"
    assert plain("abc", 0) == ""
