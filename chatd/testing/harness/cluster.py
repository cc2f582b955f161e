"""``python -m chatd.testing.harness.cluster``: several processes on one Redis, any of which is killed, Redis too.

Every device comes to another process at each of its connections. In each cycle one process, some of them or
redis-server are killed while all talk over a bad network; they start again, and the whole history is judged. With
``--router`` they are what ``chatd cluster`` started, and its router is killed too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import aiohttp

from chatd import configuration
from chatd.store.redis import RedisStore
from chatd.testing.harness.crowd import Talk
from chatd.testing.harness.process import START_S_MAX, HarnessError, KillableServer, faults_in
from chatd.testing.harness.run import CYCLES_PER_HISTORY, TALK_S_MAX, History, Summary
from chatd.testing.harness.tokens import messages_in, tokens_in
from chatd.testing.killing import Point
from chatd.testing.ports import free_port
from chatd.testing.redis_server import RedisServer
from chatd.testing.server import GENEROUS

SPREAD_S = 0.005
READY_POLL_S = 0.05
ROUTER_EVERY = 7
AWAY = ("chatd: store.redis_url: ", "chatd: cluster.bus_url: ")
REDIS_EVERY = 6
"""One cycle in so many kills redis-server."""


class HasUrl(Protocol):
    """A Redis, whatever it is made of."""

    @property
    def url(self) -> str:
        """As `store.redis_url` takes it."""


R = TypeVar("R", bound=HasUrl)


class KillableCluster(Generic[R]):
    """Workers on one Redis; `Killable` as a whole. ``more``: arguments of each worker."""

    def __init__(self, directory: Path, redis: R, workers: int, *, more: Sequence[str] = ()) -> None:
        self.redis = redis
        self.workers = []
        for number in range(workers):
            (directory / f"{number}").mkdir()
            self.workers.append(KillableServer(directory / f"{number}", redis=redis.url, more=more))
        self.incarnation = ""

    @property
    def alive(self) -> list[KillableServer]:
        """Those that run."""
        return [one for one in self.workers if one.runs]

    @property
    def port(self) -> int:
        """Of one that runs. Raises: HarnessError – none does."""
        if not self.alive:
            raise HarnessError("no worker runs")
        return self.alive[0].port

    async def make_tokens(self, users: Sequence[str], devices: Sequence[str]) -> dict[tuple[str, str], str]:
        """See `Killable`."""
        overrides = {**GENEROUS, "store.kind": "redis", "store.redis_url": self.redis.url}
        store = RedisStore(configuration.load(env={}, overrides=overrides).store)
        return await tokens_in(store, users, devices)

    async def start(self, *, new_migrations: int = 0, die_in_migration: int = 0) -> bool:
        """See `Killable`."""
        await asyncio.gather(*(one.start() for one in self.workers if not one.runs))
        self.incarnation = self.workers[0].incarnation
        return True

    async def arm(self, point: Point, passings: int) -> None:
        """See `Killable`."""
        raise HarnessError("the workers of a cluster have no named points")

    async def gone(self) -> None:
        """See `Killable`."""
        for one in self.workers:
            await one.gone()

    async def kill(self) -> None:
        """See `Killable`."""
        for one in self.workers:
            await one.kill()

    async def counts(self) -> int:
        """See `Killable`."""
        return await self.alive[0].counts()

    def faults(self) -> list[str]:
        """See `Killable`."""
        return [line for one in self.workers for line in one.faults()]


class KillableRouter:
    """``chatd cluster`` as a process; `Killable` as a whole. Its workers are started again by itself."""

    def __init__(self, directory: Path, redis: RedisServer, workers: int) -> None:
        self.redis = redis
        self.port = free_port()
        self.incarnation = ""
        self._directory = directory
        self._workers = workers
        self._log = directory / "log"
        self._process: asyncio.subprocess.Process | None = None

    def _settings(self) -> dict[str, object]:
        return {
            **GENEROUS,
            "store.kind": "redis",
            "store.redis_url": self.redis.url,
            "cluster.bus_url": self.redis.url,
            "cluster.reconcile_s": 1.0,
            "cluster.spread_s": 0.2,
            "limits.window_messages_max": 16,
            "server.data_dir": str(self._directory),
        }

    def _store(self) -> RedisStore:
        return RedisStore(configuration.load(env={}, overrides=self._settings()).store)

    async def make_tokens(self, users: Sequence[str], devices: Sequence[str]) -> dict[tuple[str, str], str]:
        """See `Killable`."""
        return await tokens_in(self._store(), users, devices)

    async def start(self, *, new_migrations: int = 0, die_in_migration: int = 0) -> bool:
        """See `Killable`. Raises: HarnessError – it is not ready in time."""
        if self._process is None:
            names = {name: "CHATD_" + name.replace(".", "_").upper() for name in self._settings()}
            env = {**os.environ, **{names[name]: str(value) for name, value in self._settings().items()}}
            command = [sys.executable, "-m", "chatd", "cluster", "--port", f"{self.port}"]
            with self._log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *command, "--workers", f"{self._workers}", env=env, stdin=DEVNULL, stdout=DEVNULL, stderr=log
                )
        store = self._store()
        await store.open()
        self.incarnation = store.incarnation
        await store.close()
        deadline_s = time.monotonic() + START_S_MAX
        while len(self.pids) < self._workers or not await self._ready():
            if time.monotonic() > deadline_s or self._process.returncode is not None:
                raise HarnessError(f"the cluster is not ready:\n{self._log.read_text()[-2000:]}")
            await asyncio.sleep(READY_POLL_S)
        return True

    async def _ready(self) -> bool:
        try:
            async with (
                aiohttp.ClientSession() as http,
                http.get(f"http://127.0.0.1:{self.port}/readyz") as answer,
            ):
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    @property
    def pids(self) -> list[int]:
        """Of the workers that run."""
        if self._process is None:
            return []
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def kill_worker(self, dice: random.Random) -> bool:
        """kill -9 one worker. Returns: whether there was one."""
        if not (pids := self.pids):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(pids), signal.SIGKILL)
        return True

    async def arm(self, point: Point, passings: int) -> None:
        """See `Killable`."""
        raise HarnessError("the workers of a cluster have no named points")

    async def gone(self) -> None:
        """See `Killable`."""
        if self._process is not None:
            await self._process.wait()
            self._process = None

    async def kill(self) -> None:
        """kill -9 of the router; its workers end with it."""
        if self._process is not None:
            pids = self.pids
            self._process.kill()
            await self.gone()
            while any(os.path.exists(f"/proc/{pid}") for pid in pids):  # noqa: ASYNC110, ASYNC240 - no other way
                await asyncio.sleep(READY_POLL_S)

    async def counts(self) -> int:
        """See `Killable`."""
        return await messages_in(self._store())

    def faults(self) -> list[str]:
        """See `Killable`. A worker that cannot start while Redis is away says so in one line, as it should."""
        return [line for line in faults_in(self._log) if not line.startswith(AWAY)]


class RouterHistory(History):
    """One history through the router."""

    def __init__(self, router: KillableRouter, dice: random.Random, summary: Summary) -> None:
        super().__init__(router, dice, summary)
        self._router = router

    async def cycle(self, point: Point | None) -> None:
        """Talk, kill a worker, the router or Redis, let it come back, settle, judge."""
        dice, router, summary = self._dice, self._router, self._summary
        async with Talk(self._devices, self._mine(), self._proxy, dice):
            await asyncio.sleep(dice.random() * TALK_S_MAX)
            if (summary.cycles + 1) % REDIS_EVERY == 0:
                router.redis.kill()
                await asyncio.sleep(dice.random() * TALK_S_MAX)
                router.redis.start()
                summary.kills["redis"] += 1
            elif (summary.cycles + 1) % ROUTER_EVERY == 0:
                await router.kill()
                summary.kills["router"] += 1
            elif router.kill_worker(dice):
                summary.kills["worker"] += 1
            await asyncio.sleep(dice.random() * TALK_S_MAX)
            await router.start()
        await self._settle()
        await self._judge()
        summary.cycles += 1


class ClusterHistory(History):
    """One history whose devices find another process behind the same address each time."""

    def __init__(self, cluster: KillableCluster[RedisServer], dice: random.Random, summary: Summary) -> None:
        super().__init__(cluster, dice, summary)
        self._cluster = cluster
        self._spreading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> ClusterHistory:
        await super().__aenter__()
        self._spreading = asyncio.create_task(self._spread())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._spreading is not None:
            self._spreading.cancel()
            await asyncio.gather(self._spreading, return_exceptions=True)
        await super().__aexit__(*exc)

    async def _spread(self) -> None:
        dice = random.Random(self._dice.random())  # noqa: S311 - chance is no secret here
        while True:
            if alive := self._cluster.alive:
                self._proxy.retarget(dice.choice(alive).port)
            await asyncio.sleep(SPREAD_S)

    async def cycle(self, point: Point | None) -> None:
        """Talk, kill something, start it again, settle, judge."""
        dice, cluster = self._dice, self._cluster
        async with Talk(self._devices, self._mine(), self._proxy, dice):
            await asyncio.sleep(dice.random() * TALK_S_MAX)
            if (self._summary.cycles + 1) % REDIS_EVERY == 0:
                cluster.redis.kill()
                await asyncio.sleep(dice.random() * TALK_S_MAX)
                cluster.redis.start()
                self._summary.kills["redis"] += 1
            else:
                victims = dice.sample(cluster.workers, dice.choice((1, 1, 1, 2)))
                await asyncio.gather(*(one.kill() for one in victims))
                self._summary.kills["worker"] += len(victims)
                await asyncio.sleep(dice.random() * TALK_S_MAX)
            await cluster.start()
        await self._settle()
        await self._judge()
        self._summary.cycles += 1


async def run(cycles: int, *, seed: int, workers: int, router: bool = False) -> Summary:
    """So many cycles; all chance comes from ``seed``. ``router``: of ``chatd cluster``."""
    summary = Summary()
    began_s = time.monotonic()
    dice = random.Random(seed)  # noqa: S311 - chance is no secret here
    while summary.cycles < cycles:
        with tempfile.TemporaryDirectory(prefix="chatd-kill-") as directory, RedisServer(appendfsync="always") as redis:
            history: History
            if router:
                history = RouterHistory(KillableRouter(Path(directory), redis, workers), dice, summary)
            else:
                history = ClusterHistory(KillableCluster(Path(directory), redis, workers), dice, summary)
            async with history:
                for _ in range(min(CYCLES_PER_HISTORY, cycles - summary.cycles)):
                    await history.cycle(None)
    summary.seconds = time.monotonic() - began_s
    return summary


def main(argv: list[str] | None = None) -> int:
    """Run, and print what it did and found. Returns: the exit code, 1 if there was an anomaly."""
    parser = argparse.ArgumentParser("python -m chatd.testing.harness.cluster", description=__doc__)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--router", action="store_true", help="through `chatd cluster`, whose router is killed too")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    summary = asyncio.run(run(args.cycles, seed=args.seed, workers=args.workers, router=args.router))
    return summary.tell()


if __name__ == "__main__":
    sys.exit(main())
