"""The fake push service: as strict as a real one, and it does what its script says."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import http_ece  # type: ignore[import-untyped]
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    derive_private_key,
    generate_private_key,
)
from push_worlds import NOW_MS, Clock

from chatd.testing.push_crypto import PushFault, check_vapid, decode_base64url, decrypt, encode_base64url, point_of
from chatd.testing.push_service import DROP, HANG, FakePushService, FakeSubscription, Reply

NOW_S = NOW_MS // 1000

# RFC 8291, appendix A and section 5.
RFC_PRIVATE = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"
RFC_PUBLIC = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
RFC_AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
RFC_BODY = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBr"
    "u3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
)


@pytest.fixture
async def service() -> AsyncIterator[FakePushService]:
    async with FakePushService(now_ms=Clock()) as one:
        yield one


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as one:
        yield one


def _rfc_key() -> EllipticCurvePrivateKey:
    return derive_private_key(int.from_bytes(decode_base64url(RFC_PRIVATE), "big"), SECP256R1())


def _authorization(key: EllipticCurvePrivateKey, audience: str, **changes: Any) -> str:
    token = jwt.encode({"aud": audience, "exp": NOW_S + 3_600, **changes}, key, algorithm="ES256")
    return f"vapid t={token}, k={encode_base64url(point_of(key.public_key()))}"


def _push(
    service: FakePushService, to: FakeSubscription, plain: bytes = b'{"a":1}', changes: dict[str, str] | None = None
) -> dict[str, Any]:
    """What a server posts, made with other code than chatd's."""
    body = http_ece.encrypt(
        plain,
        private_key=generate_private_key(SECP256R1()),
        dh=decode_base64url(to.keys["p256dh"]),
        auth_secret=decode_base64url(to.keys["auth"]),
        rs=4_096,
    )
    headers = {
        "Authorization": _authorization(generate_private_key(SECP256R1()), service.origin),
        "TTL": "60",
        "Content-Encoding": "aes128gcm",
        **(changes or {}),
    }
    return {"data": body, "headers": headers}


# --- the cryptography ------------------------------------------------------------------------------------


def test_the_example_of_rfc_8291_is_decrypted() -> None:
    key = _rfc_key()
    assert point_of(key.public_key()) == decode_base64url(RFC_PUBLIC)
    plain = decrypt(decode_base64url(RFC_BODY), key, decode_base64url(RFC_AUTH))
    assert plain == b"When I grow up, I want to be a watermelon"


def test_a_body_that_was_changed_is_not_decrypted() -> None:
    body, auth = decode_base64url(RFC_BODY), decode_base64url(RFC_AUTH)
    for place in (0, 20, 30, len(body) - 1):
        changed = bytearray(body)
        changed[place] ^= 1
        with pytest.raises(PushFault):
            decrypt(bytes(changed), _rfc_key(), auth)
    for length in (0, 20, 85, 86, len(body) - 1):
        with pytest.raises(PushFault):
            decrypt(body[:length], _rfc_key(), auth)
    with pytest.raises(PushFault):
        decrypt(body, _rfc_key(), bytes(16))
    with pytest.raises(PushFault):
        decrypt(body, generate_private_key(SECP256R1()), auth)


def test_a_token_is_taken_and_its_key_told() -> None:
    key = generate_private_key(SECP256R1())
    told, claims = check_vapid(_authorization(key, "https://a.example"), audience="https://a.example", now_s=NOW_S)
    assert told == encode_base64url(point_of(key.public_key()))
    assert claims["exp"] == NOW_S + 3_600


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"aud": "https://b.example"}, "aud"),
        ({"exp": NOW_S}, "exp"),
        ({"exp": NOW_S + 86_401}, "exp"),
        ({"exp": None}, "exp"),
    ],
)
def test_a_token_of_another_place_or_time_is_not(changes: dict[str, Any], fault: str) -> None:
    key = generate_private_key(SECP256R1())
    with pytest.raises(PushFault, match=f"^{fault}: "):
        check_vapid(_authorization(key, "https://a.example", **changes), audience="https://a.example", now_s=NOW_S)


def test_a_token_signed_by_another_key_is_not() -> None:
    one, other = (_authorization(generate_private_key(SECP256R1()), "https://a.example") for _ in range(2))
    mixed = one.partition(", ")[0] + ", " + other.partition(", ")[2]
    with pytest.raises(PushFault, match="not signed by the key"):
        check_vapid(mixed, audience="https://a.example", now_s=NOW_S)
    hmac = jwt.encode({"aud": "https://a.example", "exp": NOW_S + 60}, "x" * 32, algorithm="HS256")
    with pytest.raises(PushFault, match="not signed with ES256"):
        check_vapid(f"vapid t={hmac}, {one.partition(', ')[2]}", audience="https://a.example", now_s=NOW_S)
    nonsense = base64.urlsafe_b64encode(b"{").decode().rstrip("=")
    for wrong in ("", "Bearer x", "vapid t=a.b.c, k=d", f"vapid t={nonsense}.{nonsense}.AA, k={RFC_PUBLIC}"):
        with pytest.raises(PushFault):
            check_vapid(wrong, audience="https://a.example", now_s=NOW_S)


# --- the service -----------------------------------------------------------------------------------------


async def test_a_push_is_decrypted_and_kept_in_order(service: FakePushService, http: aiohttp.ClientSession) -> None:
    phone, tablet = service.subscribe(), service.subscribe()
    for to in (phone, tablet, phone):
        async with http.post(to.endpoint, **_push(service, to, changes={"Urgency": "high"})) as response:
            assert response.status == 201
    assert [request.number for request in service.received(phone)] == [1, 3]
    request = await service.nth(2, to=phone)
    assert (request.payload, request.fault, request.subscription) == ({"a": 1}, "", phone)
    assert (request.method, request.headers["urgency"], request.claims["aud"]) == ("POST", "high", service.origin)


@pytest.mark.parametrize(
    ("changes", "status", "fault"),
    [
        ({"Authorization": "vapid x"}, 403, "Authorization"),
        ({"TTL": ""}, 400, "no TTL"),
        ({"Content-Encoding": "aesgcm"}, 415, "Content-Encoding"),
        ({"Topic": "x" * 33}, 400, "Topic"),
        ({"Topic": "a b"}, 400, "Topic"),
    ],
)
async def test_a_push_that_is_wrong_is_answered_as_a_service_would(
    service: FakePushService, http: aiohttp.ClientSession, changes: dict[str, str], status: int, fault: str
) -> None:
    phone = service.subscribe()
    async with http.post(phone.endpoint, **_push(service, phone, changes=changes)) as response:
        assert response.status == status
        assert fault in await response.text()
    assert fault in service.requests[0].fault
    assert service.requests[0].payload is None


async def test_too_large_for_another_key_and_for_somebody_else(
    service: FakePushService, http: aiohttp.ClientSession
) -> None:
    phone, bound = service.subscribe(), service.subscribe(RFC_PUBLIC)
    async with http.post(phone.endpoint, **_push(service, phone, b"x" * 3_994)) as response:
        assert response.status == 413
    async with http.post(bound.endpoint, **_push(service, bound)) as response:
        assert response.status == 403
    async with http.post(phone.endpoint, **_push(service, bound)) as response:
        assert response.status == 201  # a service cannot see it, the browser does
    assert service.requests[-1].fault == "not encrypted for this subscription"


async def test_a_script_is_followed_and_its_last_line_stays(
    service: FakePushService, http: aiohttp.ClientSession
) -> None:
    phone = service.subscribe()

    async def statuses(n: int) -> list[int]:
        found = []
        for _ in range(n):
            async with http.post(phone.endpoint, **_push(service, phone)) as response:
                found.append(response.status)
        return found

    service.script(Reply(503), Reply(429, retry_after="3"), Reply(500), to=phone)
    assert await statuses(4) == [503, 429, 500, 500]
    service.script(to=phone)
    assert await statuses(1) == [201]
    service.script(Reply(429, retry_after="3", headers={"X-More": "1"}))
    async with http.post(phone.endpoint, **_push(service, phone)) as response:
        assert (response.status, response.headers["Retry-After"], response.headers["X-More"]) == (429, "3", "1")
    service.script()
    service.unsubscribe(phone)
    assert await statuses(1) == [410]
    async with http.post(service.url("/push/unknown")) as response:
        assert response.status == 404


async def test_it_drops_hangs_and_is_slow(service: FakePushService, http: aiohttp.ClientSession) -> None:
    service.script(DROP, to="/drop")
    with pytest.raises(aiohttp.ClientError):
        await http.post(service.url("/drop"))
    service.script(Reply(200, delay_s=0.01), to="/slow")
    async with http.post(service.url("/slow")) as response:
        assert response.status == 200
    service.script(HANG, to="/hang")
    hanging = asyncio.create_task(http.post(service.url("/hang")))
    assert (await service.nth(1, to="/hang")).path == "/hang"
    assert not hanging.done()
    hanging.cancel()
    assert isinstance((await asyncio.gather(hanging, return_exceptions=True))[0], asyncio.CancelledError)


async def test_closing_it_ends_what_hangs(http: aiohttp.ClientSession) -> None:
    async with FakePushService() as service:
        service.script(HANG, to="/hang")
        service.script(Reply(delay_s=3_600), to="/slow")
        waiting = [asyncio.create_task(http.post(service.url(path))) for path in ("/hang", "/slow")]
        await service.until(lambda requests: len(requests) == 2)
    for one in await asyncio.gather(*waiting):
        one.close()


async def test_it_waits_for_what_comes_and_says_what_did_not(
    service: FakePushService, http: aiohttp.ClientSession
) -> None:
    waiting = asyncio.create_task(service.nth(2, to="/hook"))
    await http.post(service.url("/hook"), data=b'{"n":1}')
    await http.put(service.url("/other"))
    await http.post(service.url("/hook"), data=b'{"n":2}')
    assert (await waiting).payload == {"n": 2}
    with pytest.raises(TimeoutError, match=r"what arrived: POST /hook, PUT /other, POST /hook"):
        await service.nth(3, to="/hook", timeout_s=0.01)
