"""The supervisor: worker processes that are there as long as it is, and come back when they die.

A worker holds the other end of a pipe on its standard input, so that it ends when the supervisor does, however that
ended. It stands in a session of its own: ^C in a terminal reaches the supervisor alone, which then ends them in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from chatd.routing.router import Router
from chatd.stats import WorkerState

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
        self._starts: dict[str, int] = {}
        self._parked: dict[str, asyncio.Event] = {}  # who was drained waits for it to be set
        self._drains: dict[str, asyncio.Task[None]] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._rolling: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._in_order = True

    def start(self) -> None:
        """Start the workers."""
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep(name, command)) for name, command in self._commands.items()]
        self._watching = loop.create_task(self._watch())

    @property
    def names(self) -> list[str]:
        """The workers."""
        return list(self._commands)

    def pid(self, name: str) -> int:
        """The process of this worker; 0: it has none now."""
        process = self.processes.get(name)
        return process.pid if process is not None and process.returncode is None else 0

    def starts(self, name: str) -> int:
        """How often this worker was started."""
        return self._starts.get(name, 0)

    def state(self, name: str, *, ready: bool) -> WorkerState:
        """How this worker is; ``ready``: whether it is sent connections."""
        process = self.processes.get(name)
        lives = process is not None and process.returncode is None
        if name in self._parked:
            return "draining" if lives else "drained"
        if lives and self._router.heard_at_s(name) < self._started_at_s[name]:
            return "starting"
        return "ready" if lives and ready else "away"

    def drain(self, name: str) -> None:
        """Begin to end a worker in order. It is not started again before `restart`."""
        if name not in self._parked:
            self._parked[name] = asyncio.Event()
            self._drains[name] = asyncio.get_running_loop().create_task(self._drain(name))

    async def _drain(self, name: str) -> None:
        process = self.processes.get(name)
        if process is not None and process.returncode is None:
            await self._end(process)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Tell a worker to end, and kill it if it takes too long."""
        process.terminate()
        try:
            async with asyncio.timeout(self._end_s):
                await process.wait()
        except TimeoutError:
            log.error("workers_killed", count=1)  # noqa: TRY400 - the place is known
            process.kill()

    def _is_drained(self, name: str) -> bool:
        """Whether it was told to end already: a second time would end it at once."""
        task = self._drains.get(name)
        return task is not None and not task.done()

    def restart(self) -> None:
        """Restart the workers one after the other, also who was drained; nothing, while that is under way already."""
        back = self._unpark()
        if self._rolling is None or self._rolling.done():
            self._rolling = asyncio.get_running_loop().create_task(self._roll(back))

    async def stop(self) -> bool:
        """Accept nothing more, end all workers at the same time. Returns: whether each of them ended in order."""
        self._ending.set()
        self._unpark()
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
        self._unpark()
        self._signal_all(kill=True)

    def _unpark(self) -> frozenset[str]:
        """Let those come back who were drained. Returns: them."""
        parked, self._parked = self._parked, {}
        for wanted in parked.values():
            wanted.set()
        return frozenset(parked)

    def _signal_all(self, *, kill: bool) -> None:
        for name, process in self.processes.items():
            if process.returncode is None and (kill or not self._is_drained(name)):
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
            if (wanted := self._parked.get(name)) is not None:
                log.info("worker_drained", worker=name, how=how)
                await wanted.wait()
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
        self._starts[name] = self._starts.get(name, 0) + 1
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

    async def _roll(self, back: frozenset[str]) -> None:
        """Replace one worker after the other; each is ready again before the next one goes, first of all ``back``."""
        if not await self._until(", ".join(sorted(back)), lambda: all(map(self._router.ready, back))):
            return
        for name in self._commands:
            process = self.processes.get(name)
            if name in back:
                continue
            if process is None or process.returncode is not None or self._is_drained(name):
                continue  # it is on its way back anyway
            self._replaced.add(name)
            await self._end(process)
            if not await self._until(name, partial(self._is_back, name, process)):
                return
            log.info("worker_restarted", worker=name)

    async def _until(self, who: str, condition: Callable[[], bool]) -> bool:
        """Wait for a condition of the router's. False: it took too long, which is logged."""
        try:
            async with asyncio.timeout(READY_S_MAX):
                await self._router.until(condition)
        except TimeoutError:
            log.error("restart_given_up", worker=who, after_s=READY_S_MAX)  # noqa: TRY400 - the place is known
            return False
        return True

    def _is_back(self, name: str, old: asyncio.subprocess.Process) -> bool:
        return self.processes[name] is not old and self._router.ready(name)
