"""Devices that all lose their network and come back, in a process of their own: the load of ``python -m bench.storm``.

It is told what to do by a line on its standard input, and answers each with a line of JSON on its output. It runs at a
lower priority than the server: the devices of a real storm have processors of their own.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from chatd import protocol
from chatd.cli.process import loop_factory
from chatd.client.outqueue import Backoff
from chatd.model import conv_of
from chatd.protocol import ServerFrame
from chatd.testing.history import Recorder
from chatd.testing.load.device import Device, connect
from chatd.testing.load.fleet import CONNECTS_MAX, allow_files
from chatd.testing.load.measures import percentile_ms
from chatd.testing.load.process import BenchError
from chatd.testing.load.talk import body_of

NICE = 10
IN_FLIGHT_MAX = 50
STEP_S_MAX = 120.0
ATTEMPT_S_MAX = 10.0  # as the client has it, for a connection and for its welcome


class Order(Struct, frozen=True):
    """What this process is started with. ``members``: (user, token, writer) each."""

    port: int
    members: list[tuple[str, str, str]]
    writers: dict[str, str]
    missed: int
    drop_s: float
    seed: int
    record: str


class Member:
    """One user's device over all of its connections: what a client keeps, and when it comes back."""

    def __init__(self, order: Order, recorder: Recorder, dice: random.Random, n: int) -> None:
        self.user, self._token, self.writer = order.members[n]
        self.conv = conv_of(self.user, self.writer)
        self.device: Device | None = None
        self.attempts = 0
        self.back_s = 0.0
        self._order = order
        self._recorder = recorder
        self._dice = dice
        self._seq = 0
        self._since: str | None = None
        self._incarnation: str | None = None

    async def enter(self) -> None:
        """Connect and be caught up. Raises: BenchError, TimeoutError – not this time; the device may say when."""
        self.attempts += 1
        hello = protocol.Hello(
            token=self._token,
            incarnation=self._incarnation,
            since=self._since,
            watermarks={self.conv: self._seq} if self._seq else None,
        )
        async with asyncio.timeout(ATTEMPT_S_MAX):
            device = await connect(
                self._order.port, self.user, self._token, self._recorder, hello=hello, connection=f"{self.attempts}"
            )
        self.device = device
        device.on_frame = self._frame
        async with asyncio.timeout(STEP_S_MAX):
            await asyncio.wait((device.caught_up, device.lost), return_when=asyncio.FIRST_COMPLETED)
        if not device.caught_up.done():
            raise BenchError(device.lost.result())
        self._incarnation = device.incarnation

    def _frame(self, frame: ServerFrame) -> None:
        if self.device is None:
            return
        if type(frame) is protocol.Messages:
            self._seq = frame.messages[-1].seq
            self.device.ack(frame.conv, self._seq)
        elif type(frame) is protocol.CaughtUp:
            self._since = frame.since

    async def drop(self, after_s: float, began_s: float) -> None:
        """Lose the connection; come back as a client does, with backoff and full jitter, until caught up."""
        await asyncio.sleep(after_s)
        if self.device is not None:
            self.device.close()
        backoff = Backoff(self._dice.random)
        wait_s = backoff.next_s()
        while True:
            await asyncio.sleep(wait_s)
            try:
                await self.enter()
                break
            except (BenchError, TimeoutError):
                device = self.device
                if device is not None:
                    device.close()
                wait_s = backoff.next_s(None if device is None else device.retry_after_ms)
        self.back_s = time.monotonic() - began_s


class Crowd:
    """All members, and the writers who write to them."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._recorder = Recorder("crowd")
        self._dice = random.Random(order.seed)
        self._members = [Member(order, self._recorder, self._dice, n) for n in range(len(order.members))]
        self._writers: dict[str, Device] = {}
        self._written = 0

    async def come(self) -> dict[str, Any]:
        """Connect all, and give each one message, so that it has something to be caught up from."""
        for user, token in self._order.writers.items():
            self._writers[user] = await connect(self._order.port, user, token, self._recorder)
        waiting = list(self._members)

        async def work() -> None:
            while waiting:
                await waiting.pop().enter()

        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTS_MAX):
                group.create_task(work())
        await self._write(1)
        return {"connected": len(self._members)}

    async def miss(self) -> dict[str, Any]:
        """The members hear nothing any more, and are written to."""
        for member in self._members:
            if member.device is not None:
                member.device.deafen()
        await self._write(self._order.missed)
        return {"missed": self._order.missed * len(self._members)}

    async def storm(self) -> dict[str, Any]:
        """All drop within ``drop_s`` and come back. Returns: how long that took."""
        began_s = time.monotonic()
        attempts = sum(member.attempts for member in self._members)
        step_s = self._order.drop_s / len(self._members)
        async with asyncio.timeout(STEP_S_MAX):
            await asyncio.gather(*(one.drop(n * step_s, began_s) for n, one in enumerate(self._members)))
        back_s = [member.back_s for member in self._members]
        return {
            "caught_up_p50_s": round(percentile_ms(back_s, 0.5) / 1000, 2),
            "caught_up_p99_s": round(percentile_ms(back_s, 0.99) / 1000, 2),
            "caught_up_s": round(max(back_s), 2),
            "attempts": sum(member.attempts for member in self._members) - attempts,
        }

    async def end(self) -> dict[str, Any]:
        """Record every log as it is, and what was seen, for the checker."""
        for member in self._members:
            if member.device is not None:
                member.device.record.settled()
        for member in self._members:
            writer = self._writers[member.writer]
            async with asyncio.timeout(STEP_S_MAX):
                page = await writer.history(member.conv, 0)
            self._recorder.final(member.conv, writer.incarnation, page.messages)
        for device in (*self._writers.values(), *(member.device for member in self._members)):
            if device is not None:
                device.close()
        await asyncio.sleep(0)
        self._recorder.dump(Path(self._order.record))
        return {"written": self._written}

    async def _write(self, each: int) -> None:
        """Every writer sends so many messages to each of its members, with IN_FLIGHT_MAX unanswered ones."""
        of: dict[str, list[Member]] = {user: [] for user in self._writers}
        for member in self._members:
            of[member.writer].append(member)
        async with asyncio.timeout(STEP_S_MAX), asyncio.TaskGroup() as group:
            for user, members in of.items():
                convs = [member.conv for _ in range(each) for member in members]
                group.create_task(self._write_all(self._writers[user], convs))

    async def _write_all(self, writer: Device, convs: Sequence[str]) -> None:
        answered = asyncio.Semaphore(IN_FLIGHT_MAX)

        def heard(frame: ServerFrame) -> None:
            if type(frame) is protocol.Sent:
                answered.release()

        writer.on_frame = heard
        for conv in convs:
            await answered.acquire()
            if writer.lost.done():
                raise BenchError(writer.lost.result())
            self._written += 1
            writer.send(conv, protocol.new_message_id(), body_of(self._written))
        for _ in range(IN_FLIGHT_MAX):
            await answered.acquire()


async def serve(order: Order) -> None:
    """Do what the lines on standard input say, until one says ``end``."""
    crowd = Crowd(order)
    steps: dict[str, Callable[[], Any]] = {
        "come": crowd.come,
        "miss": crowd.miss,
        "storm": crowd.storm,
        "end": crowd.end,
    }
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).decode().strip():
        answer = await steps[line]()
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        sys.stdout.flush()


def main() -> None:
    """The order is a file of JSON, the only argument."""
    order = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)
    allow_files()
    os.nice(NICE)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(order))


if __name__ == "__main__":
    main()
