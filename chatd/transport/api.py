"""What the HTTP handlers stand on, what they are given, and how they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web
from msgspec import Struct
from prometheus_client import CollectorRegistry

from chatd import protocol
from chatd.accounts import Accounts
from chatd.errors import NotFound, RateLimited, StoreBroken, Unauthenticated
from chatd.limits import Buckets, Network, address_key, client_address
from chatd.model import Advance, Appended, Draft, Grown, Identity, peer_of
from chatd.push.subscriptions import Subscriptions
from chatd.security import SecurityLog
from chatd.settings import LimitSettings
from chatd.stats import Snapshot
from chatd.store.base import Store
from chatd.tracing import Trace, Tracer
from chatd.transport.problem import HEADERS
from chatd.web.pages import Site


class Sender(Protocol):
    """Who commits. Both wait until the outcome is known; a caller that goes away does not undo what is under way."""

    async def send(self, draft: Draft, trace: Trace | None = None) -> Appended:
        """Commit one message and fan it out. Raises: Refusal."""

    async def mark(self, advance: Advance) -> Grown:
        """Raise marks and tell the peer. Raises: Refusal."""


class Overview(Protocol):
    """What administrators see of the server, and of the processes beside it."""

    async def stats(self) -> Sequence[Snapshot]:
        """A snapshot of each process, this one first."""

    async def connected(self, users: Sequence[str]) -> Mapping[str, int]:
        """How many devices of each of these users are connected; without an entry: none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Api:
    """What the handlers stand on.

    ``sends``: messages, by user, shared with the WebSocket side. ``calls``: requests, by device. ``logins``: logins and
    registrations, by address. ``now_ms``: wall clock; ``now_s``: monotonic. ``ready``: False while the server ends.
    ``on_broken``: hears that the store cannot be trusted any more. ``origins``: as ``server.origins``.
    ``site``: the web client; None: two small pages stand in its place. ``metrics_here``: False: they have a listener of
    their own. ``on_store_error``: hears what the store raised, where nobody else counts it. ``tracer``: if messages are
    traced.
    """

    accounts: Accounts
    store: Store
    subscriptions: Subscriptions
    sender: Sender
    limits: LimitSettings
    sends: Buckets
    calls: Buckets
    logins: Buckets
    registry: CollectorRegistry
    now_ms: Callable[[], int]
    now_s: Callable[[], float]
    ready: Callable[[], bool]
    on_broken: Callable[[StoreBroken], None]
    origins: Sequence[str] = ()
    trusted_proxies: Sequence[Network] = ()
    site: Site | None = None
    metrics_here: bool = True
    on_store_error: Callable[[BaseException], None] = lambda exc: None
    security: SecurityLog = field(default_factory=SecurityLog)
    log_requests: bool = False
    overview: Overview | None = None
    tracer: Tracer | None = None

    def address_key(self, request: web.Request) -> str:
        """The key that the client's address pays under."""
        return address_key(request.remote, _hops(request), self.trusted_proxies)

    def tell(self, event: str, request: web.Request, user: str = "", **more: str | int) -> None:
        """Log a security event of this request."""
        address = client_address(request.remote, _hops(request), self.trusted_proxies)
        self.security.tell(event, address=address, user=user, **more)


def _hops(request: web.Request) -> str:
    return ",".join(request.headers.getall("X-Forwarded-For", ()))  # a proxy may add a line of its own


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked: ``body`` and ``query`` are the structs that its endpoint names."""

    request: web.Request
    identity: Identity | None
    body: Any
    query: Any

    @property
    def who(self) -> Identity:
        """Who asks; only endpoints with ``auth`` may."""
        if self.identity is None:
            raise Unauthenticated("this needs a token")
        return self.identity

    def conv(self) -> str:
        """The conversation of the path. Raises: NotFound – it is not one of the user's."""
        conv = self.request.match_info["conv"]
        if peer_of(conv, self.who.user) is None:
            raise NotFound("no such conversation")
        return conv


def pay(buckets: Buckets, key: str, now_s: float, what: str) -> None:
    """Take one from the bucket of ``key``. Raises: RateLimited – it says when to come back."""
    wait_s = buckets.take(key, now_s)
    if wait_s:
        raise RateLimited(f"too many {what}", retry_after_ms=int(wait_s * 1000) + 1)


def reply(body: Struct, status: int = 200) -> web.Response:
    """An answer with a body in JSON."""
    return web.Response(status=status, body=protocol.encode(body), content_type="application/json", headers=HEADERS)


def no_content() -> web.Response:
    """An answer that says only: done."""
    return web.Response(status=204, headers=HEADERS)
