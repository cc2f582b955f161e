"""The webhook: what a receiver gets, how it checks it, and what its answers mean."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from push_worlds import NOW_MS, Clock, clear, context, message

from chatd.errors import BadFrame, ConfigError
from chatd.push.base import Notification
from chatd.push.webhook import BadSignature, Webhook, make, verify
from chatd.settings import PushSettings
from chatd.testing.push_service import DROP, HANG, FakePushService, PushRequest, Reply

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW_S = NOW_MS / 1000

# Signed with the secret above by the specification's own library for Python, standardwebhooks.
FOREIGN_HEADERS = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
FOREIGN_BODY = b'{"test": 2432232314}'


@pytest.fixture
async def service() -> AsyncIterator[FakePushService]:
    async with FakePushService() as one:
        yield one


async def _webhook(service: FakePushService, clock: Clock | None = None, secret: str = SECRET) -> Webhook:
    settings = PushSettings(webhook_url=service.url("/hook"), webhook_secret=secret)
    made = await make(context(settings, clock=clock))
    assert made is not None
    return made


async def _received(service: FakePushService, payload: Any, secret: str = SECRET) -> PushRequest:
    webhook = await _webhook(service, secret=secret)
    assert (await webhook.send(payload, None, 60)).result == "delivered"
    await webhook.close()
    return service.requests[-1]


@pytest.mark.parametrize("secret", [SECRET, SECRET + "==", "any text, ü", "whsec_not", "x"])
async def test_a_receiver_verifies_what_it_got(service: FakePushService, secret: str) -> None:
    request = await _received(service, message(body="hi"), secret)
    verify(secret, request.headers, request.body, NOW_S)
    assert msgspec.json.decode(request.body, type=Notification) == message(body="hi")
    assert (request.method, request.path, request.headers["content-type"]) == ("POST", "/hook", "application/json")


def test_a_request_signed_by_the_specifications_own_library_verifies() -> None:
    verify(SECRET, FOREIGN_HEADERS, FOREIGN_BODY, 1_614_265_330)


async def test_a_repeat_has_the_same_id_and_a_new_time_and_signature(service: FakePushService) -> None:
    clock = Clock()
    webhook = await _webhook(service, clock)
    assert webhook.every_user
    await webhook.send(message(), None, 60)
    clock.now_ms += 60_000
    await webhook.send(message(), None, 60)
    await webhook.send(message(key="k9"), None, 60)
    await webhook.send(message(to="carol"), None, 60)
    await webhook.send(msgspec.structs.replace(clear(), key=message().key), None, 60)
    await webhook.close()
    first, again, *others = service.requests
    assert first.headers["webhook-id"] == again.headers["webhook-id"]
    assert len({one.headers["webhook-id"] for one in (first, *others)}) == 4
    assert all("." not in one.headers["webhook-id"] for one in service.requests)
    assert int(again.headers["webhook-timestamp"]) == int(first.headers["webhook-timestamp"]) + 60
    assert again.headers["webhook-signature"] != first.headers["webhook-signature"]
    verify(SECRET, again.headers, again.body, NOW_S + 60)


async def test_whatever_is_changed_is_noticed(service: FakePushService) -> None:
    request = await _received(service, message())
    headers = request.headers

    def bad(change: dict[str, str], body: bytes = request.body, secret: str = SECRET, now_s: float = NOW_S) -> str:
        with pytest.raises(BadSignature) as caught:
            verify(secret, headers | change, body, now_s)
        return str(caught.value)

    assert bad({}, secret="another").startswith("webhook-signature")
    assert bad({}, body=request.body + b" ").startswith("webhook-signature")
    assert bad({"webhook-id": "msg_other"}).startswith("webhook-signature")
    assert bad({"webhook-timestamp": str(int(NOW_S) + 1)}).startswith("webhook-signature")
    assert bad({"webhook-timestamp": "soon"}) == "webhook-timestamp: not Unix seconds"
    assert bad({"webhook-timestamp": "²"}) == "webhook-timestamp: not Unix seconds"
    for signature in ("", "v1", "v1,", "v1,x", "v1a," + headers["webhook-signature"][3:], "ü"):
        assert bad({"webhook-signature": signature}).startswith("webhook-signature")
    assert bad({}, now_s=NOW_S + 301) == "webhook-timestamp: 301 s old"
    assert bad({}, now_s=NOW_S - 301) == "webhook-timestamp: 301 s ahead"
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        with pytest.raises(BadSignature, match=f"no header {name}"):
            verify(SECRET, {n: v for n, v in headers.items() if n != name}, request.body, NOW_S)


async def test_headers_in_any_case_a_tolerance_and_several_signatures_are_taken(service: FakePushService) -> None:
    request = await _received(service, message())
    headers = {name.title(): value for name, value in request.headers.items()}
    headers["Webhook-Signature"] = f"v1,b2xk v1a,other {headers['Webhook-Signature']}"
    for now_s in (NOW_S - 300, NOW_S + 300):
        verify(SECRET, headers, request.body, now_s)
    verify(SECRET, headers, request.body, NOW_S + 3_000, tolerance_s=3_600)


@pytest.mark.parametrize(
    ("reply", "result"),
    [
        (Reply(204), "delivered"),
        (Reply(302), "refused"),
        (Reply(400), "refused"),
        (Reply(401), "refused"),
        (Reply(404), "later"),
        (Reply(410), "refused"),
        (Reply(429), "later"),
        (Reply(500), "later"),
        (DROP, "later"),
    ],
)
async def test_no_answer_makes_the_webhook_gone(service: FakePushService, reply: Reply, result: str) -> None:
    service.script(reply)
    webhook = await _webhook(service)
    assert (await webhook.send(message(), None, 60)).result == result
    await webhook.close()


async def test_a_receiver_that_hangs_is_cancelled_by_the_caller(service: FakePushService) -> None:
    service.script(HANG)
    webhook = await _webhook(service)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await webhook.send(message(), None, 60)
    await webhook.close()


async def test_it_is_made_only_when_configured_and_nobody_subscribes_to_it(service: FakePushService) -> None:
    assert await make(context(PushSettings())) is None
    webhook = await _webhook(service)
    assert webhook.public == {}
    with pytest.raises(BadFrame, match="no subscriptions"):
        webhook.check("https://push.example/", {})


@pytest.mark.parametrize(
    ("url", "secret", "fault"),
    [
        ("ftp://hook.example/", SECRET, "push.webhook_url: must be a URL that begins with https:// or http://"),
        ("hook.example", SECRET, "push.webhook_url: must be a URL that begins with https:// or http://"),
        ("https://hook.example/", "whsec_***", "push.webhook_secret: after whsec_ comes base64"),
        ("https://hook.example/", "whsec_", "push.webhook_secret: empty"),
        ("https://hook.example/", "", "push.webhook_secret: empty"),
    ],
)
async def test_a_wrong_setting_is_named(url: str, secret: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await make(context(PushSettings(webhook_url=url, webhook_secret=secret)))
    assert str(caught.value) == fault


async def test_private_addresses_and_http_are_the_operators_choice(service: FakePushService) -> None:
    settings = PushSettings(webhook_url=service.url("/hook"), webhook_secret="s", private_endpoints=False)
    webhook = await make(context(settings))
    assert webhook is not None
    assert (await webhook.send(message(), None, 60)).result == "delivered"
    await webhook.close()


def test_the_secret_is_the_key_itself_or_its_base64() -> None:
    raw = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    with pytest.raises(BadSignature):
        verify("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", FOREIGN_HEADERS, FOREIGN_BODY, 1_614_265_330)
    verify("whsec_" + base64.b64encode(raw).decode(), FOREIGN_HEADERS, FOREIGN_BODY, 1_614_265_330)
