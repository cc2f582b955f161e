"""Who is away is told: from a message to a decrypted notification, over real sockets, and what stops one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from chatd import protocol
from chatd.client import Client, MessageEvent
from chatd.model import conv_of
from chatd.push.webhook import verify
from chatd.store.base import Store
from chatd.testing.proxy import Proxy
from chatd.testing.push_service import HANG, FakePushService, FakeSubscription, Reply
from chatd.testing.server import ChatServer

CONV = conv_of("alice", "bob")
SECRET = "a secret of the operator"
FAST: dict[str, Any] = {
    "push.private_endpoints": True,
    "push.delay_s": 0.2,
    "push.retry_s_min": 0.02,
    "push.retry_s_max": 0.05,
    "push.timeout_s": 0.5,
}
USERS = ["alice", "bob", "carol"]


@pytest.fixture
async def service() -> AsyncIterator[FakePushService]:
    async with FakePushService() as service:
        yield service


@pytest.fixture
async def server() -> AsyncIterator[ChatServer]:
    async with ChatServer(store="sqlite", users=USERS, settings=FAST) as server:
        yield server


async def http(server: ChatServer, method: str, path: str, user: str, device: str = "phone", body: Any = None) -> int:
    headers = {"Authorization": f"Bearer {await server.token(user, device)}"}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, server.url + path, headers=headers, json=body) as answer,
    ):
        return answer.status


async def subscribe(server: ChatServer, service: FakePushService, user: str, device: str = "phone") -> FakeSubscription:
    """This device is away and wants to be told."""
    vapid = (await server.server.subscriptions.kinds())["webpush"]["vapid"]
    made = service.subscribe(vapid)
    body = {"endpoint": made.endpoint, "keys": made.keys, "expirationTime": None}
    assert await http(server, "PUT", "/v1/push/subscription", user, device, body) == 204
    return made


async def send(server: ChatServer, body: str = "hi", *, sender: str = "alice", to: str = "bob") -> None:
    message = {"id": protocol.new_message_id(), "to": to, "body": body}
    assert await http(server, "POST", "/v1/messages", sender, "sender", message) == 201


def pending(server: ChatServer) -> float:
    return server.server.metrics.gauges["push_pending"]()


async def settled(server: ChatServer) -> None:
    """Until nothing is pending: whatever was to be sent has been."""
    async with asyncio.timeout(10):
        while pending(server):  # noqa: ASYNC110 - a gauge tells nobody that it changed
            await asyncio.sleep(0.01)


async def test_who_is_away_is_told_at_once_who_how_many_and_no_word(
    server: ChatServer, service: FakePushService
) -> None:
    phone = await subscribe(server, service, "bob")
    await send(server, "a secret")
    first = await service.nth(1, to=phone)
    assert first.fault == ""
    assert b"a secret" not in str(first.payload).encode()
    assert first.payload == {
        "type": "message",
        "key": f"{CONV}#1",
        "tag": first.headers["topic"],
        "to": "bob",
        "conv": CONV,
        "sender": "alice",
        "count": 1,
        "seq": 1,
        "ts": first.payload["ts"],
        "badge": 1,
    }
    assert first.headers["urgency"] == "high"
    assert int(first.headers["ttl"]) > 86_000
    await send(server, "another", sender="carol")
    second = await service.nth(2, to=phone)
    assert (second.payload["sender"], second.payload["count"], second.payload["badge"]) == ("carol", 1, 2)
    await settled(server)
    assert len(service.requests) == 2


async def test_a_burst_becomes_few_notifications_that_count(server: ChatServer, service: FakePushService) -> None:
    phone = await subscribe(server, service, "bob")
    for number in range(20):
        await send(server, f"{number}")
    await service.until(lambda all_: any(one.payload["count"] == 20 for one in all_))
    assert len(service.received(phone)) <= 4
    assert service.received(phone)[-1].payload["seq"] == 20
    assert len({one.headers["topic"] for one in service.requests}) == 1


async def test_who_is_there_and_takes_it_is_not_told(server: ChatServer, service: FakePushService) -> None:
    phone = await subscribe(server, service, "bob")
    bob = await server.client("bob", "desk")
    alice = await server.client("alice")
    sent = await alice.send("bob", "hi")
    await next_message(bob)
    await sent.delivered()
    await settled(server)
    assert service.received(phone) == []


async def next_message(client: Client) -> MessageEvent:
    async for event in client.events():
        if isinstance(event, MessageEvent) and not event.mine:
            return event
    raise AssertionError("the client ended")


async def test_what_is_read_on_the_phone_before_it_is_due_is_not_told(
    server: ChatServer, service: FakePushService
) -> None:
    tablet = await subscribe(server, service, "bob", "tablet")
    phone = await server.client("bob", "phone")
    alice = await server.client("alice")
    handle = await alice.send("bob", "hi")
    message = await next_message(phone)
    await phone.mark_read(message.conv, message.seq)
    await handle.read()
    await settled(server)
    assert service.received(tablet) == []
    assert server.server.metrics.push_delivered == 0


@pytest.mark.slow
async def test_a_half_open_connection_is_told_after_ten_seconds_and_gets_the_message_at_reconnect(
    service: FakePushService,
) -> None:
    settings = {"push.private_endpoints": True}  # with the delay that a server has by itself
    async with (
        ChatServer(store="sqlite", users=USERS, settings=settings) as server,
        Proxy("127.0.0.1", server.server.port) as proxy,
    ):
        phone = await subscribe(server, service, "bob")
        token = await server.token("bob", "phone")
        async with Client(f"http://127.0.0.1:{proxy.port}", token=token, user="bob") as bob:
            await caught_up(bob)
            proxy.stall()
            began_s = time.monotonic()
            await send(server)
            request = await service.nth(1, to=phone, timeout_s=30.0)
            waited_s = time.monotonic() - began_s
            assert 9.9 < waited_s < 15.0, waited_s
            assert request.payload["seq"] == 1
            proxy.cut()
            proxy.resume()
            assert (await next_message(bob)).body == "hi"
        await settled(server)
        assert len(service.requests) == 1


async def caught_up(client: Client) -> None:
    async for event in client.events():
        if type(event).__name__ == "CaughtUpEvent":
            return


@pytest.mark.parametrize(
    "reply", [Reply(500), Reply(503), Reply(429), Reply(fate="drop"), HANG], ids=lambda r: f"{r.status} {r.fate}"
)
async def test_what_did_not_get_through_is_sent_again_with_the_same_key(
    server: ChatServer, service: FakePushService, reply: Reply
) -> None:
    phone = await subscribe(server, service, "bob")
    service.script(reply, reply, Reply(201), to=phone)
    await send(server)
    requests = [await service.nth(n, to=phone) for n in (1, 2, 3)]
    assert len({one.payload["key"] for one in requests}) == 1
    await settled(server)
    assert len(service.requests) == 3
    metrics = server.server.metrics
    assert (metrics.push_delivered, metrics.push_retried) == (1, 2)


async def test_retry_after_is_kept_to(server: ChatServer, service: FakePushService) -> None:
    phone = await subscribe(server, service, "bob")
    service.script(Reply(429, retry_after="1"), Reply(201), to=phone)
    await send(server)
    await service.nth(1, to=phone)
    began_s = time.monotonic()
    await service.nth(2, to=phone)
    assert time.monotonic() - began_s > 0.95  # without it: at most 0.02 s


@pytest.mark.parametrize("status", [404, 410])
async def test_a_dead_subscription_is_removed(server: ChatServer, service: FakePushService, status: int) -> None:
    phone, tablet = await subscribe(server, service, "bob"), await subscribe(server, service, "bob", "tablet")
    service.script(Reply(status), to=phone)
    await send(server)
    await service.nth(1, to=phone)
    await service.nth(1, to=tablet)
    await settled(server)
    assert await http(server, "GET", "/v1/push/subscription", "bob") == 404
    assert await http(server, "GET", "/v1/push/subscription", "bob", "tablet") == 200
    assert server.server.metrics.push_gone == 1


async def test_a_refused_one_is_not_sent_again_and_the_next_one_is_tried(
    server: ChatServer, service: FakePushService
) -> None:
    phone = await subscribe(server, service, "bob")
    service.script(Reply(413), Reply(201), to=phone)
    await send(server)
    await service.nth(1, to=phone)
    await settled(server)
    assert len(service.requests) == 1
    await send(server)
    assert (await service.nth(2, to=phone)).payload["seq"] == 2


async def test_only_who_was_not_reached_is_tried_again(server: ChatServer, service: FakePushService) -> None:
    phone, tablet = await subscribe(server, service, "bob"), await subscribe(server, service, "bob", "tablet")
    service.script(Reply(500), Reply(500), Reply(201), to=phone)
    await send(server)
    await service.nth(3, to=phone)
    await settled(server)
    assert len(service.received(tablet)) == 1


async def test_a_device_that_takes_it_between_two_attempts_ends_them(
    server: ChatServer, service: FakePushService
) -> None:
    phone = await subscribe(server, service, "bob")
    service.script(Reply(500), to=phone)
    await send(server)
    await service.nth(2, to=phone)
    bob = await server.client("bob", "desk")
    assert (await next_message(bob)).body == "hi"
    await settled(server)
    seen = len(service.requests)
    await send(server, to="carol")  # and nothing more comes of it while others are sent to
    await settled(server)
    assert len(service.requests) == seen


async def test_nobody_is_told_of_a_blocked_user_nor_of_what_they_wrote_themselves(
    server: ChatServer, service: FakePushService
) -> None:
    phones = [await subscribe(server, service, user) for user in ("alice", "bob")]
    assert await http(server, "PUT", "/v1/blocks/alice", "bob") == 204
    await send(server)
    await send(server, to="alice")  # notes to self
    await send(server, sender="carol")
    assert (await service.nth(1, to=phones[1])).payload["sender"] == "carol"
    await settled(server)
    assert len(service.requests) == 1


async def test_what_is_read_on_one_device_is_cleared_from_the_others(
    server: ChatServer, service: FakePushService
) -> None:
    phone, tablet = await subscribe(server, service, "bob"), await subscribe(server, service, "bob", "tablet")
    await send(server)
    shown = await service.nth(1, to=tablet)
    await service.nth(1, to=phone)
    await settled(server)
    bob = await server.client("bob", "phone")
    message = await next_message(bob)
    await bob.mark_read(message.conv, message.seq)
    cleared = await service.nth(2, to=tablet)
    assert cleared.payload == {
        "type": "clear",
        "key": f"{CONV}#1#clear",
        "tag": shown.payload["tag"],
        "to": "bob",
        "conv": CONV,
        "seq": 1,
        "badge": 0,
    }
    assert len(service.received(phone)) == 1  # who read it needs no telling


async def test_a_device_that_is_logged_out_is_told_nothing_more(server: ChatServer, service: FakePushService) -> None:
    phone, tablet = await subscribe(server, service, "bob"), await subscribe(server, service, "bob", "tablet")
    assert await http(server, "POST", "/v1/logout", "bob", "phone") == 204
    await send(server)
    await service.nth(1, to=tablet)
    await settled(server)
    assert service.received(phone) == []


async def test_a_user_who_was_disabled_is_told_again_once_enabled(server: ChatServer, service: FakePushService) -> None:
    phone = await subscribe(server, service, "bob")
    await server.server.accounts.disable("bob")
    await send(server, "while disabled")
    await settled(server)
    assert service.received(phone) == []
    await server.server.accounts.enable("bob")
    await send(server, "and again")
    assert (await service.nth(1, to=phone)).payload["seq"] == 2


async def test_what_a_server_owed_is_sent_by_the_next_one_with_the_same_key(
    service: FakePushService, tmp_path: Path
) -> None:
    async with ChatServer(store=tmp_path, users=USERS, settings=FAST) as server:
        phone = await subscribe(server, service, "bob")
        service.script(Reply(503), to=phone)
        await send(server, "one")
        first = await service.nth(1, to=phone)
    service.script(Reply(201), to=phone)
    before = len(service.requests)
    async with ChatServer(store=tmp_path, users=USERS, settings=FAST) as server:
        again = await service.nth(before + 1, to=phone)
        assert again.payload["key"] == first.payload["key"]
        assert again.fault == ""  # the same VAPID key
        await settled(server)
    async with ChatServer(store=tmp_path, users=USERS, settings=FAST) as server:
        await send(server, "two")
        assert (await service.nth(before + 2, to=phone)).payload["seq"] == 2
        await settled(server)
    assert len(service.requests) == before + 2


async def test_the_text_is_told_if_the_setting_says_so(service: FakePushService) -> None:
    async with ChatServer(users=USERS, settings={**FAST, "push.body": True}) as server:
        phone = await subscribe(server, service, "bob")
        await send(server, "grüß dich 😀")
        assert (await service.nth(1, to=phone)).payload["body"] == "grüß dich 😀"


async def test_a_webhook_hears_of_every_user_signed(service: FakePushService) -> None:
    webhook = {"push.webhook_url": service.url("/hook"), "push.webhook_secret": SECRET}
    async with ChatServer(users=USERS, settings={**FAST, **webhook}) as server:
        service.script(Reply(500), Reply(200), to="/hook")
        await send(server)
        first, second = await service.nth(1, to="/hook"), await service.nth(2, to="/hook")
        assert first.body == second.body
        assert second.payload["to"] == "bob"
        for one in (first, second):
            verify(SECRET, one.headers, one.body, time.time())
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        await settled(server)
        assert len(service.requests) == 2


async def test_ntfy_is_told_in_words(server: ChatServer, service: FakePushService) -> None:
    body = {"kind": "ntfy", "endpoint": service.url("/bobs-topic")}
    assert await http(server, "PUT", "/v1/push/subscription", "bob", body=body) == 204
    await send(server)
    request = await service.nth(1)
    assert b"alice" in request.body
    await settled(server)


@pytest.mark.parametrize("what", ["owed", "subscriptions", "pushed", "badge"])
async def test_a_store_that_fails_in_a_push_fails_no_message_and_loses_no_push(
    server: ChatServer, service: FakePushService, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = await subscribe(server, service, "bob")
    store: Store = server.server.store
    works = getattr(store.inner, what)  # type: ignore[attr-defined]
    failures = 0

    async def fails(*args: Any, **kwargs: Any) -> Any:
        nonlocal failures
        failures += 1
        if failures <= 2:
            raise protocol_unavailable()
        return await works(*args, **kwargs)

    monkeypatch.setattr(store.inner, what, fails)  # type: ignore[attr-defined]
    alice = await server.client("alice")
    sent = await (await alice.send("bob", "hi")).sent()
    assert sent.seq == 1
    request = await service.nth(1, to=phone)
    assert request.payload["seq"] == 1
    await settled(server)
    assert len({one.payload["key"] for one in service.requests}) == 1
    if what != "badge":
        assert failures == 3


def protocol_unavailable() -> Exception:
    from chatd.errors import Unavailable

    return Unavailable("the outbox table is locked (a test's fault)")


async def test_a_notifier_that_raises_or_hangs_fails_no_message(server: ChatServer, service: FakePushService) -> None:
    phone = await subscribe(server, service, "bob")
    service.script(HANG, to=phone)
    notifier = server.server.push.sender._notifiers["webpush"]
    alice, carol = await server.client("alice"), await server.client("carol")
    for number in range(50):
        await (await alice.send("bob", f"{number}")).sent()
        await (await alice.send("carol", f"{number}")).sent()
        assert (await next_message(carol)).body == f"{number}"

    async def raises(*args: object) -> object:
        raise RuntimeError("a bug of others")

    original = notifier.send
    notifier.send = raises  # type: ignore[method-assign, assignment]
    await (await alice.send("bob", "x")).sent()
    notifier.send = original  # type: ignore[method-assign]
    service.script(Reply(201), to=phone)
    await service.until(lambda all_: all_[-1].payload["count"] == 51)
    await settled(server)
