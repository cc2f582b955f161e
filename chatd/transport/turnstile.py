"""When thousands come at once, they come in one after the other, and everybody else's work goes on between them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Turnstile:
    """Lets ``per_s`` through a second, in the order in which they came; ``burst`` at once after a quiet time.

    ``now_s`` is monotonic. Who is gone by then is skipped and costs no turn: else a queue longer than its clients'
    patience would let in nobody but those who have left.
    """

    def __init__(self, per_s: float, burst: int, *, now_s: Callable[[], float]) -> None:
        self._each_s = 1 / per_s
        self._credit_s = (burst - 1) * self._each_s
        self._now_s = now_s
        self._next_s = 0.0
        self._waiting: deque[tuple[asyncio.Future[None], Callable[[], bool]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def turn(self, gone: Callable[[], bool]) -> None:
        """Wait for one's turn. ``gone``: whether who waits has left."""
        if self._timer is None and self._free():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, gone))
        if self._timer is None:
            self._arm()
        await turn

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
        while self._waiting:
            turn, gone = self._waiting[0]
            left = turn.done() or gone()  # it was cancelled, or its client is not there any more
            if not left and not self._free():
                self._arm()
                return
            self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
