"""A device of the Python client: its outbox, its positions and its way back are the client's own."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from chatd import protocol
from chatd.client import Client
from chatd.client.events import (
    CaughtUpEvent,
    ConnectedEvent,
    ConversationEvent,
    GoneEvent,
    MessageEvent,
    ReceiptEvent,
    ResetEvent,
    Stopped,
)
from chatd.errors import Refusal
from chatd.testing.history import DeviceRecorder

BACKOFF_PART = 0.02  # of the client's own, which is meant for people


class SdkDevice:
    """The same for the harness as a `RawDevice`."""

    def __init__(
        self,
        url: str,
        token: str,
        record: DeviceRecorder,
        dice: random.Random,
        found: Callable[[str, str], None],
        incarnation: str,
    ) -> None:
        self.held: dict[str, int] = {}
        self.connects = 0
        self.caught_up = False
        self._record = record
        self._dice = dice
        self._found = found
        self.incarnation = incarnation
        self._resets = 0
        self._client = Client(url, token=token, user=record.user, random=lambda: dice.random() * BACKOFF_PART)
        self._answers: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """user/device."""
        return self._record.name

    @property
    def _life(self) -> str:
        """The stream of entries that the application is given: it begins again after a reset."""
        return f"life {self._resets}"

    @property
    def pending(self) -> int:
        """Sends without an answer."""
        return len(self._answers)

    async def send(self, conv: str, body: str) -> None:
        """Put a message into the client's outbox."""
        id_ = protocol.new_message_id()
        self._record.invoke(conv, id_, body)
        task = asyncio.create_task(self._answered(conv, id_, body))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def repeat(self) -> None:
        """The client repeats by itself, and only when it must."""

    def start(self) -> None:
        """Connect, and stay so."""
        self._record.opened(self._life, self.incarnation, watermarks={})
        self._task = asyncio.create_task(self._live(), name=self.name)

    def lazy(self, on: bool) -> None:
        """The client acknowledges what its application has taken."""

    async def acknowledge(self) -> None:
        """See `lazy`."""

    async def stop(self) -> None:
        """Go away. Raises: what went wrong in this device."""
        for task in [*self._answers, *([] if self._task is None else [self._task])]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _answered(self, conv: str, id_: str, body: str) -> None:
        try:
            handle = await self._client.send(conv, body, id=id_)
            sent = await handle.sent()
        except Stopped:
            return  # `_live` tells of it
        except Refusal as exc:
            self._record.fail(conv, id_, exc.code)
            self._found("refused", f"{self.name}: {exc.code} {exc.message}")
        else:
            self._record.ok(sent.conv, id_, sent.seq, sent.ts)

    async def _live(self) -> None:
        try:
            async with self._client:
                async for event in self._client.events():
                    await self._take(event)
        except Stopped as exc:
            self._found("closed for good", f"{self.name}: {exc}")

    async def _take(self, event: object) -> None:
        record = self._record
        match event:
            case MessageEvent(conv=conv, seq=seq):
                entry = protocol.Entry(seq=seq, ts=event.ts, id=event.id, sender=event.sender, body=event.body)
                record.seen(self._life, conv, entry)
                record.marked(conv, seq)  # the client says so when it hands the event over; nothing ran since
                self.held[conv] = seq
                if self._dice.random() < 0.2:
                    record.marked(conv, seq, read=True)
                    await self._client.mark_read(conv, seq)
            case GoneEvent():
                self._found("gone", f"{self.name}: {event}")
            case ReceiptEvent():
                record.marks(event.conv, event.user, event.delivered, event.read)
            case ConversationEvent(row=row):
                record.received(self._life, protocol.ConversationList(conversations=(row,)))
            case ConnectedEvent():
                self.connects += 1
                self.caught_up = False
            case CaughtUpEvent():
                record.caught_up(self._life)
                self.caught_up = True
            case ResetEvent(incarnation=incarnation):
                self._found("reset", f"{self.name}: at {self.held}")
                record.closed(self._life)
                self._resets += 1
                self.incarnation = incarnation
                self.held = {}
                record.opened(self._life, incarnation, reset=True, watermarks={})
