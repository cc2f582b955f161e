"""How figures look in a terminal: durations, rates, sizes, sparklines. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from chatd.stats import Buckets, quantile

BARS = "▁▂▃▄▅▆▇█"
NONE = "–"


def duration(seconds: float) -> str:
    """Two units at most: ``3 d 4 h``, ``12 min``, ``45 s``."""
    whole = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count or parts or unit == "s":
            parts.append(f"{count} {unit}" if count or not parts else "")
    return " ".join(part for part in parts[:2] if part)


def took(seconds: float | None, most: float = math.inf) -> str:
    """A latency in three digits: ``350 µs``, ``1.25 ms``, ``2.50 s``; ∞ is above ``most``; None is a dash."""
    if seconds is None:
        return NONE
    if math.isinf(seconds):
        return f">{took(most)}" if math.isfinite(most) else "∞"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size * 0.9995 or unit == "µs":
            return f"{_three(seconds / size)} {unit}"
    return NONE


def latency(values: Buckets | None, q: float) -> str:
    """A quantile of a histogram, or a dash."""
    if values is None:
        return NONE
    return took(quantile(values, q), values.bounds[-1] if values.bounds else math.inf)


def rate(per_s: float) -> str:
    """Per second, in three digits or more: ``0``, ``0.25``, ``12.5``, ``1,234``."""
    return "0" if not per_s else _three(per_s)


def whole(count: float) -> str:
    """``1,234``."""
    return f"{count:,.0f}"


def size(byte_count: float) -> str:
    """``812 B``, ``64.0 KiB``, ``210 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if byte_count < 1_000 or unit == "GiB":
            return f"{byte_count:.0f} B" if unit == "B" else f"{_three(byte_count)} {unit}"
        byte_count /= 1_024
    return NONE


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The last ``width`` values as bars from 0 to the largest, the newest at the right; None leaves a gap."""
    shown = list(values[-width:]) if width > 0 else []
    finite = [value for value in shown if value is not None and math.isfinite(value)]
    top = max(finite, default=0.0)
    bars = ""
    for value in shown:
        if value is None:
            bars += " "
        elif math.isinf(value):
            bars += BARS[-1]
        else:
            bars += (
                BARS[min(len(BARS) - 1, math.ceil(value / top * len(BARS)) - 1 if value > 0 else 0)] if top else BARS[0]
            )
    return bars.rjust(max(0, width))


def plain(text: str, width: int) -> str:
    """A text as it may stand in a terminal, whoever wrote it: nothing moves a cursor; cut where it is too long."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= width else text[: max(0, width - 1)] + "…" * (width > 0)


def _three(number: float) -> str:
    """Three digits, or all of them before the point."""
    if number >= 99.95:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"
