"""The memory store's accounts, devices and invites, and whether it is open."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from chatd.errors import Unavailable
from chatd.model import Account, Device


class MemoryAccounts:
    """A ``chatd.store.base.AccountStore``; like every store it can be used between ``open`` and ``close``."""

    def __init__(self) -> None:
        self._opened = False
        self._accounts: dict[str, Account | None] = {}  # None: deleted, the name stays taken
        self._devices: dict[tuple[str, str], Device] = {}
        self._tokens: dict[bytes, tuple[str, str]] = {}
        self._invites: dict[bytes, tuple[bool, int]] = {}  # hash → (admin, expires_ms)

    async def open(self) -> None:
        self._opened = True

    async def close(self) -> None:
        self._opened = False

    def _check_open(self) -> None:
        if not self._opened:
            raise Unavailable("the store is closed")

    def _users(self) -> int:
        return sum(account is not None for account in self._accounts.values())

    async def add_account(self, account: Account) -> bool:
        self._check_open()
        if account.user in self._accounts:
            return False
        self._accounts[account.user] = account
        return True

    async def account(self, user: str) -> Account | None:
        self._check_open()
        return self._accounts.get(user)

    async def accounts(self, *, after: str = "", limit: int) -> Sequence[Account]:
        self._check_open()
        present = [account for account in self._accounts.values() if account is not None and account.user > after]
        return sorted(present, key=lambda account: account.user)[:limit]

    async def set_password(self, user: str, password_hash: str) -> bool:
        self._check_open()
        account = self._accounts.get(user)
        if account is None:
            return False
        self._accounts[user] = replace(account, password_hash=password_hash)
        return True

    async def set_disabled(self, user: str, disabled: bool) -> bool:
        self._check_open()
        account = self._accounts.get(user)
        if account is None:
            return False
        self._accounts[user] = replace(account, disabled=disabled)
        return True

    async def set_admin(self, user: str, admin: bool) -> bool:
        self._check_open()
        account = self._accounts.get(user)
        if account is None:
            return False
        self._accounts[user] = replace(account, admin=admin)
        return True

    async def delete_account(self, user: str) -> bool:
        self._check_open()
        if self._accounts.get(user) is None:
            return False
        self._accounts[user] = None
        for one in await self.devices(user):
            await self.remove_device(user, one.device)
        return True

    async def put_device(self, device: Device, token_hash: bytes | None) -> None:
        self._check_open()
        key = (device.user, device.device)
        old = self._devices.get(key)
        if token_hash is None:
            self._devices.setdefault(key, device)
            return
        self._drop_token(key)
        self._devices[key] = replace(old, expires_ms=device.expires_ms) if old else device
        self._tokens[token_hash] = key

    def _drop_token(self, key: tuple[str, str]) -> None:
        for token_hash in [known for known, owner in self._tokens.items() if owner == key]:
            del self._tokens[token_hash]

    async def identity(self, token_hash: bytes) -> tuple[Device, Account] | None:
        self._check_open()
        key = self._tokens.get(token_hash)
        account = self._accounts.get(key[0]) if key else None
        return (self._devices[key], account) if key and account else None

    async def device(self, user: str, device: str) -> Device | None:
        self._check_open()
        return self._devices.get((user, device))

    async def devices(self, user: str) -> Sequence[Device]:
        self._check_open()
        own = [one for one in self._devices.values() if one.user == user]
        return sorted(own, key=lambda one: (one.created_ms, one.device))

    async def remove_device(self, user: str, device: str) -> bool:
        self._check_open()
        self._drop_token((user, device))
        return self._devices.pop((user, device), None) is not None

    async def add_invite(self, invite_hash: bytes, *, admin: bool, expires_ms: int) -> None:
        self._check_open()
        self._invites[invite_hash] = (admin, expires_ms)

    async def redeem_invite(self, invite_hash: bytes, account: Account, now_ms: int) -> bool | None:
        self._check_open()
        admin, expires_ms = self._invites.get(invite_hash, (False, 0))
        if invite_hash not in self._invites or now_ms >= expires_ms:
            return None
        if not await self.add_account(replace(account, admin=admin or account.admin)):
            return False
        del self._invites[invite_hash]
        return True
