"""Texts cut at a character: as long as may be, and no longer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.push.fitting import ELLIPSIS, in_bytes, shorten


@pytest.mark.parametrize(
    ("text", "bytes_max", "short"),
    [
        ("", 0, ""),
        ("abc", 3, "abc"),
        ("abcd", 3, "…"),
        ("abcd", 2, None),
        ("abcdefg", 6, "abc…"),
        ("üüüüü", 9, "üüü…"),
        ("a 👋 b", 7, "a…"),
        ("one two", 6, "one…"),
        ("one two", 7, "one two"),
        ("one  two", 7, "one…"),
    ],
)
def test_what_is_left_of_a_text(text: str, bytes_max: int, short: str | None) -> None:
    assert shorten(text, in_bytes(bytes_max)) == short


@given(st.text(), st.integers(3, 60))
def test_nothing_shorter_than_need_be(text: str, bytes_max: int) -> None:
    fits = in_bytes(bytes_max)
    short = shorten(text, fits)
    assert short is not None
    assert fits(short)
    if short != text:
        kept = short.removesuffix(ELLIPSIS)
        assert text.startswith(kept)
        following = len(kept) + len(text[len(kept) :]) - len(text[len(kept) :].lstrip())
        assert not fits(text[: following + 1] + ELLIPSIS)
