"""Registration, login, devices and their limits over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from api_rig import PASSWORD, T0, Rig, rig

from chatd.settings import AccountSettings, LimitSettings


@pytest.fixture
async def api() -> AsyncIterator[Rig]:
    async with rig() as made:
        yield made


async def test_register_log_in_look_and_log_out(api: Rig) -> None:
    made = await api.call("POST", "/v1/register", json={"user": "alice", "password": PASSWORD})
    assert (made.status, made.json) == (201, {"user": "alice"})
    login = {"user": "alice", "password": PASSWORD, "name": "phone"}
    answer = await api.call("POST", "/v1/login", json=login)
    assert (answer.status, sorted(answer.json)) == (200, ["device", "token", "user"])
    api.tokens["alice"] = answer.json["token"]
    devices = await api.call("GET", "/v1/devices", as_user="alice")
    assert devices.json == {
        "devices": [{"device": answer.json["device"], "name": "phone", "created": T0, "current": True}]
    }
    assert (await api.call("POST", "/v1/logout", as_user="alice")).status == 204
    assert api.revoked == [("alice", answer.json["device"], 4401)]
    assert (await api.call("GET", "/v1/devices", as_user="alice")).status == 401


async def test_one_device_ends_another(api: Rig) -> None:
    await api.user("alice")
    api.now_ms += 1
    other = await api.accounts.issue_token("alice", "lost phone", days=3)
    rows = (await api.call("GET", "/v1/devices", as_user="alice")).json["devices"]
    assert [(r["name"], r.get("current", False), r.get("expires")) for r in rows] == [
        ("first", True, None),
        ("lost phone", False, T0 + 1 + 3 * 86_400_000),
    ]
    assert (await api.call("DELETE", f"/v1/devices/{rows[1]['device']}", as_user="alice")).status == 204
    assert api.revoked == [("alice", rows[1]["device"], 4401)]
    gone = await api.call("GET", "/v1/devices", headers={"Authorization": f"Bearer {other}"})
    assert gone.status == 401
    assert (await api.call("DELETE", f"/v1/devices/{rows[1]['device']}", as_user="alice")).status == 404


async def test_every_failed_login_looks_the_same(api: Rig) -> None:
    await api.user("alice", "mallory")
    await api.accounts.disable("mallory")
    answers = [
        await api.call("POST", "/v1/login", json={"user": user, "password": password})
        for user, password in (
            ("alice", "wrong horse"),
            ("alice", ""),
            ("alice", "x" * 5_000),
            ("nobody", PASSWORD),
            ("No Name!", PASSWORD),
            ("mallory", PASSWORD),
        )
    ]
    assert {answer.status for answer in answers} == {401}
    assert len({answer.body for answer in answers}) == 1
    volatile = {"Date"}
    assert len({tuple((k, v) for k, v in a.headers.items() if k not in volatile) for a in answers}) == 1


async def test_registration_by_invite(api: Rig) -> None:
    async with rig(loopback=False) as remote:
        new = {"user": "alice", "password": PASSWORD}
        refused = await remote.call("POST", "/v1/register", json=new)
        assert (refused.status, refused.code) == (403, "forbidden")
        invite = await remote.accounts.first_admin_invite()
        answer = await remote.call("POST", "/v1/register", json={**new, "invite": invite})
        assert answer.status == 201
        assert (await remote.accounts.list_users())[0].admin
        again = await remote.call("POST", "/v1/register", json={**new, "user": "bob", "invite": invite})
        assert (again.status, again.code) == (403, "forbidden")


async def test_closed_registration(api: Rig) -> None:
    async with rig(accounts=AccountSettings(registration="closed")) as closed:
        answer = await closed.call("POST", "/v1/register", json={"user": "alice", "password": PASSWORD})
        assert (answer.status, answer.code) == (403, "forbidden")


@pytest.mark.parametrize(
    "body",
    [
        {"user": "Alice", "password": PASSWORD},
        {"user": "alice", "password": "short"},
        {"user": "alice"},
        {"user": "alice", "password": 12345678},
        {"user": "alice", "password": "x" * 1_025},
        {"user": "alice", "password": PASSWORD, "invite": ""},
        [],
    ],
)
async def test_a_registration_without_the_form_makes_nobody(api: Rig, body: object) -> None:
    answer = await api.call("POST", "/v1/register", json=body)
    assert (answer.status, answer.code) == (400, "bad_frame")
    assert await api.accounts.list_users() == []


async def test_logins_and_registrations_of_an_address_share_a_limit() -> None:
    limits = LimitSettings(logins_per_s=0.5, logins_burst=2)
    async with rig(limits=limits, trusted_proxies=["127.0.0.0/8"]) as api:
        here, there = ({"X-Forwarded-For": address} for address in ("192.0.2.1", "192.0.2.2"))
        login = {"user": "alice", "password": PASSWORD}
        assert (await api.call("POST", "/v1/register", json=login, headers=here)).status == 201
        assert (await api.call("POST", "/v1/login", json=login, headers=here)).status == 200
        answer = await api.call("POST", "/v1/login", json=login, headers=here)
        assert (answer.status, answer.code, answer.json["retry_after_ms"]) == (429, "rate_limited", 2_001)
        assert (await api.call("POST", "/v1/login", json=login, headers=there)).status == 200
        api.now_s += 2.001
        assert (await api.call("POST", "/v1/login", json=login, headers=here)).status == 200


async def test_a_forwarded_address_of_a_stranger_is_not_believed() -> None:
    async with rig(limits=LimitSettings(logins_per_s=0.5, logins_burst=1)) as api:
        login = {"user": "alice", "password": PASSWORD}
        statuses = [
            (await api.call("POST", "/v1/login", json=login, headers={"X-Forwarded-For": f"192.0.2.{n}"})).status
            for n in range(2)
        ]
        assert statuses == [401, 429]


async def test_too_many_devices(api: Rig) -> None:
    async with rig(accounts=AccountSettings(devices_per_user_max=1)) as small:
        await small.user("alice")
        answer = await small.call("POST", "/v1/login", json={"user": "alice", "password": PASSWORD})
        assert (answer.status, answer.code) == (403, "forbidden")
        assert len(await small.accounts.devices("alice")) == 1


async def test_requests_of_a_device_are_limited() -> None:
    async with rig(limits=LimitSettings(frames_per_s=1, frames_burst=2)) as api:
        await api.user("alice", "bob")
        statuses = [(await api.call("GET", "/v1/blocks", as_user="alice")).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert (await api.call("GET", "/v1/blocks", as_user="bob")).status == 200
        api.now_s += 1.0
        assert (await api.call("GET", "/v1/blocks", as_user="alice")).status == 200
