"""Lines of standard input however they are cut, and text that leaves the terminal alone."""

from __future__ import annotations

import asyncio
import itertools
import os
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.cli.lines import Splitter, clock, quoted, shown, stdin_lines


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_lines_are_the_same_wherever_the_input_is_cut(data: bytes, cuts: list[int]) -> None:
    splitter, bounds = Splitter(), [0, *sorted(cuts), len(data)]
    lines = [line for low, high in itertools.pairwise(bounds) for line in splitter.feed(data[low:high])]
    lines += splitter.end()
    expected = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    assert lines == (expected[:-1] if data.endswith(b"\n") or not data else expected)


def test_a_line_over_the_bound_is_dropped_whole_and_counted() -> None:
    splitter = Splitter(4)
    assert list(splitter.feed(b"1234\n12345")) == [b"1234"]
    assert list(splitter.feed(b"678\nab\n")) == [8, b"ab"]
    assert list(splitter.feed(b"123456")) == []
    assert list(splitter.end()) == [6]


async def test_standard_input_is_read_to_its_end() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"one\ntwo")
    os.close(writing)
    try:
        async with asyncio.timeout(10):
            assert [line async for line in stdin_lines(reading)] == [b"one", b"two"]
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("hi", "hi"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2028", "\\u2028"),
        ("👩\u200d🚀 naïve", "👩\u200d🚀 naïve"),
    ],
)
def test_a_body_is_one_harmless_line(body: str, line: str) -> None:
    assert shown(body) == line


def test_a_long_body_is_quoted_by_its_beginning() -> None:
    assert quoted("x" * 50, 10) == '"' + "x" * 9 + '…"'


def test_the_time_of_day_and_the_day_unless_it_is_today() -> None:
    then = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)
    ts_ms = int(then.timestamp() * 1000)
    assert clock(ts_ms, then.astimezone()) == then.astimezone().strftime("%H:%M")
    assert clock(ts_ms, datetime(2026, 3, 9, tzinfo=UTC).astimezone()) == then.astimezone().strftime("%Y-%m-%d %H:%M")
