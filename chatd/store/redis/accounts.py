"""Accounts, devices, tokens, invites. See `chatd.store.base.AccountStore`.

All of a user is in the user's slot, and what is written there decides. An index that is elsewhere (names in order, the
device of a token) is written before and cleaned after: whoever dies between leaves an entry that leads nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from chatd.model import Account, Device
from chatd.store.redis.engine import TAGS_PER_CALL_MAX, Engine, whole
from chatd.store.redis.node import Command

ACCOUNT: Final = ("password", "admin", "disabled", "created", "shows", "deleted")
NAMES_TAG: Final = "=users"


class RedisAccounts:
    """`AccountStore` over an engine."""

    engine: Engine

    def _names(self) -> str:
        return self.engine.key(NAMES_TAG, "names")

    def _load_account(self, user: str) -> Command:
        return ("HMGET", self.engine.key(user, "account"), *ACCOUNT)

    @whole
    async def add_account(self, account: Account) -> bool:
        """See `AccountStore`."""
        return await self._add(account, "") == 1

    async def _add(self, account: Account, invite: str) -> int:
        one = account
        password = () if one.password_hash is None else (one.password_hash,)
        args = (one.user, int(one.admin), int(one.disabled), one.created_ms, int(one.shows_last_seen), invite)
        listed = ("ZADD", self._names(), 0, one.user)
        await self.engine.one(listed, write=True)
        return int(await self.engine.one(self.engine.script("add_account", one.user, *args, *password), write=True))

    async def account(self, user: str) -> Account | None:
        """See `AccountStore`."""
        return account_of(user, await self.engine.one(self._load_account(user), write=False))

    @whole
    async def accounts(self, *, after: str = "", limit: int) -> Sequence[Account]:
        """See `AccountStore`."""
        found: list[Account] = []
        while len(found) < limit:
            begin = f"({after}" if after else "-"
            command = ("ZRANGE", self._names(), begin, "+", "BYLEX", "LIMIT", 0, min(limit, TAGS_PER_CALL_MAX))
            names = [name.decode() for name in await self.engine.one(command, write=False)]
            rows = await self.engine.run([self._load_account(name) for name in names], write=False)
            loaded = (account_of(name, row) for name, row in zip(names, rows, strict=True))
            found += [account for account in loaded if account is not None]
            if len(names) < min(limit, TAGS_PER_CALL_MAX):
                break
            after = names[-1]
        return found[:limit]

    async def _users(self) -> int:
        """How many accounts there are, counted one by one."""
        count, after = 0, ""
        while page := await self.accounts(after=after, limit=TAGS_PER_CALL_MAX):
            count, after = count + len(page), page[-1].user
        return count

    async def _set(self, user: str, field: str, value: str | int) -> bool:
        return bool(await self.engine.one(self.engine.script("set_account", user, user, field, value), write=True))

    async def set_password(self, user: str, password_hash: str) -> bool:
        """See `AccountStore`."""
        return await self._set(user, "password", password_hash)

    async def set_disabled(self, user: str, disabled: bool) -> bool:
        """See `AccountStore`."""
        return await self._set(user, "disabled", int(disabled))

    async def set_admin(self, user: str, admin: bool) -> bool:
        """See `AccountStore`."""
        return await self._set(user, "admin", int(admin))

    @whole
    async def delete_account(self, user: str) -> bool:
        """See `AccountStore`."""
        tokens = await self.engine.one(self.engine.script("delete_account", user, user), write=True)
        if tokens is None:
            return False
        forget: list[Command] = [("DEL", self._token(token.decode())) for token in tokens]
        await self.engine.run([*forget, ("ZREM", self._names(), user)], write=True)
        return True

    # --- devices and their tokens ------------------------------------------------------------------------

    def _token(self, token: str) -> str:
        return self.engine.key(f"token={token}", "device")

    @whole
    async def put_device(self, device: Device, token_hash: bytes | None) -> None:
        """See `AccountStore`."""
        one, token = device, "" if token_hash is None else token_hash.hex()
        commands: list[Command] = []
        if token:
            commands.append(("SET", self._token(token), f"{one.user} {one.device}"))
        born = msgspec.json.encode((one.name, one.created_ms))
        expires = "" if one.expires_ms is None else one.expires_ms
        commands.append(self.engine.script("put_device", one.user, one.user, one.device, born, expires, token))
        old = (await self.engine.run(commands, write=True))[-1]
        if old is not None and old.decode() != token:
            await self.engine.one(("DEL", self._token(old.decode())), write=True)

    @whole
    async def identity(self, token_hash: bytes) -> tuple[Device, Account] | None:
        """See `AccountStore`."""
        token = token_hash.hex()
        known = await self.engine.one(("GET", self._token(token)), write=False)
        if known is None:
            return None
        user, device = known.decode().split(" ")
        fields = (f"d{device}", f"x{device}", f"t{device}")
        load: list[Command] = [("HMGET", self.engine.key(user, "devices"), *fields), self._load_account(user)]
        (born, expires, bound), row = await self.engine.run(load, write=False)
        account = account_of(user, row)
        if born is None or bound != token.encode() or account is None:
            return None
        return device_of(user, device, born, expires), account

    async def device(self, user: str, device: str) -> Device | None:
        """See `AccountStore`."""
        command = ("HMGET", self.engine.key(user, "devices"), f"d{device}", f"x{device}")
        born, expires = await self.engine.one(command, write=False)
        return None if born is None else device_of(user, device, born, expires)

    async def devices(self, user: str) -> Sequence[Device]:
        """See `AccountStore`."""
        flat = await self.engine.one(("HGETALL", self.engine.key(user, "devices")), write=False)
        fields = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
        found = [
            device_of(user, name[1:], value, fields.get(f"x{name[1:]}"))
            for name, value in fields.items()
            if name[0] == "d"
        ]
        return sorted(found, key=lambda one: (one.created_ms, one.device))

    @whole
    async def remove_device(self, user: str, device: str) -> bool:
        """See `AccountStore`."""
        removed, token = await self.engine.one(self.engine.script("remove_device", user, user, device), write=True)
        if token is not None:
            await self.engine.one(("DEL", self._token(token.decode())), write=True)
        return bool(removed)

    # --- invites -----------------------------------------------------------------------------------------

    async def add_invite(self, invite_hash: bytes, *, admin: bool, expires_ms: int) -> None:
        """See `AccountStore`."""
        key = self.engine.key(f"invite={invite_hash.hex()}", "invite")
        await self.engine.one(("HSET", key, "admin", int(admin), "expires", expires_ms), write=True)

    @whole
    async def redeem_invite(self, invite_hash: bytes, account: Account, now_ms: int) -> bool | None:
        """Claimed, used, dropped; or claimed and let go. See invite.lua."""
        invite = invite_hash.hex()
        tag = f"invite={invite}"
        claim = self.engine.script("invite", tag, tag, "claim", account.user, now_ms)
        admin = await self.engine.one(claim, write=True)
        if admin is None:
            return None
        made = await self._add(replace(account, admin=admin == b"1" or account.admin), invite)
        if made == 0:
            await self.engine.one(self.engine.script("invite", tag, tag, "release", account.user, now_ms), write=True)
            return False
        await self.engine.one(("DEL", self.engine.key(tag, "invite")), write=True)
        return True if made == 1 else None


def account_of(user: str, row: Sequence[Any]) -> Account | None:
    """The account in a row of the ACCOUNT fields; None: none, or deleted."""
    password, admin, disabled, created_ms, shows, deleted = row
    if created_ms is None or deleted is not None:
        return None
    return Account(
        user,
        None if password is None else password.decode(),
        admin=admin == b"1",
        disabled=disabled == b"1",
        created_ms=int(created_ms),
        shows_last_seen=shows == b"1",
    )


def device_of(user: str, device: str, born: bytes, expires: bytes | None) -> Device:
    name, created_ms = msgspec.json.decode(born, type=tuple[str, int])
    return Device(user, device, name, created_ms, None if expires is None else int(expires))
