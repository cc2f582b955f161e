"""What the transport does with whoever means no good, beyond what its own tests say of it."""

from __future__ import annotations

import asyncio
import json
from unittest.mock import patch

import aiohttp
import pytest
from structlog.testing import capture_logs

from chatd import listening
from chatd.client.wire import websocket_url
from chatd.protocol import WS_PATH
from chatd.testing import ChatServer
from chatd.transport.door import HEAD_BYTES_MAX
from chatd.transport.openapi import ENDPOINTS

PATIENCE_S = 20.0
GUARDS = ("Content-Security-Policy", "Referrer-Policy", "X-Content-Type-Options", "Cache-Control")


async def said(server: ChatServer, *parts: bytes) -> bytes:
    """All that the server answers to these bytes, up to its end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.server.port)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0)  # a read of its own, mostly; the answer is the same if not
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read()
    except ConnectionResetError:  # it was closed with our bytes unread
        return b""
    finally:
        writer.transport.abort()


async def test_a_token_in_a_url_opens_nothing() -> None:
    async with ChatServer(users=["alice"]) as server, aiohttp.ClientSession() as http:
        token = await server.token("alice")
        for name in ("token", "access_token", "authorization"):
            async with http.get(f"{server.url}/v1/devices?{name}={token}") as answer:
                assert answer.status == 401
            url = f"{server.url}{WS_PATH}?user=alice&{name}={token}"
            async with http.ws_connect(url, protocols=("chatd.v1",)) as socket:
                await socket.send_json({"type": "ping"})
                await socket.receive(timeout=PATIENCE_S)
                assert socket.close_code == 4400, "the hello is missing"
    assert websocket_url("https://chat.example", "alice") == "wss://chat.example/v1/ws?user=alice"


async def test_every_answer_has_its_guards() -> None:
    calls = [(e.method, e.path.format(device="x", conv="a:b", user="bob")) for e in ENDPOINTS]
    calls += [("GET", WS_PATH), ("GET", "/nothing"), ("GET", "/v1/nothing"), ("PATCH", "/v1/login"), ("GET", "/sw.js")]
    async with ChatServer(users=["alice", "bob"]) as server, aiohttp.ClientSession() as http:
        for method, path in calls:
            async with http.request(method, server.url + path, data=b"{}" if method != "GET" else None) as answer:
                missing = [name for name in GUARDS if name not in answer.headers]
                assert (path, missing) == (path, [])
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["Server"] == "chatd", "which library of which version is nobody's business"
                assert "Strict-Transport-Security" not in answer.headers


async def test_no_compression_is_agreed_on() -> None:
    async with ChatServer() as server, aiohttp.ClientSession() as http:
        url, offer = f"{server.url}{WS_PATH}", {"Sec-WebSocket-Extensions": "permessage-deflate"}
        async with http.ws_connect(url, headers=offer) as socket:
            assert socket.compress == 0
            assert "Sec-WebSocket-Extensions" not in socket._response.headers


SECOND = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"Content-Length: +5\r\n\r\nhello",
        b"Content-Length: 5, 5\r\n\r\nhello",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"X: a\nY: b\r\n\r\n",
        b"X: a\x00b\r\n\r\n",
        b" folded: x\r\n\r\n",
    ],
)
async def test_a_request_that_two_readers_could_read_differently_is_refused_with_all_behind_it(head: bytes) -> None:
    async with ChatServer() as server:
        with capture_logs() as logged:
            answer = await said(server, b"POST /v1/login HTTP/1.1\r\nHost: x\r\n" + head + SECOND)
    (told,) = (line for line in logged if line["event"] == "head_refused")
    assert (told["address"], told["status"], told["log_level"]) == ("127.0.0.1", 400, "warning")
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert b"aiohttp" not in answer
    assert b"Server: chatd\r\n" in answer
    assert b"Content-Security-Policy: default-src 'none'" in answer
    assert b'"protocol"' not in answer, "what was smuggled behind it was served"


async def test_a_later_head_is_bounded_like_the_first() -> None:
    first = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    many = b"GET /version HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(20_000)) + b"\r\n"
    long = b"GET /version HTTP/1.1\r\nHost: x\r\nX: " + b"y" * HEAD_BYTES_MAX + b"\r\n\r\n"
    async with ChatServer() as server:
        for second in (many, long):
            answer = await said(server, first, second)
            assert answer.count(b'"protocol"') <= 1
            assert answer.count(b" 400 Bad Request\r\n") == 1


async def test_a_later_head_that_does_not_end_is_cut_in_time() -> None:
    with patch.object(listening, "KEEPALIVE_S", 0.2):
        async with ChatServer() as server:
            answer = await said(server, b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /version HTTP/1.1\r\nX: ")
    assert answer.count(b"HTTP/1.1 200 ") == 1


async def test_a_chunked_body_is_bounded() -> None:
    head = b"POST /v1/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with ChatServer(settings={"limits.frame_bytes_max": 20_000}) as server:
        answer = await said(
            server, head + b"400\r\n" + b" " * 0x400 + b"\r\n", *[b"400\r\n" + b" " * 0x400 + b"\r\n"] * 25
        )
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413 ")


async def test_a_spoofed_address_moves_nobody_s_limit() -> None:
    """Without trusted proxies a client's word counts for nothing; with one, only what the proxy added does."""
    limits = {"limits.logins_per_s": 0.001, "limits.logins_burst": 1}
    for proxies, statuses in (([], [401, 429]), (["127.0.0.1"], [401, 401, 429])):
        async with (
            ChatServer(settings={**limits, "server.trusted_proxies": proxies}) as server,
            aiohttp.ClientSession() as http,
        ):
            got = []
            for claimed in ("192.0.2.1, 198.51.100.1", "192.0.2.2, 198.51.100.2", "192.0.2.3, 198.51.100.2")[
                : len(statuses)
            ]:
                headers = {"X-Forwarded-For": claimed, "X-Real-IP": "192.0.2.9", "Forwarded": "for=192.0.2.9"}
                body = {"user": "alice", "password": "guessed"}
                async with http.post(f"{server.url}/v1/login", json=body, headers=headers) as answer:
                    got.append(answer.status)
            assert got == statuses


async def test_who_guesses_passwords_learns_nothing_from_how_a_login_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """One answer, and the same work for it: one check of a hash with the same parameters, whoever was guessed."""
    async with ChatServer(users=["alice", "locked", "gone"]) as server, aiohttp.ClientSession() as http:
        accounts = server.server.accounts
        await accounts.add_user("tokens-only")
        await accounts.disable("locked")
        await accounts.delete_user("gone")
        hasher, checked = accounts._passwords._hasher, []

        class Spy:
            def verify(self, stored: str, password: bytes) -> bool:
                checked.append(stored.rsplit("$", 2)[0])
                return hasher.verify(stored, password)

            def __getattr__(self, name: str) -> object:
                return getattr(hasher, name)

        monkeypatch.setattr(accounts._passwords, "_hasher", Spy())
        answers = set()
        for user in ("alice", "nobody", "locked", "gone", "tokens-only", "No Name!", "x" * 200):
            for password in ("wrong", "", "locked", "x" * 5_000):
                async with http.post(f"{server.url}/v1/login", json={"user": user, "password": password}) as answer:
                    headers = {name: value for name, value in answer.headers.items() if name != "Date"}
                    answers.add((answer.status, await answer.text(), json.dumps(headers)))
        assert len(answers) == 1
        assert len(checked) == 7 * 4
        assert len(set(checked)) == 1
