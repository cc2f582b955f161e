"""``python -m chatd.testing.harness.ring``: workers join, leave and die under load, behind two routers that disagree.

One router follows the leases, the other has a list of the workers that were there at first, and nothing tells it of
any other. Devices talk over a bad network and come to one router or the other at each connection; the history checker
judges. Passengers, who only stay connected, show whom a change moves: just those whose place the ring says has
changed. With ``--restarts`` it is ``chatd cluster`` whose workers are all replaced by SIGHUP, so many times, and what
is measured is how long each passenger is away.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import field

from chatd.client import Client
from chatd.client.events import CaughtUpEvent, DisconnectedEvent
from chatd.routing.ring import Ring
from chatd.testing.harness.crowd import Talk
from chatd.testing.harness.process import HarnessError
from chatd.testing.harness.programs import POLL_S, Program, Programs
from chatd.testing.harness.run import History, Summary
from chatd.testing.killing import Point
from chatd.testing.redis_server import RedisServer

SPREAD_S = 0.05
AT_FIRST = 3
WORKERS_MIN, WORKERS_MAX = 2, 6
MOVED_S_MAX = 30.0
QUIET_S = 4.0
"""After a change all have heard of it by then, and nobody else is to move."""
WITHIN = 0.20
BACK_P99_S = 10.0
BACK_S_MAX = 60.0


class Passenger:
    """A client that stays connected. ``away_s``: how long each time it was not; ``connects``: how often it came."""

    def __init__(self, url: str, user: str, token: str) -> None:
        self.user = user
        self.connects = 0
        self.away_s: list[float] = []
        self._client = Client(url, token=token, user=user)
        self._left_at_s: float | None = None
        self._task = asyncio.create_task(self._ride(), name=user)

    async def _ride(self) -> None:
        async with self._client:
            async for event in self._client.events():
                if isinstance(event, DisconnectedEvent) and self._left_at_s is None:
                    self._left_at_s = time.monotonic()
                elif isinstance(event, CaughtUpEvent):
                    self.connects += 1
                    if self._left_at_s is not None:
                        self.away_s.append(time.monotonic() - self._left_at_s)
                        self._left_at_s = None

    @property
    def aboard(self) -> bool:
        """Whether it is connected and has all."""
        return self.connects > 0 and self._left_at_s is None

    async def stop(self) -> None:
        """Leave. Raises: what went wrong in it."""
        if self._task.done():
            self._task.result()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class RingSummary(Summary):
    """``shares``: a line a change of the ring. ``away_s``: of all passengers, each time they were away."""

    shares: list[str] = field(default_factory=list)
    away_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [super().__str__(), *self.shares]
        if self.away_s:
            ordered = sorted(self.away_s)
            p50, p99 = (ordered[int(len(ordered) * part)] for part in (0.5, 0.99))
            lines.append(f"away {len(ordered)} times: p50 {p50:.2f} s, p99 {p99:.2f} s, longest {ordered[-1]:.2f} s")
        return "\n".join(lines)


class RingHistory(History):
    """One history through routers, with passengers beside it."""

    def __init__(self, programs: Programs, dice: random.Random, summary: RingSummary) -> None:
        super().__init__(programs, dice, summary)
        self._programs = programs
        self._found = summary
        self._passengers: list[Passenger] = []

    async def board(self, url: str, users: Sequence[str]) -> list[Passenger]:
        """Passengers through this router, all aboard."""
        new = [Passenger(url, user, self._programs.passengers[user]) for user in users]
        self._passengers += new
        await self._all_aboard(BACK_S_MAX)
        return new

    async def _all_aboard(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not all(one.aboard for one in self._passengers):  # noqa: ASYNC110 - many, and no hurry
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            lost = sorted(one.user for one in self._passengers if not one.aboard)
            self._summary.found("not back", f"{len(lost)} passengers", f"{lost[:3]} after {timeout_s} s")

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.gather(*(one.stop() for one in self._passengers))
        self._found.away_s += [away_s for one in self._passengers for away_s in one.away_s]
        await super().__aexit__(*exc)


class Changes(RingHistory):
    """Workers that advertise themselves come and go behind two routers."""

    def __init__(self, programs: Programs, dice: random.Random, summary: RingSummary) -> None:
        self._following = programs.add("cluster", "--workers", "0")
        self._workers = [self._worker(programs) for _ in range(AT_FIRST)]
        nodes = ",".join(worker.url for worker in self._workers)
        self._stale = programs.add("cluster", "--workers", "0", cluster__bus_url="", cluster__nodes=nodes)
        self._spares: list[Program] = []
        self._riders: list[Passenger] = []
        self._spreading: asyncio.Task[None] | None = None
        super().__init__(programs, dice, summary)

    @staticmethod
    def _worker(programs: Programs) -> Program:
        return programs.add("serve", cluster__advertise="http://127.0.0.1:{port}")

    async def __aenter__(self) -> Changes:
        await super().__aenter__()
        self._spreading = asyncio.create_task(self._spread())
        await self._until_seen({worker.url for worker in self._workers})
        users = [*self._programs.passengers]
        self._riders = await self.board(self._following.url, users[: len(users) * 3 // 4])
        await self.board(self._stale.url, users[len(users) * 3 // 4 :])
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._spreading is not None:
            self._spreading.cancel()
        await super().__aexit__(*exc)

    async def _spread(self) -> None:
        """Each connection comes to one router or the other."""
        dice = random.Random(self._dice.random())  # noqa: S311 - chance is no secret here
        while True:
            self._proxy.retarget(dice.choice((self._following, self._stale)).port)
            await asyncio.sleep(SPREAD_S)

    async def _until_seen(self, urls: set[str]) -> None:
        try:
            async with asyncio.timeout(MOVED_S_MAX):
                while not (told := self._following.logged("members")) or set(told[-1]["weights"]) != urls:  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)
        except TimeoutError as exc:
            raise HarnessError(f"the router does not see {sorted(urls)}") from exc

    async def cycle(self, point: Point | None) -> None:
        """Change the ring under load, see who moves, settle, judge."""
        dice, summary = self._dice, self._summary
        async with Talk(self._devices, self._mine(), self._proxy, dice):
            before = {worker.url for worker in self._workers}
            choices = ["add"] * (len(before) < WORKERS_MAX) + ["remove", "kill"] * (len(before) > WORKERS_MIN)
            change = dice.choice(choices)
            came = {one.user: one.connects for one in self._riders}
            await self._change(change)
            after = {worker.url for worker in self._workers}
            await self._until_seen(after)
            await self._judge_moves(change, Ring(dict.fromkeys(before, 1)), Ring(dict.fromkeys(after, 1)), came)
        await self._settle()
        await self._judge()
        summary.kills[change] += 1
        summary.cycles += 1

    async def _change(self, change: str) -> None:
        if change == "add":
            worker = self._spares.pop() if self._spares and self._dice.random() < 0.7 else self._worker(self._programs)
            self._workers.append(worker)
            await worker.start()
            await worker.ready()
            return
        worker = self._workers.pop(self._dice.randrange(len(self._workers)))
        self._spares.append(worker)
        await worker.end(signal.SIGTERM if change == "remove" else signal.SIGKILL)

    async def _judge_moves(self, change: str, old: Ring, new: Ring, came: dict[str, int]) -> None:
        """Just those whose place has changed have come anew, once."""
        movers = {user for user in came if old.place(user) != new.place(user)}

        def moved() -> set[str]:
            return {one.user for one in self._riders if one.connects > came[one.user]}

        deadline_s = time.monotonic() + MOVED_S_MAX
        while not movers <= moved() and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        await asyncio.sleep(QUIET_S)
        await self._all_aboard(BACK_S_MAX)
        if late := movers - moved():
            self._summary.found("not moved", f"{len(late)} after {change}", f"of {len(movers)}")
        if wrong := moved() - movers:
            self._summary.found("moved for nothing", f"{len(wrong)} after {change}", f"beside {len(movers)}")
        larger, smaller = (new, old) if len(new) > len(old) else (old, new)
        ideal = 1 / len(larger)
        (exact,) = (share for name, share in larger.shares().items() if name not in smaller.weights)
        if abs(exact / ideal - 1) > WITHIN:
            self._summary.found("share", f"{exact:.3f} of all users", f"1/N is {ideal:.3f}")
        self._found.shares.append(
            f"{change}: {len(old)} to {len(new)} workers, 1/N is {ideal:.3f}, the ring moves {exact:.3f} of all users "
            f"({100 * (exact / ideal - 1):+.0f} %), here {len(moved())} of {len(self._riders)}"
        )


class Restarts(RingHistory):
    """All workers of ``chatd cluster`` are replaced, one after the other."""

    def __init__(self, programs: Programs, dice: random.Random, summary: RingSummary, workers: int) -> None:
        self._cluster = programs.add("cluster", "--workers", f"{workers}")
        self._count = workers
        super().__init__(programs, dice, summary)

    async def __aenter__(self) -> Restarts:
        await super().__aenter__()
        while not any(len(e["workers"]) == self._count for e in self._cluster.logged("workers_ready")):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        await self.board(self._cluster.url, [*self._programs.passengers])
        return self

    async def cycle(self, point: Point | None) -> None:
        """Restart all under load, let everybody come back, settle, judge."""
        due = len(self._cluster.logged("worker_restarted")) + self._count
        deadline_s = time.monotonic() + self._count * BACK_S_MAX
        async with Talk(self._devices, self._mine(), self._proxy, self._dice):
            self._cluster.tell(signal.SIGHUP)
            while len(self._cluster.logged("worker_restarted")) < due:
                if time.monotonic() > deadline_s:
                    raise HarnessError("the rolling restart does not end")
                await asyncio.sleep(POLL_S)
            await asyncio.sleep(QUIET_S)
            await self._all_aboard(BACK_S_MAX)
        await self._settle()
        await self._judge()
        self._summary.kills["rolling restart"] += 1
        self._summary.cycles += 1


async def run(changes: int, restarts: int, *, seed: int, passengers: int, workers: int) -> list[RingSummary]:
    """So many changes of the ring, then so many rolling restarts of ``workers``. All chance comes from ``seed``."""
    summaries = []
    users = [f"p{number}" for number in range(passengers)]
    for number, cycles in enumerate((changes, restarts)):
        if not cycles:
            continue
        summary = RingSummary()
        began_s = time.monotonic()
        dice = random.Random(seed + number)  # noqa: S311 - chance is no secret here
        with tempfile.TemporaryDirectory(prefix="chatd-ring-") as directory, RedisServer(appendfsync="always") as redis:
            programs = Programs(Path(directory), redis, users)
            made = Restarts(programs, dice, summary, workers) if number else Changes(programs, dice, summary)
            async with made as history:
                for _ in range(cycles):
                    await history.cycle(None)
        summary.seconds = time.monotonic() - began_s
        ordered = sorted(summary.away_s)
        if ordered and ordered[int(len(ordered) * 0.99)] > BACK_P99_S:
            summary.found("late", f"p99 of the time away is over {BACK_P99_S} s")
        summaries.append(summary)
    return summaries


def main(argv: list[str] | None = None) -> int:
    """Run, and print what it did and found. Returns: the exit code, 1 if there was an anomaly."""
    parser = argparse.ArgumentParser("python -m chatd.testing.harness.ring", description=__doc__)
    parser.add_argument("--changes", type=int, default=6, help="of the ring: a worker added, removed or killed")
    parser.add_argument("--restarts", type=int, default=3, help="of all workers of `chatd cluster`, one by one")
    parser.add_argument("--passengers", type=int, default=400)
    parser.add_argument("--workers", type=int, default=3, help="of `chatd cluster`")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    made = run(args.changes, args.restarts, seed=args.seed, passengers=args.passengers, workers=args.workers)
    summaries = asyncio.run(made)
    return max(summary.tell() for summary in summaries)


if __name__ == "__main__":
    sys.exit(main())
