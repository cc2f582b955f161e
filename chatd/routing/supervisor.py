"""The supervisor: worker processes that are there as long as it is, and come back when they die.

A worker holds the other end of a pipe on its standard input, so that it ends when the supervisor does, however that
ended. It stands in a session of its own: ^C in a terminal reaches the supervisor alone, which then ends them in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial

import structlog

from chatd.routing.router import Router

BACKOFF_S_MIN, BACKOFF_S_MAX = 0.5, 30.0
STEADY_S = 60.0
"""A worker that lived so long is started again at once, nearly, whatever happened before."""
READY_S_MAX = 60.0
HUNG_S_MAX = 30.0
"""A worker that has said nothing for so long, and for longer than an orderly end may take, is killed.

One that has not been ready yet is killed READY_S_MAX after its start.
"""
LOOK_S = 1.0

log = structlog.get_logger("chatd.supervisor")


class Supervisor:
    """Runs ``commands`` (name of a worker → its command line) and knows from ``router`` which of them are ready.

    ``end_s``: a worker that was told to end is killed after so long.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]], router: Router, *, end_s: float) -> None:
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self._started_at_s: dict[str, float] = {}
        self._commands = commands
        self._router = router
        self._end_s = end_s
        self._ending = asyncio.Event()
        self._replaced: set[str] = set()
        self._keepers: list[asyncio.Task[None]] = []
        self._rolling: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._in_order = True

    def start(self) -> None:
        """Start the workers."""
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep(name, command)) for name, command in self._commands.items()]
        self._watching = loop.create_task(self._watch())

    def restart(self) -> None:
        """Restart the workers one after the other; nothing, while that is under way already."""
        if self._rolling is None or self._rolling.done():
            self._rolling = asyncio.get_running_loop().create_task(self._roll())

    async def stop(self) -> bool:
        """Accept nothing more, end all workers at the same time. Returns: whether each of them ended in order."""
        self._ending.set()
        self._router.stop_listening()
        for task in (self._rolling, self._watching):
            if task is not None:
                task.cancel()
        self._signal_all(kill=False)
        if self._keepers:
            _, late = await asyncio.wait(self._keepers, timeout=self._end_s)
            if late:
                log.error("workers_killed", count=len(late))
                self._in_order = False
                self._signal_all(kill=True)
                await asyncio.wait(late)
        return self._in_order

    def kill(self) -> None:
        """End all workers now, as ``kill -9`` does."""
        self._ending.set()
        self._signal_all(kill=True)

    def _signal_all(self, *, kill: bool) -> None:
        for process in self.processes.values():
            if process.returncode is None:
                process.kill() if kill else process.terminate()

    async def _keep(self, name: str, command: Sequence[str]) -> None:
        """Start a worker, wait for its end, and again, with a pause that grows while it does not live long."""
        loop = asyncio.get_running_loop()
        pause_s = BACKOFF_S_MIN
        while not self._ending.is_set():
            began_s = loop.time()
            how = await self._live(name, command)
            if self._ending.is_set():
                self._in_order = self._in_order and how == "0"
                return
            if name in self._replaced:
                self._replaced.discard(name)
                pause_s = BACKOFF_S_MIN
                continue
            if loop.time() - began_s >= STEADY_S:
                pause_s = BACKOFF_S_MIN
            log.warning("worker_ended", worker=name, how=how, again_in_s=pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._ending.wait()
            pause_s = min(2 * pause_s, BACKOFF_S_MAX)

    async def _live(self, name: str, command: Sequence[str]) -> str:
        """One life of a worker. Returns: its exit code, or why it could not be started."""
        try:
            process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, start_new_session=True)
        except OSError as exc:
            return str(exc)
        self.processes[name] = process
        self._started_at_s[name] = asyncio.get_running_loop().time()
        log.info("worker_started", worker=name, pid=process.pid)
        if self._ending.is_set():
            process.terminate()
        code = await process.wait()
        if process.stdin is not None:
            process.stdin.close()
        return str(code)

    async def _watch(self) -> None:
        """Kill who gives no sign of life; it is started again as after any death."""
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            await asyncio.sleep(LOOK_S)
            if loop.time() - began_s > 2 * LOOK_S:
                continue  # it was this process that stood still: what was said meanwhile is not read yet
            for name, process in self.processes.items():
                if process.returncode is None and name not in self._replaced and self._hangs(name, loop.time()):
                    log.error("worker_hangs", worker=name, pid=process.pid)
                    process.kill()

    def _hangs(self, name: str, now_s: float) -> bool:
        started_at_s, heard_at_s = self._started_at_s[name], self._router.heard_at_s(name)
        if heard_at_s < started_at_s:
            return now_s - started_at_s > READY_S_MAX
        return now_s - heard_at_s > max(HUNG_S_MAX, self._end_s)

    async def _roll(self) -> None:
        """Replace one worker after the other; each is ready again before the next one goes."""
        for name in self._commands:
            process = self.processes.get(name)
            if process is None or process.returncode is not None:
                continue  # it is on its way back anyway
            self._replaced.add(name)
            process.terminate()
            try:
                async with asyncio.timeout(self._end_s):
                    await process.wait()
            except TimeoutError:
                log.error("workers_killed", count=1)  # noqa: TRY400 - the place is known
                process.kill()
            try:
                async with asyncio.timeout(READY_S_MAX):
                    await self._router.until(partial(self._is_back, name, process))
            except TimeoutError:
                log.error("restart_given_up", worker=name, after_s=READY_S_MAX)  # noqa: TRY400
                return
            log.info("worker_restarted", worker=name)

    def _is_back(self, name: str, old: asyncio.subprocess.Process) -> bool:
        return self.processes[name] is not old and self._router.ready(name)
