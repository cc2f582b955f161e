"""Pushed marks on their way into the store: those that come while one write is under way go together."""

from __future__ import annotations

import asyncio

import structlog

from chatd.errors import OutcomeUnknown, Refusal
from chatd.model import Pushed
from chatd.store.base import PushStore

MARKS_MAX = 10_000  # of one write: the store contract
MARKS_AGAIN_S = 1.0

log = structlog.get_logger("chatd.push")


class Marks:
    """What was told is not to be told again: a store that says no for a moment is asked until it takes them."""

    def __init__(self, store: PushStore) -> None:
        self._store = store
        self._waiting: list[tuple[Pushed, asyncio.Future[None]]] = []
        self.task: asyncio.Task[None] | None = None

    async def raise_to(self, pushed: Pushed) -> None:
        """Returns when it is stored. Raises: StoreBroken."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append((pushed, future))
        if self.task is None:
            self.task = loop.create_task(self._write(), name="chatd-push-marks")
        await future

    async def _write(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting[:MARKS_MAX], self._waiting[MARKS_MAX:]
            try:
                await self._store.pushed([pushed for pushed, _ in some])
            except (Refusal, OutcomeUnknown) as exc:  # marks are maxima: repeating them is harmless
                log.warning("pushed_marks_wait", error=str(exc), marks=len(some))
                self._waiting = [*some, *self._waiting]
                await asyncio.sleep(MARKS_AGAIN_S)
            except Exception as exc:
                log.warning("pushed_marks_failed", exc_info=exc)
                for _, future in some:
                    if not future.done():
                        future.set_exception(exc)
            else:
                for _, future in some:
                    if not future.done():
                        future.set_result(None)
        self.task = None
