"""``python -m chatd.testing.harness.push``: a server that is killed between a message and its push, again and again.

A user who is away has a subscription of a fake push service. In each cycle somebody writes to them, and the server dies
at a named point on the way to the push, or anywhere. After the restart, and after whoever wrote has repeated what was
not acknowledged, a notification of the newest message must come; one that comes twice must have the same key.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
from msgspec import Struct, field

from chatd.errors import EXIT_FAILED
from chatd.model import conv_of
from chatd.protocol import new_message_id
from chatd.testing.harness.process import HarnessError, KillableServer
from chatd.testing.harness.tokens import make_tokens
from chatd.testing.killing import PUSH_POINTS, Point
from chatd.testing.push_service import FakePushService, FakeSubscription

WRITER, READER = "alice", "bob"
CONV = conv_of(WRITER, READER)
AFTER_PUSH: Point = "after_push_before_mark"
MESSAGES_MAX = 3
KILL_S_MAX = 0.05
PUSH_S_MAX = 15.0
DEATH_S_MAX = 2.0


class Summary(Struct):
    """What a run did and found. ``repeated``: notifications that came again, with the same key."""

    cycles: int = 0
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    notifications: int = 0
    repeated: int = 0
    lost: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kills = ", ".join(f"{point} {count}" for point, count in sorted(self.kills.items()))
        return (
            f"{self.cycles} cycles in {self.seconds:.0f} s; kills: {kills}; {self.messages} messages, "
            f"{self.notifications} notifications, {self.repeated} of them repeated with the same key; "
            f"lost: {len(self.lost)}, faults: {len(self.faults)}"
        )


class Cycles:
    """One store, the server that dies on it, and both users."""

    def __init__(
        self, server: KillableServer, service: FakePushService, http: aiohttp.ClientSession, seed: int
    ) -> None:
        self._server = server
        self._service = service
        self._http = http
        self._dice = random.Random(seed)  # noqa: S311 - chance is no secret here
        self._tokens: dict[tuple[str, str], str] = {}
        self._phone: FakeSubscription
        self._head = 0
        self.summary = Summary()

    async def begin(self) -> None:
        """Make both users, and let the reader subscribe."""
        self._tokens = await make_tokens(self._server.data_dir, [WRITER, READER], ["d"])
        await self._server.start()
        kinds = await self._call("GET", "/v1/push", READER)
        self._phone = self._service.subscribe(kinds["kinds"]["webpush"]["vapid"])
        body = {"endpoint": self._phone.endpoint, "keys": self._phone.keys}
        await self._call("PUT", "/v1/push/subscription", READER, body)

    async def cycle(self, point: Point | None) -> None:
        """Write, die, come back, and wait for the push."""
        if point is not None:
            await self._server.arm(point, 1)
        most = 1 if point == AFTER_PUSH else MESSAGES_MAX
        drafts = [{"id": new_message_id(), "to": READER, "body": f"{n}"} for n in range(self._dice.randint(1, most))]
        writing = asyncio.create_task(self._write(drafts))
        await self._die(point)
        left = await writing
        await self._server.start()
        self._head = max([self._head, *[await self._send(draft) for draft in left]])
        self.summary.messages += len(drafts)
        self.summary.cycles += 1
        head = (await self._call("GET", f"/v1/conversations/{CONV}/marks", WRITER))["head"]
        times = 2 if point == AFTER_PUSH and not left else 1  # it was sent before the kill, and comes again
        try:
            await self._service.until(lambda _: self._told(times) >= head, timeout_s=PUSH_S_MAX)
        except TimeoutError:
            self.summary.lost.append(f"cycle {self.summary.cycles}, {point or 'random'}: #{head}, told #{self._told()}")

    async def _die(self, point: Point | None) -> None:
        """At the point, or anywhere; at a point that is not reached in time it is killed all the same."""
        if point is None:
            await asyncio.sleep(self._dice.random() * KILL_S_MAX)
            await self._server.kill()
            self.summary.kills["random"] += 1
            return
        try:
            async with asyncio.timeout(DEATH_S_MAX):
                await self._server.gone()
            self.summary.kills[point] += 1
        except TimeoutError:
            await self._server.kill()
            self.summary.kills["late"] += 1

    async def _write(self, drafts: list[dict[str, str]]) -> list[dict[str, str]]:
        """Send one after the other. Returns: those that were not acknowledged."""
        for at, draft in enumerate(drafts):
            try:
                self._head = max(self._head, await self._send(draft))
            except (aiohttp.ClientError, HarnessError):
                return drafts[at:]
        return []

    async def _send(self, draft: dict[str, str]) -> int:
        return int((await self._call("POST", "/v1/messages", WRITER, draft))["seq"])

    async def _call(self, method: str, path: str, user: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self._tokens[user, 'd']}"}
        url = f"http://127.0.0.1:{self._server.port}{path}"
        async with self._http.request(method, url, headers=headers, json=body) as answer:
            if answer.status >= 400:
                raise HarnessError(f"{method} {path}: {answer.status} {await answer.text()}")
            return await answer.json() if answer.status != 204 else None

    def _told(self, times: int = 1) -> int:
        """The newest message that was told so often."""
        told = Counter(one.payload["seq"] for one in self._service.received(self._phone) if one.payload)
        return max((seq for seq, count in told.items() if count >= times), default=0)

    def judge(self) -> Summary:
        """What came of all cycles."""
        summary, keys = self.summary, Counter[str]()
        for one in self._service.received(self._phone):
            if one.fault or one.payload["key"] != f"{CONV}#{one.payload['seq']}":
                summary.faults.append(f"notification {one.number}: {one.fault or one.payload}")
            else:
                keys[one.payload["key"]] += 1
        summary.notifications = keys.total()
        summary.repeated = keys.total() - len(keys)
        summary.faults += self._server.faults()
        return summary


async def run(cycles: int, *, seed: int) -> Summary:
    """So many cycles, every point in turn, in an order that comes from ``seed``."""
    began_s = time.monotonic()
    dice = random.Random(seed)  # noqa: S311 - chance is no secret here
    points: list[Point | None] = []
    with tempfile.TemporaryDirectory(prefix="chatd-kill-") as directory:
        server = KillableServer(Path(directory), pushing=True)
        async with FakePushService() as service, aiohttp.ClientSession() as http:
            work = Cycles(server, service, http, seed)
            try:
                await work.begin()
                for _ in range(cycles):
                    if not points:
                        points = dice.sample([None, *PUSH_POINTS], len(PUSH_POINTS) + 1)
                    await work.cycle(points.pop())
                summary = work.judge()
            finally:
                await server.kill()
    summary.seconds = time.monotonic() - began_s
    return summary


def main(argv: list[str] | None = None) -> int:
    """Run, and print what it did and found. Returns: the exit code, 1 if a push was lost."""
    parser = argparse.ArgumentParser("python -m chatd.testing.harness.push", description=__doc__)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    summary = asyncio.run(run(args.cycles, seed=args.seed))
    sys.stdout.write(f"{summary}\n")
    sys.stdout.writelines(f"  {line}\n" for line in [*summary.lost, *summary.faults])
    return EXIT_FAILED if summary.lost or summary.faults else 0


if __name__ == "__main__":
    sys.exit(main())
