"""The authorisation matrix against a server: each verb by each role has the outcome of its row and no other effect."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from authorization import CONV, FRAMES, HTTP, ROLES, SUBSTITUTES, Row

from chatd.model import Draft, conv_of
from chatd.protocol import CLIENT_FRAMES, WS_PATH, new_message_id
from chatd.testing import ChatServer
from chatd.transport.openapi import ENDPOINTS, Endpoint
from chatd.web.pages import Site

PATIENCE_S = 20.0
ENDPOINT = "https://ntfy.sh/where-alice-is-notified"
BODY = "what alice and bob say to each other"
USERS = [user for user in ROLES.values() if user != "nobody"]
BY_NAME = {endpoint.name: endpoint for endpoint in ENDPOINTS}
ORDER = ["administrator", "stranger", "blocked", "deleted", "disabled", "anonymous", "peer", "owner"]
"""The owner comes last: what she may do ends what the others might have reached."""


class World:
    """A server with all roles in it. ``sockets``: one each, live from before anybody was deleted or locked out."""

    def __init__(self, server: ChatServer, http: aiohttp.ClientSession) -> None:
        self.server = server
        self.http = http
        self.tokens: dict[str, str] = {}
        self.sockets: dict[str, aiohttp.ClientWebSocketResponse] = {}
        self.her_device = ""
        self._numbers = itertools.count()

    async def populate(self) -> None:
        server, accounts = self.server.server, self.server.server.accounts
        for user in (*USERS, "grace"):
            await accounts.add_user(user, user, admin=user == "heidi")
        for user in USERS:
            self.tokens[user] = await self.server.token(user)
        self.tokens["nobody"] = "no-token-at-all"
        await self.server.token("alice", "another")
        self.her_device = next(d.device for d in await accounts.devices("alice") if d.name == "another")
        first = next(d.device for d in await accounts.devices("alice") if d.name == "test")
        await server.subscriptions.subscribe("alice", first, "ntfy", ENDPOINT, {})
        for sender, peer in (
            ("alice", "bob"),
            ("bob", "alice"),
            ("dave", "alice"),
            ("erin", "alice"),
            ("frank", "alice"),
        ):
            body = BODY if "bob" in (sender, peer) else "hello"
            draft = Draft(conv_of(sender, peer), sender, new_message_id(), body, 1)
            await server.store.commit([draft], [])
        for user in USERS:
            self.sockets[user] = await self._live(user)
        await accounts.block("alice", "dave")
        await accounts.delete_user("erin")
        await accounts.disable("frank")

    async def state_of_hers(self) -> Any:
        """All of alice's that nobody else may change."""
        accounts, store = self.server.server.accounts, self.server.server.store
        devices = [d.device for d in await accounts.devices("alice")]
        subscribed = await store.subscriptions("alice", 1)
        marks = (await store.marks(CONV, "alice")).devices
        return devices, subscribed, marks, await accounts.blocks("alice"), await accounts.shows_last_seen("alice")

    def fill(self, value: Any, me: str) -> Any:
        """Put in what `SUBSTITUTES` stand for."""
        if isinstance(value, dict):
            return {name: self.fill(inner, me) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.fill(inner, me) for inner in value]
        filled = {
            "$me": me,
            "$fresh": f"fresh-{next(self._numbers)}",
            "$id": new_message_id(),
            "$other": "bob" if me == "alice" else "alice",
            "$her_device": self.her_device,
            "$her_token": self.tokens["alice"],
            "$my_token": self.tokens[me],
        }
        assert filled.keys() == SUBSTITUTES.keys()
        return filled.get(value, value) if isinstance(value, str) else value

    def leaks(self, said: str, me: str) -> list[str]:
        """What of alice's stands in an answer to somebody who must not know it."""
        hers = [self.her_device, ENDPOINT, self.tokens["alice"], *([] if me == "bob" else [BODY])]
        return [] if me == "alice" else [secret for secret in hers if secret in said]

    async def call(self, endpoint: Endpoint, args: dict[str, Any], me: str) -> tuple[int, str]:
        """Returns: the status, and the answer's body."""
        path = re.sub(r"{(\w+)}", lambda found: args.pop(found[1]), endpoint.path)
        headers = {} if me == "nobody" else {"Authorization": f"Bearer {self.tokens[me]}"}
        body = msgspec.json.encode(args) if endpoint.body else None
        async with self.http.request(endpoint.method, self.server.url + path, data=body, headers=headers) as answer:
            return answer.status, await answer.text()

    async def tell(self, frame: dict[str, Any], me: str) -> tuple[str, str]:
        """Say a frame on the socket of who asks, a hello on a new one. Returns: the outcome, and all that was said."""
        new = frame["type"] == "hello" or me == "nobody"
        socket = await self._socket() if new else self.sockets[me]
        try:
            behind = [{"type": "ping", "ref": "end"}] if frame["type"] == "typing" else []  # which has no answer
            for one in (frame, *behind):
                if not socket.closed:
                    await socket.send_json(one)
            return await _outcome(socket, ends=new)
        finally:
            if new:
                await socket.close()

    async def _socket(self) -> aiohttp.ClientWebSocketResponse:
        return await self.http.ws_connect(f"{self.server.url}{WS_PATH}", protocols=("chatd.v1",))

    async def _live(self, user: str) -> aiohttp.ClientWebSocketResponse:
        socket = await self._socket()
        await socket.send_json({"type": "hello", "token": self.tokens[user]})
        while (await socket.receive_json(timeout=PATIENCE_S))["type"] != "caught_up":
            pass
        return socket


async def _outcome(socket: aiohttp.ClientWebSocketResponse, *, ends: bool) -> tuple[str, str]:
    """The answer to what was said, or the code that the socket was closed with. ``ends``: a refusal closes it."""
    said = ""
    while True:
        message = await socket.receive(timeout=PATIENCE_S)
        if message.type is not aiohttp.WSMsgType.TEXT:
            return str(socket.close_code), said
        said += message.data
        frame = msgspec.json.decode(message.data)
        if frame.get("ref") == "end":
            return "-", said
        if frame.get("ref") == "asked":
            if frame["type"] == "presence":
                return " ".join(state["user"] for state in frame["states"]) or "nobody", said
            if frame["type"] != "error" or not ends:
                return frame.get("code", frame["type"]), said


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with ChatServer() as server, aiohttp.ClientSession() as http:
        made = World(server, http)
        await made.populate()
        yield made


@pytest.mark.parametrize("row", HTTP, ids=lambda row: row.verb)
async def test_an_http_call_has_the_outcome_of_its_row_and_reaches_nothing_of_hers(row: Row) -> None:
    async with world() as made:
        for role in ORDER:
            me, before = ROLES[role], await made.state_of_hers()
            status, said = await made.call(BY_NAME[row.name], made.fill(row.args, me), me)
            assert f"{role} {status}" == f"{role} {row.outcome(role)}", said
            if row.name.startswith("admin_") and role == "administrator":
                continue  # who sees and ends devices, and hers are among them
            assert made.leaks(said, me) == []
            if role != "owner":
                assert await made.state_of_hers() == before


@pytest.mark.parametrize("row", FRAMES, ids=lambda row: row.verb)
async def test_a_frame_has_the_outcome_of_its_row_and_reaches_nothing_of_hers(row: Row) -> None:
    async with world() as made:
        for role in ORDER:
            me, before = ROLES[role], await made.state_of_hers()
            frame = {"type": row.name, "ref": "asked", **made.fill(row.args, me)}
            outcome, said = await made.tell(frame, me)
            assert f"{role} {outcome}" == f"{role} {row.outcome(role)}", said
            assert made.leaks(said, me) == []
            if role != "owner":
                assert await made.state_of_hers() == before


def test_every_verb_has_a_row() -> None:
    assert {row.name for row in HTTP} == BY_NAME.keys()
    assert {row.name for row in FRAMES} == {frame.__struct_config__.tag for frame in CLIENT_FRAMES}


async def test_every_route_is_an_operation_or_a_file_of_the_page() -> None:
    async with ChatServer() as server:
        served = {
            (route.method, route.resource.canonical)
            for route in server.server.web_app().router.routes()
            if route.resource
        }
    known = {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS} | {("GET", WS_PATH)}
    known |= {("*", path) for _, path in known} | {("*", "/v1/{unknown}")}
    known |= {("GET", re.sub(r":(?:[^{}]|{\d+})*}", "}", route.path)) for route in Site().routes()}
    assert {(method, path) for method, path in served if method != "HEAD"} <= known
