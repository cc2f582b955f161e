"""A store that fails when told to: what a test needs to see how everything above it behaves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from chatd.errors import OutcomeUnknown, StoreBroken, Unavailable
from chatd.model import Advance, Draft
from chatd.store.base import Committed, Store

Fault: TypeAlias = Literal["gone", "unknown_stored", "unknown_lost", "broken"]


class FaultyStore:
    """A `Store` that passes everything on, except that its next commits end as told.

    ``gone``: Unavailable, nothing stored. ``unknown_stored`` and ``unknown_lost``: OutcomeUnknown, and it was or was
    not. ``broken``: StoreBroken, now and for ever.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self._faults: deque[Fault] = deque()
        self._broken = False
        self._open = asyncio.Event()
        self._open.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def fail_next(self, fault: Fault, commits: int = 1) -> None:
        """Let the next commits end so, after those told before."""
        self._faults.extend([fault] * commits)

    def forget(self) -> None:
        """Take back the faults that are still to come."""
        self._faults.clear()

    def stall(self) -> None:
        """Let commits hang until `resume`."""
        self._open.clear()

    def resume(self) -> None:
        """Let hanging commits go on."""
        self._open.set()

    async def commit(self, drafts: Sequence[Draft], advances: Sequence[Advance]) -> Committed:
        """See `MessageStore.commit`."""
        await self._open.wait()
        fault = self._faults.popleft() if self._faults else None
        if fault == "broken" or self._broken:
            self._broken = True
            raise StoreBroken("the disk failed (a test's fault)")
        if fault == "gone":
            raise Unavailable("the store is gone (a test's fault)", retry_after_ms=10)
        if fault == "unknown_lost":
            raise OutcomeUnknown("no answer (a test's fault)")
        committed = await self.inner.commit(drafts, advances)
        if fault == "unknown_stored":
            raise OutcomeUnknown("no answer (a test's fault)")
        return committed
