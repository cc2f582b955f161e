"""A server whose log or whose words nobody can take serves all the same."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from cli_rig import WAIT_S, Place

from chatd.cli.logs import LOST_JSON, Lines
from chatd.testing.ports import free_port

POLL_S = 0.05


@asynccontextmanager
async def served(place: Place, how: str = "", stderr: int | None = None) -> AsyncIterator[str]:
    """A server started by a shell with these redirections; at the end it must exit with 0. Gives its URL."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = (*place.program, "serve", "--port", str(port))
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", f'exec "$@" {how}', "sh", *command, cwd=place.directory, env=place.env, stderr=stderr
    )
    try:
        async with asyncio.timeout(WAIT_S):
            while not await ready(url):
                assert process.returncode is None, process.returncode
                await asyncio.sleep(POLL_S)
            yield url
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ready(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/readyz") as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False


async def refused_login(url: str) -> int:
    """The status of one, which is a line of the log, too."""
    login = {"user": "alice", "password": "alicealice", "name": "phone"}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/login", json=login) as response:
        return response.status


@pytest.mark.parametrize("how", ["2>/dev/full", ">/dev/full", ">/dev/full 2>&1", "<&- >&- 2>&-", "2>&-"])
async def test_a_log_that_cannot_be_written_keeps_nobody_out(place: Place, how: str) -> None:
    async with served(place, how) as url:
        assert await refused_login(url) == 401


async def test_a_log_whose_reader_is_gone_keeps_nobody_out(place: Place) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        async with served(place, stderr=write) as url:
            assert await refused_login(url) == 401
    finally:
        os.close(write)


def test_lost_lines_are_counted_and_told(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fd = os.open("/dev/full", os.O_WRONLY)
    good = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        lines = Lines(fd, "ascii", lost=LOST_JSON)
        lines.write(b"one\n")
        lines.write("two\n")
        os.dup2(good, fd)
        lines.write("thr\u00e9e\n")
        lines.write(b"four\n")
    finally:
        os.close(fd)
        os.close(good)
    assert path.read_text("ascii") == f"{LOST_JSON % 2}thr\\xe9e\nfour\n"


def test_a_line_that_was_cut_ends_before_the_next_one(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        lines = Lines(write, "utf-8", lost="lost %d\n")
        lines.write(b"x" * 1_000_000)  # more than a pipe holds
        held = os.read(read, 1_000_000)
        assert set(held) == {ord("x")}
        lines.write(b"next\n")
        assert os.read(read, 1_000) == b"\nlost 1\nnext\n"
    finally:
        os.close(read)
        os.close(write)
