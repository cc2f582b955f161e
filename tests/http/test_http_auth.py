"""Who may call what: every endpoint against every kind of token that is none, and against other people's things."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from api_rig import PASSWORD, T0, Rig, message_id, rig

from chatd import jwt_keys
from chatd.settings import AccountSettings
from chatd.transport.openapi import ENDPOINTS, Endpoint

PRIVATE = [e for e in ENDPOINTS if e.auth]
PUBLIC = [e for e in ENDPOINTS if not e.auth]
BODIES: dict[str, Any] = {
    "send_message": {"to": "bob", "id": message_id(1), "body": "hi"},
    "read": {"seq": 1},
    "set_privacy": {"last_seen": False},
    "subscribe": {"kind": "rig", "endpoint": "https://push.example/1"},
    "admin_set_user": {"disabled": True},
    "admin_invite": {"hours": 1},
}
PATHS = {"{conv}": "alice:bob", "{device}": "some-device", "{user}": "bob"}


@pytest.fixture
async def api() -> AsyncIterator[Rig]:
    async with rig(accounts=AccountSettings(token_days=1)) as made:
        await made.user("alice", "bob", "carol")
        yield made


def path_of(endpoint: Endpoint, **changes: str) -> str:
    path = endpoint.path
    for name, value in PATHS.items():
        path = path.replace(name, changes.get(name.strip("{}"), value))
    return path


async def state(api: Rig) -> Any:
    """All that a call could have changed."""
    users = [u.user for u in await api.accounts.list_users()]
    return [(u, await api.store.devices(u), await api.store.blocks(u)) for u in users], await api.store.counts()


BAD_TOKENS = ["none", "empty", "basic", "unknown", "expired", "revoked", "deleted", "disabled"]


async def headers_of(api: Rig, kind: str) -> dict[str, str]:
    """An Authorization header that opens nothing, of one kind."""
    token = api.tokens["alice"]
    match kind:
        case "none":
            return {}
        case "empty":
            return {"Authorization": "Bearer "}
        case "basic":
            return {"Authorization": f"Basic {token}"}
        case "unknown":
            return {"Authorization": f"Bearer {token[:-1]}"}
        case "expired":
            api.now_ms = T0 + 86_400_000
        case "revoked":
            for device in await api.accounts.devices("alice"):
                await api.accounts.revoke("alice", device.device)
        case "deleted":
            await api.accounts.delete_user("alice")
        case "disabled":
            await api.accounts.disable("alice")
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("kind", BAD_TOKENS)
@pytest.mark.parametrize("endpoint", PRIVATE, ids=lambda e: e.name)
async def test_a_private_endpoint_opens_to_no_bad_token(api: Rig, endpoint: Endpoint, kind: str) -> None:
    await api.send("bob", "alice", 7)
    headers = await headers_of(api, kind)
    before = await state(api)
    answer = await api.call(endpoint.method, path_of(endpoint), json=BODIES.get(endpoint.name), headers=headers)
    if kind == "disabled":
        assert (answer.status, answer.code) == (403, "forbidden")
    else:
        assert (answer.status, answer.code) == (401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert await state(api) == before


@pytest.mark.parametrize("endpoint", PRIVATE, ids=lambda e: e.name)
async def test_a_private_endpoint_opens_to_the_right_token(api: Rig, endpoint: Endpoint) -> None:
    await api.send("bob", "alice", 7)
    device = (await api.accounts.devices("alice"))[0].device
    if endpoint.name in ("subscription", "unsubscribe"):
        await api.call("PUT", "/v1/push/subscription", as_user="alice", json=BODIES["subscribe"])
    asks = "alice"
    if endpoint.admin:
        asks, device = "root", (await api.accounts.devices("bob"))[0].device
        await api.accounts.add_user("root", PASSWORD, admin=True)
        api.tokens["root"] = await api.accounts.issue_token("root")
    path = path_of(endpoint, device=device)
    answer = await api.call(endpoint.method, path, as_user=asks, json=BODIES.get(endpoint.name))
    assert answer.status == next(iter(endpoint.answers))


@pytest.mark.parametrize("endpoint", PUBLIC, ids=lambda e: e.name)
async def test_a_public_endpoint_asks_for_no_token(api: Rig, endpoint: Endpoint) -> None:
    bodies = {
        "register": {"user": "dan", "password": PASSWORD},
        "login": {"user": "bob", "password": PASSWORD},
    }
    answer = await api.call(endpoint.method, endpoint.path, json=bodies.get(endpoint.name))
    assert answer.status == min(endpoint.answers)


@pytest.mark.parametrize("conv", ["alice:bob", "bob:carol", "nobody:nowhere", "carol", "x" * 160, "%00"])
@pytest.mark.parametrize("endpoint", [e for e in PRIVATE if "{conv}" in e.path], ids=lambda e: e.name)
async def test_other_people_s_conversations_look_like_none(api: Rig, endpoint: Endpoint, conv: str) -> None:
    for number, to in enumerate(("bob", "carol")):
        await api.send("alice" if to == "bob" else "bob", to, number)
    reader = "carol" if conv == "alice:bob" else "alice"
    before = await state(api)
    answer = await api.call(
        endpoint.method, path_of(endpoint, conv=conv), as_user=reader, json=BODIES.get(endpoint.name)
    )
    assert (answer.status, answer.code, answer.json["detail"]) == (404, "not_found", "no such conversation")
    assert await state(api) == before


async def test_nobody_sends_into_other_people_s_conversations(api: Rig) -> None:
    body = {"conv": "alice:bob", "id": message_id(1), "body": "hi"}
    answer = await api.call("POST", "/v1/messages", as_user="carol", json=body)
    assert (answer.status, answer.code) == (404, "not_found")
    assert (await api.store.counts()).messages == 0


async def test_nobody_ends_other_people_s_devices(api: Rig) -> None:
    device = (await api.accounts.devices("bob"))[0].device
    answer = await api.call("DELETE", f"/v1/devices/{device}", as_user="alice")
    assert (answer.status, answer.code) == (404, "not_found")
    assert (await api.call("GET", "/v1/devices", as_user="bob")).status == 200


async def test_no_answer_may_be_cached_or_sniffed(api: Rig) -> None:
    for path in ("/v1/devices", "/v1/openapi.json", "/healthz", "/", "/join", "/v1/blocks"):
        answer = await api.call("GET", path, as_user="alice")
        assert answer.status == 200
        assert (answer.headers["Cache-Control"], answer.headers["X-Content-Type-Options"]) == ("no-store", "nosniff")


async def test_a_host_s_token_opens_the_api_and_its_user_appears(tmp_path: Path) -> None:
    secret = b"0123456789abcdef" * 2
    key = {"kid": "host", "kty": "oct", "k": base64.urlsafe_b64encode(secret).rstrip(b"=").decode()}
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [key]}))
    claims = {"sub": "erin", "device": "tab-1", "aud": "chatd", "iss": "https://host.example", "exp": T0 // 1000 + 60}
    keys = jwt_keys.load(tmp_path / "keys.json", audience="chatd", issuer="https://host.example")
    async with rig(jwt=keys) as api:
        api.tokens["erin"] = jwt.encode(claims, secret, "HS256", headers={"kid": "host"})
        sent = await api.send("erin", "never-seen", 1)
        assert (sent.status, sent.json["conv"]) == (201, "erin:never-seen")
        rows = (await api.call("GET", "/v1/devices", as_user="erin")).json["devices"]
        assert rows == [{"device": "tab-1", "name": "JWT", "created": T0, "current": True}]
        forged = {"Authorization": f"Bearer {jwt.encode(claims, b'x' * 32, 'HS256', headers={'kid': 'host'})}"}
        assert (await api.call("GET", "/v1/devices", headers=forged)).status == 401
        api.now_ms = T0 + 60_000
        assert (await api.call("GET", "/v1/devices", as_user="erin")).status == 401
