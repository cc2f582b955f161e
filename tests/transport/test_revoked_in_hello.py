"""Revocation against a hello under way: whichever comes first, the device is out."""

from __future__ import annotations

import json

import pytest
from aiohttp import ClientSession, WSMsgType

from chatd.model import Identity
from chatd.testing import ChatServer


@pytest.mark.parametrize(("verb", "code"), [("revoke", 4401), ("disable", 4403)])
async def test_a_token_that_ends_while_its_hello_is_checked_opens_nothing(
    monkeypatch: pytest.MonkeyPatch, verb: str, code: int
) -> None:
    async with ChatServer(users=["alice"]) as server, ClientSession() as http:
        token = await server.token("alice")
        accounts = server.server.accounts
        check = accounts.authenticate

        async def checked_then_ended(token: str) -> Identity:
            """The token was good; before the connection is known to anybody, it is not."""
            identity = await check(token)
            monkeypatch.setattr(accounts, "authenticate", check)
            await (accounts.revoke("alice", identity.device) if verb == "revoke" else accounts.disable("alice"))
            return identity

        monkeypatch.setattr(accounts, "authenticate", checked_then_ended)
        async with http.ws_connect(f"{server.url}/v1/ws", protocols=("chatd.v1",)) as socket:
            await socket.send_str(json.dumps({"type": "hello", "token": token}))
            answer = await socket.receive(timeout=10)
            assert answer.type is WSMsgType.TEXT
            assert json.loads(answer.data)["type"] == "error"
            assert (await socket.receive(timeout=10)).type is WSMsgType.CLOSE
            assert socket.close_code == code
        assert list(server.server.delivery.connected()) == []
