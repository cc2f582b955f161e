"""A user is erased: what it wrote goes from the file and from its write-ahead log. See `AccountStore.erase`.

The connection that writes has secure_delete on, so what is deleted is overwritten with zeros where it stood; the log
goes with a checkpoint that truncates it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Final

from chatd.model import conv_of
from chatd.store.base import Erased
from chatd.store.sqlite.engine import QUERY, Engine
from chatd.store.sqlite.log import Log
from chatd.store.sqlite.rows import ERASED, checksum

MESSAGES_MAX: Final = 1_000  # in one transaction: meanwhile nothing else is written
TRUNCATIONS_MAX: Final = 20
TRUNCATION_PAUSE_S: Final = 0.1


class SqliteErasing:
    """The part of `AccountStore` that erases. Its cursor is ``conversation.seq``, the last ones looked at."""

    engine: Engine
    directory: Path
    _log: Log

    async def erase(self, user: str, *, cursor: str | None = None) -> Erased | None:
        """See `AccountStore`."""
        if cursor is None and not await self.engine.write(lambda db: self._erase_account(db, user)):
            return None
        key, _, after = (cursor or "0.0").partition(".")
        place = (int(key), int(after))
        found = await self.engine.read(lambda db: _to_erase(db, user, *place))
        if found:
            await self.engine.write(lambda db: self._erase_messages(db, found))
        if len(found) == MESSAGES_MAX:
            return Erased(len(found), f"{found[-1][0]}.{found[-1][3]}")
        return Erased(len(found), None, await self._left())

    def _erase_account(self, db: sqlite3.Connection, user: str) -> bool:
        if db.execute("SELECT 1 FROM account WHERE user = ?", (user,)).fetchone() is None:
            return False
        for query in ("delete_devices", "delete_subscriptions", "delete_account", "delete_enrolled"):
            db.execute(QUERY[query], (user,))
        for (peer,) in db.execute(QUERY["blocks"], (user,)).fetchall():
            self._log.unblock(db, user, peer)
        return True

    def _erase_messages(self, db: sqlite3.Connection, found: list[tuple[int, str, int, int, bytes, int]]) -> None:
        """Overwrite what `_to_erase` found."""
        rows = []
        for key, conv, member, seq, raw, ts_ms in found:
            rows.append((ERASED, checksum(conv, seq, raw, member, "", ts_ms, ERASED), key, seq))
        db.executemany(QUERY["erase_message"], rows)
        last = {row[0]: row[3] for row in found}
        db.executemany(QUERY["hidden_to"], [(seq, key) for key, seq in last.items()])
        self._log.forget()

    async def _left(self) -> tuple[str, ...]:
        """Empty the log; name the files that are nobody's to change."""
        left = [
            f"{copy} is a copy from before an upgrade: delete it"
            for copy in sorted(self.directory.glob(f"{self.engine.path.name}.before-*"))
        ]
        for _ in range(TRUNCATIONS_MAX):
            if await self.engine.truncate_log():
                break
            await asyncio.sleep(TRUNCATION_PAUSE_S)
        else:
            left.append(f"{self.engine.path}-wal is being read, as by a backup: do it again when that is over")
        return tuple(left)


def _to_erase(db: sqlite3.Connection, user: str, key: int, after: int) -> list[tuple[int, str, int, int, bytes, int]]:
    """The next messages of a user: (key and name of the conversation, member, seq, id, ts_ms), behind ``after``."""
    found: list[tuple[int, str, int, int, bytes, int]] = []
    for at, a, b in db.execute(QUERY["convs_of"], {"user": user, "from": key}).fetchall():
        member = 0 if user == a else 1
        span = (at, after if at == key else 0, member, ERASED, MESSAGES_MAX - len(found))
        found += [(at, conv_of(a, b), member, *row) for row in db.execute(QUERY["to_erase"], span)]
        if len(found) == MESSAGES_MAX:
            break
    return found
