"""What the file itself promises: one process, checked migrations, a copy before an upgrade, an incarnation."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import stat
import sys
from pathlib import Path

import pytest

from chatd.errors import StartError, StoreBroken, Unavailable
from chatd.model import Advance, Appended, Draft
from chatd.settings import StoreSettings
from chatd.store.sqlite import FILE_NAME, LOCK_NAME, LOOK_AGAIN_S, SqliteStore, engine, schema, wholeness

STEPS = schema.migrations()
NEXT = len(STEPS) + 1
EXTRA = schema.Migration(NEXT, "extra", "CREATE TABLE extra (x INTEGER);\nINSERT INTO extra VALUES (1);\n", "extra")


def draft(number: int, body: str = "hi") -> Draft:
    return Draft("alice:bob", "alice", f"00000000-0000-4000-8000-{number:012d}", body, 1_000)


async def stored(directory: Path, count: int) -> None:
    store = SqliteStore(directory, StoreSettings())
    await store.open()
    await store.commit([draft(n) for n in range(1, count + 1)], [])
    await store.close()


async def test_the_directory_is_private(tmp_path: Path) -> None:
    await stored(tmp_path / "deep" / "data", 1)
    assert stat.S_IMODE((tmp_path / "deep" / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "deep" / "data" / FILE_NAME).stat().st_mode) == 0o600


async def test_a_second_process_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, StoreSettings())
    await store.open()
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom chatd.errors import StartError\n"
        "from chatd.settings import StoreSettings\nfrom chatd.store.sqlite import SqliteStore\n"
        "try: asyncio.run(SqliteStore(Path(sys.argv[1]), StoreSettings()).open())\n"
        "except StartError as exc: print(exc)\n"
    )
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    told = (await other.communicate())[0].decode()
    await store.close()
    assert "is in use by process" in told
    assert "--data-dir" in told


async def test_what_root_makes_is_for_whom_the_directory_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr("chatd.newfile.os.geteuid", lambda: 0)
    monkeypatch.setattr("chatd.newfile.os.fchown", lambda fd, uid, gid: given.append((uid, gid)))
    await stored(tmp_path, 1)
    about = os.stat(tmp_path)
    assert given == [(about.st_uid, about.st_gid)] * 2, "the lock and the database"
    await stored(tmp_path, 1)
    assert len(given) == 2, "what was there belongs to whom it belongs"


async def test_a_lock_of_somebody_else_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, flags: int = 0) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))  # root may always

    await stored(tmp_path, 1)
    monkeypatch.setattr("chatd.store.sqlite.open_or_make", refused)
    with pytest.raises(StartError, match=rf"chatd\.lock: it belongs to user {os.getuid()}, .* chown -R"):
        await stored(tmp_path, 1)


async def test_a_start_waits_for_who_only_looks(tmp_path: Path) -> None:
    await stored(tmp_path, 1)
    store = SqliteStore(tmp_path, StoreSettings())
    with wholeness.looking(tmp_path / LOCK_NAME) as pid:
        assert pid is None
        opening = asyncio.create_task(store.open())
        assert not (await asyncio.wait([opening], timeout=3 * LOOK_AGAIN_S))[0]
    await opening
    assert wholeness.holder(tmp_path / LOCK_NAME) == str(os.getpid())
    await store.close()


async def test_who_looks_for_long_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await stored(tmp_path, 1)
    monkeypatch.setattr("chatd.store.sqlite.LOOKS_MAX", 2)
    with (
        wholeness.looking(tmp_path / LOCK_NAME),
        pytest.raises(StartError, match="looks at it: start when that is done"),
    ):
        await SqliteStore(tmp_path, StoreSettings()).open()


async def test_a_directory_with_other_things_in_it_is_not_closed_to_others(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "notes").touch()
    shared.chmod(0o755)
    await stored(shared, 1)
    await stored(shared, 1)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert stat.S_IMODE((shared / FILE_NAME).stat().st_mode) == 0o600
    shared.chmod(0o1777)
    with pytest.raises(StartError, match="everybody may write there"):
        await stored(shared, 1)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
    (shared / "notes").unlink()
    await stored(shared, 1)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o700


async def test_the_same_process_may_open_it_again_after_close(tmp_path: Path) -> None:
    await stored(tmp_path, 2)
    store = SqliteStore(tmp_path, StoreSettings())
    await store.open()
    assert (await store.heads(["alice:bob"])) == {"alice:bob": 2}
    await store.close()


async def test_a_newer_schema_is_refused_and_untouched(tmp_path: Path) -> None:
    newer = SqliteStore(tmp_path, StoreSettings(), migrations=[*STEPS, EXTRA])
    await newer.open()
    assert newer.migrated == list(range(1, NEXT + 1))
    await newer.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(StartError, match=f"has schema {NEXT}, this chatd knows {NEXT - 1}"):
        await SqliteStore(tmp_path, StoreSettings()).open()
    assert (tmp_path / FILE_NAME).read_bytes() == before


async def test_an_upgrade_takes_a_copy_first(tmp_path: Path) -> None:
    await stored(tmp_path, 3)
    store = SqliteStore(tmp_path, StoreSettings(), migrations=[*STEPS, EXTRA])
    await store.open()
    await store.close()
    copy = sqlite3.connect(tmp_path / f"{FILE_NAME}.before-{NEXT:04d}")
    assert copy.execute("SELECT count(*) FROM message").fetchone() == (3,)
    assert copy.execute("SELECT count(*) FROM sqlite_master WHERE name = 'extra'").fetchone() == (0,)
    copy.close()


async def test_the_copy_before_an_upgrade_is_private_and_half_of_one_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr("chatd.store.sqlite.schema.sync", lambda path: 1 / 0)
        patch.setattr("pathlib.Path.replace", lambda self, target: self)
        with pytest.raises(ZeroDivisionError):
            await SqliteStore(tmp_path, StoreSettings(), migrations=[*STEPS, EXTRA]).open()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]
    store = SqliteStore(tmp_path, StoreSettings(), migrations=[*STEPS, EXTRA])
    await store.open()
    await store.close()
    assert stat.S_IMODE((tmp_path / f"{FILE_NAME}.before-{NEXT:04d}").stat().st_mode) == 0o600


async def test_a_migration_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    await stored(tmp_path, 3)
    bad = schema.Migration(NEXT, "bad", "CREATE TABLE extra (x INTEGER);\nINSERT INTO absent VALUES (1);\n", "bad")
    with pytest.raises(StartError, match="no such table"):
        await SqliteStore(tmp_path, StoreSettings(), migrations=[*STEPS, bad]).open()
    store = SqliteStore(tmp_path, StoreSettings(), migrations=[*STEPS, EXTRA])
    await store.open()
    assert store.migrated == [NEXT]
    assert (await store.counts()).messages == 3
    await store.close()


async def test_an_edited_migration_is_refused(tmp_path: Path) -> None:
    await stored(tmp_path, 1)
    first = STEPS[0]
    edited = schema.Migration(first.number, first.name, first.sql, "0" * 64)
    with pytest.raises(StartError, match="is not the one that was applied"):
        await SqliteStore(tmp_path, StoreSettings(), migrations=[edited, *STEPS[1:]]).open()


async def test_a_file_that_is_no_database_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database at all, only text " * 64)
    with pytest.raises(StartError, match=r"chatd\.db: damaged, or no database .* put a backup back"):
        await SqliteStore(tmp_path, StoreSettings()).open()


@pytest.mark.parametrize(("synchronous", "changes"), [("full", False), ("normal", True)])
async def test_a_reboot_without_fsync_is_another_incarnation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: str, changes: bool
) -> None:
    """Opened, never closed, and then another boot: only a store with fsync knows that it lost nothing."""
    boot = tmp_path / "boot_id"
    boot.write_text("boot-1\n")
    monkeypatch.setattr("chatd.store.sqlite.wholeness.BOOT_ID", boot)
    settings = StoreSettings(synchronous=synchronous)  # type: ignore[arg-type]
    first = SqliteStore(tmp_path / "data", settings)
    await first.open()
    was = first.incarnation
    await first.engine.close()  # as a crash would: no note of an orderly end
    first._unlock()
    boot.write_text("boot-2\n")
    second = SqliteStore(tmp_path / "data", settings)
    await second.open()
    assert (second.incarnation != was) is changes
    await second.close()


async def test_change_numbers_never_repeat_after_a_crash(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path, StoreSettings())
    await first.open()
    await first.commit([draft(1)], [])
    since = (await first.conversations("bob", "d", limit=1)).since
    await first.engine.close()
    first._unlock()
    second = SqliteStore(tmp_path, StoreSettings())
    await second.open()
    await second.commit([], [Advance("alice:bob", "bob", "d", 1)])
    changed = await second.conversations("bob", "d", since=since, limit=10)
    await second.close()
    assert [c.conv for c in changed.conversations] == ["alice:bob"]


async def test_the_log_is_checkpointed_when_it_is_long(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, StoreSettings(wal_autocheckpoint_pages=100))
    await store.open()
    for n in range(60):
        await store.commit([draft(n, "x" * 2_000)], [])
    assert (tmp_path / f"{FILE_NAME}-wal").stat().st_size < 400 * 1024
    assert (tmp_path / FILE_NAME).stat().st_size > 60 * 2_000
    await store.close()


async def test_a_transaction_that_fails_forgets_what_it_planned(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, StoreSettings())
    await store.open()
    await store.commit([draft(1)], [])
    connection = store.engine._db
    assert connection is not None
    await store.engine.write(lambda db: db.execute("PRAGMA max_page_count = 1") and None)
    with pytest.raises(Unavailable, match="disk is full"):
        await store.commit([draft(n, "x" * 10_000) for n in range(2, 200)], [])
    await store.engine.write(lambda db: db.execute("PRAGMA max_page_count = 1000000") and None)
    done = await store.commit([draft(300)], [])
    await store.close()
    assert [r.message.seq for r in done.appended if isinstance(r, Appended)] == [2]


async def test_after_a_failed_fsync_nothing_is_written_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path, StoreSettings())
    await store.open()
    monkeypatch.setattr(engine, "_BROKEN", {sqlite3.SQLITE_FULL})  # any error can play the fsync's part
    await store.engine.write(lambda db: db.execute("PRAGMA max_page_count = 1") and None)
    with pytest.raises(StoreBroken):
        await store.commit([draft(n, "x" * 10_000) for n in range(200)], [])
    with pytest.raises(StoreBroken):
        await store.commit([], [])
    await store.close()
