"""What was erased is in no byte of any file, whatever was stored, trimmed and moved about before; after a kill, too."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

import pytest

from chatd.model import Account, Draft
from chatd.settings import StoreSettings
from chatd.store.conformance.erasing import accounts, erase, whole
from chatd.store.sqlite import SqliteStore

CONVS = ("alice:bob", "alice:alice", "alice:carol", "bob:carol")
SIZES = (3, 30, 200, 900, 1_100, 5_000)
KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from chatd.settings import StoreSettings
from chatd.store.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]), StoreSettings())
    await store.open()
    step = await store.erase("alice")
    assert step.cursor is not None
    await store.erase("alice", cursor=step.cursor)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def opened(directory: Path) -> SqliteStore:
    store = SqliteStore(directory, StoreSettings(wal_autocheckpoint_pages=100))
    await store.open()
    return store


def body(number: int, sender: str, size: int) -> str:
    return f"<{sender} {number:06d} {'x' * size} {number:06d} {sender}>"


async def grown(store: SqliteStore, dice: random.Random, count: int, *, trims: float = 0.05) -> list[tuple[str, str]]:
    """So many messages in many commits, after some of which old ones are trimmed. Returns: sender and body of each."""
    said = []
    number = 0
    while number < count:
        drafts = []
        for _ in range(dice.randint(1, 20)):
            number += 1
            conv = dice.choice(CONVS)
            sender = dice.choice(conv.split(":"))
            text = body(number, sender, dice.choice(SIZES))
            said.append((sender, text))
            drafts.append(Draft(conv, sender, f"00000000-0000-4000-8000-{dice.getrandbits(48):012x}", text, number))
        await store.commit(drafts, [])
        if dice.random() < trims:
            await store.trim(older_than_ms=number - dice.randint(10, 300), limit=10)
    return said


def found(directory: Path, said: list[tuple[str, str]], user: str) -> set[str]:
    """Which of the user's bodies have their beginning or their end in a file, and in which file."""
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    marks = [mark for sender, text in said if sender == user for mark in (text[:14], text[-14:])]
    return {f"{mark} in {name}" for mark in marks for name, data in files.items() if mark.encode() in data}


@pytest.mark.parametrize("seed", range(4))
async def test_no_byte_is_left(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    store = await opened(tmp_path)
    await accounts(store, "alice", "bob", "carol")
    said = await grown(store, dice, 1_500)
    assert found(tmp_path, said, "alice")
    others = [text for sender, text in said if sender == "bob"]
    await erase(store, "alice")
    assert found(tmp_path, said, "alice") == set()
    kept = {message.body for conv in CONVS for message in await whole(store, conv)}
    assert kept.intersection(others)
    said += await grown(store, dice, 300)  # pages are used again
    await erase(store, "carol")
    assert found(tmp_path, said, "carol") == set()
    await store.close()
    assert found(tmp_path, said, "carol") == set()


async def test_nothing_is_left_after_a_kill_in_the_middle(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await accounts(store, "alice", "bob", "carol")
    said = await grown(store, random.Random(5), 6_000, trims=0)
    await store.close()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, str(tmp_path))
    assert await process.wait() == -signal.SIGKILL
    assert found(tmp_path, said, "alice")
    store = await opened(tmp_path)
    assert await store.account("alice") is None
    assert await erase(store, "alice") > 0
    assert found(tmp_path, said, "alice") == set()
    await store.close()


async def test_what_the_store_cannot_reach_is_named(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await store.add_account(Account("alice", None, admin=False, disabled=False, created_ms=1))
    (tmp_path / "chatd.db.before-0004").write_bytes(b"old")
    step = await store.erase("alice")
    assert step is not None
    assert step.left == (f"{tmp_path}/chatd.db.before-0004 is a copy from before an upgrade: delete it",)
    await store.close()
