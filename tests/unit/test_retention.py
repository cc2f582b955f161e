"""The walk that deletes old messages: when, by whom, how far, and what stops it."""

from __future__ import annotations

import asyncio

from push_rig import virtual

from chatd.errors import StoreBroken, Unavailable
from chatd.metrics import Metrics
from chatd.model import Draft
from chatd.protocol import new_message_id
from chatd.retention import DAY_MS, Retention
from chatd.settings import RetentionSettings
from chatd.store.base import Trimmed
from chatd.store.memory import MemoryStore

NOW_MS = 100 * DAY_MS


class Store(MemoryStore):
    """Notes its steps; the next ones may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[int, str | None]] = []
        self.failures: list[Exception] = []

    async def trim(self, *, older_than_ms: int, cursor: str | None = None, limit: int) -> Trimmed:
        self.steps.append((older_than_ms, cursor))
        if self.failures:
            raise self.failures.pop(0)
        return await super().trim(older_than_ms=older_than_ms, cursor=cursor, limit=limit)


class Rig:
    def __init__(self, days: int = 30) -> None:
        self.store, self.metrics = Store(), Metrics()
        self.chosen = True
        self.broken: list[StoreBroken] = []
        self.retention = Retention(
            self.store,
            RetentionSettings(days=days, walk_s=3_600),
            self.metrics,
            now_ms=lambda: NOW_MS,
            random=lambda: 0.5,
            on_broken=self.broken.append,
            chosen=lambda: self.chosen,
        )

    async def fill(self, conversations: int) -> None:
        """Two messages in each: one of 31 and one of 29 days."""
        await self.store.open()
        for n in range(conversations):
            ages = (31, 29)
            await self.store.commit(
                [Draft(f"alice:bob{n}", "alice", new_message_id(), "x", NOW_MS - age * DAY_MS) for age in ages], []
            )


@virtual
async def test_what_is_older_than_the_days_goes_in_steps_and_again_each_hour() -> None:
    rig = Rig()
    await rig.fill(500)
    rig.retention.start()
    await asyncio.sleep(29)
    assert rig.store.steps == [], "the first walk has a random place in the first minute"
    await asyncio.sleep(2)
    assert rig.store.steps == [(NOW_MS - 30 * DAY_MS, cursor) for cursor in (None, "200", "400")]
    assert rig.metrics.messages_trimmed == 500
    await asyncio.sleep(3_600)
    assert len(rig.store.steps) == 6
    assert rig.metrics.messages_trimmed == 500
    await rig.retention.close()
    await asyncio.sleep(7_200)
    assert len(rig.store.steps) == 6


@virtual
async def test_no_days_no_walk() -> None:
    rig = Rig(days=0)
    rig.retention.start()
    await asyncio.sleep(10_000)
    assert rig.store.steps == []
    await rig.retention.close()


@virtual
async def test_only_the_chosen_process_walks() -> None:
    rig = Rig()
    await rig.fill(1)
    rig.chosen = False
    rig.retention.start()
    await asyncio.sleep(100)
    assert rig.store.steps == []
    rig.chosen = True
    await asyncio.sleep(3_600)
    assert rig.metrics.messages_trimmed == 1
    await rig.retention.close()


@virtual
async def test_a_store_that_is_away_is_asked_again_an_hour_later_and_a_broken_one_never() -> None:
    rig = Rig()
    await rig.fill(1)
    rig.store.failures = [Unavailable("away")]
    rig.retention.start()
    await asyncio.sleep(100)
    assert rig.metrics.messages_trimmed == 0
    await asyncio.sleep(3_600)
    assert rig.metrics.messages_trimmed == 1
    rig.store.failures = [StoreBroken("the disk failed")]
    await asyncio.sleep(7_200)
    assert len(rig.broken) == 1
    assert len(rig.store.steps) == 3
    await rig.retention.close()
