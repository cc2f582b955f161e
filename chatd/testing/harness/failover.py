"""``python -m chatd.testing.harness.failover``: the Redis below fails over and is resharded while all talk.

``--sentinel``: the master is killed and its replica takes its place; each commit waits for that replica. ``--cluster``:
slots move between masters, of conversations and of channels, for the cluster is the bus, too; every other time a master
is killed. After each, all that was answered must be there.
``--lossy``: without waiting, everysec, and the replica is cut off before its master is killed, so that answered
messages vanish: each device must be told of another history, and in none of them a seq names two bodies.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import aiohttp
from redis.crc import key_slot

from chatd.model import members_of
from chatd.routing.bus_redis import PREFIX
from chatd.settings import StoreSettings
from chatd.testing.harness.cluster import AWAY, READY_POLL_S, SPREAD_S, KillableCluster
from chatd.testing.harness.crowd import Talk
from chatd.testing.harness.ending import EndingHistory, EndingSummary
from chatd.testing.harness.process import HarnessError, KillableServer
from chatd.testing.harness.run import TALK_S_MAX
from chatd.testing.redis_cluster import RedisCluster
from chatd.testing.redis_sentinel import RedisSentinel
from chatd.testing.redis_server import RedisServer

Fallible: TypeAlias = RedisSentinel | RedisCluster

CYCLES_PER_HISTORY = 5
NODE_TIMEOUT_MS = 500
AGREE_S_MAX = 40.0
CUT_OFF_S = 0.3
OVER = '"event": "store_broken"'
KILL_EVERY = 2
"""One cycle of a cluster in so many kills a master; all of them move slots."""


class FailoverSummary(EndingSummary):
    """``histories``: that ended. ``lossy``: cycles that took answered messages. ``slowest_s``: until all agreed."""

    histories: int = 0
    lossy: int = 0
    slowest_s: float = 0.0

    def __str__(self) -> str:
        return (
            f"{super().__str__()}\n{self.histories} histories ended, {self.resets} resets of devices; answered: "
            f"{self.kept} kept, {self.gone} gone in {self.lossy} lossy cycles; all agreed within {self.slowest_s:.1f} s"
        )


class FallibleCluster(KillableCluster[Fallible]):
    """Workers that are started again whenever they end. ``incarnation``: of one that runs."""

    def __init__(self, directory: Path, redis: Fallible, workers: int, *, bus_url: str, replicas: int) -> None:
        super().__init__(directory, redis, workers, more=["--bus", bus_url, "--replicas", f"{replicas}"])

    async def agree(self) -> str | None:
        """The history that every worker knows, asked as a load balancer does; None: not one, or not all are ready."""
        if len(self.alive) < len(self.workers) or len({one.incarnation for one in self.workers}) > 1:
            return None
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as http:
            for one in self.workers:
                try:
                    async with http.get(f"http://127.0.0.1:{one.port}/readyz") as answer:
                        if answer.status != 200:
                            return None
                except (aiohttp.ClientError, TimeoutError):
                    return None
        if len(self.alive) < len(self.workers):
            return None
        self.incarnation = self.workers[0].incarnation
        return self.incarnation

    def faults(self) -> list[str]:
        """See `Killable`. That Redis is away, and that a history is over, is what a worker should say."""
        return [line for line in super().faults() if not line.startswith(AWAY) and OVER not in line]


class FailoverHistory(EndingHistory):
    """One history whose devices find another process each time, over a Redis that fails over."""

    def __init__(self, cluster: FallibleCluster, dice: random.Random, summary: FailoverSummary, *, lossy: bool) -> None:
        super().__init__(cluster, dice, summary)
        self._cluster = cluster
        self._failed = summary
        self._lossy = lossy
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> FailoverHistory:
        await super().__aenter__()
        work = [self._spread(), *(self._keep(one) for one in self._cluster.workers)]
        self._tasks = [asyncio.create_task(one) for one in work]
        await self._settle()  # who was never welcomed to this history would not be told of another one
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().__aexit__(*exc)

    async def _spread(self) -> None:
        dice = random.Random(self._dice.random())  # noqa: S311 - chance is no secret here
        while True:
            if alive := self._cluster.alive:
                self._proxy.retarget(dice.choice(alive).port)
            await asyncio.sleep(SPREAD_S)

    @staticmethod
    async def _keep(worker: KillableServer) -> None:
        """Start it again whenever it has ended, as a supervisor does."""
        while True:
            if worker.runs:
                await asyncio.sleep(READY_POLL_S)
                continue
            with suppress(HarnessError):  # Redis is away
                await worker.start()

    async def cycle(self, point: object) -> None:
        """Talk, let Redis fail, wait until all know what became of it, settle, judge."""
        dice, before, resets = self._dice, self._cluster.incarnation, self._told.resets
        async with Talk(self._devices, self._mine(), self._proxy, dice):
            await asyncio.sleep(dice.random() * TALK_S_MAX)
            ends = await self._fail()
            began_s = time.monotonic()
            agreed = await self._agreed(before if ends else None)
            self._failed.slowest_s = max(self._failed.slowest_s, time.monotonic() - began_s)
            await asyncio.sleep(dice.random() * TALK_S_MAX)
        if ends and agreed:
            self._failed.histories += 1
        elif not ends and (self._cluster.incarnation != before or self._told.resets > resets):
            self._told.found("incarnation", "another one, and nothing was lost")
        await self._settle()
        await self._judge()
        self._failed.lossy += self._judge_answered(0 if self._lossy else len(self._recorder.events))
        self._told.cycles += 1

    async def _fail(self) -> bool:
        """What happens to Redis in this cycle. Returns: whether its history must have another name then."""
        redis, kills = self._cluster.redis, self._told.kills
        if isinstance(redis, RedisSentinel):
            if self._lossy:
                await self._cut_off(redis.servers[0])
            await asyncio.to_thread(redis.fail_over)
            await asyncio.to_thread(redis.rejoin)
            kills["master"] += 1
            return True
        convs = self._dice.sample(self._convs, 3)
        channels = [
            key_slot(PREFIX + user.encode())
            for user in dict.fromkeys(chain(*(members_of(conv) or () for conv in convs)))
        ]
        for slot in (*map(self._slot, convs), *channels):
            await asyncio.to_thread(redis.move, slot)
            kills["slot moved"] += 1
        if not self._lossy and self._told.cycles % KILL_EVERY:
            return False
        victim = redis.owner(self._slot(self._dice.choice(self._convs)))
        if self._lossy:
            await self._cut_off(redis.servers[victim])
        await asyncio.to_thread(redis.fail_over, victim)
        redis.servers[victim].start()
        await asyncio.to_thread(redis.wait)
        kills["master"] += 1
        return True

    @staticmethod
    def _slot(conv: str) -> int:
        return int(key_slot(f"{StoreSettings().redis_prefix}{{{conv}}}:".encode()))

    @staticmethod
    async def _cut_off(master: RedisServer) -> None:
        """What is answered from now on stands nowhere else."""
        await asyncio.to_thread(master.cut_off)
        await asyncio.sleep(CUT_OFF_S)

    async def _agreed(self, not_this: str | None) -> bool:
        """Wait until all workers know one history, which is not that one."""
        deadline_s = time.monotonic() + AGREE_S_MAX
        while (name := await self._cluster.agree()) is None or name == not_this:
            if time.monotonic() > deadline_s:
                known = sorted({f"{one.incarnation}{'' if one.runs else ' (ended)'}" for one in self._cluster.workers})
                self._told.found("incarnation", f"after {AGREE_S_MAX} s: {known}, before: {not_this}")
                return False
            await asyncio.sleep(READY_POLL_S)
        return True


def _redis(kind: str) -> Fallible:
    if kind == "sentinel":
        return RedisSentinel(appendfsync="everysec")
    return RedisCluster(appendfsync="everysec", replicas=True, node_timeout_ms=NODE_TIMEOUT_MS)


async def run(cycles: int, *, kind: str, seed: int, workers: int = 3, lossy: bool = False) -> FailoverSummary:
    """So many cycles of one kind, ``sentinel`` or ``cluster``; all chance comes from ``seed``."""
    summary = FailoverSummary()
    began_s = time.monotonic()
    dice = random.Random(seed)  # noqa: S311 - chance is no secret here
    while summary.cycles < cycles:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chatd-failover-")))
            redis = _redis(kind)
            stack.enter_context(redis)
            # The cluster is its own bus, so that hints, too, go where their slots go.
            bus = redis if isinstance(redis, RedisCluster) else stack.enter_context(RedisServer())
            cluster = FallibleCluster(directory, redis, workers, bus_url=bus.url, replicas=0 if lossy else 1)
            async with FailoverHistory(cluster, dice, summary, lossy=lossy) as history:
                for _ in range(min(CYCLES_PER_HISTORY, cycles - summary.cycles)):
                    await history.cycle(None)
    summary.seconds = time.monotonic() - began_s
    return summary


def main(argv: list[str] | None = None) -> int:
    """Run, and print what it did and found. Returns: the exit code, 1 if there was an anomaly."""
    parser = argparse.ArgumentParser("python -m chatd.testing.harness.failover", description=__doc__)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--sentinel", dest="kind", action="store_const", const="sentinel")
    kind.add_argument("--cluster", dest="kind", action="store_const", const="cluster")
    parser.add_argument("--lossy", action="store_true", help="the replica lacks what was answered last")
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    summary = asyncio.run(run(args.cycles, kind=args.kind, seed=args.seed, workers=args.workers, lossy=args.lossy))
    return summary.tell()


if __name__ == "__main__":
    sys.exit(main())
