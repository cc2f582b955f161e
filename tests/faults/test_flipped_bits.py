"""Bits that flip anywhere in a database: no log is told wrongly, and whatever goes wrong, `chatd doctor` names it."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from chatd.doctor import database
from chatd.errors import StartError, StoreBroken, Unavailable
from chatd.model import Account, Advance, Device, Draft
from chatd.settings import StoreSettings
from chatd.store.sqlite import FILE_NAME, SqliteStore

CONVS = ("alice:bob", "alice:carol", "bob:carol")
USERS = ("alice", "bob", "carol")
MESSAGES, PAGE = 600, 40
FLIPS = 60
BESIDE = (f"{FILE_NAME}-wal", f"{FILE_NAME}-shm")


def draft(number: int) -> Draft:
    conv = CONVS[number % 3]
    id_ = f"0189{number:04x}-0000-7000-8000-{number:012d}"
    return Draft(conv, conv.split(":")[number % 2], id_, f"body number {number} " * (1 + number % 5), 1_000 + number)


async def made(directory: Path) -> bytes:
    store = SqliteStore(directory, StoreSettings())
    await store.open()
    for user in USERS:
        await store.add_account(Account(user, "a hash", admin=False, disabled=False, created_ms=1))
        await store.put_device(Device(user, "phone", "a phone", 1), user.ljust(32).encode())
    for first in range(0, MESSAGES, 50):
        advance = Advance("alice:bob", "bob", "phone", first // 4, first // 8)
        await store.commit([draft(n) for n in range(first, first + 50)], [advance])
    await store.close()
    return (directory / FILE_NAME).read_bytes()


async def logs(directory: Path) -> tuple[dict[str, list[Draft]], bool]:
    """All messages that are told, page by page, as they were sent; and whether anything was refused.

    Raises: StartError – nothing is served.
    """
    store = SqliteStore(directory, StoreSettings())
    await store.open()
    told: dict[str, list[Draft]] = {conv: [] for conv in CONVS}
    refused = False
    try:
        for user in USERS:
            try:
                await store.conversations(user, "phone", limit=10)
                await store.account(user)
                await store.devices(user)
            except (Unavailable, StoreBroken):
                refused = True
        for conv in CONVS:
            for after in range(0, MESSAGES // 3, PAGE):
                try:
                    page = await store.read(conv, after=after, limit=PAGE)
                except (Unavailable, StoreBroken):
                    refused = True
                    continue
                assert [m.seq for m in page] == list(range(after + 1, after + 1 + PAGE)), "a page that is not whole"
                told[conv] += [Draft(m.conv, m.sender, m.id, m.body, m.ts_ms) for m in page]
    finally:
        await store.close()
    return told, refused


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_told_is_what_was_stored(tmp_path: Path, seed: int) -> None:
    whole = await made(tmp_path / "whole")
    sent = {(one.conv, one.id): one for one in map(draft, range(MESSAGES))}
    dice = random.Random(seed)
    outcomes: Counter[str] = Counter()
    for number in range(FLIPS):
        directory = tmp_path / f"{number}"
        directory.mkdir()
        data = bytearray(whole)
        at, bit = dice.randrange(len(data)), 1 << dice.randrange(8)
        data[at] ^= bit
        (directory / FILE_NAME).write_bytes(data)
        named = any(one.state == "fail" for one in database.examine(directory, full=True).findings)
        try:
            told, refused = await logs(directory)
        except StartError:
            outcomes["not started"] += 1
            assert named, f"byte {at}, bit {bit}"
            continue
        outcomes["refused" if refused else "served"] += 1
        assert named or not refused, f"byte {at}, bit {bit}"
        for conv, log in told.items():
            assert log == [sent[conv, one.id] for one in log], f"byte {at}, bit {bit}"
    assert outcomes["refused"] > FLIPS / 4, outcomes
    assert outcomes["served"], outcomes


async def left(directory: Path) -> dict[str, bytes]:
    """What a process that is killed leaves of these messages, half of them in its log alone."""
    store = SqliteStore(directory, StoreSettings(wal_autocheckpoint_pages=100))
    await store.open()
    for number in range(MESSAGES):
        await store.commit([draft(number)], [])
    files = {name: (directory / name).read_bytes() for name in (FILE_NAME, *BESIDE)}
    await store.close()
    return files


@pytest.mark.parametrize("name", BESIDE)
async def test_a_bit_in_the_log_or_its_index_costs_no_message_unnoticed(tmp_path: Path, name: str) -> None:
    files = await left(tmp_path / "whole")
    dice = random.Random(3)
    outcomes: Counter[str] = Counter()
    for number in range(FLIPS):
        directory = tmp_path / f"{number}"
        directory.mkdir()
        data = bytearray(files[name])
        # An index is mostly empty; its header is what counts.
        at, bit = dice.randrange(len(data) if name.endswith("-wal") else 140), 1 << dice.randrange(8)
        data[at] ^= bit
        for one, whole in files.items():
            (directory / one).write_bytes(data if one == name else whole)
        named = any(one.state == "fail" for one in database.examine(directory, full=True).findings)
        try:
            told, refused = await logs(directory)
        except StartError:
            outcomes["not started"] += 1
            assert named, f"byte {at}, bit {bit}"
            continue
        outcomes["served"] += 1
        assert not refused, f"byte {at}, bit {bit}"
        assert {conv: len(log) for conv, log in told.items()} == dict.fromkeys(CONVS, MESSAGES // 3), f"byte {at}"
    assert outcomes["served"], outcomes
    assert outcomes["not started"] or name.endswith("-shm"), outcomes
