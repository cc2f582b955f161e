"""The conformance suite's backend over a real Redis: a prefix a store, and a connection that can be made to fail."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis import exceptions

from chatd.errors import OutcomeUnknown, Unavailable
from chatd.settings import StoreSettings
from chatd.store.base import Store
from chatd.store.conformance import Fault
from chatd.store.redis import RedisStore
from chatd.store.redis.node import Command
from chatd.store.redis.scripting import SCRIPTS

_numbers = itertools.count()


def redis_settings(url: str, prefix: str | None = None, **values: Any) -> StoreSettings:
    """Settings of a store under a prefix of its own unless told."""
    mine = f"t{os.getpid()}.{next(_numbers)}:" if prefix is None else prefix
    return StoreSettings(kind="redis", redis_url=url, redis_prefix=mine, **values)


class _Broken:
    """The pool of a store, broken for one round trip. ``lands``: the command arrives and its answer is lost."""

    def __init__(self, store: RedisStore, fault: Fault, *, lands: bool) -> None:
        self._store, self._fault, self._lands = store, fault, lands
        self._pool = store.engine.home.pool
        store.engine.home.pool = self  # type: ignore[assignment]

    async def get_connection(self) -> Any:
        self._store.engine.home.pool = self._pool
        if self._fault == "gone":
            raise exceptions.ConnectionError("refused (a test's fault)")
        return self

    def pack_commands(self, commands: Any) -> Any:
        return commands

    async def send_packed_command(self, commands: Any, check_health: bool = True) -> None:
        if self._lands:
            await self._store.engine.run(commands, write=True)

    async def read_response(self, disable_decoding: bool = False) -> Any:
        raise exceptions.TimeoutError("no answer (a test's fault)")

    async def disconnect(self, nowait: bool = False) -> None:
        """There is no connection behind it."""

    async def release(self, connection: Any) -> None:
        """Nor a pool."""


class _BrokenCommit:
    """The engine of a store, broken for the round trip that appends, wherever its conversations are."""

    def __init__(self, store: RedisStore, fault: Fault, *, lands: bool) -> None:
        self._engine, self._outcomes = store.engine, store.engine.outcomes
        self._fault, self._lands = fault, lands
        store.engine.outcomes = self._broken  # type: ignore[method-assign]

    async def _broken(self, commands: Sequence[Command], *, write: bool) -> list[Any]:
        if not any(SCRIPTS["commit"].sha in command for command in commands):
            return await self._outcomes(commands, write=write)
        self._engine.outcomes = self._outcomes  # type: ignore[method-assign]
        if self._fault == "gone":
            return [Unavailable("refused (a test's fault)")] * len(commands)
        if self._lands:
            await self._outcomes(commands, write=write)
        return [OutcomeUnknown("no answer (a test's fault)")] * len(commands)


class RedisBackend:
    """Redis stores, each under a prefix of its own. ``lands``: a commit of unknown outcome was stored."""

    def __init__(self, url: str, *, lands: bool = True) -> None:
        self._url, self._lands = url, lands
        self._stores: dict[RedisStore, StoreSettings] = {}

    async def _open(self, settings: StoreSettings) -> RedisStore:
        store = RedisStore(settings)
        await store.open()
        self._stores[store] = settings
        return store

    async def fresh(self) -> Store:
        return await self._open(redis_settings(self._url))

    async def reopen(self, store: Store) -> Store | None:
        assert isinstance(store, RedisStore)
        await store.close()
        return await self._open(self._stores[store])

    async def break_next(self, store: Store, fault: Fault) -> bool:
        assert isinstance(store, RedisStore)
        kind = _BrokenCommit if store.engine.cluster else _Broken
        kind(store, fault, lands=self._lands)
        return True

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


@asynccontextmanager
async def redis_backend(url: str, *, lands: bool = True) -> AsyncIterator[RedisBackend]:
    """A Redis backend that closes its stores."""
    backend = RedisBackend(url, lands=lands)
    try:
        yield backend
    finally:
        await backend.close()


@asynccontextmanager
async def opened(url: str, prefix: str | None = None, **values: Any) -> AsyncIterator[RedisStore]:
    """A store over this Redis, for a while."""
    store = RedisStore(redis_settings(url, prefix, **values))
    await store.open()
    try:
        yield store
    finally:
        await store.close()
