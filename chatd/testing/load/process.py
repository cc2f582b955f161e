"""The server that is measured: a process of its own, and what Linux tells about it in /proc."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from chatd.errors import ChatdError

SERVE: tuple[str, ...] = (sys.executable, "-m", "chatd", "serve")
START_S_MAX = 30.0
STOP_S_MAX = 60.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SETTINGS: Mapping[str, str] = {
    # Rates are raised: what is measured is the work, not the refusal of it.
    "CHATD_LIMITS_SENDS_PER_S": "1000000",
    "CHATD_LIMITS_SENDS_BURST": "1000000",
    "CHATD_LIMITS_FRAMES_PER_S": "1000000",
    "CHATD_LIMITS_FRAMES_BURST": "1000000",
    "CHATD_LIMITS_BYTES_PER_S": "1000000000",
    "CHATD_LIMITS_BYTES_BURST": "1000000000",
    "CHATD_LIMITS_CONNECTS_PER_S": "1000000",
    "CHATD_LIMITS_CONNECTS_BURST": "1000000",
    "CHATD_SERVER_HOST": "127.0.0.1",
    "CHATD_SERVER_LOG_LEVEL": "warning",
    "CHATD_STORE_KIND": "sqlite",
    "CHATD_STORE_SYNCHRONOUS": "full",
}


class BenchError(ChatdError):
    """The measurement could not be made; the text says why."""


class ServerProcess:
    """``async with ServerProcess(directory) as server``: listens on ``server.port`` of the loopback address.

    ``command``: what serves, with ``chatd serve``'s settings in its environment. Its output is in ``directory/log``.
    """

    def __init__(self, directory: Path, command: Sequence[str] = SERVE) -> None:
        self.port = _free_port()
        self.start_ms = 0.0
        self._command = command
        self._log = directory / "log"
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("CHATD_")},
            **SETTINGS,
            "CHATD_SERVER_PORT": str(self.port),
            "CHATD_SERVER_DATA_DIR": str(directory / "data"),
        }
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> ServerProcess:
        began_s = time.perf_counter()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )
        try:
            while not _listens(self.port):
                if self._process.returncode is not None or time.perf_counter() - began_s > START_S_MAX:
                    raise BenchError(f"the server did not start:\n{self.log_tail()}")
                await asyncio.sleep(0.002)
        except BaseException:
            await self._end()
            raise
        self.start_ms = (time.perf_counter() - began_s) * 1000
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._end()

    async def _end(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            raise BenchError(f"the server did not end within {STOP_S_MAX:.0f} s of SIGTERM") from None

    def log_tail(self) -> str:
        """The last lines that the server wrote."""
        return "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-20:])

    @property
    def cpu_s(self) -> float:
        """CPU time of the whole process, all its threads, user and system. Grain: 10 ms on most kernels."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    @property
    def rss_kib(self) -> int:
        """Resident memory of the process."""
        return int(self._row("status", "VmRSS:").split()[0])

    @property
    def written_bytes(self) -> int:
        """Bytes that the process has caused to be sent to the disk."""
        return int(self._row("io", "write_bytes:"))

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self._process.pid}/{name}").read_text("ascii")

    def _row(self, name: str, key: str) -> str:
        return next(line[len(key) :] for line in self._proc(name).splitlines() if line.startswith(key))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
