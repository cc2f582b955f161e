"""The server that is measured: a process of its own, and what Linux tells about it in /proc."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from chatd.cli.common import self_command
from chatd.errors import ChatdError
from chatd.testing.ports import free_port

SERVE: tuple[str, ...] = (*self_command(), "serve")
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
    "CHATD_LIMITS_UPGRADES_PER_S": "1000000",
    "CHATD_LIMITS_UPGRADES_BURST": "1000000",
    "CHATD_SERVER_HOST": "127.0.0.1",
    "CHATD_SERVER_LOG_LEVEL": "warning",
    "CHATD_STORE_KIND": "sqlite",
    "CHATD_STORE_SYNCHRONOUS": "full",
}


class BenchError(ChatdError):
    """The measurement could not be made; the text says why."""


class ServerProcess:
    """``async with ServerProcess(directory) as server``: listens on ``server.port`` of the loopback address.

    ``command``: what serves, with ``chatd serve``'s settings in its environment, and ``settings`` in place of some of
    them. Its output is in ``directory/log``.
    """

    def __init__(
        self, directory: Path, command: Sequence[str] = SERVE, settings: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self.start_ms = 0.0
        self._command = command
        self._log = directory / "log"
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("CHATD_")},
            **SETTINGS,
            "CHATD_SERVER_PORT": str(self.port),
            "CHATD_SERVER_DATA_DIR": str(directory / "data"),
            **(settings or {}),
        }
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> ServerProcess:
        began_s = time.perf_counter()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )
        try:
            while not self._ready():
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

    def _ready(self) -> bool:
        return _listens(self.port)

    def log_text(self) -> str:
        """All that the server wrote."""
        return self._log.read_text("utf-8", "replace")

    def log_tail(self) -> str:
        """The last lines that the server wrote."""
        return "\n".join(self.log_text().splitlines()[-20:])

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def parts(self) -> dict[str, list[int]]:
        """The process ids of what serves, by what they are: ``server``."""
        return {"server": [self.pid]}

    @property
    def cpu_s(self) -> float:
        """See `cpu_s`."""
        return cpu_s(self.pid)

    @property
    def rss_kib(self) -> int:
        """Resident memory of the process."""
        return rss_kib(self.pid)

    @property
    def written_bytes(self) -> int:
        """Bytes that the process has caused to be sent to the disk."""
        return int(_row(self.pid, "io", "write_bytes:"))


def cpu_s(pid: int) -> float:
    """CPU time of a whole process, all its threads, user and system. Grain: 10 ms on most kernels."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_kib(pid: int) -> int:
    """Resident memory of a process."""
    return int(_row(pid, "status", "VmRSS:").split()[0])


def cpu_by_part(server: ServerProcess) -> dict[str, float]:
    """`cpu_s` of each part of a server, its processes together."""
    return {part: sum(map(cpu_s, pids)) for part, pids in server.parts.items()}


def rss_by_part(server: ServerProcess) -> dict[str, int]:
    """`rss_kib` of each part of a server, its processes together."""
    return {part: sum(map(rss_kib, pids)) for part, pids in server.parts.items()}


def _row(pid: int, name: str, key: str) -> str:
    lines = Path(f"/proc/{pid}/{name}").read_text("ascii").splitlines()
    return next(line[len(key) :] for line in lines if line.startswith(key))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
