"""What a run makes in a store while nothing serves, its users and their devices, and what it counts there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from chatd import configuration
from chatd.accounts import Accounts
from chatd.passwords import Passwords
from chatd.store.base import Store
from chatd.store.sqlite import SqliteStore
from chatd.testing.server import GENEROUS


async def make_tokens(data_dir: Path, users: Sequence[str], devices: Sequence[str]) -> dict[tuple[str, str], str]:
    """Make a store with these users and their devices, while nothing serves. Returns: a token for each of them."""
    return await tokens_in(SqliteStore(data_dir, configuration.load(env={}, overrides=GENEROUS).store), users, devices)


async def tokens_in(store: Store, users: Sequence[str], devices: Sequence[str]) -> dict[tuple[str, str], str]:
    """The same in any store."""
    passwords = Passwords()
    await store.open()
    try:
        accounts = Accounts(
            store,
            configuration.load(env={}, overrides=GENEROUS).accounts,
            now_ms=lambda: time.time_ns() // 1_000_000,
            loopback=True,
            passwords=passwords,
        )
        for user in users:
            await accounts.add_user(user)
        return {(user, name): await accounts.issue_token(user, name) for user in users for name in devices}
    finally:
        passwords.close()
        await store.close()


async def messages_in(store: Store) -> int:
    """How many messages a store has; it is opened for that."""
    await store.open()
    try:
        return (await store.counts()).messages
    finally:
        await store.close()
