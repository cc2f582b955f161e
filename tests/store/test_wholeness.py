"""What is damaged in a file is named and not served: a bit, the end of the log, the end of the file."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from chatd.doctor import database
from chatd.errors import IdReuse, StartError, StoreBroken, Unavailable
from chatd.model import Appended, Draft
from chatd.settings import StoreSettings
from chatd.store.sqlite import FILE_NAME, SqliteStore, wholeness
from chatd.store.sqlite.rows import damaged_rows

BODY = "a body that can be found, number {}"
COUNT = 300


def draft(number: int, body: str | None = None) -> Draft:
    text = BODY.format(number) if body is None else body
    return Draft("alice:bob", "alice", f"00000000-0000-4000-8000-{number:012d}", text, 1_000 + number)


async def opened(directory: Path) -> SqliteStore:
    store = SqliteStore(directory, StoreSettings())
    await store.open()
    return store


def copied(directory: Path, to: Path) -> None:
    to.mkdir()
    for name in (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"):
        (to / name).write_bytes((directory / name).read_bytes())


async def left(directory: Path, to: Path, count: int = COUNT) -> None:
    """A copy of what a process that is killed leaves: the file, its log and the index of that."""
    store = await opened(directory)
    for number in range(1, count + 1):
        await store.commit([draft(number)], [])
    copied(directory, to)
    await store.close()


async def stored(directory: Path, count: int = COUNT) -> Path:
    """A database that was closed in order."""
    store = await opened(directory)
    await store.commit([draft(number) for number in range(1, count + 1)], [])
    await store.close()
    return directory / FILE_NAME


async def heads(directory: Path) -> int:
    store = await opened(directory)
    head = (await store.heads(["alice:bob"]))["alice:bob"]
    await store.close()
    return head


async def test_what_a_killed_process_leaves_is_whole(tmp_path: Path) -> None:
    await left(tmp_path / "a", tmp_path / "b")
    assert await heads(tmp_path / "b") == COUNT


def cut_in_half(log: Path) -> None:
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size // 2)


def cut_at_a_frame(log: Path) -> None:
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - (24 + 1024))


def empty(log: Path) -> None:
    log.write_bytes(b"")


def flip_in_a_page(log: Path) -> None:
    data = bytearray(log.read_bytes())
    data[32 + 10 * (24 + 1024) + 500] ^= 4
    log.write_bytes(data)


def flip_in_the_header(log: Path) -> None:
    data = bytearray(log.read_bytes())
    data[17] ^= 1
    log.write_bytes(data)


@pytest.mark.parametrize(
    "damage", [cut_in_half, cut_at_a_frame, empty, Path.unlink, flip_in_a_page, flip_in_the_header]
)
async def test_a_log_that_was_cut_is_refused_each_time(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    await left(tmp_path / "a", tmp_path / "b")
    damage(tmp_path / "b" / f"{FILE_NAME}-wal")
    for _ in range(2):  # a supervisor starts it again
        with pytest.raises(StartError, match=r"chatd\.db-wal: \d+ frames were committed, and \d+ of them are good"):
            await opened(tmp_path / "b")


async def test_without_fsync_only_a_power_cut_may_take_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the history gets another name; in the same run of the machine it is damage all the same."""
    boot = tmp_path / "boot_id"
    monkeypatch.setattr(wholeness, "BOOT_ID", boot)
    boot.write_text("boot-1\n")
    settings = StoreSettings(synchronous="normal")
    store = SqliteStore(tmp_path / "a", settings)
    await store.open()
    for number in range(1, COUNT + 1):
        await store.commit([draft(number)], [])
    copied(tmp_path / "a", tmp_path / "b")
    await store.close()
    cut_in_half(tmp_path / "b" / f"{FILE_NAME}-wal")
    with pytest.raises(StartError, match="it was cut"):
        await SqliteStore(tmp_path / "b", settings).open()
    boot.write_text("boot-2\n")
    again = SqliteStore(tmp_path / "b", settings)
    await again.open()
    assert again.incarnation != store.incarnation
    await again.close()


async def test_what_is_behind_the_last_commit_is_no_damage(tmp_path: Path) -> None:
    """A process that dies while it writes leaves half a frame."""
    await left(tmp_path / "a", tmp_path / "b")
    with (tmp_path / "b" / f"{FILE_NAME}-wal").open("ab") as file:
        file.write(b"\1" * 700)
    assert await heads(tmp_path / "b") == COUNT


async def test_a_log_without_its_index_is_looked_through_first(tmp_path: Path) -> None:
    await left(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / f"{FILE_NAME}-shm").unlink()
    assert not wholeness.check_log(tmp_path / "b" / FILE_NAME)
    assert await heads(tmp_path / "b") == COUNT


async def test_pages_that_came_too_early_are_found_when_there_is_no_index(tmp_path: Path) -> None:
    """A log that was cut behind what the file has already: old pages over new ones."""
    await left(tmp_path / "a", tmp_path / "b")
    db = sqlite3.connect(tmp_path / "b" / FILE_NAME)
    log = (tmp_path / "b" / f"{FILE_NAME}-wal").read_bytes()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.close()
    frames = (len(log) - 32) // (24 + 1024)
    (tmp_path / "b" / f"{FILE_NAME}-wal").write_bytes(log[: 32 + frames // 2 * (24 + 1024)])
    (tmp_path / "b" / f"{FILE_NAME}-shm").unlink(missing_ok=True)
    told = r"chatd\.db-wal: it makes \d+ pages, and the database has \d+: it was cut"
    for _ in range(2):
        with pytest.raises(StartError, match=told):
            await opened(tmp_path / "b")
        (found,) = [one for one in database.examine(tmp_path / "b", full=False).findings if one.state == "fail"]
        assert re.search(told, found.found)


async def test_a_file_without_its_end_is_refused(tmp_path: Path) -> None:
    path = await stored(tmp_path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4_096)
    with pytest.raises(StartError, match=r"bytes were written, and .* are there: it was cut; put a backup back"):
        await opened(tmp_path)


@pytest.mark.parametrize("damage", [empty, Path.unlink])
async def test_a_log_without_its_database_is_not_thrown_away(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    await left(tmp_path / "a", tmp_path / "b")
    damage(tmp_path / "b" / FILE_NAME)
    for _ in range(2):
        with pytest.raises(StartError, match=r"chatd\.db is missing, and its write-ahead log is there"):
            await opened(tmp_path / "b")
    assert (tmp_path / "b" / f"{FILE_NAME}-wal").stat().st_size > 1_000


async def test_an_empty_file_is_no_new_database(tmp_path: Path) -> None:
    path = await stored(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(StartError, match=r"chatd\.db is empty: put a backup back, or delete it"):
        await opened(tmp_path)


def flip(path: Path, text: bytes, bit: int, *, offset: int = 0) -> None:
    data = bytearray(path.read_bytes())
    assert data.count(text) == 1
    data[data.index(text) + offset] ^= bit
    path.write_bytes(data)


async def test_a_listing_does_without_a_last_message_that_is_damaged(tmp_path: Path) -> None:
    path = await stored(tmp_path)
    flip(path, BODY.format(COUNT).encode(), 1)
    store = await opened(tmp_path)
    (view,) = (await store.conversations("bob", "phone", limit=10)).conversations
    assert (view.head, view.unread, view.last) == (COUNT, COUNT, None)
    await store.close()


@pytest.mark.parametrize("bit", [1, 128])
async def test_a_bit_that_flips_in_a_body_is_not_served(tmp_path: Path, bit: int) -> None:
    """With the highest bit the text is no text any more, which the driver would say with the text in its words."""
    path = await stored(tmp_path)
    flip(path, BODY.format(117).encode(), bit)
    store = await opened(tmp_path)
    with pytest.raises(Unavailable, match="damaged") as caught:
        await store.read("alice:bob", after=110, limit=20)
    assert "body that can" not in str(caught.value)
    assert [m.seq for m in await store.read("alice:bob", after=117, limit=2)] == [118, 119]
    done = await store.commit([draft(301), draft(117), draft(302)], [])
    assert [isinstance(one, IdReuse) for one in done.appended] == [False, True, False], "others need not wait for it"
    assert [one.message.seq for one in done.appended if isinstance(one, Appended)] == [301, 302]
    await store.close()
    db = sqlite3.connect(path)
    assert list(damaged_rows(db)) == ["message 117 of alice:bob is not what was stored"]
    db.close()


async def test_a_bit_that_flips_in_a_number_is_not_served(tmp_path: Path) -> None:
    path = await stored(tmp_path)
    flip(path, bytes.fromhex(draft(117).id.replace("-", "")) + (1_117).to_bytes(2, "big"), 1, offset=17)
    store = await opened(tmp_path)
    with pytest.raises(Unavailable, match="message 117 of alice:bob is damaged"):
        await store.read("alice:bob", after=110, limit=20)
    await store.close()


async def test_a_place_that_is_missing_is_not_passed_over(tmp_path: Path) -> None:
    path = await stored(tmp_path)
    db = sqlite3.connect(path)
    db.execute("DELETE FROM message WHERE seq IN (1, 117)")
    db.commit()
    assert list(damaged_rows(db)) == [
        "messages 1 to 1 of alice:bob are missing",
        "messages 117 to 117 of alice:bob are missing",
    ]
    db.close()
    store = await opened(tmp_path)
    for where, seq in (({"after": 110}, 117), ({"before": 120}, 117), ({"after": 0}, 1)):
        with pytest.raises(Unavailable, match=f"message {seq} of alice:bob is damaged"):
            await store.read("alice:bob", limit=20, **where)
    await store.close()


async def test_a_page_out_of_order_breaks_the_store(tmp_path: Path) -> None:
    """What SQLite itself notices: the process has to end, and says where to look."""
    path = await stored(tmp_path)
    data = bytearray(path.read_bytes())
    page = data.index(BODY.format(117).encode()) // 1024 * 1024
    data[page : page + 8] = b"\0" * 8
    path.write_bytes(data)
    store = await opened(tmp_path)
    with pytest.raises(StoreBroken, match="`chatd doctor` says more"):
        await store.read("alice:bob", after=0, limit=1_000, bytes_max=1_000_000)
    await store.close()
    db = sqlite3.connect(path)
    assert list(wholeness.problems(db, full=False))
    db.close()
