"""What a connected device stands on: the services of the server, and its wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from chatd.accounts import Accounts
from chatd.delivery import Delivery
from chatd.errors import StoreBroken
from chatd.limits import Buckets
from chatd.metrics import Metrics
from chatd.presence.service import Presence
from chatd.routing.exchange import Exchange
from chatd.security import SecurityLog
from chatd.sequencer import Sequencer
from chatd.settings import Settings
from chatd.store.base import Store
from chatd.tracing import Tracer


class Wire(Protocol):
    """What a connection can do to its socket. None of it waits."""

    def write(self, payload: bytes) -> None:
        """Send one text frame; all of one loop tick leave together."""

    def close(self, code: int, reason: str) -> None:
        """Send what was written, then a close frame."""

    def hold(self, on: bool) -> None:
        """Stop reading the socket, or go on."""


class Services(Struct, frozen=True):
    """What a connection needs of the server. ``now_s`` is monotonic; ``now_ms`` and ``now_us`` are Unix time.

    ``exchange``: with the other processes, if there are any. ``tracer``: if messages are traced. ``on_broken`` is told
    of a StoreBroken, whoever meets it.
    """

    settings: Settings
    store: Store
    accounts: Accounts
    sequencer: Sequencer
    delivery: Delivery
    presence: Presence
    exchange: Exchange | None
    metrics: Metrics
    catch_ups: asyncio.Semaphore
    sends: Buckets
    now_s: Callable[[], float]
    now_ms: Callable[[], int]
    now_us: Callable[[], int]
    on_broken: Callable[[StoreBroken], None]
    security: SecurityLog
    tracer: Tracer | None
