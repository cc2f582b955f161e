"""Cycles of talking and killing, and what is judged after each."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import aiohttp
from msgspec import Struct, field

from chatd import protocol
from chatd.errors import EXIT_FAILED
from chatd.testing.harness.crowd import Device, Talk, conversations
from chatd.testing.harness.process import HarnessError, KillableServer
from chatd.testing.harness.raw import RawDevice
from chatd.testing.harness.sdk import SdkDevice
from chatd.testing.history import Anomaly, Event, Recorder, check
from chatd.testing.history.record import Counted, Final, Settled
from chatd.testing.killing import POINTS, Plant, Point
from chatd.testing.proxy import Proxy

CYCLES_PER_HISTORY = 25  # then a new store, so that the cost of judging does not grow
TALK_S_MAX = 0.35
SETTLE_S_MAX = 20.0
POLL_S = 0.03  # a user's listing is asked for so often; the server allows 50 calls a second
PASSINGS_MAX = 6

EXAMPLES_MAX = 3
USERS = ("alice", "bob", "carol", "dave")


class Summary(Struct):
    """What a run did and found. ``anomalies``: how many of each kind, ``examples``: the first ones of each.

    ``judged``: those that the history checker found; the others the harness saw by itself.
    """

    cycles: int = 0
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    reconnects: int = 0
    anomalies: Counter[str] = field(default_factory=Counter)
    judged: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)

    def found(self, kind: str, where: str, detail: str = "") -> None:
        """Note an anomaly."""
        self.anomalies[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < EXAMPLES_MAX:
            examples.append(f"{kind}: {where}: {detail}" if detail else f"{kind}: {where}")

    def tell(self) -> int:
        """Print it, with its examples. Returns: the exit code, 1 if there was an anomaly."""
        sys.stdout.write(f"{self}\n")
        for examples in self.examples.values():
            sys.stdout.writelines(f"  {line}\n" for line in examples)
        return EXIT_FAILED if self.anomalies else 0

    def __str__(self) -> str:
        kills = ", ".join(f"{point} {count}" for point, count in sorted(self.kills.items()))
        found = ", ".join(f"{count} {kind}" for kind, count in self.anomalies.items()) or "none"
        return (
            f"{self.cycles} cycles in {self.seconds:.0f} s; kills: {kills}; {self.messages} messages, "
            f"{self.reconnects} reconnects; anomalies: {found}"
        )


async def run(cycles: int, *, seed: int, plant: Plant | None = None, stop_when_found: bool = False) -> Summary:
    """So many cycles; all chance comes from ``seed``. ``stop_when_found``: one that the checker found is enough.

    A choice is the same for the same seed; what it meets is not, since processes and networks have their own time.
    """
    summary = Summary()
    began_s = time.monotonic()
    dice = random.Random(seed)  # noqa: S311 - chance is no secret here
    points: list[Point | None] = []
    while summary.cycles < cycles and not (stop_when_found and summary.judged):
        with tempfile.TemporaryDirectory(prefix="chatd-kill-") as directory:
            async with History(KillableServer(Path(directory), plant), dice, summary) as history:
                for _ in range(min(CYCLES_PER_HISTORY, cycles - summary.cycles)):
                    if not points:  # every point once, in another order each time
                        points = dice.sample([None, *POINTS], len(POINTS) + 1)
                    await history.cycle(points.pop())
                    if stop_when_found and summary.judged:
                        break
    summary.seconds = time.monotonic() - began_s
    return summary


class Killable(Protocol):
    """What is killed: one process, or several that are one to their clients."""

    @property
    def port(self) -> int:
        """Where it listens."""

    @property
    def incarnation(self) -> str:
        """Of its store."""

    async def make_tokens(self, users: Sequence[str], devices: Sequence[str]) -> dict[tuple[str, str], str]:
        """Make the users and their devices, while nothing serves."""

    async def start(self, *, new_migrations: int = 0, die_in_migration: int = 0) -> bool:
        """Start, or start again what is dead."""

    async def arm(self, point: Point, passings: int) -> None:
        """Let it die at this point."""

    async def gone(self) -> None:
        """Wait until it is dead."""

    async def kill(self) -> None:
        """kill -9."""

    async def counts(self) -> int:
        """How many messages its store has."""

    def faults(self) -> list[str]:
        """What its log tells of errors."""


class History:
    """One store from its beginning, its users, their devices, and all they record."""

    def __init__(self, server: Killable, dice: random.Random, summary: Summary) -> None:
        self._server = server
        self._dice = dice
        self._summary = summary
        self._recorder = Recorder("harness")
        self._convs = conversations(USERS)
        self._tokens: dict[tuple[str, str], str] = {}
        self._devices: list[Device] = []
        self._stack = AsyncExitStack()
        self._judged: set[Anomaly] = set()
        self._stored = 0
        self._proxy: Proxy
        self._http: aiohttp.ClientSession

    async def __aenter__(self) -> History:
        self._tokens = await self._server.make_tokens(USERS, ("raw", "sdk", "auditor"))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._server.kill)
            await self._server.start()
            self._proxy = await stack.enter_async_context(Proxy("127.0.0.1", self._server.port))
            self._http = await stack.enter_async_context(aiohttp.ClientSession())
            for (user, name), token in self._tokens.items():
                if name != "auditor":
                    device = self._device(user, name, token)
                    self._devices.append(device)
                    device.start()
                    stack.push_async_callback(device.stop)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()
        for line in self._server.faults():
            self._summary.found("server fault", line)
        self._summary.messages += self._stored
        self._summary.reconnects += sum(max(0, device.connects - 1) for device in self._devices)

    async def cycle(self, point: Point | None) -> None:
        """Talk, kill at the point (None: at a random time), start again, settle, judge."""
        dice, server = self._dice, self._server
        async with Talk(self._devices, self._mine(), self._proxy, dice):
            died_at = await self._kill(point, dice)
            self._summary.kills[died_at] += 1
            if died_at == "in_migration" and await server.start(
                new_migrations=2, die_in_migration=dice.randrange(1, 3)
            ):
                raise HarnessError("the server lived on where it was to die: in_migration")
            await server.start()
            self._proxy.retarget(server.port)
        await self._settle()
        await self._judge()
        self._summary.cycles += 1

    async def _kill(self, point: Point | None, dice: random.Random) -> str:
        """Let it die at the point, or at a random time if the point does not come. Returns: where it died."""
        server = self._server
        if point is None or point == "in_migration":
            await asyncio.sleep(dice.random() * TALK_S_MAX)
            await server.kill()
            return point or "random"
        await server.arm(point, dice.randrange(1, PASSINGS_MAX))
        try:
            async with asyncio.timeout(2 * TALK_S_MAX):
                await server.gone()
        except TimeoutError:
            await server.kill()
            return "random"
        return point

    def _device(self, user: str, name: str, token: str) -> Device:
        record = self._recorder.device(user, name)
        dice = random.Random(self._dice.random())  # noqa: S311
        url = f"http://127.0.0.1:{self._proxy.port}"
        if name == "raw":
            return RawDevice(url, token, record, dice, self._summary.found)
        return SdkDevice(url, token, record, dice, self._summary.found, self._server.incarnation)

    def _mine(self) -> dict[str, list[str]]:
        return {user: [c for c in self._convs if user in c.split(":")] for user in USERS}

    async def _settle(self) -> None:
        """Wait until every send is answered and every device holds every log of its user to the end."""
        deadline_s = time.monotonic() + SETTLE_S_MAX
        for device in self._devices:
            await device.acknowledge()
        while why := await self._unsettled():
            if time.monotonic() > deadline_s:
                self._summary.found("not settled", why, f"{SETTLE_S_MAX} s after the last fault")
                return
            await asyncio.sleep(POLL_S)

    async def _unsettled(self) -> str | None:
        for device in self._devices:
            if device.pending or not device.caught_up:
                return f"{device.name} has {device.pending} unanswered sends, caught up: {device.caught_up}"
        heads: dict[str, int] = {}
        for user in USERS:
            listing = await self._get(user, "/v1/conversations?limit=200")
            if isinstance(listing, protocol.ConversationList):
                heads |= {row.conv: row.head for row in listing.conversations}
        for device in self._devices:
            for conv in self._mine()[device.name.partition("/")[0]]:
                if device.held.get(conv, 0) < heads.get(conv, 0):
                    return f"{device.name} holds {conv} up to #{device.held.get(conv, 0)} of {heads[conv]}"
        return None

    async def _judge(self) -> None:
        """Read the logs and check the history so far. An anomaly is counted once."""
        events: list[Event] = [*self._recorder.events]
        at = self._recorder.clock()
        events += [Settled(at, device.name) for device in self._devices]
        events += await self._finals(at)
        events.append(Counted(at, "the store", await self._server.counts()))
        report = check(events)
        self._judge_incarnations(report.counts["incarnations"])
        for anomaly in report.anomalies:
            if anomaly not in self._judged:
                self._judged.add(anomaly)
                self._summary.judged += 1
                self._summary.found(anomaly.kind, anomaly.where, anomaly.detail)

    def _judge_incarnations(self, count: int) -> None:
        """How many histories there were: a process that dies begins no other one."""
        if count != 1:
            self._summary.found("incarnation", f"there were {count}")

    async def _finals(self, at: float) -> list[Final]:
        """All logs as they are now."""
        finals: list[Final] = []
        self._stored = 0
        for conv in self._convs:
            after, more = 0, True
            while more:
                page = await self._get(conv.split(":")[0], f"/v1/conversations/{conv}/messages?after={after}&limit=200")
                if not isinstance(page, protocol.Messages):
                    raise HarnessError(f"instead of messages: {page}")
                finals.append(Final(at, conv, self._server.incarnation, page.messages))
                after = page.messages[-1].seq if page.messages else after
                self._stored += len(page.messages)
                more = page.more
        return finals

    async def _get(self, user: str, path: str) -> protocol.ServerFrame | None:
        headers = {"Authorization": f"Bearer {self._tokens[user, 'auditor']}"}
        async with self._http.get(f"http://127.0.0.1:{self._server.port}{path}", headers=headers) as answer:
            body = await answer.read()
            if answer.status != 200:
                raise HarnessError(f"{path}: {answer.status} {body.decode()}")
            return protocol.decode_server(body)
