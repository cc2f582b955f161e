"""What a check answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal, TypeAlias

from msgspec import Struct, field

Kind: TypeAlias = Literal[
    "lost",
    "duplicated",
    "reordered",
    "gapped",
    "phantom",
    "mark moved back",
    "answer changed",
    "count mismatch",
]
Found: TypeAlias = Callable[[Kind, str, str], None]


SHOWN_MAX = 20


class Anomaly(Struct, frozen=True):
    """One thing that must never be: its kind, where it was seen, and why it is one."""

    kind: Kind
    where: str
    detail: str


class Report(Struct):
    """What was found. ``counts``: how much was judged, so that a clean report of nothing is seen for what it is."""

    anomalies: list[Anomaly] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Nothing was found."""
        return not self.anomalies

    def __str__(self) -> str:
        kinds = Counter(a.kind for a in self.anomalies)
        head = "clean" if self.clean else ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        lines = [f"history: {head}", "  " + ", ".join(f"{k} {n}" for k, n in self.counts.items())]
        lines += [f"  {a.kind}: {a.where}: {a.detail}" for a in self.anomalies[:SHOWN_MAX]]
        if len(self.anomalies) > SHOWN_MAX:
            lines.append(f"  … and {len(self.anomalies) - SHOWN_MAX} more")
        return "\n".join(lines)
