"""Pairs of users that write to each other, in a closed loop (one message in flight a user) or an open one (a rate)."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from chatd import protocol
from chatd.model import conv_of
from chatd.protocol import ServerFrame
from chatd.testing.load.device import Device
from chatd.testing.load.fleet import Fleet

Ids = Literal["v7", "v4"]
SEED = 1
NEW_ID: dict[Ids, Callable[[], str]] = {"v7": protocol.new_message_id, "v4": lambda: str(uuid.uuid4())}


def body_of(number: int) -> str:
    """A body of 50 bytes that is not like another."""
    return f"{number:010} shall we meet at noon, or a little later?"[:50]


def pair_names(pairs: int) -> list[tuple[str, str]]:
    """The users of so many pairs."""
    return [(f"a{n:04}", f"b{n:04}") for n in range(pairs)]


class Talk:
    """All talkers of one run. ``delivered``: messages whose receipt has come. Latencies are in seconds."""

    def __init__(self, fleet: Fleet, pairs: Sequence[tuple[str, str]], ids: Ids) -> None:
        self.delivered = 0
        self.sent = 0
        self.send_max: int | None = None
        self.closed_loop = False
        self.to_sent_s: list[float] = []
        self.to_recipient_s: list[float] = []
        self.to_receipt_s: list[float] = []
        self.late_s: list[float] = []
        self.started: dict[str, float] = {}
        self.new_id = NEW_ID[ids]
        self.readers: dict[str, Device] = {}
        self.talkers: list[Talker] = []
        self._fleet = fleet
        self._quiet: asyncio.Future[None] | None = None
        for one, other in pairs:
            conv = conv_of(one, other)
            self.readers[conv] = fleet.devices[one]
            self.talkers += [
                Talker(self, fleet.devices[one], conv, other),
                Talker(self, fleet.devices[other], conv, one),
            ]

    def start(self) -> None:
        """Closed loop: everybody sends, and sends again when the receipt has come."""
        self.closed_loop = True
        for talker in self.talkers:
            talker.send()

    async def at_rate(self, per_s: float, seconds: float) -> None:
        """Open loop: sends by one user after the other, at random times (Poisson), whatever the server does.

        A latency is counted from the moment of the write; ``late_s`` is how long after its time that was.
        """
        dice = random.Random(SEED)  # noqa: S311 - arrival times are no secret
        began = due = time.perf_counter()
        n = 0
        while (due := due + dice.expovariate(per_s)) < began + seconds:
            wait_s = due - time.perf_counter()
            if wait_s > 0:
                await self._fleet.pause(wait_s)
            self.late_s.append(time.perf_counter() - due)
            self.talkers[n % len(self.talkers)].send()
            n += 1

    async def settle(self) -> None:
        """Send nothing more, and wait until every message's receipt has come."""
        self.closed_loop = False
        if self.started:
            self._quiet = asyncio.get_running_loop().create_future()
            await self._fleet.until(self._quiet)

    def done(self, id: str) -> None:
        """The receipt of this message has come."""
        self.to_receipt_s.append(time.perf_counter() - self.started.pop(id))
        self.delivered += 1
        if not self.started and self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)


class Talker:
    """One user's side of a conversation."""

    def __init__(self, talk: Talk, device: Device, conv: str, peer: str) -> None:
        self._talk = talk
        self._device = device
        self._conv = conv
        self._peer = peer
        self._in_flight: deque[tuple[int, str]] = deque()
        device.on_frame = self._frame

    def send(self) -> None:
        """Send a message of 50 bytes."""
        talk = self._talk
        talk.sent += 1
        id_ = talk.new_id()
        talk.started[id_] = time.perf_counter()
        self._device.send(self._conv, id_, body_of(talk.sent))

    def _frame(self, frame: ServerFrame) -> None:
        match frame:
            case protocol.Messages():
                now = time.perf_counter()
                for entry in frame.messages:
                    if entry.sender == self._peer and entry.id is not None:
                        self._talk.to_recipient_s.append(now - self._talk.started[entry.id])
                self._device.ack(self._conv, frame.messages[-1].seq)
            case protocol.Sent():
                self._talk.to_sent_s.append(time.perf_counter() - self._talk.started[frame.id])
                self._in_flight.append((frame.seq, frame.id))
            case protocol.Receipt() if frame.user == self._peer:
                self._receipt(frame.delivered)
            case protocol.ConversationList():  # the session was compared with the store: its marks are receipts, too
                for row in frame.conversations:
                    if row.conv == self._conv:
                        self._receipt(row.peer_delivered)

    def _receipt(self, delivered: int) -> None:
        in_flight = self._in_flight
        while in_flight and in_flight[0][0] <= delivered:
            self._talk.done(in_flight.popleft()[1])
        if not in_flight and self._talk.closed_loop:
            self.send()
