"""The command line as its users have it: real processes, over pipes or in a terminal of their own."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

WAIT_S = 30.0


@dataclass(frozen=True)
class Result:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


class Running:
    """A command that runs, its output in one stream. Leaving the context kills it if it still runs."""

    def __init__(self, process: asyncio.subprocess.Process, terminal_fd: int | None = None) -> None:
        self.process = process
        self.said = ""
        self._terminal_fd = terminal_fd
        self._mark = 0

    async def __aenter__(self) -> Running:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        if self._terminal_fd is not None:
            os.close(self._terminal_fd)

    async def until(self, pattern: str) -> re.Match[str]:
        """Wait for the pattern in what it says from here on; the next wait begins behind it."""
        try:
            async with asyncio.timeout(WAIT_S):
                while (found := re.compile(pattern).search(self.said, self._mark)) is None:
                    data = await self._read()
                    assert data, f"it ended without {pattern!r}:\n{self.said}"
                    self.said += data.decode()
        except TimeoutError as exc:
            raise AssertionError(f"no {pattern!r} in {WAIT_S} s:\n{self.said}") from exc
        self._mark = found.end()
        return found

    async def _read(self) -> bytes:
        if self._terminal_fd is not None:
            try:
                return await asyncio.to_thread(os.read, self._terminal_fd, 4096)
            except OSError:  # EIO: nobody has the terminal open any more
                return b""
        assert self.process.stdout is not None
        return await self.process.stdout.readline()

    async def keys(self, keys: str) -> None:
        """Press these keys in its terminal."""
        assert self._terminal_fd is not None
        os.write(self._terminal_fd, keys.encode())

    async def type(self, line: str) -> None:
        """Type a line."""
        if self._terminal_fd is not None:
            await self.keys(f"{line}\n")
            return
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        await self.process.stdin.drain()

    def end_input(self) -> None:
        """No more is typed."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def end(self, number: signal.Signals | None = None) -> int:
        """Signal it if asked to, wait for its end, and return its exit code."""
        if number is not None:
            self.process.send_signal(number)
        async with asyncio.timeout(WAIT_S):
            while data := await self._read():
                self.said += data.decode()
            return await self.process.wait()


class Serving(Running):
    """A server; `url` is the one that it printed."""

    url: str


class Place:
    """A directory with its own environment: ``data`` is the data directory, the state files lie in ``state``.

    ``program``: what the commands are given to.
    """

    def __init__(self, directory: Path, program: Sequence[str] = (sys.executable, "-m", "chatd")) -> None:
        self.directory = directory
        self.program = program
        self.data = directory / "data"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATD_")}
        self.env = {**kept, "HOME": str(directory), "XDG_STATE_HOME": str(directory / "state")}

    async def run(self, *args: str, given: str = "") -> Result:
        """Run a command to its end; ``given`` is its standard input."""
        process = await asyncio.create_subprocess_exec(
            *self.program,
            *args,
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(WAIT_S):
                out, err = await process.communicate(given.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert "Traceback" not in err.decode(), err.decode()
        return Result(await process.wait(), out.decode(), err.decode())

    async def start(self, *args: str) -> Running:
        """Start a command over pipes."""
        return Running(
            await asyncio.create_subprocess_exec(
                *self.program,
                *args,
                cwd=self.directory,
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )

    async def start_in_terminal(self, *args: str) -> Running:
        """Start a command in a terminal of its own."""
        ours, theirs = pty.openpty()
        try:
            process = await asyncio.create_subprocess_exec(
                *self.program, *args, cwd=self.directory, env=self.env, preexec_fn=lambda: os.login_tty(theirs)
            )
        finally:
            os.close(theirs)
        return Running(process, ours)

    @asynccontextmanager
    async def serving(self, *args: str) -> AsyncIterator[Serving]:
        """A server on a free port; at the end it gets SIGTERM, if it still runs, and must exit with 0."""
        running = await self.start("serve", "--port", "0", *args)
        server = Serving(running.process)
        async with server:
            server.url = (await server.until(r"serves on (https?://\S+)\n"))[1]
            await server.until(r"\^C ends it")
            yield server
            if server.process.returncode is None:
                assert await server.end(signal.SIGTERM) == 0, server.said
