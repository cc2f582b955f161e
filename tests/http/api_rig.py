"""The HTTP API over the memory store, on a real socket. Every answer is held against the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import jsonschema
import msgspec
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry, Counter

from chatd.accounts import Accounts
from chatd.errors import BadFrame, ChatdError, IdReuse, StoreBroken
from chatd.jwt_keys import JwtKeys
from chatd.limits import Buckets, parse_networks
from chatd.model import Advance, Appended, Draft, Grown, Subscription
from chatd.passwords import Passwords
from chatd.push.base import Outcome, Payload
from chatd.push.subscriptions import Subscriptions
from chatd.settings import AccountSettings, LimitSettings
from chatd.stats import Snapshot
from chatd.store.memory import MemoryStore
from chatd.tracing import Trace
from chatd.transport import openapi
from chatd.transport.api import Api
from chatd.transport.http import routes

T0 = 1_700_000_000_000
PASSWORD = "correct horse"


def message_id(number: int) -> str:
    return f"01890a5d-ac96-774b-bcce-{number:012x}"


class Commits:
    """A sender without queue or fan-out. ``fault``: raised instead, by the next calls."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.fault: BaseException | None = None

    async def send(self, draft: Draft, trace: Trace | None = None) -> Appended:
        self._fail()
        (result,) = (await self._store.commit([draft], [])).appended
        if isinstance(result, IdReuse):
            raise result
        return result

    async def mark(self, advance: Advance) -> Grown:
        self._fail()
        return (await self._store.commit([], [advance])).grown[0]

    def _fail(self) -> None:
        if self.fault is not None:
            raise self.fault


class Store(MemoryStore):
    """A memory store whose probe can be made to fail. ``probes``: how often it was asked."""

    fault: ChatdError | None = None
    probes = 0

    async def probe(self) -> None:
        self.probes += 1
        if self.fault is not None:
            raise self.fault
        await super().probe()


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """The error code of a problem document."""
        assert self.headers["Content-Type"] == "application/problem+json"
        return str(self.json["code"])


class Rig:
    """``now_ms`` and ``now_s`` are the clocks; ``tokens``: a token of each user."""

    def __init__(
        self, client: TestClient[web.Request, web.Application], store: Store, sender: Commits, accounts: Accounts
    ) -> None:
        self.client = client
        self.store = store
        self.sender = sender
        self.accounts = accounts
        self.tokens: dict[str, str] = {}
        self.now_ms = T0
        self.now_s = 1_000.0
        self.is_ready = True
        self.broken: list[StoreBroken] = []
        self.revoked: list[tuple[str, str | None, int]] = []
        self.subscribed: list[str] = []

    async def user(self, *names: str) -> None:
        """Make users, each with a device and a token."""
        for name in names:
            await self.accounts.add_user(name, PASSWORD)
            self.tokens[name] = await self.accounts.issue_token(name, "first")

    async def call(
        self,
        method: str,
        path: str,
        *,
        as_user: str | None = None,
        json: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = dict(headers or {})
        if as_user is not None:
            sent["Authorization"] = f"Bearer {self.tokens[as_user]}"
        if json is not None:
            data = msgspec.json.encode(json)
            sent.setdefault("Content-Type", "application/json")
        async with self.client.request(method, path, data=data, headers=sent) as response:
            answer = Answer(response.status, response.headers, await response.read())
        check_against_document(method, path.partition("?")[0], answer)
        return answer

    async def send(self, who: str, to: str, number: int, body: str = "hi") -> Answer:
        return await self.call(
            "POST", "/v1/messages", as_user=who, json={"to": to, "id": message_id(number), "body": body}
        )


def check_against_document(method: str, path: str, answer: Answer) -> None:
    """A documented operation answers only with a status, media type and body that the document gives it."""
    document = openapi.document()
    for template, operations in document["paths"].items():
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path) and method.lower() in operations:
            answers = operations[method.lower()]["responses"]
            assert str(answer.status) in answers, f"{method} {template} answered {answer.status}"
            content = answers[str(answer.status)].get("content", {})
            if not content:
                assert answer.body == b""
                return
            media = answer.headers["Content-Type"].partition(";")[0]
            assert media in content, f"{method} {template} answered with {media}"
            if media.endswith("json"):
                schema = {**content[media]["schema"], "components": document["components"]}
                jsonschema.validate(answer.json, schema, cls=jsonschema.Draft202012Validator)
            return


class RigNotifier:
    """Takes any endpoint with https, and sends nothing."""

    def __init__(self) -> None:
        self.every_user = False
        self.public = {"say": "please"}

    def check(self, endpoint: str, keys: dict[str, str]) -> None:
        if not endpoint.startswith("https://"):
            raise BadFrame("an endpoint begins with https://")

    async def send(self, payload: Payload, subscription: Subscription | None, ttl_s: int) -> Outcome:
        raise AssertionError("nothing is sent here")

    async def close(self) -> None:
        return None


class RigOverview:
    """One process without a name, and nobody connected."""

    async def stats(self) -> tuple[Snapshot, ...]:
        return (Snapshot(ready=True),)

    async def connected(self, users: Sequence[str]) -> dict[str, int]:
        return {}


@asynccontextmanager
async def rig(
    *,
    accounts: AccountSettings | None = None,
    limits: LimitSettings | None = None,
    origins: Sequence[str] = (),
    trusted_proxies: Sequence[str] = (),
    loopback: bool = True,
    jwt: JwtKeys | None = None,
) -> AsyncIterator[Rig]:
    store, passwords, limits = Store("rig"), Passwords(time_cost=1, memory_kib=8), limits or LimitSettings()
    await store.open()
    made: Rig
    services = Accounts(
        store,
        accounts or AccountSettings(),
        now_ms=lambda: made.now_ms,
        loopback=loopback,
        passwords=passwords,
        jwt=jwt,
        on_revoked=lambda user, device, code: made.revoked.append((user, device, code)),
    )
    registry, sender = CollectorRegistry(), Commits(store)
    Counter("chatd_rig", "Something to see.", registry=registry).inc()
    api = Api(
        accounts=services,
        store=store,
        subscriptions=Subscriptions(
            store,
            {"rig": RigNotifier()},
            ["webpush: not installed here"],
            now_ms=lambda: made.now_ms,
            on_subscribed=lambda user: made.subscribed.append(user),
        ),
        sender=sender,
        limits=limits,
        sends=Buckets(limits.sends_per_s, limits.sends_burst, 100),
        calls=Buckets(limits.frames_per_s, limits.frames_burst, 100),
        logins=Buckets(limits.logins_per_s, limits.logins_burst, 100),
        registry=registry,
        now_ms=lambda: made.now_ms,
        now_s=lambda: made.now_s,
        ready=lambda: made.is_ready,
        on_broken=lambda exc: made.broken.append(exc),
        origins=origins,
        trusted_proxies=parse_networks(trusted_proxies),
        overview=RigOverview(),
    )
    app = web.Application()
    app.add_routes(routes(api))
    async with TestClient(TestServer(app)) as client:
        made = Rig(client, store, sender, services)
        yield made
    passwords.close()
    await store.close()
