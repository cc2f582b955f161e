"""``python -m chatd.testing.harness.cluster``: several processes on one Redis, any of which is killed, Redis too.

Every device comes to another process at each of its connections. In each cycle one process, some of them or
redis-server are killed while all talk over a bad network; they start again, and the whole history is judged.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from chatd import settings
from chatd.errors import EXIT_FAILED
from chatd.store.redis import RedisStore
from chatd.testing.harness.crowd import Talk
from chatd.testing.harness.process import HarnessError, KillableServer
from chatd.testing.harness.run import CYCLES_PER_HISTORY, TALK_S_MAX, History, Summary, tokens_in
from chatd.testing.killing import Point
from chatd.testing.redis_server import RedisServer
from chatd.testing.server import GENEROUS

SPREAD_S = 0.005
REDIS_EVERY = 6
"""One cycle in so many kills redis-server."""


class KillableCluster:
    """Workers on one Redis; `Killable` as a whole."""

    def __init__(self, directory: Path, redis: RedisServer, workers: int) -> None:
        self.redis = redis
        self.workers = []
        for number in range(workers):
            (directory / f"{number}").mkdir()
            self.workers.append(KillableServer(directory / f"{number}", redis=redis.url))
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
        store = RedisStore(settings.load(env={}, overrides=overrides).store)
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


class ClusterHistory(History):
    """One history whose devices find another process behind the same address each time."""

    def __init__(self, cluster: KillableCluster, dice: random.Random, summary: Summary) -> None:
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


async def run(cycles: int, *, seed: int, workers: int) -> Summary:
    """So many cycles; all chance comes from ``seed``."""
    summary = Summary()
    began_s = time.monotonic()
    dice = random.Random(seed)  # noqa: S311 - chance is no secret here
    while summary.cycles < cycles:
        with tempfile.TemporaryDirectory(prefix="chatd-kill-") as directory, RedisServer(appendfsync="always") as redis:
            cluster = KillableCluster(Path(directory), redis, workers)
            async with ClusterHistory(cluster, dice, summary) as history:
                for _ in range(min(CYCLES_PER_HISTORY, cycles - summary.cycles)):
                    await history.cycle(None)
    summary.seconds = time.monotonic() - began_s
    return summary


def main(argv: list[str] | None = None) -> int:
    """Run, and print what it did and found. Returns: the exit code, 1 if there was an anomaly."""
    parser = argparse.ArgumentParser("python -m chatd.testing.harness.cluster", description=__doc__)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    summary = asyncio.run(run(args.cycles, seed=args.seed, workers=args.workers))
    sys.stdout.write(f"{summary}\n")
    for examples in summary.examples.values():
        sys.stdout.writelines(f"  {line}\n" for line in examples)
    return EXIT_FAILED if summary.anomalies else 0


if __name__ == "__main__":
    sys.exit(main())
