"""The hottest conversations, in bounded memory: an approximate count of the last half to whole minute. Pure."""

from __future__ import annotations

from collections import Counter

KEPT_CONVERSATIONS = 512
"""Of one half of the window, at most; twice as many are counted before the least of them are dropped."""


class _Half:
    """Space-saving (Metwally et al. 2005), which drops the least half at once instead of one at a time.

    A count is too large by at most ``base``, the largest count that was dropped, and never too small.
    """

    __slots__ = ("base", "counts", "total")

    def __init__(self) -> None:
        self.base = 0
        self.counts: dict[str, int] = {}
        self.total = 0

    def prune(self) -> None:
        self.base = sorted(self.counts.values(), reverse=True)[KEPT_CONVERSATIONS]
        self.counts = {conv: count for conv, count in self.counts.items() if count > self.base}


class HotConversations:
    """Counts messages by conversation, over what came since the last but one `turn`."""

    __slots__ = ("_earlier", "_now")

    def __init__(self) -> None:
        self._now = _Half()
        self._earlier = _Half()

    def add(self, conv: str, times: int = 1) -> None:
        """So many messages were committed."""
        now = self._now
        counts = now.counts
        now.total += times
        count = counts.get(conv)
        if count is not None:
            counts[conv] = count + times
            return
        if len(counts) >= 2 * KEPT_CONVERSATIONS:
            now.prune()
            counts = now.counts
        counts[conv] = now.base + times

    def turn(self) -> None:
        """Half of the window is over: forget what came before the last turn."""
        self._earlier, self._now = self._now, _Half()

    @property
    def total(self) -> int:
        """Messages in the window."""
        return self._earlier.total + self._now.total

    def top(self, limit: int) -> list[tuple[str, int]]:
        """The conversations with most messages in the window, and how many (at most too many), most first."""
        counts = Counter(self._earlier.counts)
        counts.update(self._now.counts)
        return counts.most_common(limit)
