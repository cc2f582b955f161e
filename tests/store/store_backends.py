"""The backends that the conformance suite runs on, and how their faults are made."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from chatd.errors import OutcomeUnknown, Unavailable
from chatd.model import Advance, Draft
from chatd.settings import StoreSettings
from chatd.store.base import Committed, Store
from chatd.store.conformance import Fault
from chatd.store.memory import MemoryStore
from chatd.store.sqlite import SqliteStore


class FaultyMemoryStore(MemoryStore):
    """A memory store whose next commit can be made to fail. ``lands``: a commit of unknown outcome was stored."""

    lands = True
    fault: Fault | None = None

    async def commit(self, drafts: Sequence[Draft], advances: Sequence[Advance]) -> Committed:
        fault, self.fault = self.fault, None
        if fault == "gone":
            raise Unavailable("the engine is gone")
        if fault == "unknown" and not self.lands:
            raise OutcomeUnknown("the request may not have arrived")
        done = await super().commit(drafts, advances)
        if fault == "unknown":
            raise OutcomeUnknown("the answer was lost")
        return done


class Deaf(FaultyMemoryStore):
    """Its commits of unknown outcome were not stored."""

    lands = False


class MemoryBackend:
    """Stores of one class; closing and opening the same object keeps the data."""

    def __init__(self, kind: Callable[[], MemoryStore] = FaultyMemoryStore) -> None:
        self._kind = kind

    async def fresh(self) -> Store:
        store = self._kind()
        await store.open()
        return store

    async def reopen(self, store: Store) -> Store | None:
        await store.close()
        await store.open()
        return store

    async def break_next(self, store: Store, fault: Fault) -> bool:
        assert isinstance(store, FaultyMemoryStore)
        store.fault = fault
        return True


class SqliteBackend:
    """SQLite stores, each in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stores: list[SqliteStore] = []

    async def _open(self, directory: Path) -> SqliteStore:
        store = SqliteStore(directory, StoreSettings(synchronous="normal"))
        await store.open()
        self._stores.append(store)
        return store

    async def fresh(self) -> Store:
        return await self._open(self._directory / str(len(self._stores)))

    async def reopen(self, store: Store) -> Store | None:
        assert isinstance(store, SqliteStore)
        await store.close()
        return await self._open(store.directory)

    async def break_next(self, store: Store, fault: Fault) -> bool:
        """SQLite refuses one statement near the end of the next commit; its outcome is never unknown."""
        assert isinstance(store, SqliteStore)
        if fault == "unknown":
            return False
        left = [sqlite3.SQLITE_DENY]

        def refuse(action: int, table: str | None, *_: Any) -> int:
            once = action == sqlite3.SQLITE_INSERT and table == "conversation" and left
            return left.pop() if once else sqlite3.SQLITE_OK

        await store.engine.write(lambda db: db.set_authorizer(refuse))
        return True

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


@asynccontextmanager
async def sqlite_backend(directory: Path) -> AsyncIterator[SqliteBackend]:
    """A SQLite backend that closes its stores."""
    backend = SqliteBackend(directory)
    try:
        yield backend
    finally:
        await backend.close()
