"""What the tests of notifiers share: a store that only keeps, a clock that is set, a DNS of the test's."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any, cast

from aiohttp.abc import AbstractResolver, ResolveResult

from chatd.model import Subscription
from chatd.push.base import Clear, Context, Notification
from chatd.push.guard import Guard
from chatd.settings import PushSettings
from chatd.store.base import PushStore
from chatd.testing.push_service import FakeSubscription

NOW_MS = 1_760_000_000_000
LOCAL = PushSettings(private_endpoints=True)


class Clock:
    """Unix time as the test sets it."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


class Keeper:
    """The part of PushStore that notifiers use; what it keeps outlives them."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    async def keep(self, name: str, value: str) -> str:
        assert len(value) <= 4_096
        return self.kept.setdefault(name, value)


class Names(AbstractResolver):
    """A DNS of the test's: name → addresses. ``asked``: every question."""

    def __init__(self, addresses: Mapping[str, list[str]]) -> None:
        self.addresses = dict(addresses)
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self.addresses[host]
        ]

    async def close(self) -> None:
        """Nothing is open."""


def context(settings: PushSettings = LOCAL, keeper: Keeper | None = None, clock: Clock | None = None) -> Context:
    return Context(settings, cast("PushStore", keeper or Keeper()), clock or Clock())


def guard(*, private: bool = True, names: Names | None = None) -> Guard:
    return Guard(private=private, now_ms=Clock(), resolver=names)


def subscription(of: FakeSubscription, **changes: Any) -> Subscription:
    """What chatd stores of a browser's subscription."""
    fields: dict[str, Any] = {
        "user": "bob",
        "device": "phone",
        "kind": "webpush",
        "endpoint": of.endpoint,
        "keys": of.keys,
        "created_ms": NOW_MS,
    }
    return Subscription(**{**fields, **changes})


def message(**changes: Any) -> Notification:
    fields: dict[str, Any] = {
        "key": "k1",
        "tag": "tag-of-alice-and-bob",
        "to": "bob",
        "conv": "alice:bob",
        "sender": "alice",
        "count": 2,
        "seq": 7,
        "ts": NOW_MS,
        "badge": 3,
    }
    return Notification(**{**fields, **changes})


def clear() -> Clear:
    return Clear(key="k2", tag="tag-of-alice-and-bob", to="bob", conv="alice:bob", seq=7, badge=0)
