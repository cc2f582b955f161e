"""``python -m chatd.testing.harness.restore``: a server is backed up while all talk, killed, and restored elsewhere.

In each cycle `chatd backup` copies the store under load and the devices go on talking, so they are ahead of the copy
when the server is killed. `chatd restore --verify` makes another data directory, a server is started on it, and the
devices come back: they must be reset, agree with what is there, and lose nothing that was answered before the backup.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from pathlib import Path

from chatd.testing.harness.crowd import Talk
from chatd.testing.harness.ending import EndingHistory, EndingSummary
from chatd.testing.harness.process import HarnessError, KillableServer
from chatd.testing.harness.run import CYCLES_PER_HISTORY, TALK_S_MAX


class RestoreSummary(EndingSummary):
    """What was answered before a backup began may not be gone."""

    def __str__(self) -> str:
        return (
            f"{super().__str__()}\n{self.resets} resets of devices; answered: {self.kept} kept, "
            f"{self.gone} gone, all of them after the backup had begun"
        )


class RestoreHistory(EndingHistory):
    """One store that is restored from a backup of itself again and again."""

    def __init__(self, server: KillableServer, directory: Path, dice: random.Random, summary: RestoreSummary) -> None:
        super().__init__(server, dice, summary)
        self._killable = server
        self._directory = directory
        self._restores = 0

    async def __aenter__(self) -> RestoreHistory:
        await super().__aenter__()
        await self._settle()  # who was never welcomed to this history would not be told of another one
        return self

    async def cycle(self, point: object) -> None:
        """Talk, back up, talk on, kill, restore elsewhere, let all come back, settle, judge."""
        dice, server, before = self._dice, self._killable, self._killable.incarnation
        resets = self._told.resets
        async with Talk(self._devices, self._mine(), self._proxy, dice):
            await asyncio.sleep(dice.random() * TALK_S_MAX)
            sure = len(self._recorder.events)
            copy = self._directory / f"backup{self._restores}"
            await _chatd("backup", str(copy), "--data-dir", str(server.data_dir))
            await asyncio.sleep(dice.random() * TALK_S_MAX)
            await server.kill()
            self._told.kills["restored"] += 1
            await self._restore(copy)
            await server.start()
            self._proxy.retarget(server.port)
            await asyncio.sleep(dice.random() * TALK_S_MAX)
        await self._settle()
        if server.incarnation == before:
            self._told.found("incarnation", "the restored history has the name of the old one")
        if self._told.resets < resets + len(self._devices):
            self._told.found("not reset", f"{self._told.resets - resets} of {len(self._devices)} devices were")
        await self._judge()
        self._judge_answered(sure)
        self._told.cycles += 1

    async def _restore(self, copy: Path) -> None:
        old, self._restores = self._killable.data_dir, self._restores + 1
        self._killable.data_dir = self._directory / f"elsewhere{self._restores}"
        await _chatd("restore", str(copy), "--data-dir", str(self._killable.data_dir), "--verify")
        await asyncio.to_thread(shutil.rmtree, old)
        await asyncio.to_thread(copy.unlink)


async def _chatd(*args: str) -> None:
    """Run a command of the real program. Raises: HarnessError – it failed; the text is what it said."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "chatd", *args, stdout=PIPE, stderr=PIPE)
    _, said = await process.communicate()
    if process.returncode:
        raise HarnessError(f"chatd {args[0]}: {said.decode()}")


async def run(cycles: int, *, seed: int) -> RestoreSummary:
    """So many cycles; all chance comes from ``seed``."""
    summary = RestoreSummary()
    began_s = time.monotonic()
    dice = random.Random(seed)  # noqa: S311 - chance is no secret here
    while summary.cycles < cycles:
        with tempfile.TemporaryDirectory(prefix="chatd-restore-") as name:
            directory = Path(name)
            async with RestoreHistory(KillableServer(directory), directory, dice, summary) as history:
                for _ in range(min(CYCLES_PER_HISTORY, cycles - summary.cycles)):
                    await history.cycle(None)
    summary.seconds = time.monotonic() - began_s
    return summary


def main(argv: list[str] | None = None) -> int:
    """Run, and print what it did and found. Returns: the exit code, 1 if there was an anomaly."""
    parser = argparse.ArgumentParser("python -m chatd.testing.harness.restore", description=__doc__)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    return asyncio.run(run(args.cycles, seed=args.seed)).tell()


if __name__ == "__main__":
    sys.exit(main())
