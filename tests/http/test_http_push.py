"""A device's push subscription, and what the user shows of itself, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from api_rig import T0, Rig, rig

PATH = "/v1/push/subscription"
GOOD = {"kind": "rig", "endpoint": "https://push.example/1", "keys": {"auth": "x"}}


@pytest.fixture
async def api() -> AsyncIterator[Rig]:
    async with rig() as made:
        await made.user("alice", "bob")
        yield made


async def test_a_client_is_told_what_it_can_subscribe_with(api: Rig) -> None:
    answer = await api.call("GET", "/v1/push", as_user="alice")
    assert answer.json == {"kinds": {"rig": {"say": "please"}}}


async def test_a_device_has_one_subscription_which_is_replaced_and_removed(api: Rig) -> None:
    assert (await api.call("GET", PATH, as_user="alice")).code == "not_found"
    assert (await api.call("DELETE", PATH, as_user="alice")).code == "not_found"
    assert (await api.call("PUT", PATH, as_user="alice", json=GOOD)).status == 204
    newer = {**GOOD, "endpoint": "https://push.example/2", "expirationTime": None}
    assert (await api.call("PUT", PATH, as_user="alice", json=newer)).status == 204
    answer = await api.call("GET", PATH, as_user="alice")
    assert answer.json == {"kind": "rig", "endpoint": "https://push.example/2", "created": T0}  # no keys
    assert (await api.call("GET", PATH, as_user="bob")).code == "not_found"
    assert api.subscribed == ["alice", "alice"]
    assert (await api.call("DELETE", PATH, as_user="alice")).status == 204
    assert (await api.call("GET", PATH, as_user="alice")).code == "not_found"


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        ({"endpoint": "http://push.example"}, "bad_frame", "begins with https://"),
        ({"endpoint": ""}, "bad_frame", "endpoint"),
        ({"endpoint": "https://" + "x" * 2_048}, "bad_frame", "endpoint"),
        ({"keys": {f"k{n}": "" for n in range(9)}}, "bad_frame", "keys"),
        ({"keys": {"auth": "x" * 513}}, "bad_frame", "keys"),
        ({"kind": "pigeon"}, "unsupported", "see GET /v1/push"),
        ({"kind": "webpush"}, "unsupported", "not installed here"),
    ],
)
async def test_what_cannot_be_a_subscription_says_why(
    api: Rig, change: dict[str, object], code: str, told: str
) -> None:
    answer = await api.call("PUT", PATH, as_user="alice", json={**GOOD, **change})
    assert answer.code == code
    assert told in answer.json["detail"]
    assert (await api.call("GET", PATH, as_user="alice")).code == "not_found"


async def test_last_seen_is_shown_until_it_is_not(api: Rig) -> None:
    assert (await api.call("GET", "/v1/privacy", as_user="alice")).json == {"last_seen": True}
    assert (await api.call("PUT", "/v1/privacy", as_user="alice", json={"last_seen": False})).status == 204
    assert (await api.call("GET", "/v1/privacy", as_user="alice")).json == {"last_seen": False}
    assert (await api.call("GET", "/v1/privacy", as_user="bob")).json == {"last_seen": True}
    assert (await api.call("PUT", "/v1/privacy", as_user="alice", json={"last_seen": 1})).code == "bad_frame"
