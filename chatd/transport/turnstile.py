"""When thousands come at once, they come in one after the other, and everybody else's work goes on between them."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Protocol


class Entrant(Protocol):
    """Who wants in."""

    def enter(self) -> None:
        """It is this one's turn. Raises nothing."""


class Turnstile:
    """Lets ``per_s`` in each second, in the order in which they came; ``burst`` at once after a quiet time.

    ``waiting_max`` may wait, and of one address ``waiting_per_address_max``, so that nobody fills the queue alone.
    ``now_s`` is monotonic.
    """

    def __init__(
        self,
        per_s: float,
        burst: int,
        *,
        waiting_max: int,
        waiting_per_address_max: int,
        now_s: Callable[[], float],
    ) -> None:
        self._each_s = 1 / per_s
        self._credit_s = (burst - 1) * self._each_s
        self._waiting_max = waiting_max
        self._per_address_max = waiting_per_address_max
        self._now_s = now_s
        self._next_s = 0.0
        self._waiting: OrderedDict[Entrant, str] = OrderedDict()
        self._addresses: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether nobody more may wait, wherever it comes from."""
        return len(self._waiting) >= self._waiting_max

    def come(self, entrant: Entrant, address: str) -> bool:
        """Let it in, now or when it is its turn. False: too many wait, of its address or of all."""
        if not self._waiting and self._free():
            entrant.enter()
            return True
        if self.full or self._addresses[address] >= self._per_address_max:
            return False
        self._addresses[address] += 1
        self._waiting[entrant] = address
        if self._timer is None:
            self._arm()
        return True

    def leave(self, entrant: Entrant) -> None:
        """It waits no more, if it did, and costs no turn.

        Else a queue longer than its clients' patience would let in nobody but those who have left.
        """
        address = self._waiting.pop(entrant, None)
        if address is not None:
            self._forget(address)

    def close(self) -> None:
        """Nobody who waits is let in any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()
        self._addresses.clear()

    def _free(self) -> bool:
        """Take a turn, if there is one now."""
        now_s = self._now_s()
        if now_s < self._next_s:
            return False
        self._next_s = max(self._next_s, now_s - self._credit_s) + self._each_s
        return True

    def _arm(self) -> None:
        wait_s = max(0.0, self._next_s - self._now_s())
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._let_in)

    def _let_in(self) -> None:
        self._timer = None
        while self._waiting and self._free():
            entrant, address = self._waiting.popitem(last=False)
            self._forget(address)
            entrant.enter()
        if self._waiting:
            self._arm()

    def _forget(self, address: str) -> None:
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]
