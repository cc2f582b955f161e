"""Texts cut to what a service takes: at a character, never inside of one."""

from __future__ import annotations

from collections.abc import Callable

ELLIPSIS = "…"


def shorten(text: str, fits: Callable[[str], bool]) -> str | None:
    """The longest beginning of a text that fits, with an ellipsis if anything is missing.

    ``fits``: of two beginnings the shorter one fits if the longer one does. Returns None: not even the ellipsis fits.
    """
    if fits(text):
        return text
    if not fits(ELLIPSIS):
        return None
    kept, lost = 0, len(text)
    while lost - kept > 1:
        middle = (kept + lost) // 2
        if fits(text[:middle] + ELLIPSIS):
            kept = middle
        else:
            lost = middle
    return text[:kept].rstrip() + ELLIPSIS


def in_bytes(bytes_max: int) -> Callable[[str], bool]:
    """Whether a text has at most so many bytes in UTF-8."""
    return lambda text: len(text.encode()) <= bytes_max
