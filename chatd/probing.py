"""Whether a server is ready: it is not ending, and its store can be used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from chatd.errors import OutcomeUnknown, Unavailable
from chatd.store.base import Store

PROBE_TIMEOUT_S = 5.0
PROBE_INTERVAL_S = 1.0
"""The store is probed at most this often, however often somebody asks whether it is ready."""


class Probe:
    """Asks the store at most once in `PROBE_INTERVAL_S`.

    ``ready``: whether the server serves; ``now_s``: monotonic; ``on_error`` hears what the store raised.
    """

    def __init__(
        self,
        store: Store,
        *,
        ready: Callable[[], bool],
        now_s: Callable[[], float],
        on_error: Callable[[BaseException], None] = lambda exc: None,
    ) -> None:
        self._on_error = on_error
        self._store = store
        self._ready = ready
        self._now_s = now_s
        self._lock = asyncio.Lock()
        self._asked_s: float | None = None
        self._fault: str | None = None

    async def check(self) -> None:
        """Raises: Unavailable – the store cannot be used, or the server is ending."""
        if not self._ready():
            raise Unavailable("the server is starting or ending", retry_after_ms=1_000)
        async with self._lock:  # those who ask meanwhile get the same answer
            now_s = self._now_s()
            if self._asked_s is None or now_s - self._asked_s >= PROBE_INTERVAL_S:
                self._fault = await self._ask()
                self._asked_s = now_s
        if self._fault is not None:
            raise Unavailable(self._fault, retry_after_ms=1_000)

    async def _ask(self) -> str | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._store.probe()
        except Unavailable as exc:
            self._on_error(exc)
            return exc.message
        except (TimeoutError, OutcomeUnknown) as exc:
            self._on_error(exc)
            return "the store does not answer"
        return None
