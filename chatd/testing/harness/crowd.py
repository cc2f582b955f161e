"""The devices of one run, the network between them and the server, and what each of them does at random."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

from chatd.model import conv_of
from chatd.testing.harness.raw import RawDevice
from chatd.testing.harness.sdk import SdkDevice
from chatd.testing.link import DIRECTIONS, Link
from chatd.testing.proxy import Proxy

Device: TypeAlias = RawDevice | SdkDevice

OUTBOX_MAX = 6  # a device with so many unanswered sends waits
PAUSE_S_MAX = 0.03
FAULT_S_MAX = 0.08
STALL_S_MAX = 0.1


def conversations(users: Sequence[str]) -> list[str]:
    """Everybody talks with the next one, and the first one with itself too."""
    pairs = [conv_of(one, users[(n + 1) % len(users)]) for n, one in enumerate(users)]
    return list(dict.fromkeys([*pairs, conv_of(users[0], users[0])]))


class Talk:
    """All devices talk and the network fails, from `start` to `stop`. Use it as an async context manager."""

    def __init__(
        self, devices: Sequence[Device], convs: Mapping[str, Sequence[str]], proxy: Proxy, dice: random.Random
    ) -> None:
        self._devices = devices
        self._convs = convs  # of each user
        self._proxy = proxy
        self._dice = dice
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Talk:
        work = [self._talk(device, random.Random(self._dice.random())) for device in self._devices]  # noqa: S311
        work.append(self._faults(random.Random(self._dice.random())))  # noqa: S311 - chance is no secret here
        self._tasks = [asyncio.create_task(one) for one in work]
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Nobody sends any more, the network is whole, late acknowledgements are made. Raises: what failed."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._proxy.resume()
        self._proxy.byte_at_a_time(False)
        self._proxy.cut()  # a half-open connection would be found by its heartbeat: after 35 s
        for device in self._devices:
            device.lazy(False)

    async def _talk(self, device: Device, dice: random.Random) -> None:
        user = device.name.partition("/")[0]
        device.lazy(True)
        count = 0
        while True:
            await asyncio.sleep(dice.random() * PAUSE_S_MAX)
            if device.pending < OUTBOX_MAX:
                count += 1
                await device.send(dice.choice(self._convs[user]), f"{device.name} says {dice.getrandbits(40):010x}")
            if dice.random() < 0.1:
                await device.repeat()

    async def _faults(self, dice: random.Random) -> None:
        while True:
            await asyncio.sleep(dice.random() * FAULT_S_MAX)
            if self._proxy.links:
                link = dice.choice(self._proxy.links)
                match dice.choice(("cut", "cut in", "stall", "half-open", "byte", "byte")):
                    case "cut":
                        link.cut()
                    case "cut in":
                        link.cut_after_bytes(dice.randrange(1, 400), dice.choice(DIRECTIONS))
                    case "stall":
                        await _stall(link, dice)
                    case "half-open":
                        link.half_open(dice.choice(("server", "client")))
                    case "byte":
                        link.byte_at_a_time(True)


async def _stall(link: Link, dice: random.Random) -> None:
    direction = dice.choice((*DIRECTIONS, None))
    link.stall(direction)
    try:
        await asyncio.sleep(dice.random() * STALL_S_MAX)
    finally:
        link.resume(direction)
