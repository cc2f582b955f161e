"""The disk fails under a real server: full, and an fsync that errs. Nothing that was acked is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from aiohttp import ClientSession
from raw_client import Raw, register, serving, started

from chatd import protocol

CONV = "alice:bob"
BODY = "x" * 8_000
SENDS_MAX = 2_000
# A file system of 6 MiB that only the server sees, and a filler in it that a full disk can do without. The second
# server of the loop is the restart.
FULL_DISK = """
mount -t tmpfs -o size=6m,mode=700 none "$1" && head -c 1048576 /dev/zero > "$1/filler" || exit 9
for run in 1 2; do "$2" -m chatd serve --data-dir "$1/data" --port 0; done
"""


def server_pid(shell: int) -> int:
    """The process that the shell runs now."""
    children = Path(f"/proc/{shell}/task/{shell}/children")
    return int(children.read_text().split()[0])


def free_space(pid: int, disk: Path) -> None:
    """Delete the filler, as the server sees the file system."""
    Path(f"/proc/{pid}/root{disk}/filler").unlink()


async def test_a_full_disk_refuses_for_a_while_and_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        FULL_DISK,
        "sh",
        str(disk),
        sys.executable,
    ]
    async with started(command) as server, ClientSession() as http:
        tokens = await register(http, server.url, "alice", "bob")
        alice = await Raw.connect(http, server.url, tokens["alice"])
        acked: dict[int, str] = {}
        refused = ""
        for _ in range(SENDS_MAX):
            name = protocol.new_message_id()
            answer = await alice.send("bob", BODY, name)
            if isinstance(answer, protocol.Error):
                assert (answer.code, answer.temporary) == ("unavailable", True)
                assert "disk is full" in answer.message
                refused = name
                break
            acked[answer.seq] = answer.id
        assert refused
        async with http.get(f"{server.url}/healthz") as alive:
            assert alive.status == 200
        pid = server_pid(server.process.pid)
        free_space(pid, disk)
        again = await alice.send("bob", BODY, refused)
        assert isinstance(again, protocol.Sent)
        assert again.seq == len(acked) + 1
        acked[again.seq] = again.id
        assert {e.seq: e.id for e in await alice.log(CONV)} == acked
        await alice.socket.close()
        os.kill(pid, signal.SIGKILL)
        await server.listening()
        alice = await Raw.connect(http, server.url, tokens["alice"], watermarks={CONV: len(acked)})
        assert {e.seq: e.id for e in await alice.log(CONV)} == acked
        os.kill(server_pid(server.process.pid), signal.SIGTERM)
        await server.process.wait()


async def test_a_failed_fsync_ends_the_process_and_nothing_is_said_of_that_commit(tmp_path: Path) -> None:
    launcher = str(Path(__file__).with_name("failing_fsync.py"))
    acked: dict[int, str | None] = {}
    async with ClientSession() as http:
        async with serving(tmp_path / "data", (sys.executable, launcher)) as server:
            tokens = await register(http, server.url, "alice", "bob")
            alice = await Raw.connect(http, server.url, tokens["alice"])
            for _ in range(50):
                answer = await alice.send("bob", "kept")
                assert isinstance(answer, protocol.Sent)
                acked[answer.seq] = answer.id
            server.process.send_signal(signal.SIGUSR1)
            unsaid = protocol.new_message_id()
            with pytest.raises(ConnectionError):
                while True:  # the signal may arrive behind a few more commits
                    answer = await alice.send("bob", "unsaid", unsaid)
                    assert isinstance(answer, protocol.Sent)
                    acked[answer.seq] = answer.id
                    unsaid = protocol.new_message_id()
            async with asyncio.timeout(20):
                assert await server.process.wait() == 1
        async with serving(tmp_path / "data") as server:
            alice = await Raw.connect(http, server.url, tokens["alice"])
            log = {e.seq: e.id for e in await alice.log(CONV)}
            assert {seq: log.get(seq) for seq in acked} == acked
            answer = await alice.send("bob", "unsaid", unsaid)
            assert isinstance(answer, protocol.Sent)
            assert answer.seq == len(acked) + 1
