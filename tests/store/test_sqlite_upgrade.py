"""A file that an older chatd made is migrated with all that is in it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from chatd.errors import StartError
from chatd.model import Account, Device, Draft, Pushed, Subscription, Unpushed
from chatd.settings import StoreSettings
from chatd.store.sqlite import FILE_NAME, SqliteStore, backup, schema

STEPS = schema.migrations()
ACCOUNTS = [("alice", "hash", 1, 0, 0, 1_000), ("bob", None, 0, 1, 0, 2_000), ("gone", None, 0, 0, 1, 3_000)]
TOKEN = b"\0" * 31 + b"t"
DEVICE = Device("alice", "phone", "", 1_000)
SUBSCRIPTION = Subscription("alice", "phone", "webpush", "https://push/1", {"auth": "x"}, 1_000)


async def made_with_schema_1(directory: Path) -> None:
    """Messages, marks, a block, a device, accounts: as the chatd wrote them that knew one step only."""
    store = SqliteStore(directory, StoreSettings(), migrations=STEPS[:1])
    await store.open()

    def write(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO conversation VALUES (1, 'alice', 'bob', 5, 5, 5, 3, 0, 2)")
        for n in range(1, 6):
            id_ = bytes.fromhex(f"00000000000040008000{n:012d}")
            db.execute("INSERT INTO message VALUES (?, 1, ?, ?, ?, ?, 0, 'hi')", (n, n, int(n <= 3), id_, n))
        db.execute("INSERT INTO mark VALUES (1, 0, 'phone', 1, 1, 1)")
        db.execute("INSERT INTO block VALUES ('bob', 'carol', 0, 0, 0, 0)")
        db.executemany("INSERT INTO account VALUES (?, ?, ?, ?, ?, ?)", ACCOUNTS)

    await store.engine.write(write)
    await store.put_device(DEVICE, TOKEN)
    await store.close()


async def test_later_schemas_bring_presence_and_push_to_what_is_there(tmp_path: Path) -> None:
    await made_with_schema_1(tmp_path)
    store = SqliteStore(tmp_path, StoreSettings())
    await store.open()
    assert store.migrated == [step.number for step in STEPS[1:]]
    alice = Account("alice", "hash", admin=True, disabled=False, created_ms=1_000, shows_last_seen=True)
    bob = Account("bob", None, admin=False, disabled=True, created_ms=2_000, shows_last_seen=True)
    assert await store.accounts(limit=10) == [alice, bob]
    assert await store.identity(TOKEN) == (DEVICE, alice)
    assert not await store.add_account(Account("gone", None, admin=False, disabled=False, created_ms=1))
    assert await store.blocks("bob") == ["carol"]
    assert [one.seq for one in await store.read("alice:bob", limit=10)] == [1, 2, 3, 4, 5]

    # What was not delivered before the upgrade is owed after it.
    rows = (await store.unpushed(limit=10, newer_than_ms=0, every_user=True)).rows
    assert rows == (Unpushed("alice:bob", "alice", 3, 0), Unpushed("alice:bob", "bob", 5, 0))
    assert (await store.owed("alice:bob", "bob")).badge == 2
    await store.pushed([Pushed("alice:bob", "bob", 5)])
    assert (await store.owed("alice:bob", "bob")).newest is None

    assert await store.put_subscription(SUBSCRIPTION)
    assert await store.subscriptions("alice", 2_000) == [SUBSCRIPTION]
    assert (await store.trim(older_than_ms=3, limit=10)).messages == 2
    assert [(one.first, one.seq) for one in await store.read("alice:bob", limit=10)][:2] == [(1, 2), (0, 3)]
    await store.seen({"alice": 5_000, "bob": 6_000, "gone": 7_000})
    assert [one.last_seen_ms for one in (await store.acquainted("alice", ["bob", "gone"])).values()] == [6_000]
    await store.close()


async def test_the_copy_is_what_schema_1_knew(tmp_path: Path) -> None:
    await made_with_schema_1(tmp_path)
    store = SqliteStore(tmp_path, StoreSettings())
    await store.open()
    await store.close()
    copy = sqlite3.connect(tmp_path / f"{FILE_NAME}.before-0002")
    assert copy.execute("SELECT number FROM migration").fetchall() == [(1,)]
    assert copy.execute("SELECT * FROM account ORDER BY user").fetchall() == ACCOUNTS
    assert copy.execute("SELECT count(*) FROM message").fetchone() == (5,)
    assert copy.execute("SELECT count(*) FROM sqlite_master WHERE name = 'subscription'").fetchone() == (0,)
    copy.close()


async def test_messages_from_before_checksums_are_read_and_erased_and_backed_up(tmp_path: Path) -> None:
    await made_with_schema_1(tmp_path / "data")
    store = SqliteStore(tmp_path / "data", StoreSettings())
    await store.open()
    checksums = "SELECT seq, checksum IS NULL FROM message ORDER BY seq"
    assert await store.engine.read(lambda db: [n for n, old in db.execute(checksums) if old]) == [1, 2, 3, 4, 5]
    id_ = "00000000-0000-4000-8000-000000000077"
    await store.commit([Draft("alice:bob", "alice", id_, "later", 9)], [])
    assert [m.body for m in await store.read("alice:bob", limit=10)] == ["hi"] * 5 + ["later"]
    backup.take(tmp_path / "data", tmp_path / "copy", version="1", now_ms=1)
    step = await store.erase("bob")
    assert step is not None
    assert (step.messages, step.cursor) == (3, None)
    assert [left.partition(" is a copy")[0] for left in step.left] == [
        str(tmp_path / "data" / f"{FILE_NAME}.before-0002")
    ]
    assert await store.engine.read(lambda db: [n for n, old in db.execute(checksums) if old]) == [4, 5]
    assert [m.body for m in await store.read("alice:bob", limit=10)] == ["", "", "", "hi", "hi", "later"]
    await store.close()
    backup.put_back(tmp_path / "copy", tmp_path / "new", config=str, verify=True)
    store = SqliteStore(tmp_path / "new", StoreSettings())
    await store.open()
    assert [m.body for m in await store.read("alice:bob", limit=10)] == ["hi"] * 5 + ["later"]
    await store.close()


async def test_a_backup_of_an_older_chatd_is_put_back_and_migrated(tmp_path: Path) -> None:
    await made_with_schema_1(tmp_path / "data")
    made = backup.take(tmp_path / "data", tmp_path / "copy", version="1", now_ms=1)
    assert made.schema == 1
    backup.put_back(tmp_path / "copy", tmp_path / "new", config=str, verify=True)
    store = SqliteStore(tmp_path / "new", StoreSettings())
    await store.open()
    assert store.migrated == [step.number for step in STEPS[1:]]
    assert (await store.counts()).messages == 5
    await store.close()


async def test_schema_2_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    await made_with_schema_1(tmp_path)

    def fail(step: schema.Migration) -> None:
        raise OSError("power cut")

    with pytest.raises(StartError, match="power cut"):
        await SqliteStore(tmp_path, StoreSettings(), on_migration=fail).open()
    db = sqlite3.connect(tmp_path / FILE_NAME)
    assert db.execute("SELECT * FROM account ORDER BY user").fetchall() == ACCOUNTS
    assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'pushed'").fetchone() == (0,)
    db.close()
    store = SqliteStore(tmp_path, StoreSettings())
    await store.open()
    assert store.migrated == [step.number for step in STEPS[1:]]
    assert (await store.counts()).messages == 5
    await store.close()
