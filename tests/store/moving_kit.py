"""A history of everything a store can hold, at random, and all that a store answers about it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, cast

import msgspec

from chatd.model import Account, Advance, Device, Draft, Pushed, Subscription, conv_of
from chatd.settings import StoreSettings
from chatd.store.base import Store
from chatd.store.conformance.kit import uuid
from chatd.store.sqlite import SqliteStore

USERS = ("alice", "bob", "carol", "dave", "erin", "frank")
DEVICES = ("phone", "tablet", "web")
CONVS = sorted({conv_of(a, b) for a in USERS for b in USERS})
NOW_MS = 2_000_000


async def opened(directory: Path) -> SqliteStore:
    """The SQLite store of a directory."""
    store = SqliteStore(directory, StoreSettings(synchronous="normal"))
    await store.open()
    return store


def token_of(number: int) -> bytes:
    """The hash of a token, one for each number."""
    return number.to_bytes(32, "big")


class History:
    """Acts on a store at random; ``tokens`` and ``drafts``: all that ever were."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.tokens: list[bytes] = []
        self.invites = 0
        self.drafts: list[Draft] = []

    async def grow(self, store: Store, acts: int) -> None:
        """Let so many things happen."""
        kinds = {
            self._messages: 40,
            self._marks: 25,
            self._block: 8,
            self._account: 8,
            self._device: 12,
            self._enroll: 6,
            self._push: 8,
            self._invite: 2,
            self._trim: 1,
            self._erase: 1,
        }
        for act in self.dice.choices(list(kinds), weights=list(kinds.values()), k=acts):
            await act(store)

    async def _trim(self, store: Store) -> None:
        """Some of the oldest messages go."""
        drafts = self.dice.sample(self.drafts, min(3, len(self.drafts)))
        if drafts:
            await store.trim(older_than_ms=min(draft.ts_ms for draft in drafts), limit=1_000)

    async def _erase(self, store: Store) -> None:
        """A user goes, with all that it wrote, or only a step of it is done."""
        await store.erase(self.dice.choice(USERS))

    def _users(self) -> tuple[str, str]:
        user = self.dice.choice(USERS)
        return user, self.dice.choice(USERS)

    async def _messages(self, store: Store) -> None:
        drafts: list[Draft] = []
        for _ in range(self.dice.randint(1, 12)):
            sender, peer = self._users()
            body = self.dice.choice(("", "ü", "\0", "x" * 3_000, "a message"))
            at_ms = NOW_MS - self.dice.randint(0, 10_000)
            drafts.append(Draft(conv_of(sender, peer), sender, uuid(len(self.drafts) + len(drafts)), body, at_ms))
        self.drafts += drafts
        await store.commit(drafts, [])

    async def _marks(self, store: Store) -> None:
        advances = []
        for _ in range(self.dice.randint(1, 6)):
            user, peer = self._users()
            delivered, read = self.dice.randint(0, 40), self.dice.randint(0, 40)
            advances.append(Advance(conv_of(user, peer), user, self.dice.choice(DEVICES), delivered, read))
        await store.commit([], advances)

    async def _block(self, store: Store) -> None:
        user, peer = self._users()
        if user != peer:
            await store.block(user, peer, on=self.dice.random() < 0.6)

    async def _account(self, store: Store) -> None:
        user, _ = self._users()
        password = self.dice.choice((None, "$argon2id$x"))
        shows = self.dice.random() < 0.7
        await store.add_account(Account(user, password, self.dice.random() < 0.3, False, 1_000, shows))
        await store.seen({user: self.dice.randint(1, NOW_MS)})
        if self.dice.random() < 0.2:
            await store.set_disabled(user, self.dice.random() < 0.5)
        if self.dice.random() < 0.1:
            await store.delete_account(user)

    async def _device(self, store: Store) -> None:
        user, device = self.dice.choice(USERS), self.dice.choice(DEVICES)
        if self.dice.random() < 0.3:
            await store.remove_device(user, device)
            return
        token = token_of(len(self.tokens)) if self.dice.random() < 0.8 else None
        if token is not None:
            self.tokens.append(token)
        expires_ms = self.dice.choice((None, NOW_MS + 1, 5))
        await store.put_device(Device(user, device, f"my “{device}”", self.dice.randint(1, 9_000), expires_ms), token)

    async def _enroll(self, store: Store) -> None:
        user, device = self.dice.choice(USERS), self.dice.choice(DEVICES)
        again = self.dice.random() < 0.3
        await store.enroll(user, device, initial_history=self.dice.randint(0, 9), newest_max=2, again=again)

    async def _push(self, store: Store) -> None:
        user, peer = self._users()
        keys = self.dice.choice(({}, {"auth": "a", "p256dh": "ü"}))
        kind, device = self.dice.choice(("webpush", "ntfy")), self.dice.choice(DEVICES)
        await store.put_subscription(Subscription(user, device, kind, "https://push.example/1", keys, 77))
        await store.pushed([Pushed(conv_of(user, peer), user, self.dice.randint(1, 30))])
        await store.keep(f"name {self.dice.randint(1, 3)}", f"value {self.dice.random()}")

    async def _invite(self, store: Store) -> None:
        self.invites += 1
        await store.add_invite(token_of(self.invites), admin=self.dice.random() < 0.5, expires_ms=NOW_MS)

    async def answers(self, store: Store) -> dict[str, Any]:
        """All that the store can be asked, with its own words for "since" and "cursor" left out."""
        found: dict[str, Any] = {
            "counts": await store.counts(),
            "accounts": await store.accounts(limit=100),
            "heads": await store.heads(CONVS),
            "unpushed": await self._unpushed(store),
        }
        for token in self.tokens:
            found[f"token {token.hex()}"] = await store.identity(token)
        for draft in self.drafts:
            found[f"find {draft.id}"] = await store.find(draft.conv, draft.sender, draft.id)
        for user in USERS:
            found[f"user {user}"] = await self._of_user(store, user)
        for conv in CONVS:
            found[f"conv {conv}"] = await self._of_conv(store, conv)
        return found

    async def _unpushed(self, store: Store) -> list[Any]:
        rows: list[Any] = []
        cursor: str | None = None
        while True:
            page = await store.unpushed(cursor=cursor, limit=5, newer_than_ms=NOW_MS - 5_000, every_user=True)
            rows += page.rows
            if page.cursor is None:
                return sorted(rows, key=lambda row: (row.conv, row.user))
            cursor = page.cursor

    async def _of_user(self, store: Store, user: str) -> list[Any]:
        found: list[Any] = [
            await store.account(user),
            await store.devices(user),
            await store.blocks(user),
            await store.subscriptions(user, NOW_MS),
            await store.badge(user),
            await store.acquainted(user, USERS),
        ]
        for device in DEVICES:
            found.append(await store.device(user, device))
            cursor = None
            while True:
                page = await store.conversations(user, device, cursor=cursor, limit=4)
                found += page.conversations
                cursor = page.cursor
                if cursor is None:
                    break
        return found

    async def _of_conv(self, store: Store, conv: str) -> list[Any]:
        found: list[Any] = [await store.read(conv, after=0, limit=1_000), await store.read(conv, limit=7)]
        for user in dict.fromkeys(conv.split(":")):
            marks = await store.marks(conv, user)
            # Whether a device without marks is listed is the store's own affair.
            mine = {name: one for name, one in marks.devices.items() if one.delivered or one.read}
            found += [msgspec.structs.replace(marks, devices=mine), await store.owed(conv, user)]
            found += [await store.position(conv, user, device) for device in DEVICES]
        return found

    async def use_invites(self, store: Store) -> list[Any]:
        """Each invite tried by somebody new, at the last moment and after."""
        return [
            await store.redeem_invite(token_of(n), Account(f"new{n}", None, False, False, 1), NOW_MS - 1 + n % 2)
            for n in range(self.invites + 2)
        ]


def plainly(value: object) -> Any:
    """The same in lists and dicts, so that a list equals a tuple."""
    return cast(Any, msgspec.to_builtins(value, enc_hook=lambda refusal: type(refusal).__name__))
