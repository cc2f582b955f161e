"""What administrators see and do over HTTP, on a whole server; everything is refused to others."""

from __future__ import annotations

import os
import platform
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from api_rig import Answer, check_against_document

from chatd import admin
from chatd.overview import Overview
from chatd.stats import Snapshot
from chatd.testing.bus import Hub, LoopBoard, LoopBus
from chatd.testing.server import ChatServer
from chatd.transport.openapi import ENDPOINTS

ADMIN = [endpoint for endpoint in ENDPOINTS if endpoint.path.startswith("/v1/admin/")]


class World:
    """root administers, alice and bob do not."""

    def __init__(self, server: ChatServer, http: aiohttp.ClientSession) -> None:
        self.server = server
        self._http = http

    async def call(self, method: str, path: str, user: str, json: Any = None) -> Answer:
        headers = {"Authorization": f"Bearer {await self.server.token(user)}"}
        async with self._http.request(method, self.server.url + path, json=json, headers=headers) as response:
            answer = Answer(response.status, response.headers, await response.read())
        check_against_document(method, path.partition("?")[0], answer)
        return answer


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with ChatServer(users=["alice", "bob"]) as server, aiohttp.ClientSession() as http:
        await server.server.accounts.add_user("root", "root", admin=True)
        yield World(server, http)


def test_everything_below_admin_is_for_administrators_and_nothing_else_is() -> None:
    assert len(ADMIN) >= 6
    assert {endpoint.name for endpoint in ENDPOINTS if endpoint.admin} == {endpoint.name for endpoint in ADMIN}
    assert all(endpoint.auth for endpoint in ADMIN)


@pytest.mark.parametrize("endpoint", ADMIN, ids=lambda e: e.name)
async def test_it_is_refused_to_others_before_anything_is_looked_at(world: World, endpoint: Any) -> None:
    path = endpoint.path.replace("{user}", "nobody").replace("{device}", "none") + (
        "?limit=x" if endpoint.query else ""
    )
    answer = await world.call(endpoint.method, path, "alice", {"no": "such shape"} if endpoint.body else None)
    assert (answer.status, answer.code) == (403, "forbidden")


async def test_whom_a_token_speaks_for(world: World) -> None:
    for user, is_admin in (("root", True), ("alice", False)):
        said = (await world.call("GET", "/v1/account", user)).json
        assert (said["user"], said["admin"]) == (user, is_admin)
        assert said["device"] == (await world.server.server.accounts.devices(user))[0].device


async def test_the_stats_are_a_snapshot_of_the_process(world: World) -> None:
    alice = await world.server.client("alice")
    await (await alice.send("bob", "hi")).sent()
    answer = await world.call("GET", "/v1/admin/stats", "root")
    (one,) = msgspec.json.decode(answer.body, type=dict[str, list[Snapshot]])["processes"]
    assert (one.pid, one.ready, one.store, one.connections) == (os.getpid(), True, "memory", 1)
    assert (one.host, one.cluster_processes) == (platform.node(), 0)
    assert one.counters["messages_committed"] == 1
    assert [(hot.conv, hot.count) for hot in one.hot] == [("alice:bob", 1)]


async def test_the_users_page_by_page_with_who_is_there(world: World) -> None:
    for device in ("phone", "laptop"):
        await (await world.server.client("bob", device)).conversations()  # it is answered, so it is connected
    first = (await world.call("GET", "/v1/admin/users?limit=2", "root")).json["users"]
    assert [(row["user"], row["connected"], row["admin"]) for row in first] == [("alice", 0, False), ("bob", 2, False)]
    rest = (await world.call("GET", "/v1/admin/users?limit=2&after=bob", "root")).json["users"]
    assert [(row["user"], row["admin"], row["disabled"], row["has_password"]) for row in rest] == [
        ("root", True, False, True)
    ]
    for query in ("limit=0", "limit=100000", f"after={'x' * 65}"):
        assert (await world.call("GET", f"/v1/admin/users?{query}", "root")).status == 400


async def test_a_user_is_locked_out_and_let_in_again(world: World) -> None:
    alice = await world.server.client("alice")
    await alice.conversations()
    assert (await world.call("PUT", "/v1/admin/users/alice", "root", {"disabled": True})).status == 204
    assert (await world.call("GET", "/v1/account", "alice")).status == 403
    assert world.server.server.delivery.has("alice") is False
    assert (await world.call("PUT", "/v1/admin/users/alice", "root", {"disabled": False})).status == 204
    assert (await world.call("GET", "/v1/account", "alice")).status == 200
    assert (await world.call("PUT", "/v1/admin/users/nobody", "root", {"disabled": True})).status == 404
    own = await world.call("PUT", "/v1/admin/users/root", "root", {"disabled": True})
    assert (own.status, own.json["detail"]) == (403, "nobody can lock itself out")
    await alice.close()


async def test_a_device_of_a_user_is_ended(world: World) -> None:
    await world.server.token("alice", "lost phone")
    kept = await world.server.token("alice", "test")
    rows = (await world.call("GET", "/v1/admin/users/alice/devices", "root")).json["devices"]
    lost = next(row["device"] for row in rows if row["name"] == "lost phone")
    assert not any(row.get("current") for row in rows)
    assert (await world.call("DELETE", f"/v1/admin/users/alice/devices/{lost}", "root")).status == 204
    assert (await world.call("DELETE", f"/v1/admin/users/alice/devices/{lost}", "root")).status == 404
    assert [d.name for d in await world.server.server.accounts.devices("alice")] == ["test"]
    assert (await world.server.server.accounts.authenticate(kept)).user == "alice"
    assert (await world.call("GET", "/v1/admin/users/nobody/devices", "root")).status == 404


async def test_an_invite_makes_a_user_and_no_administrator(world: World) -> None:
    answer = await world.call("POST", "/v1/admin/invites", "root", {"hours": 2, "admin": True})
    assert answer.status == 201
    accounts = world.server.server.accounts
    await accounts.register("carol", "carolcarol", answer.json["invite"])
    assert [(u.user, u.admin) for u in await accounts.list_users(after="bob", limit=1)] == [("carol", False)]
    for hours in (0, 9_000):
        assert (await world.call("POST", "/v1/admin/invites", "root", {"hours": hours})).status == 400


async def test_processes_that_share_a_directory_are_told_and_counted_together(tmp_path: Path) -> None:
    hub = Hub()
    async with (
        ChatServer(users=["alice"], bus=LoopBus(hub), board=LoopBoard(hub)) as one,
        ChatServer(share=one.store.inner, bus=LoopBus(hub), board=LoopBoard(hub)) as other,
        admin.serving_beside(one.server.administered, tmp_path, "admin-one") as socket,
        admin.serving_beside(other.server.administered, tmp_path, "admin-other"),
    ):
        one.server.operations.name, other.server.operations.name = "one", "other"
        await (await one.client("alice", "phone")).conversations()
        await (await other.client("alice", "laptop")).conversations()
        overview = Overview(one.server.operations)
        assert [snapshot.name for snapshot in await overview.stats()] == ["one"]
        overview.socket = socket
        assert [(each.name, each.connections) for each in await overview.stats()] == [("one", 1), ("other", 1)]
        assert (await other.server.operations.status()).cluster_processes == 2  # `one` was alone when it last looked
        assert await overview.connected(["alice", "bob"]) == {"alice": 2}
        hangs = admin._bound(tmp_path / "admin-hangs.sock")
        with hangs, pytest.MonkeyPatch.context() as patch:
            hangs.listen()
            patch.setattr("chatd.overview.ASK_S_MAX", 0.3)
            names = {each.name: (each.ready, each.why) for each in await overview.stats()}
        assert names["admin-hangs.sock"][0] is False
        assert "did not answer" in names["admin-hangs.sock"][1]
