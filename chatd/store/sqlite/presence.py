"""Who may watch whom, and when somebody was here last. See `chatd.store.base.PresenceStore`."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

import msgspec

from chatd.model import Acquaintance
from chatd.store.sqlite.engine import QUERY, Engine


class SqlitePresence:
    """`PresenceStore` over the engine of a file. Lists go in as one JSON text: a statement for all of them."""

    engine: Engine

    async def acquainted(self, user: str, others: Sequence[str]) -> dict[str, Acquaintance]:
        """See `PresenceStore`."""
        args = {"user": user, "others": msgspec.json.encode(others).decode()}
        rows = await self.engine.read(lambda db: db.execute(QUERY["acquainted"], args).fetchall())
        return {other: Acquaintance(bool(shows), last_seen_ms) for other, shows, last_seen_ms in rows}

    async def seen(self, times_ms: Mapping[str, int]) -> None:
        """See `PresenceStore`."""
        args = (msgspec.json.encode(times_ms).decode(),)

        def work(db: sqlite3.Connection) -> None:
            db.execute(QUERY["seen"], args)

        await self.engine.write(work)

    async def set_shows_last_seen(self, user: str, on: bool) -> bool:
        """See `PresenceStore`."""
        args = (int(on), user)
        return await self.engine.write(lambda db: db.execute(QUERY["set_shows_last_seen"], args).rowcount > 0)
