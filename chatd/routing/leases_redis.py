"""What the board and the members have in common: the way to the Redis of the bus, and leases by its clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from chatd.errors import ConfigError
from chatd.store.redis.engine import Engine
from chatd.store.redis.node import Command

PREFIX = "chatd:bus:"
TIMEOUT_S = 5.0
CONNECTIONS_MAX = 4


def engine_at(url: str) -> Engine:
    """The way to one server, to a cluster by any one of its servers, or by sentinels. Raises: ConfigError."""
    try:
        return Engine(url, prefix=PREFIX, timeout_s=TIMEOUT_S, connections_max=CONNECTIONS_MAX)
    except ValueError as exc:
        raise ConfigError(f"cluster.bus_url: {exc}") from exc


class Leases:
    """Leases under one tag. Nothing is repeated after an outage: it must show, or empty would look like "all gone"."""

    def __init__(self, url: str, tag: str) -> None:
        self._engine = engine_at(url)
        self._tag = tag
        self._opened = False
        self._opening = asyncio.Lock()

    @property
    def key(self) -> str:
        """The sorted set, scored by when each lease ends, in Unix seconds."""
        return self._engine.key(self._tag, "leases")

    def key_of(self, tag: str, what: str) -> str:
        """Another key of the same Redis."""
        return self._engine.key(tag, what)

    async def close(self) -> None:
        """Disconnect."""
        self._opened = False
        await self._engine.close()

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands that may be repeated; connect before the first. Raises: Unavailable."""
        async with self._opening:
            if not self._opened:
                await self._engine.open()
                self._opened = True
        return await self._engine.run(commands, write=False)

    async def alive(self, who: str | bytes = "", lease_s: float = 0.0) -> list[bytes]:
        """Renew one's lease, or give it back with 0 s. Returns: who has one, by when it ends. Raises: Unavailable."""
        (found,) = await self.run([self._engine.script("lease", self._tag, self._tag, who, f"{lease_s:.3f}")])
        return cast(list[bytes], found)
