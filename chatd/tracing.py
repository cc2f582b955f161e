"""What is noted of a message on its way: the contract of tracers. `chatd.tracing_otel` makes spans of it. Mostly there
is no tracer, and of most messages nothing is noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from chatd.model import Advance, Appended, Draft, Grown, Message


class Trace(Protocol):
    """One chosen message, from its frame to its fan-out. It is told when; nothing of it waits or raises a Refusal.

    `told` or `ended` is the last call; a message that was refused before `queued` is simply forgotten.
    """

    def queued(self) -> None:
        """It was accepted, and waits for its commit."""

    def taken(self) -> None:
        """Its commit begins."""

    def committed(self, message: Message) -> None:
        """The store has it. Until `told` it is the one whose ``traceparent`` its tracer gives."""

    def told(self) -> None:
        """Everybody who is connected here was given it, and the other processes were."""

    def ended(self, code: str) -> None:
        """It will not be told: ``duplicate``, or the code of the refusal."""


class Tracer(Protocol):
    """Chooses messages, and knows which of them are on their way to somebody who is connected here. A `FanOut`."""

    traceparent: str
    """Of the message that is told just now, as W3C Trace Context writes it; "": it is not traced."""

    def begin(self, draft: Draft, received_s: float, *, connection: str = "", traceparent: str = "") -> Trace | None:
        """A message that came at ``received_s`` (monotonic); None: it is not chosen.

        ``connection``: as in the log; ``traceparent``: what the caller of the HTTP API said it belongs to.
        """

    def heard(self, user: str, message: Message, traceparent: str) -> None:
        """Another process traces this message, and a device of ``user`` is given it here."""

    def message(self, result: Appended, origin: object) -> None:
        """See `FanOut`."""

    def receipt(self, grown: Grown, advances: Sequence[Advance]) -> None:
        """See `FanOut`: what these marks cover is delivered."""

    async def close(self) -> None:
        """Give away what is left, within a bound."""
