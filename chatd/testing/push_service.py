"""A push service that is not one: it takes Web Push as browsers' services do, webhooks and ntfy, and keeps it all.

::

    async with FakePushService() as service:
        phone = service.subscribe()          # endpoint and keys, as a browser has them
        ...                                  # give them to chatd, send a message
        request = await service.nth(1, to=phone)
        assert request.payload["type"] == "message"
        service.script(Reply(429, retry_after="5"), Reply(201), to=phone)  # the next, and all after it

It is strict: a push that is not encrypted for its subscription, or whose VAPID token is wrong, is answered as a service
would and has a ``fault``. Its endpoints are http on loopback: set ``push.private_endpoints``.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Literal

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from msgspec import Struct

from chatd.testing.push_crypto import PushFault, check_vapid, decrypt, encode_base64url, point_of

BODY_BYTES_MAX = 4_096
"""What a push service takes at most; a larger body is answered with 413."""

WAIT_S_MAX = 10.0


class FakeSubscription(Struct, frozen=True, eq=False):
    """What a browser got from ``pushManager.subscribe``, with the private half that it keeps.

    ``keys``: ``p256dh`` and ``auth`` in base64url. ``vapid``: the server's key it was made for; "": any.
    """

    endpoint: str
    path: str
    keys: dict[str, str]
    private_key: EllipticCurvePrivateKey
    secret: bytes
    vapid: str = ""

    def decrypt(self, body: bytes) -> bytes:
        """Raises: PushFault – not for this subscription."""
        return decrypt(body, self.private_key, self.secret)


class Reply(Struct, frozen=True):
    """What the service does with a request. ``retry_after``: the header's value. ``headers``: further ones.

    ``delay_s``: the time it takes first. ``fate``: it answers, or says nothing until the service is closed (``hang``),
    or resets the connection (``drop``).
    """

    status: int = 201
    retry_after: str | None = None
    delay_s: float = 0.0
    fate: Literal["answer", "hang", "drop"] = "answer"
    body: str = ""
    headers: Mapping[str, str] = {}


HANG = Reply(fate="hang")
DROP = Reply(fate="drop")


class PushRequest(Struct, frozen=True):
    """A request as it arrived. ``number``: its place in the order of arrival, from 1. ``headers``: names in lower case.

    ``subscription``: whose endpoint it was for. ``payload``: its JSON, decrypted if it is a push, else None.
    ``fault``: why a service or a browser would not take it, or "". ``claims``: those of its VAPID token.
    """

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    subscription: FakeSubscription | None
    payload: Any = None
    fault: str = ""
    claims: dict[str, object] = {}


class FakePushService:
    """Listens on a free port of ``host``. Use it as an async context manager.

    ``now_ms``: Unix time for the check of tokens. ``requests``: all of them, in order of arrival.
    """

    def __init__(self, *, host: str = "127.0.0.1", now_ms: Callable[[], int] | None = None) -> None:
        self.requests: list[PushRequest] = []
        self.origin = ""
        self._host = host
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._names = count(1)
        self._subscriptions: dict[str, FakeSubscription] = {}  # path → who
        self._scripts: dict[str | None, list[Reply]] = {}  # path, or None for all → what is next; the last one stays
        self._arrived = asyncio.Condition()
        self._closing = asyncio.Event()
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> FakePushService:
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, 0).start()
        port = self._runner.addresses[0][1]
        self.origin = f"http://{self._host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Answer what hangs and stop."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()

    # --- what a browser does -----------------------------------------------------------------------------

    def subscribe(self, vapid: str = "") -> FakeSubscription:
        """A new subscription. ``vapid``: the server's public key in base64url; pushes of any other get 403."""
        key, secret = generate_private_key(SECP256R1()), os.urandom(16)
        path = f"/push/{next(self._names)}-{os.urandom(8).hex()}"
        keys = {"p256dh": encode_base64url(point_of(key.public_key())), "auth": encode_base64url(secret)}
        made = FakeSubscription(self.origin + path, path, keys, key, secret, vapid)
        self._subscriptions[path] = made
        return made

    def unsubscribe(self, subscription: FakeSubscription) -> None:
        """From now on its pushes get 410."""
        self.script(Reply(410), to=subscription)

    # --- what the service does ---------------------------------------------------------------------------

    def url(self, path: str) -> str:
        """The URL of any path: it takes what comes and answers 200, as a webhook or an ntfy of your own."""
        return self.origin + path

    def script(self, *replies: Reply, to: FakeSubscription | str | None = None) -> None:
        """Answer the next requests with these, one each; the last one stays. None: back to what a service does.

        ``to``: a subscription or a path; None: all that have no script of their own.
        """
        self._scripts[_path(to)] = list(replies)

    # --- what a test asks --------------------------------------------------------------------------------

    def received(self, to: FakeSubscription | str | None = None) -> list[PushRequest]:
        """What has arrived for a subscription, for a path, or at all."""
        path = _path(to)
        return [one for one in self.requests if path in (None, one.path)]

    async def nth(self, n: int, to: FakeSubscription | str | None = None, timeout_s: float = WAIT_S_MAX) -> PushRequest:
        """The ``n``-th request (from 1), waited for if need be. Raises: TimeoutError – it says what has arrived."""
        await self.until(lambda _: len(self.received(to)) >= n, timeout_s)
        return self.received(to)[n - 1]

    async def until(self, condition: Callable[[Sequence[PushRequest]], bool], timeout_s: float = WAIT_S_MAX) -> None:
        """Wait until what has arrived fulfils a condition, asked after each arrival. Raises: TimeoutError."""
        try:
            async with asyncio.timeout(timeout_s), self._arrived:
                await self._arrived.wait_for(lambda: condition(self.requests))
        except TimeoutError as exc:
            seen = ", ".join(f"{one.method} {one.path}" for one in self.requests) or "nothing"
            raise TimeoutError(f"not within {timeout_s} s; what arrived: {seen}") from exc

    # --- inside ------------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        arrived, usual = self._judge(request.method, request.path, headers, body)
        self.requests.append(arrived)
        reply = self._next(request.path, usual)
        async with self._arrived:
            self._arrived.notify_all()
        if reply.fate == "hang":
            await self._closing.wait()
        elif reply.delay_s:
            await self._pause(reply.delay_s)
        if reply.fate == "drop" and request.transport is not None:
            request.transport.abort()
        answer = dict(reply.headers)
        if reply.retry_after is not None:
            answer["Retry-After"] = reply.retry_after
        return web.Response(status=reply.status, text=reply.body, headers=answer)

    async def _pause(self, delay_s: float) -> None:
        """As long as the script says, unless the service is closed."""
        try:
            async with asyncio.timeout(delay_s):
                await self._closing.wait()
        except TimeoutError:
            return

    def _next(self, path: str, usual: Reply) -> Reply:
        for key in (path, None):
            if replies := self._scripts.get(key):
                return replies.pop(0) if len(replies) > 1 else replies[0]
        return usual

    def _judge(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[PushRequest, Reply]:
        """The request, and what a service answers to it."""
        number, who = len(self.requests) + 1, self._subscriptions.get(path)
        if who is None:
            reply = Reply(404) if path.startswith("/push/") else Reply(200)
            return PushRequest(number, method, path, headers, body, None, _json(body)), reply
        payload, claims, fault, status = None, {}, "", 201
        try:
            claims = self._authorized(who, headers)
            fault, status = _shape(method, headers, body)
            if not fault:
                payload = _json(who.decrypt(body))
        except PushFault as exc:
            # What cannot be decrypted is taken: only the browser sees it.
            fault, status = str(exc), 201 if claims else 403
        return PushRequest(number, method, path, headers, body, who, payload, fault, claims), Reply(status, body=fault)

    def _authorized(self, who: FakeSubscription, headers: Mapping[str, str]) -> dict[str, object]:
        key, claims = check_vapid(headers.get("authorization", ""), audience=self.origin, now_s=self._now_ms() / 1000)
        if who.vapid not in ("", key):
            raise PushFault("the subscription was made for another VAPID key")
        return claims


def _path(to: FakeSubscription | str | None) -> str | None:
    return to.path if isinstance(to, FakeSubscription) else to


def _shape(method: str, headers: Mapping[str, str], body: bytes) -> tuple[str, int]:
    """What is wrong with the form of a push (RFC 8030), and its status."""
    if method != "POST":
        return "a push is a POST", 405
    if not headers.get("ttl", "").isdigit():
        return "no TTL", 400
    if len(body) > BODY_BYTES_MAX:
        return f"more than {BODY_BYTES_MAX} bytes", 413
    if headers.get("content-encoding") != "aes128gcm":
        return "Content-Encoding is not aes128gcm", 415
    topic = headers.get("topic", "")
    if len(topic) > 32 or not all(c.isascii() and (c.isalnum() or c in "-_") for c in topic):
        return "Topic: more than 32 characters, or not URL-safe", 400
    return "", 201


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
