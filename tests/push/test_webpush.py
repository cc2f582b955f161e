"""Web Push from end to end on loopback: encrypted here, decrypted by a browser that shares no code with it."""

from __future__ import annotations

import asyncio
import builtins
import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from push_worlds import LOCAL, NOW_MS, Clock, Keeper, clear, context, message, subscription
from yarl import URL

from chatd.errors import BadFrame, ConfigError
from chatd.push import base
from chatd.push.base import Clear, MissingExtra, Notification, Outcome, Payload
from chatd.push.webpush import ORIGINS_MAX, PLAINTEXT_BYTES_MAX, Vapid, WebPush, fit, make
from chatd.settings import PushSettings
from chatd.testing.push_crypto import check_vapid, decode_base64url, encode_base64url
from chatd.testing.push_service import DROP, HANG, FakePushService, Reply

HOUR_MS = 3_600_000


@pytest.fixture
async def service() -> AsyncIterator[FakePushService]:
    async with FakePushService(now_ms=Clock()) as one:
        yield one


@pytest.fixture
async def webpush() -> AsyncIterator[WebPush]:
    one = await make(context())
    yield one
    await one.close()


# --- round trips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "urgency"),
    [
        (message(), "high"),
        (message(body='Grüße 👋 \u2028 \x00 "quoted"'), "high"),
        (clear(), "low"),
        (base.Test(key="k3", tag="test", to="bob", text="Does it arrive?"), "high"),
    ],
)
async def test_a_browser_reads_what_was_sent(
    service: FakePushService, webpush: WebPush, payload: Payload, urgency: str
) -> None:
    phone = service.subscribe(webpush.public["vapid"])
    webpush.check(phone.endpoint, phone.keys)
    assert (await webpush.send(payload, subscription(phone), 3_600)).result == "delivered"
    request = await service.nth(1, to=phone)
    assert request.fault == ""
    assert msgspec.convert(request.payload, Notification | Clear | base.Test) == payload
    sent = {name: request.headers[name] for name in ("content-encoding", "ttl", "urgency", "topic")}
    assert sent == {"content-encoding": "aes128gcm", "ttl": "3600", "urgency": urgency, "topic": payload.tag}


async def test_each_push_has_a_key_and_a_salt_of_its_own(service: FakePushService, webpush: WebPush) -> None:
    phone = service.subscribe()
    for _ in range(2):
        await webpush.send(message(), subscription(phone), 0)
    one, other = service.received(phone)
    assert one.body[:16] != other.body[:16]
    assert one.body[21:86] != other.body[21:86]
    assert one.payload == other.payload


@pytest.mark.parametrize(("ttl_s", "sent"), [(-5, "0"), (0, "0"), (10**9, "2419200")])
async def test_the_time_to_live_has_bounds(service: FakePushService, webpush: WebPush, ttl_s: int, sent: str) -> None:
    phone = service.subscribe()
    await webpush.send(message(), subscription(phone), ttl_s)
    assert service.received(phone)[0].headers["ttl"] == sent


# --- answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "result", "retry_after_s"),
    [
        (Reply(201), "delivered", None),
        (Reply(404), "gone", None),
        (Reply(410), "gone", None),
        (Reply(429, retry_after="17"), "later", 17.0),
        (Reply(500), "later", None),
        (Reply(503, retry_after="Thu, 09 Oct 2025 08:53:30 GMT"), "later", 10.0),
        (Reply(400), "refused", None),
        (Reply(413), "refused", None),
        (Reply(302), "refused", None),
        (DROP, "later", None),
    ],
)
async def test_every_answer_has_its_outcome(
    service: FakePushService, webpush: WebPush, reply: Reply, result: str, retry_after_s: float | None
) -> None:
    phone, tablet = service.subscribe(), service.subscribe()
    service.script(reply, to=phone)
    outcome = await webpush.send(message(), subscription(phone), 60)
    assert (outcome.result, outcome.retry_after_s) == (result, retry_after_s)
    assert (await webpush.send(message(), subscription(tablet), 60)).result == "delivered"


async def test_a_service_that_does_not_answer_is_cancelled_by_the_caller(
    service: FakePushService, webpush: WebPush
) -> None:
    phone = service.subscribe()
    service.script(HANG, Reply(201), to=phone)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await webpush.send(message(), subscription(phone), 60)
    assert (await webpush.send(message(), subscription(phone), 60)).result == "delivered"
    assert [request.number for request in service.received(phone)] == [1, 2]


async def test_a_subscription_made_for_another_key_is_refused_with_the_reason(
    service: FakePushService, webpush: WebPush
) -> None:
    other = await make(context())
    phone = service.subscribe(other.public["vapid"])
    outcome = await webpush.send(message(), subscription(phone), 60)
    assert outcome.result == "refused"
    assert "VAPID" in outcome.reason
    assert service.received(phone)[0].fault == "the subscription was made for another VAPID key"


async def test_a_push_to_a_private_address_never_leaves(service: FakePushService) -> None:
    webpush = await make(context(PushSettings()))
    phone = service.subscribe()
    https = phone.endpoint.replace("http:", "https:")
    for endpoint in (phone.endpoint, https):
        with pytest.raises(BadFrame):
            webpush.check(endpoint, phone.keys)
        assert (await webpush.send(message(), subscription(phone, endpoint=endpoint), 60)).result == "refused"
    assert service.requests == []


async def test_without_a_subscription_or_with_broken_keys_it_is_refused(
    service: FakePushService, webpush: WebPush
) -> None:
    assert (await webpush.send(message(), None, 60)).result == "refused"
    phone = service.subscribe()
    outcome = await webpush.send(message(), subscription(phone, keys={"p256dh": "x"}), 60)
    assert (outcome.result, service.requests) == ("refused", [])


# --- what a subscription must look like ------------------------------------------------------------------


def _keys(**changes: str) -> dict[str, str]:
    return {
        "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
        "auth": "BTBZMqHH6r4Tts7J_aSIgg",
        **changes,
    }


def test_keys_of_a_browser_are_taken_with_and_without_padding(webpush: WebPush) -> None:
    webpush.check("https://push.example/x", _keys())
    webpush.check("https://push.example/x", {name: key + "=" * (-len(key) % 4) for name, key in _keys().items()})


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({}, "must be p256dh and auth"),
        ({"p256dh": _keys()["p256dh"]}, "must be p256dh and auth"),
        (_keys(more="x"), "must be p256dh and auth"),
        (_keys(auth=""), "auth: not base64url"),
        (_keys(auth="BTBZMqHH6r4Tts7J/aSIgg"), "auth: not base64url"),
        (_keys(auth="BTBZMqHH6r4Tts7J_aSIgg\n"), "auth: not base64url"),
        (_keys(auth="x" * 129), "auth: not base64url"),
        (_keys(auth="AAAAA"), "auth: not base64url"),
        (_keys(auth=encode_base64url(bytes(15))), "16 bytes"),
        (_keys(auth=encode_base64url(bytes(17))), "16 bytes"),
        (_keys(p256dh=encode_base64url(b"\4" + bytes(63))), "65 bytes"),
        (_keys(p256dh=encode_base64url(b"\2" + bytes(32))), "65 bytes"),
        (_keys(p256dh=encode_base64url(b"\6" + bytes(64))), "65 bytes"),
        (_keys(p256dh=encode_base64url(b"\4" + bytes(64))), "not a point"),
        (_keys(p256dh=encode_base64url(b"\4" + b"\xff" * 64)), "not a point"),
    ],
)
def test_keys_that_are_none(webpush: WebPush, keys: dict[str, str], fault: str) -> None:
    with pytest.raises(BadFrame) as caught:
        webpush.check("https://push.example/x", keys)
    assert fault in caught.value.message


# --- what does not fit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a", "ü", "€", "👋", '"', "\x01", "a👋", "日本語 "])
def test_a_long_body_is_cut_at_a_character(text: str) -> None:
    whole = text * 5_000
    plain = fit(message(body=whole))
    assert plain is not None
    assert PLAINTEXT_BYTES_MAX - 8 <= len(plain) <= PLAINTEXT_BYTES_MAX
    body = json.loads(plain)["body"]
    assert body.endswith("…")
    assert whole.startswith(body[:-1])
    assert json.loads(plain) | {"body": ""} == json.loads(msgspec.json.encode(message(body="")))


def test_the_longest_body_that_fits_is_whole() -> None:
    room = PLAINTEXT_BYTES_MAX - len(msgspec.json.encode(message(body="")))
    for length, cut in ((room, False), (room + 1, True)):
        plain = fit(message(body="a" * length))
        assert plain is not None
        assert len(plain) <= PLAINTEXT_BYTES_MAX
        assert (b"\xe2\x80\xa6" in plain) is cut


def test_a_tests_text_is_cut_too_and_what_has_no_text_does_not_fit() -> None:
    plain = fit(base.Test(key="k", tag="t", to="bob", text="x" * 5_000))
    assert plain is not None
    assert len(plain) == PLAINTEXT_BYTES_MAX
    assert fit(message(conv="x" * 5_000)) is None
    assert fit(message(conv="x" * 5_000, body="y")) is None


async def test_the_largest_push_is_what_every_service_takes(service: FakePushService, webpush: WebPush) -> None:
    phone = service.subscribe()
    assert (await webpush.send(message(body="x" * 9_000), subscription(phone), 60)).result == "delivered"
    request = service.received(phone)[0]
    assert (len(request.body), request.fault) == (4_096, "")
    assert request.payload["body"].endswith("x…")
    outcome = await webpush.send(message(conv="x" * 5_000), subscription(phone), 60)
    assert outcome == Outcome("refused", "more than 3993 bytes even without its text")


# --- who we are ------------------------------------------------------------------------------------------


def _vapid(clock: Clock, contact: str = "") -> Vapid:
    return Vapid(generate_private_key(SECP256R1()), contact=contact, now_ms=clock)


def _token(authorization: str) -> str:
    return authorization.removeprefix("vapid t=").partition(",")[0]


def _claims(authorization: str) -> dict[str, Any]:
    return jwt.decode(_token(authorization), options={"verify_signature": False})


def test_a_token_says_who_we_are_to_whom_and_until_when() -> None:
    vapid = _vapid(Clock(), "mailto:admin@chat.example")
    authorization = vapid.authorization(URL("https://push.example:8443/x/y?z"))
    key, claims = check_vapid(authorization, audience="https://push.example:8443", now_s=NOW_MS / 1000)
    assert key == vapid.key
    assert decode_base64url(key)[0] == 4
    assert len(decode_base64url(key)) == 65
    assert claims == {
        "aud": "https://push.example:8443",
        "exp": NOW_MS // 1000 + 12 * 3600,
        "sub": "mailto:admin@chat.example",
    }
    assert "sub" not in _claims(_vapid(Clock()).authorization(URL("https://push.example/x")))


@pytest.mark.parametrize(
    ("endpoint", "audience"),
    [
        ("https://push.example/x", "https://push.example"),
        ("https://push.example:443/x", "https://push.example"),
        ("https://Push.EXAMPLE/x", "https://push.example"),
        ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080"),
        ("https://[2606:4700::1111]:8443/x", "https://[2606:4700::1111]:8443"),
    ],
)
def test_the_audience_is_the_origin_as_browsers_write_it(endpoint: str, audience: str) -> None:
    assert _claims(_vapid(Clock()).authorization(URL(endpoint, encoded=True)))["aud"] == audience


def test_a_token_is_used_until_an_hour_before_its_end() -> None:
    clock = Clock()
    vapid = _vapid(clock)
    first = vapid.authorization(URL("https://push.example/x"))
    clock.now_ms = NOW_MS + 11 * HOUR_MS - 1_000
    assert vapid.authorization(URL("https://push.example/other")) == first
    assert vapid.authorization(URL("https://elsewhere.example/x")) != first
    clock.now_ms = NOW_MS + 11 * HOUR_MS
    second = vapid.authorization(URL("https://push.example/x"))
    assert _claims(second)["exp"] == NOW_MS // 1000 + 23 * 3600
    clock.now_ms = NOW_MS - 48 * HOUR_MS  # set back: the token would be from too far in the future
    assert _claims(vapid.authorization(URL("https://push.example/x")))["exp"] == NOW_MS // 1000 - 36 * 3600


def test_tokens_of_many_services_are_bounded() -> None:
    vapid = _vapid(Clock())
    kept = vapid.authorization(URL("https://kept.example/"))
    for n in range(ORIGINS_MAX + 10):
        vapid.authorization(URL(f"https://{n}.example/"))
        assert vapid.authorization(URL("https://kept.example/")) == kept
    assert len(vapid._tokens) == ORIGINS_MAX


async def test_the_key_is_the_same_after_a_restart_and_in_every_process() -> None:
    keeper = Keeper()
    first, second = await make(context(keeper=keeper)), await make(context(keeper=keeper))
    assert first.public == second.public
    assert keeper.kept["vapid"].startswith("-----BEGIN PRIVATE KEY-----")
    assert (await make(context())).public != first.public


@pytest.mark.parametrize("wrong", ["nonsense", "p384"])
async def test_a_kept_key_that_cannot_be_used_is_one_clear_line(wrong: str) -> None:
    keeper = Keeper()
    pem = generate_private_key(SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    keeper.kept["vapid"] = pem.decode() if wrong == "p384" else wrong
    with pytest.raises(ConfigError, match="VAPID key"):
        await make(context(keeper=keeper))


async def test_a_contact_must_be_one_that_services_take() -> None:
    with pytest.raises(ConfigError, match=r"push\.contact: 'admin@chat\.example' is neither"):
        await make(context(PushSettings(contact="admin@chat.example")))
    await make(context(PushSettings(contact="https://chat.example/about")))


async def test_a_missing_package_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "http_ece":
            raise ModuleNotFoundError("No module named 'http_ece'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"^Web Push needs the extra: pip install 'chatd\[push\]'$"):
        await make(context(LOCAL))
