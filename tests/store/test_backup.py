"""A backup is one moment of a file that is written to, and comes back whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import msgspec
import pytest

from chatd.errors import StartError, Unavailable
from chatd.model import Account, Draft
from chatd.settings import StoreSettings
from chatd.store.base import Counts
from chatd.store.sqlite import FILE_NAME, LOCK_NAME, DirectoryInUse, SqliteStore, backup, schema

CONFIG = '[server]\ndata_dir = "data"\n'


def draft(number: int) -> Draft:
    return Draft("alice:bob", "alice", f"00000000-0000-4000-8000-{number:012d}", f"body {number} " * 20, 1_000)


async def opened(directory: Path) -> SqliteStore:
    store = SqliteStore(directory, StoreSettings())
    await store.open()
    return store


async def filled(directory: Path, count: int = 200) -> str:
    """A data directory with so many messages, an account and a kept key. Returns: its incarnation."""
    store = await opened(directory)
    await store.add_account(Account("alice", "hash", admin=True, disabled=False, created_ms=1))
    await store.keep("vapid", "secret")
    await store.commit([draft(number) for number in range(1, count + 1)], [])
    await store.close()
    return store.incarnation


def names(directory: Path) -> list[str]:
    return sorted(one.name for one in directory.iterdir())


def take(directory: Path, target: Path) -> backup.Manifest:
    return backup.take(directory, target, version="1", now_ms=5, config=CONFIG)


def put_back(name: Path, directory: Path, *, verify: bool = True) -> backup.Manifest:
    return backup.put_back(name, directory, config=lambda text: text.replace("data", "new"), verify=verify)


async def test_a_backup_holds_all_and_comes_back_under_another_name(tmp_path: Path) -> None:
    incarnation = await filled(tmp_path / "data")
    made = take(tmp_path / "data", tmp_path / "b")
    assert made.counts == Counts(users=1, conversations=1, messages=200)
    assert (made.incarnation, made.schema, made.config) == (incarnation, len(schema.migrations()), CONFIG)
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600
    assert names(tmp_path) == ["b", "data"]
    assert put_back(tmp_path / "b", tmp_path / "new") == made
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert {one.name: stat.S_IMODE(one.stat().st_mode) for one in (tmp_path / "new").iterdir()} == {
        FILE_NAME: 0o600,
        LOCK_NAME: 0o600,
        "chatd.toml": 0o600,
    }
    assert (tmp_path / "new" / "chatd.toml").read_text() == CONFIG.replace("data", "new")
    store = await opened(tmp_path / "new")
    assert store.incarnation != incarnation
    assert await store.counts() == made.counts
    assert await store.keep("vapid", "other") == "secret"
    assert [m.body for m in await store.read("alice:bob", after=199, limit=2)] == [draft(200).body]
    await store.close()


async def test_it_is_one_moment_of_a_file_that_is_written_to(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    acked, done, enough = 0, False, asyncio.Event()

    async def write() -> None:
        nonlocal acked
        while not done:
            await store.commit([draft(acked + n) for n in range(1, 11)], [])
            acked += 10
            if acked > 500:
                enough.set()

    writing = asyncio.create_task(write())
    await enough.wait()
    for number in range(3):
        before = acked
        made = await asyncio.to_thread(take, tmp_path / "data", tmp_path / f"b{number}")
        assert before <= made.counts.messages <= acked + 10
        assert made.counts.messages % 10 == 0, "half a commit"
        back = await asyncio.to_thread(put_back, tmp_path / f"b{number}", tmp_path / f"new{number}")
        assert back == made
    done = True
    await writing
    await store.close()


async def test_nothing_is_overwritten(tmp_path: Path) -> None:
    await filled(tmp_path / "data")
    (tmp_path / "b").write_text("mine")
    with pytest.raises(StartError, match="is there already and stays as it is"):
        take(tmp_path / "data", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "mine"
    take(tmp_path / "data", tmp_path / "c")
    with pytest.raises(StartError, match=r"is not empty \(chatd.db\)"):
        put_back(tmp_path / "c", tmp_path / "data")


async def test_what_a_killed_backup_or_restore_left_is_no_hindrance(tmp_path: Path) -> None:
    await filled(tmp_path / "data")
    (tmp_path / "b.part").write_bytes(b"x" * 1_000_000)
    made = take(tmp_path / "data", tmp_path / "b")
    assert (tmp_path / "b").stat().st_size < 1_000_000
    (tmp_path / "new").mkdir()
    for name in ("chatd.db.part", "chatd.db.part-journal", "chatd.db.part-wal", "chatd.toml", LOCK_NAME):
        (tmp_path / "new" / name).write_bytes(b"x" * 1_000_000)
    assert put_back(tmp_path / "b", tmp_path / "new") == made
    assert names(tmp_path / "new") == [FILE_NAME, LOCK_NAME, "chatd.toml"]
    assert (tmp_path / "new" / "chatd.toml").read_text() == CONFIG.replace("data", "new")


async def test_no_server_begins_where_a_backup_is_put_back_and_none_where_a_server_runs(tmp_path: Path) -> None:
    await filled(tmp_path / "data")
    take(tmp_path / "data", tmp_path / "b")
    refused: list[str] = []

    def meanwhile(text: str) -> str:
        with pytest.raises(DirectoryInUse) as told:
            asyncio.run(opened(tmp_path / "new"))
        with pytest.raises(DirectoryInUse):
            put_back(tmp_path / "b", tmp_path / "new")
        refused.append(told.value.holder)
        return text

    await asyncio.to_thread(backup.put_back, tmp_path / "b", tmp_path / "new", config=meanwhile, verify=False)
    assert refused == [str(os.getpid())]
    store = await opened(tmp_path / "new")
    assert (await store.counts()).messages == 200
    await store.close()


async def test_a_restore_writes_through_no_link(tmp_path: Path) -> None:
    await filled(tmp_path / "data")
    made = take(tmp_path / "data", tmp_path / "b")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "chatd.db.part").symlink_to(tmp_path / "mine")
    assert put_back(tmp_path / "b", tmp_path / "new") == made
    assert (tmp_path / "mine").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / LOCK_NAME).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"):
        put_back(tmp_path / "b", tmp_path / "other")
    assert (tmp_path / "mine").read_text() == "mine"


async def test_what_is_whole_and_none_of_chatd_s_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with closing(sqlite3.connect(tmp_path / "data" / FILE_NAME)) as db:
        db.executescript("CREATE TABLE other (x); INSERT INTO other VALUES (1);")
    with pytest.raises(StartError, match="not one of chatd's"):
        take(tmp_path / "data", tmp_path / "b")
    raw = (tmp_path / "data" / FILE_NAME).read_bytes()
    told = backup.Manifest("1", 5, 1, "x", Counts(0, 0, 0), len(raw), hashlib.sha256(raw).hexdigest())
    end = msgspec.json.encode(told)
    (tmp_path / "b").write_bytes(raw + end + len(end).to_bytes(8, "big") + backup.MAGIC)
    with pytest.raises(StartError, match="no backup of a chatd"):
        put_back(tmp_path / "b", tmp_path / "new")
    assert names(tmp_path / "new") == []


async def test_a_disk_that_fills_in_a_restore_is_told_so_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(tmp_path / "data")
    take(tmp_path / "data", tmp_path / "b")
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    monkeypatch.setattr(backup, "_told", Mock(side_effect=full))
    with pytest.raises(Unavailable, match="the disk is full"):
        put_back(tmp_path / "b", tmp_path / "new")
    assert names(tmp_path / "new") == []


async def test_too_small_a_disk_is_told_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(tmp_path / "data")
    take(tmp_path / "data", tmp_path / "b")
    usage = SimpleNamespace(free=1_000)
    monkeypatch.setattr("chatd.store.sqlite.backup.shutil.disk_usage", lambda _: usage)
    with pytest.raises(StartError, match=r"the disk is full: \d+ bytes are needed, and 1000 are free"):
        put_back(tmp_path / "b", tmp_path / "new")
    assert not (tmp_path / "new").exists()


async def test_a_file_that_somebody_else_made_ready_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(tmp_path / "data")
    (tmp_path / "b.part").touch()
    monkeypatch.setattr("chatd.newfile.os.geteuid", lambda: 54_321)
    with pytest.raises(StartError, match=r"b\.part belongs to somebody else"):
        take(tmp_path / "data", tmp_path / "b")
    (tmp_path / "b.part").unlink()
    (tmp_path / "b.part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        take(tmp_path / "data", tmp_path / "b")
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_without_a_database_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"no chatd\.db in .*--data-dir"):
        take(tmp_path, tmp_path / "b")


def flipped_page(data: bytearray) -> None:
    data[5_000] ^= 1


def cut(data: bytearray) -> None:
    del data[-100:]


def lost_middle(data: bytearray) -> None:
    del data[2_048:4_096]


def flipped_manifest(data: bytearray) -> None:
    at = data.rindex(b'"messages":200')
    data[at : at + 14] = b'"messages":300'


def nothing(data: bytearray) -> None:
    data.clear()


@pytest.mark.parametrize("damage", [flipped_page, cut, lost_middle, flipped_manifest, nothing])
async def test_a_damaged_backup_is_not_put_back(tmp_path: Path, damage: Callable[[bytearray], None]) -> None:
    await filled(tmp_path / "data")
    take(tmp_path / "data", tmp_path / "b")
    data = bytearray((tmp_path / "b").read_bytes())
    damage(data)
    (tmp_path / "b").write_bytes(data)
    with pytest.raises(StartError, match=r"is damaged|is no backup|it has others"):
        put_back(tmp_path / "b", tmp_path / "new", verify=False)
    assert not (tmp_path / "new").exists() or list((tmp_path / "new").iterdir()) == []


async def test_a_damaged_database_is_not_backed_up_as_if_it_were_good(tmp_path: Path) -> None:
    await filled(tmp_path / "data")
    path = tmp_path / "data" / FILE_NAME
    data = bytearray(path.read_bytes())
    page = data.index(draft(117).body.encode()[:100]) // 1024 * 1024
    data[page : page + 8] = b"\0" * 8
    path.write_bytes(data)
    with pytest.raises(StartError, match="the database is damaged, and a backup of it would be, too"):
        take(tmp_path / "data", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "b.part").exists()


async def test_what_only_a_closer_look_finds_is_found_by_verify(tmp_path: Path) -> None:
    await filled(tmp_path / "data")
    db = sqlite3.connect(tmp_path / "data" / FILE_NAME)
    db.execute("UPDATE message SET body = 'another' WHERE seq = 7")
    db.commit()
    db.close()
    take(tmp_path / "data", tmp_path / "b")
    with pytest.raises(StartError, match="message 7 of alice:bob is not what was stored"):
        put_back(tmp_path / "b", tmp_path / "new")


async def test_a_backup_of_a_newer_chatd_is_refused(tmp_path: Path) -> None:
    steps = schema.migrations()
    extra = schema.Migration(len(steps) + 1, "extra", "CREATE TABLE extra (x INTEGER);\n", "extra")
    store = SqliteStore(tmp_path / "data", StoreSettings(), migrations=[*steps, extra])
    await store.open()
    await store.close()
    take(tmp_path / "data", tmp_path / "b")
    with pytest.raises(StartError, match=f"has schema {len(steps) + 1}, this chatd knows {len(steps)}: run chatd 1"):
        put_back(tmp_path / "b", tmp_path / "new")


async def test_a_cut_log_is_salvaged_only_when_asked(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    for number in range(1, 51):
        await store.commit([draft(number)], [])
    (tmp_path / "cut").mkdir()
    for name in (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"):
        (tmp_path / "cut" / name).write_bytes((tmp_path / "data" / name).read_bytes())
    await store.close()
    log = tmp_path / "cut" / f"{FILE_NAME}-wal"
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 3 * 1024)
    with pytest.raises(StartError, match="chatd backup --salvage"):
        take(tmp_path / "cut", tmp_path / "b")
    backup.take(tmp_path / "cut", tmp_path / "b", version="1", now_ms=5, salvage=True)
    with pytest.raises(StartError, match="it was cut"):  # it is still not served as if nothing were missing
        await opened(tmp_path / "cut")
    made = put_back(tmp_path / "b", tmp_path / "new")
    assert 0 < made.counts.messages < 50
