"""Where this device stands in each conversation's log: what makes the application see each message once.

Pure. Three positions a conversation: ``head``, the highest seq heard of; ``seen``, up to which everything was
queued for the application; ``taken``, up to which the application took it. taken <= seen <= head.
"""

from __future__ import annotations

from collections.abc import Sequence

from chatd.protocol import Entry


class Watermarks:
    """The positions of all conversations, the most recently taken last."""

    def __init__(self) -> None:
        self._head: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self._taken: dict[str, int] = {}
        self._unplaced: dict[str, int] = {}
        self._behind: dict[str, None] = {}

    def load(self, conv: str, taken: int) -> None:
        """A position that an earlier run has stored; oldest first."""
        self._taken[conv] = self._seen[conv] = self._head[conv] = taken

    def seen(self, conv: str) -> int:
        """Up to which seq this conversation was queued; 0 when nothing is known of it."""
        return self._seen.get(conv, 0)

    def messages(self, conv: str, entries: Sequence[Entry], room: int, *, fetched: bool = False) -> list[Entry]:
        """The entries that come next, at most ``room``; the rest is known already or stays for a fetch.

        ``entries`` ascend in seq. The first ones of an unknown conversation say where its log begins for this
        device; a ``fetched`` page says nothing of that kind. An entry may be the place of many that were trimmed.
        """
        if not entries:
            return []
        if conv not in self._seen and not fetched:
            first = entries[0].first or entries[0].seq
            self._seen[conv] = min(first, self._unplaced.pop(conv, first)) - 1
        seen = self._seen.get(conv, 0)
        accepted: list[Entry] = []
        for entry in entries:
            if entry.seq <= seen:
                continue
            if (entry.first or entry.seq) > seen + 1 or len(accepted) >= room:
                break
            accepted.append(entry)
            seen = entry.seq
        self._seen[conv] = seen
        self._heard(conv, entries[-1].seq)
        return accepted

    def sent(self, conv: str, seq: int, room: int, *, caught_up: bool) -> bool:
        """Whether this device's own message comes next; if not, it stays for a fetch.

        In an unknown conversation it is the beginning of the log, but not while catch-up may still bring an
        earlier one: then it is placed by `caught_up`.
        """
        if conv not in self._seen:
            if seq > 1 and not caught_up:
                self._unplaced.setdefault(conv, seq)
                self._heard(conv, seq)
                return False
            self._seen[conv] = seq - 1
        mine_is_next = seq == self._seen[conv] + 1 and room > 0
        if mine_is_next:
            self._seen[conv] = seq
        self._heard(conv, seq)
        return mine_is_next

    def caught_up(self) -> None:
        """Catch-up is over: what it did not bring begins with this device's own first message."""
        for conv, seq in self._unplaced.items():
            self._seen.setdefault(conv, seq - 1)
            self._heard(conv, seq)
        self._unplaced.clear()

    def behind(self) -> list[str]:
        """The conversations with a gap between what was queued and what was heard of."""
        return list(self._behind)

    def take(self, conv: str, seq: int) -> None:
        """The application took everything up to ``seq``."""
        self._taken.pop(conv, None)
        self._taken[conv] = seq

    def newest(self, count_max: int) -> dict[str, int]:
        """``taken`` of the conversations that were taken from last: what a hello may carry."""
        convs = list(self._taken)[-count_max:]
        return {conv: self._taken[conv] for conv in convs}

    def forget(self) -> None:
        """Another history: no position means anything there."""
        for positions in (self._head, self._seen, self._taken, self._unplaced):
            positions.clear()
        self._behind.clear()

    def _heard(self, conv: str, seq: int) -> None:
        head = self._head[conv] = max(self._head.get(conv, 0), seq)
        if self._seen.get(conv, head) < head:
            self._behind[conv] = None
        else:
            self._behind.pop(conv, None)
