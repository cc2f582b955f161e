"""Old messages go after a time: a walk over the store now and then, in small steps between everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from chatd.errors import OutcomeUnknown, Refusal, StoreBroken
from chatd.metrics import Metrics
from chatd.settings import RetentionSettings
from chatd.store.base import MessageStore

DAY_MS = 86_400_000
STEP_CONVERSATIONS_MAX = 200
STEP_PAUSE_S = 0.05
FIRST_S = 60.0

log = structlog.get_logger("chatd.retention")


class Retention:
    """Trims what is older than ``days``; 0: nothing ever.

    ``now_ms``: wall clock, Unix ms. ``random`` returns a float in [0, 1). ``chosen``: whether this one of several
    processes walks; that two of them believe it only costs work.
    """

    def __init__(
        self,
        store: MessageStore,
        settings: RetentionSettings,
        metrics: Metrics,
        *,
        now_ms: Callable[[], int],
        random: Callable[[], float],
        on_broken: Callable[[StoreBroken], None],
        chosen: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._now_ms = now_ms
        self._random = random
        self._on_broken = on_broken
        self._chosen = chosen
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to walk, if anything is to go."""
        if self._settings.days:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="chatd-retention")

    async def close(self) -> None:
        """End; what is half done is done by the next walk."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        await asyncio.sleep(FIRST_S * self._random())
        while True:
            try:
                if self._chosen():
                    await self.walk()
            except (Refusal, OutcomeUnknown) as exc:
                self._metrics.store_failed(exc)
                log.warning("retention_waits", error=str(exc))
            except StoreBroken as exc:
                self._on_broken(exc)
                return
            await asyncio.sleep(self._settings.walk_s)

    async def walk(self) -> int:
        """One walk over the whole store. Returns: how many messages it deleted. Raises: as `MessageStore.trim`."""
        older_than_ms = self._now_ms() - self._settings.days * DAY_MS
        count, cursor = 0, None
        while True:
            step = await self._store.trim(older_than_ms=older_than_ms, cursor=cursor, limit=STEP_CONVERSATIONS_MAX)
            count, cursor = count + step.messages, step.cursor
            self._metrics.messages_trimmed += step.messages
            if cursor is None:
                break
            await asyncio.sleep(STEP_PAUSE_S)
        if count:
            log.info("messages_trimmed", count=count)
        return count
