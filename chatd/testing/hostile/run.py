"""A hostile run: the server as a process, hostile workers, and two honest users who chat meanwhile."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import structlog
from msgspec import Struct

from chatd.client import Client, MessageEvent
from chatd.errors import ChatdError
from chatd.testing.hostile.attack import Attack, Tally
from chatd.testing.hostile.server import DEVICES

USERS = ("alice", "bob", "mallory")
PAUSE_S = 0.02
ANSWER_S_MAX = 20.0

log = structlog.get_logger("chatd.hostile")


class Report(Struct, frozen=True):
    """What became of it.

    ``frames``: sent. ``judged``: text messages among them that the server took; the others broke the framing, or came
    behind what ended their connection. ``complaints``: log lines that no client may cause. ``stall_ms``: the longest
    stall of the server's loop by the clock, ``stall_cpu_ms`` by its processor time. ``delivered``: of the honest users.
    """

    frames: int
    judged: int
    connections: int
    megabytes: float
    seconds: float
    ends: dict[str, int]
    complaints: list[str]
    warnings: int
    exit_code: int
    stall_ms: float
    stall_cpu_ms: float
    rss_growth_kib: float
    delivered: int
    delivered_ms_max: float

    def as_text(self) -> str:
        """For people."""
        ends = ", ".join(f"{end}: {count}" for end, count in sorted(self.ends.items()))
        return "\n".join(
            (
                f"frames        {self.frames:,} sent, {self.judged:,} judged, {self.megabytes:.0f} MB",
                f"connections   {self.connections:,}",
                f"duration      {self.seconds:.1f} s",
                f"ends          {ends}",
                f"complaints    {len(self.complaints)} in the log ({self.warnings} warnings)",
                f"exit code     {self.exit_code}",
                f"loop stall    {self.stall_ms:.1f} ms by the clock, {self.stall_cpu_ms:.1f} ms of processor time",
                f"RSS growth    {self.rss_growth_kib / 1024:.1f} MB",
                f"honest users  {self.delivered} messages delivered, the slowest in {self.delivered_ms_max:.0f} ms",
            )
        )


class _Process:
    """The server and its log."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._stdin = cast(asyncio.StreamWriter, process.stdin)  # pipes, as `start` asked for
        self._stdout = cast(asyncio.StreamReader, process.stdout)
        self._stderr = cast(asyncio.StreamReader, process.stderr)
        self.complaints: list[str] = []
        self.warnings = 0
        self._reading = asyncio.create_task(self._read_log())

    @classmethod
    async def start(cls, directory: Path) -> _Process:
        """Run it on this directory."""
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-m", "chatd.testing.hostile.server", str(directory), *USERS)
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe))

    async def answer(self) -> Any:
        """Its next line. Raises: ChatdError – it ended."""
        line = await self._stdout.readline()
        if not line:
            raise ChatdError(f"the server ended: {self.complaints[-20:]}")
        return json.loads(line)

    async def report(self) -> dict[str, float]:
        """What its probe saw since the last time."""
        self._stdin.write(b"\n")
        found: dict[str, float] = await self.answer()
        return found

    async def stop(self) -> int:
        """Let it end. Returns: its exit code."""
        self._stdin.close()
        code = await self._process.wait()
        await self._reading
        return code

    async def kill(self) -> None:
        """Whatever happened: it does not outlive the run."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        await self._reading

    async def _read_log(self) -> None:
        """Warnings are the server's right; an error, a traceback or anything else that is no line of its own is not."""
        while line := await self._stderr.readline():
            text = line.decode(errors="replace").rstrip()
            try:
                level = json.loads(text)["level"]
            except (ValueError, KeyError, TypeError):
                level = "none"
            if level == "warning":
                self.warnings += 1
            elif level not in ("debug", "info"):
                self.complaints.append(text)


class _Honest:
    """Alice writes to Bob all the time and waits for each delivery. ``delivered``: how many; ``slowest_s``."""

    def __init__(self, alice: Client, bob: Client) -> None:
        self._alice, self._bob = alice, bob
        self.delivered = 0
        self.slowest_s = 0.0

    async def talk(self) -> None:
        """Until cancelled. Raises: TimeoutError – a message did not arrive."""
        while True:
            began_s = time.perf_counter()
            async with asyncio.timeout(ANSWER_S_MAX):
                handle = await self._alice.send("bob", f"message {self.delivered + 1}")
                await handle.delivered()
            self.delivered += 1
            self.slowest_s = max(self.slowest_s, time.perf_counter() - began_s)
            await asyncio.sleep(PAUSE_S)

    async def listen(self) -> None:
        """Until cancelled. Raises: ChatdError – a message is missing, repeated or out of place."""
        expected = 0
        async for event in self._bob.events():
            if isinstance(event, MessageEvent):
                expected += 1
                if (event.seq, event.body) != (expected, f"message {expected}"):
                    raise ChatdError(f"bob got {event.seq} {event.body!r} in place of message {expected}")


async def run(*, frames: int, seed: int, workers: int = DEVICES) -> Report:
    """Send at least so many hostile frames. The same seed sends the same ones, in another timing.

    Raises: ChatdError – the server ended, or an honest user was let down; TimeoutError – one was kept waiting.
    """
    with tempfile.TemporaryDirectory(prefix="chatd-hostile-") as directory:
        server = await _Process.start(Path(directory))
        try:
            return await _run(server, Tally(frames), seed, workers)
        finally:
            await server.kill()


async def _run(server: _Process, tally: Tally, seed: int, workers: int) -> Report:
    place = await server.answer()
    url = f"http://127.0.0.1:{place['port']}"
    tokens = place["tokens"]
    async with (
        Client(url, token=tokens["alice"][0], user="alice") as alice,
        Client(url, token=tokens["bob"][0], user="bob") as bob,
    ):
        honest = _Honest(alice, bob)
        mallory = tokens["mallory"]
        attacks = [Attack(place["port"], mallory[i % DEVICES], seed * 1_000 + i, tally) for i in range(workers)]
        before = await server.report()
        began_s = time.perf_counter()
        async with asyncio.TaskGroup() as group:  # an honest user that is let down ends it all
            talking = [group.create_task(honest.talk()), group.create_task(honest.listen())]
            async with asyncio.TaskGroup() as attacking:
                for attack in attacks:
                    attacking.create_task(attack.run())
            for task in talking:
                task.cancel()
        seconds = time.perf_counter() - began_s
        after = await server.report()
    code = await server.stop()
    return Report(
        frames=tally.frames,
        judged=int(after["judged"] - before["judged"]),
        connections=tally.connections,
        megabytes=tally.bytes / 1e6,
        seconds=seconds,
        ends=dict(Counter(tally.ends)),
        complaints=server.complaints,
        warnings=server.warnings,
        exit_code=code,
        stall_ms=after["stall_ms"],
        stall_cpu_ms=after["stall_cpu_ms"],
        rss_growth_kib=after["rss_kib"] - before["rss_kib"],
        delivered=honest.delivered,
        delivered_ms_max=honest.slowest_s * 1000,
    )
