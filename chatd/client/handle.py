"""One message on its way, as its sender holds it."""

from __future__ import annotations

import asyncio
from typing import Literal, Protocol

from chatd.client.events import ConversationMarks, Sent
from chatd.errors import Refusal


class Messenger(Protocol):
    """What a handle asks of its client. Raises (check, marks_grew): Stopped – the client has ended."""

    def check(self) -> None: ...

    def marks(self, conv: str) -> ConversationMarks: ...

    async def marks_grew(self, conv: str) -> None: ...


class Handle:
    """One message on its way. Every wait may be cancelled and repeated.

    Raises (every wait): the Refusal with which the server refused it for good; Stopped – the client ended first,
    the message stays in the store and is sent by the next client that opens it.
    """

    def __init__(self, client: Messenger, id: str) -> None:
        self._client = client
        self._answered = asyncio.Event()
        self._outcome: Sent | Refusal | None = None
        self.id = id

    async def sent(self) -> Sent:
        """Wait until it is durable on the server: its conversation, seq and time."""
        while self._outcome is None:
            self._client.check()
            await self._answered.wait()
        if isinstance(self._outcome, Refusal):
            raise self._outcome
        return self._outcome

    async def delivered(self) -> Sent:
        """Wait until a device of the peer has it."""
        return await self._marked("delivered")

    async def read(self) -> Sent:
        """Wait until the peer has read it."""
        return await self._marked("read")

    async def _marked(self, mark: Literal["delivered", "read"]) -> Sent:
        sent = await self.sent()
        while getattr(self._client.marks(sent.conv).peer, mark) < sent.seq:
            await self._client.marks_grew(sent.conv)
        return sent

    def settle(self, outcome: Sent | Refusal | None) -> None:
        """Called by the client: the answer, or None: it has ended without one."""
        self._outcome = outcome
        self._answered.set()
