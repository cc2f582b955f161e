"""A server is killed, and what it left is damaged: `chatd doctor` names it, and `chatd serve` serves nothing wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from raw_client import Raw, register, serving, started

from chatd import protocol

CONV = "alice:bob"
BODY = "a body that can be found, number {:04d}, and it is not short"
COUNT = 400
CHATD = (sys.executable, "-m", "chatd")
FILES = ("chatd.db", "chatd.db-wal", "chatd.db-shm")


async def run(*command: str) -> tuple[int, str, str]:
    """Run a command to its end. Returns: exit code, output, errors."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return await process.wait(), out.decode(), err.decode()


async def doctor(directory: Path, *more: str) -> tuple[int, dict[str, str]]:
    """The exit code, and what is said to fail, by check."""
    code, out, err = await run(*CHATD, "doctor", "--data-dir", str(directory), "--json", *more)
    assert err == ""
    return code, {one["check"]: one["found"] for one in json.loads(out) if one["state"] == "fail"}


async def refused(directory: Path) -> str:
    """The one line with which a start is refused."""
    code, out, err = await run(*CHATD, "serve", "--data-dir", str(directory), "--port", "0")
    assert (code, out, err.count("\n")) == (3, "", 1), err
    return err


@asynccontextmanager
async def killed(directory: Path) -> AsyncIterator[dict[str, str]]:
    """Tokens of alice and bob, who talked on this directory until the server was killed."""
    async with ClientSession() as http, serving(directory) as server:
        tokens = await register(http, server.url, "alice", "bob")
        alice = await Raw.connect(http, server.url, tokens["alice"])
        for number in range(1, COUNT + 1):
            assert isinstance(await alice.send("bob", BODY.format(number)), protocol.Sent)
        os.kill(server.process.pid, signal.SIGKILL)
        await server.process.wait()
    yield tokens


async def log_of(directory: Path, token: str) -> list[protocol.Entry]:
    """Alice's log, as a server tells it."""
    async with ClientSession() as http, serving(directory) as server:
        alice = await Raw.connect(http, server.url, token, watermarks={CONV: COUNT})
        return await alice.log(CONV)


def bytes_of(path: Path) -> bytearray:
    return bytearray(path.read_bytes())


async def test_what_was_only_killed_is_whole(tmp_path: Path) -> None:
    async with killed(tmp_path / "data") as tokens:
        assert await doctor(tmp_path / "data", "--full") == (0, {})
        log = await log_of(tmp_path / "data", tokens["alice"])
        assert [entry.body for entry in log] == [BODY.format(number) for number in range(1, COUNT + 1)]


def cut(log: Path) -> None:
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size * 2 // 3)


def flip(log: Path) -> None:
    data = bytes_of(log)
    data[data.rindex(BODY.format(COUNT // 2).encode())] ^= 2
    log.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip])
async def test_a_log_that_was_cut_is_named_and_refused_until_a_backup_is_put_back(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    data, copy, back = tmp_path / "data", tmp_path / "copy", tmp_path / "back"
    async with killed(data) as tokens:
        damage(data / "chatd.db-wal")
        for _ in range(2):
            code, failing = await doctor(data)
            assert code == 1
            assert "frames were committed, and" in failing["database"]
            assert "it was cut" in await refused(data)
        code, _, err = await run(*CHATD, "backup", str(copy), "--data-dir", str(data))
        assert (code, "chatd backup --salvage" in err) == (3, True)
        assert (await run(*CHATD, "backup", "--salvage", str(copy), "--data-dir", str(data)))[0] == 0
        assert (await run(*CHATD, "restore", str(copy), "--data-dir", str(back), "--verify"))[0] == 0
        assert await doctor(back, "--full") == (0, {})
        async with ClientSession() as http, serving(back) as server:
            alice = await Raw.connect(http, server.url, tokens["alice"], watermarks={CONV: COUNT})
            assert alice.welcome.reset, "the device is ahead of what is left"
            log = await alice.log(CONV)
        assert 0 < len(log) < COUNT
        assert [entry.body for entry in log] == [BODY.format(number) for number in range(1, len(log) + 1)]


async def closed(directory: Path) -> None:
    """Let a server end in order, so that all is in the file."""
    async with serving(directory) as server:
        server.process.send_signal(signal.SIGTERM)
        assert await server.process.wait() == 0


async def test_a_bit_that_flipped_in_a_message_is_named_and_never_shown(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with killed(data) as tokens:
        await closed(data)
        path = data / "chatd.db"
        raw = bytes_of(path)
        raw[raw.index(BODY.format(117).encode()) + 3] ^= 1
        path.write_bytes(raw)
        code, failing = await doctor(data)
        assert (code, failing) == (1, {"database": f"{path} is damaged: message 117 of {CONV} is not what was stored"})
        async with ClientSession() as http, serving(data) as server:
            headers = {"Authorization": f"Bearer {tokens['bob']}"}
            url = f"{server.url}/v1/conversations/{CONV}/messages"
            async with http.get(f"{url}?after=100&limit=50", headers=headers) as answer:
                problem: dict[str, Any] = await answer.json()
                assert (answer.status, problem["code"]) == (503, "unavailable")
            async with http.get(f"{url}?after=117&limit=50", headers=headers) as answer:
                page = protocol.decode_server(await answer.read())
                assert isinstance(page, protocol.Messages)
                assert [entry.body for entry in page.messages] == [BODY.format(n) for n in range(118, 168)]
            alice = await Raw.connect(http, server.url, tokens["alice"], watermarks={CONV: COUNT})
            assert isinstance(await alice.send("bob", "the conversation goes on"), protocol.Sent)


async def test_a_bit_that_flipped_in_the_structure_is_named_and_ends_the_server(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with killed(data) as tokens:
        await closed(data)
        path = data / "chatd.db"
        raw = bytes_of(path)
        page = raw.index(BODY.format(117).encode()) // 1024 * 1024
        raw[page] ^= 8  # the kind of the page
        path.write_bytes(raw)
        code, failing = await doctor(data)
        assert code == 1
        assert f"{path} is damaged" in failing["database"]
        async with ClientSession() as http, serving(data) as server:
            headers = {"Authorization": f"Bearer {tokens['bob']}"}
            url = f"{server.url}/v1/conversations/{CONV}/messages?after=100&limit=50"
            with pytest.raises((OSError, AssertionError)):  # the connection goes with the process
                async with http.get(url, headers=headers) as answer:
                    assert answer.status != 503
            async with asyncio.timeout(20):
                assert await server.process.wait() == 1


async def test_a_file_that_was_cut_is_named_and_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with killed(data):
        await closed(data)
        with (data / "chatd.db").open("r+b") as file:
            file.truncate(file.seek(0, os.SEEK_END) // 2)
        code, failing = await doctor(data)
        assert (code, "it was cut" in failing["database"]) == (1, True)
        assert "it was cut; put a backup back" in await refused(data)


async def test_files_of_somebody_else_are_named_and_refused(tmp_path: Path) -> None:
    """In a user namespace of its own the server has no rights over files that are not its own, root or not."""
    data = tmp_path / "data"
    async with killed(data):
        await closed(data)
        path = data / "chatd.db"
        if os.geteuid() == 0:
            os.chown(path, 12_345, 12_345)
            code, failing = await doctor(data)
            assert code == 1
            assert failing["data directory"].startswith(f"{path} belongs to 12345, and its directory to ")
        else:
            path.chmod(0)
        command = ("unshare", "--user", *CHATD)
        code, out, err = await run(*command, "serve", "--data-dir", str(data), "--port", "0")
        assert (code, out, err.count("\n")) == (3, "", 1), err
        assert f"chatd: {path}: it belongs to user " in err
        assert "or give it all of the directory: chown -R " in err
        code, out, _ = await run(*command, "doctor", "--data-dir", str(data))
        assert code == 1
        assert f"fail  database: {path} cannot be read: " in out


# A file system of 6 MiB that only these programs see, full but for what the server put there.
FULL_DISK = """
mount -t tmpfs -o size=6m,mode=700 none "$1" && cp -r "$1.from" "$1/data" || exit 9
cat /dev/zero > "$1/filler" 2>/dev/null
"$2" -m chatd doctor --data-dir "$1/data"; echo "doctor: $?"
"$2" -m chatd serve --data-dir "$1/data" --port 0 2>&1; echo "serve: $?"
rm "$1/filler"
exec "$2" -m chatd serve --data-dir "$1/data" --port 0
"""


async def test_a_full_disk_is_named_and_refused_and_all_is_there_afterwards(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    async with killed(tmp_path / "disk.from") as tokens:
        await closed(tmp_path / "disk.from")
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL_DISK]
        async with started([*command, "sh", str(disk), sys.executable]) as server, ClientSession() as http:
            said = server.said
            assert "fail  disk: full: " in said
            assert "doctor: 1\n" in said
            assert "the disk is full: free space in the data directory\nserve: 3\n" in said
            alice = await Raw.connect(http, server.url, tokens["alice"], watermarks={CONV: COUNT})
            assert [entry.body for entry in await alice.log(CONV)] == [BODY.format(n) for n in range(1, COUNT + 1)]
