"""Accounts, devices and invites in the same file. See `chatd.store.base.AccountStore`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from chatd.model import Account, Device
from chatd.store.sqlite.engine import QUERY, Engine


def account_of(row: Sequence[Any]) -> Account:
    user, password_hash, admin, disabled, created_ms, shows_last_seen = row
    return Account(user, password_hash, bool(admin), bool(disabled), created_ms, bool(shows_last_seen))


class SqliteAccounts:
    """`AccountStore` over the engine of a file."""

    engine: Engine

    async def _changes(self, query: str, args: Sequence[Any]) -> bool:
        return await self.engine.write(lambda db: db.execute(QUERY[query], args).rowcount > 0)

    async def add_account(self, account: Account) -> bool:
        """See `AccountStore`."""
        return await self.engine.write(lambda db: _add(db, account, account.admin))

    async def account(self, user: str) -> Account | None:
        """See `AccountStore`."""
        row = await self.engine.read(lambda db: db.execute(QUERY["account"], (user,)).fetchone())
        return None if row is None else account_of(row)

    async def accounts(self, *, after: str = "", limit: int) -> Sequence[Account]:
        """See `AccountStore`."""
        rows = await self.engine.read(lambda db: db.execute(QUERY["accounts"], (after, limit)).fetchall())
        return [account_of(r) for r in rows]

    async def set_password(self, user: str, password_hash: str) -> bool:
        """See `AccountStore`."""
        return await self._changes("set_password", (password_hash, user))

    async def set_disabled(self, user: str, disabled: bool) -> bool:
        """See `AccountStore`."""
        return await self._changes("set_disabled", (int(disabled), user))

    async def set_admin(self, user: str, admin: bool) -> bool:
        """See `AccountStore`."""
        return await self._changes("set_admin", (int(admin), user))

    async def delete_account(self, user: str) -> bool:
        """See `AccountStore`."""

        def work(db: sqlite3.Connection) -> bool:
            db.execute(QUERY["delete_devices"], (user,))
            db.execute(QUERY["delete_subscriptions"], (user,))
            return db.execute(QUERY["delete_account"], (user,)).rowcount > 0

        return await self.engine.write(work)

    async def put_device(self, device: Device, token_hash: bytes | None) -> None:
        """See `AccountStore`."""
        row = (device.user, device.device, device.name, token_hash, device.created_ms, device.expires_ms)
        await self._changes("put_device", row)

    async def identity(self, token_hash: bytes) -> tuple[Device, Account] | None:
        """See `AccountStore`."""
        row = await self.engine.read(lambda db: db.execute(QUERY["identity"], (token_hash,)).fetchone())
        return None if row is None else (Device(*row[:5]), account_of(row[5:]))

    async def device(self, user: str, device: str) -> Device | None:
        """See `AccountStore`."""
        row = await self.engine.read(lambda db: db.execute(QUERY["device"], (user, device)).fetchone())
        return None if row is None else Device(*row)

    async def devices(self, user: str) -> Sequence[Device]:
        """See `AccountStore`."""
        rows = await self.engine.read(lambda db: db.execute(QUERY["devices"], (user,)).fetchall())
        return [Device(*r) for r in rows]

    async def remove_device(self, user: str, device: str) -> bool:
        """See `AccountStore`."""

        def work(db: sqlite3.Connection) -> bool:
            db.execute(QUERY["remove_subscription"], {"user": user, "device": device, "endpoint": None})
            return db.execute(QUERY["remove_device"], (user, device)).rowcount > 0

        return await self.engine.write(work)

    async def add_invite(self, invite_hash: bytes, *, admin: bool, expires_ms: int) -> None:
        """See `AccountStore`."""
        await self._changes("add_invite", (invite_hash, int(admin), expires_ms))

    async def redeem_invite(self, invite_hash: bytes, account: Account, now_ms: int) -> bool | None:
        """See `AccountStore`."""

        def work(db: sqlite3.Connection) -> bool | None:
            row = db.execute(QUERY["invite"], (invite_hash, now_ms)).fetchone()
            if row is None:
                return None
            if not _add(db, account, bool(row[0])):
                return False
            db.execute(QUERY["use_invite"], (invite_hash,))
            return True

        return await self.engine.write(work)


def _add(db: sqlite3.Connection, account: Account, admin: bool) -> bool:
    row = (account.user, account.password_hash, int(admin), int(account.disabled), account.created_ms)
    return db.execute(QUERY["add_account"], (*row, int(account.shows_last_seen))).rowcount > 0
