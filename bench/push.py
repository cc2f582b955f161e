"""What pushes cost the messages beside them: ``python -m bench.push``.

Messages go from user to user at a steady rate, and as many go to users who are away. In turns: nobody away has
subscribed; their push service hangs; the store refuses everything that a push asks of it. Ends with exit code 1 when
the p99 of the messages to those who are there rose by more than a fifth.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from msgspec import Struct

from bench.presence import Wire, say
from chatd import configuration, protocol
from chatd.app import Server
from chatd.connection import Connection
from chatd.errors import Unavailable
from chatd.model import Account, Device, Subscription
from chatd.testing.push_service import HANG, FakePushService
from chatd.testing.server import GENEROUS

VARIANTS = ("nobody subscribed", "the push service hangs", "the store refuses")
RATIO_MAX = 1.2


class Window(Struct):
    """Some seconds of one variant. ``pushes``: requests that the push service got."""

    variant: str
    p50_ms: float
    p99_ms: float
    cpu_share: float
    pushes: int


class Bench:
    """A server without a socket: half of its users are there, half are away."""

    def __init__(self, directory: Path, users: int, service: FakePushService) -> None:
        overrides = {**GENEROUS, "server.data_dir": str(directory), "push.private_endpoints": True}
        self.server = Server(configuration.load(env={}, overrides=overrides))
        self.here = [f"here{n}" for n in range(users)]
        self.away = [f"away{n}" for n in range(users)]
        self.service = service
        self.came: dict[str, float] = {}
        self.wires: list[Wire] = []

    async def prepare(self) -> None:
        await self.server.start(listen=False)
        for name in self.here + self.away:
            await self.server.store.add_account(Account(name, None, False, False, 1))
        for name in self.here:
            wire = Wire(self.came)
            wire.connection = Connection(self.server.sockets.services, wire)
            token = await self.server.accounts.issue_token(name, "bench", 0)
            wire.connection.receive(protocol.encode(protocol.Hello(token=token)))
            await wire.caught_up.wait()
            self.wires.append(wire)
        for name in self.away:
            await self.server.store.put_device(Device(name, "phone", "phone", 1), None)

    async def subscribe(self, on: bool) -> None:
        for name in self.away:
            if on:
                made = self.service.subscribe()
                one = Subscription(name, "phone", "webpush", made.endpoint, made.keys, 1)
                await self.server.store.put_subscription(one)
                self.server.push.sender.subscribed(name)
            else:
                await self.server.store.remove_subscription(name, "phone")

    async def window(self, variant: str, *, seconds: float, per_s: float) -> Window:
        """Half of the messages go to those who are away; only the others are measured."""
        store: Any = self.server.store
        await self.subscribe(variant != "nobody subscribed")
        refused: dict[str, Callable[..., Awaitable[Any]]] = {}
        if variant == "the store refuses":
            for name in ("owed", "subscriptions", "pushed"):
                refused[name] = getattr(store, name)
                setattr(store, name, _refuse)
        sent: dict[str, float] = {}
        self.came.clear()
        before, cpu_s, began = len(self.service.requests), time.process_time(), time.perf_counter()
        n = 0
        while time.perf_counter() < began + seconds:
            at = n % len(self.wires)
            there = n % 2 == 0
            to = self.here[(at + 1) % len(self.here)] if there else self.away[at]
            name = protocol.new_message_id()
            if there:
                sent[name] = time.perf_counter()
            self.wires[at].connection.receive(protocol.encode(protocol.Send(id=name, to=to, body="x" * 256)))
            n += 1
            await asyncio.sleep(1 / (2 * per_s))
        spent_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - began
        async with asyncio.timeout(30):
            while not sent.keys() <= self.came.keys():  # noqa: ASYNC110 - the wires only note times, to cost nothing
                await asyncio.sleep(0.01)
        for name, works in refused.items():
            setattr(store, name, works)
        times = quantiles([(self.came[name] - at_s) * 1000 for name, at_s in sent.items()], n=100)
        return Window(variant, times[49], times[98], spent_s / wall_s, len(self.service.requests) - before)


async def _refuse(*args: object, **kwargs: object) -> None:
    raise Unavailable("the outbox table is locked (a bench's fault)")


async def run(options: argparse.Namespace) -> list[Window]:
    with tempfile.TemporaryDirectory(prefix="chatd-bench-", dir=options.dir) as directory:
        async with FakePushService() as service:
            service.script(HANG)
            bench = Bench(Path(directory), options.users, service)
            await bench.prepare()
            try:
                await bench.window(VARIANTS[0], seconds=5, per_s=options.rate)
                return [
                    await bench.window(variant, seconds=options.seconds, per_s=options.rate)
                    for _ in range(options.windows)
                    for variant in VARIANTS
                ]
            finally:
                for wire in bench.wires:
                    wire.connection.lost()
                await bench.server.stop()


def main() -> int:
    parser = argparse.ArgumentParser("python -m bench.push", description=__doc__)
    parser.add_argument("--users", type=int, default=100, help="there, and as many away")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--windows", type=int, default=5, help="of each variant")
    parser.add_argument("--rate", type=float, default=200.0, help="messages a second to those who are there")
    parser.add_argument("--dir", help="where the store lies: the disk that is measured")
    windows = asyncio.run(run(options := parser.parse_args()))
    faults = 0
    usual = 0.0
    for variant in VARIANTS:
        of = [one for one in windows if one.variant == variant]
        middle = {name: round(median(getattr(w, name) for w in of), 3) for name in ("p50_ms", "p99_ms", "cpu_share")}
        usual = usual or middle["p99_ms"]
        ratio = round(middle["p99_ms"] / usual, 3)
        say(variant, {**middle, "p99_ratio": ratio, "pushes": sum(w.pushes for w in of), "windows": options.windows})
        faults += ratio > RATIO_MAX
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
