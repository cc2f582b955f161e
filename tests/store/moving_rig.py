"""Moves of random histories, whole ones and ones that break off."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from moving_kit import History, opened, plainly

from chatd.errors import StartError
from chatd.migration import Moved, move
from chatd.model import Advance, Draft
from chatd.settings import StoreSettings
from chatd.store.conformance.kit import uuid
from chatd.store.moving import Entry
from chatd.store.redis import RedisStore
from chatd.store.redis.arriving import RedisTarget
from chatd.store.redis.node import Command
from chatd.store.sqlite import SqliteStore
from chatd.store.sqlite.leaving import SqliteSource


@asynccontextmanager
async def arriving(settings: StoreSettings) -> AsyncIterator[RedisTarget]:
    target = RedisTarget(settings)
    await target.open()
    try:
        yield target
    finally:
        await target.close()


@asynccontextmanager
async def redis_store(settings: StoreSettings) -> AsyncIterator[RedisStore]:
    store = RedisStore(settings)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def moved(store: SqliteStore, settings: StoreSettings) -> Moved:
    async with arriving(settings) as target:
        return await move(SqliteSource(store), target)


async def history(directory: Path, seed: int, acts: int = 150) -> tuple[History, SqliteStore]:
    past, store = History(seed), await opened(directory)
    await past.grow(store, acts)
    return past, store


async def same_future(past: History, one: SqliteStore, other: RedisStore) -> None:
    """What happens from here on happens in the same way to both, repeated messages too."""
    assert plainly(await past.answers(one)) == plainly(await past.answers(other))
    dice = random.Random(past.dice.random())
    for number in range(20):
        again = dice.choice(past.drafts)
        sender = dice.choice(again.conv.split(":"))
        drafts = [again, Draft(again.conv, sender, uuid(90_000 + number), "new", 3_000_000)]
        advances = [Advance(again.conv, sender, "phone", dice.randint(0, 50), dice.randint(0, 50))]
        done = [plainly(await store.commit(drafts, advances)) for store in (one, other)]
        assert done[0]["grown"] == done[1]["grown"]
        assert [_outcome(a) for a in done[0]["appended"]] == [_outcome(a) for a in done[1]["appended"]]
    assert plainly(await past.answers(one)) == plainly(await past.answers(other))
    assert await past.use_invites(one) == await past.use_invites(other)


def _outcome(one: Any) -> Any:
    return one if isinstance(one, dict) else str(type(one))


async def refused(settings: StoreSettings) -> None:
    """Nobody can use a store to which half a history has come."""
    with pytest.raises(StartError, match="half of a history"):
        async with redis_store(settings):
            pass


class Dies(Exception):
    """The process, in the middle of a move."""


def die_after(target: RedisTarget, trips: int) -> None:
    """Let the process end before its next round trip but so many."""
    engine, left = target._engine, [trips]
    outcomes = engine.outcomes

    async def until_then(commands: Sequence[Command], *, write: bool) -> list[Any]:
        if not left[0]:
            raise Dies
        left[0] -= 1
        return await outcomes(commands, write=write)

    engine.outcomes = until_then  # type: ignore[method-assign]


class Short:
    """A target whose process ends after some batches of messages."""

    def __init__(self, target: RedisTarget, *, batches: int) -> None:
        self._target, self._batches = target, batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    async def append(self, messages: Mapping[str, Sequence[Entry]]) -> None:
        if not self._batches:
            raise Dies
        self._batches -= 1
        await self._target.append(messages)
