"""Whose turn it is to be compared with the store: often while hints may have been lost, else now and then."""

from __future__ import annotations


class Turns:
    """Counts seconds. Each key has its turn once in ``calm_s``, at a time of its own; after a doubt in ``reconcile_s``.

    ``calm_s`` counts as the next multiple of ``reconcile_s``, both in whole seconds.
    """

    __slots__ = ("_doubtful_to", "_rounds", "_second", "_turns")

    def __init__(self, *, reconcile_s: float, calm_s: float) -> None:
        self._turns = max(1, round(reconcile_s))
        self._rounds = max(1, -(-round(calm_s) // self._turns))
        self._second = 0
        self._doubtful_to = -1

    def doubt(self) -> None:
        """Hints may have been lost: in the next ``reconcile_s`` everybody has a turn."""
        self._doubtful_to = self._second + self._turns

    def tick(self) -> None:
        """The next second."""
        self._second += 1

    def due(self, key: int) -> bool:
        """Whether it is this one's turn, in this second."""
        if key % self._turns != self._second % self._turns:
            return False
        if self._second <= self._doubtful_to:
            return True
        return key // self._turns % self._rounds == self._second // self._turns % self._rounds
