"""The killable server as seen from the harness: started, armed, killed by its process id, its log judged."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from chatd.errors import ChatdError
from chatd.testing.harness.tokens import make_tokens
from chatd.testing.killing import Plant, Point

START_S_MAX = 30.0
ANSWER_S_MAX = 10.0


class HarnessError(ChatdError):
    """The harness itself could not go on; the text says why."""


class KillableServer:
    """One process of `chatd.testing.killable` after the other over one data directory.

    ``more``: further arguments. ``port``, ``incarnation``: of the running one. Its log is ``directory/log``, its data
    ``directory/data``.
    """

    def __init__(
        self,
        directory: Path,
        plant: Plant | None = None,
        *,
        pushing: bool = False,
        redis: str = "",
        more: Sequence[str] = (),
    ) -> None:
        self.data_dir = directory / "data"
        self.port = 0
        self.incarnation = ""
        self._log = directory / "log"
        self._plant = plant
        self._pushing = pushing
        self._redis = redis
        self._more = list(more)
        self._extra_migrations = 0
        self._process: asyncio.subprocess.Process | None = None

    async def make_tokens(self, users: Sequence[str], devices: Sequence[str]) -> dict[tuple[str, str], str]:
        """Make the store with these users and their devices, while nothing serves."""
        return await make_tokens(self.data_dir, users, devices)

    async def start(self, *, new_migrations: int = 0, die_in_migration: int = 0) -> bool:
        """Start and wait until it listens. ``new_migrations``: steps to add to the schema for good.

        ``die_in_migration``: it is killed in that one of them. Returns: whether it listens.
        Raises: HarnessError – it should, and does not.
        """
        self._extra_migrations += new_migrations
        command = [sys.executable, "-m", "chatd.testing.killable", "--data-dir", str(self.data_dir)]
        command += ["--extra-migrations", str(self._extra_migrations)]
        if self._redis:
            command += ["--redis", self._redis, *self._more]
        if self._pushing:
            command += ["--pushing"]
        if self._plant is not None:
            command += ["--plant", self._plant]
        if die_in_migration:
            command += ["--kill-at", f"in_migration:{die_in_migration}"]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        ready = await self._answer(START_S_MAX)
        if ready is None:
            await self.gone()
            if not die_in_migration:
                raise HarnessError(f"the server did not start:\n{self._log.read_text()[-2000:]}")
            return False
        self.port, self.incarnation = ready["port"], ready["incarnation"]
        for copy in self.data_dir.glob("*.before-*"):  # each is as large as the store, and there will be many
            copy.unlink()
        return True

    async def arm(self, point: Point, passings: int) -> None:
        """Let it die at this point."""
        await self._order(f"kill-at {point}:{passings}")

    async def counts(self) -> int:
        """How many messages its store has. Raises: HarnessError – it is gone."""
        answer = await self._order("counts")
        if answer is None:
            raise HarnessError("the server died and was not to")
        return int(answer["messages"])

    async def gone(self) -> None:
        """Wait until it is dead."""
        if self._process is not None:
            await self._process.wait()
            self._process = None

    @property
    def runs(self) -> bool:
        """Whether it has been started and is not dead."""
        return self._process is not None and self._process.returncode is None

    async def kill(self) -> None:
        """kill -9, if it still runs."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self.gone()

    async def stop(self) -> None:
        """Let it end in an orderly way."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            await self.gone()

    def faults(self) -> list[str]:
        """What its log tells of errors: there should be none, whatever the network does."""
        return faults_in(self._log)

    async def _order(self, line: str) -> dict[str, Any] | None:
        process = self._process
        if process is None or process.stdin is None:
            return None
        process.stdin.write(line.encode() + b"\n")
        return await self._answer(ANSWER_S_MAX)

    async def _answer(self, timeout_s: float) -> dict[str, Any] | None:
        """The next line of its standard output; None: it is dead."""
        if self._process is None or self._process.stdout is None:
            return None
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
        except TimeoutError as exc:
            await self.kill()
            raise HarnessError(f"the server said nothing for {timeout_s} s") from exc
        return msgspec.json.decode(line, type=dict[str, Any]) if line.endswith(b"\n") else None


def faults_in(log: Path) -> list[str]:
    """The lines of a log that tell of errors."""
    found = []
    for line in log.read_text().splitlines():
        try:
            entry = msgspec.json.decode(line, type=dict)
        except msgspec.DecodeError:
            found.append(line)  # a traceback that nobody caught
            continue
        if entry.get("level") in ("error", "critical"):
            found.append(line)
    return found
