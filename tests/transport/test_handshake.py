"""Who gets a WebSocket, and who is told why not."""

from __future__ import annotations

import asyncio
import json

import pytest
from raw_socket import PATIENCE_S, connected, text, upgraded

from chatd.testing import ChatServer


async def test_the_answer_of_the_rfc() -> None:
    async with ChatServer() as server, connected(server) as raw:
        head = await raw.request()
        assert head.startswith("HTTP/1.1 101 ")
        assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
        assert "Sec-WebSocket-Protocol: chatd.v1\r\n" in head


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-WebSocket-Version": "8"}, 400),
        ({"Sec-WebSocket-Version": None}, 400),
        ({"Upgrade": "h2c"}, 400),
        ({"Connection": "keep-alive"}, 400),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Sec-WebSocket-Key": "not base64!"}, 400),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, 400),
        ({"Sec-WebSocket-Key": "dGhl\udcc6HNhbXBsZSBub25jZQ=="}, 400),  # bytes that are no UTF-8
        ({"Sec-WebSocket-Protocol": "\udcff"}, 400),
        ({"Sec-WebSocket-Version": "\udcff"}, 400),
        ({"Origin": "https://\udcff"}, 403),
        ({"Host": "\udcff", "Origin": "https://evil.example"}, 403),
        ({"Sec-WebSocket-Protocol": "mqtt, soap"}, 400),
        ({"Sec-WebSocket-Protocol": None}, 101),
        ({"Sec-WebSocket-Protocol": "soap, chatd.v1"}, 101),
        ({"Origin": "https://app.example"}, 101),
        ({"Origin": "https://chat.example"}, 101),  # its own: the Host
        ({"Upgrade": "WebSocket", "Connection": "keep-alive, Upgrade"}, 101),
    ],
)
async def test_each_header_counts(headers: dict[str, str | None], status: int) -> None:
    async with ChatServer(settings={"server.origins": ("https://app.example",)}) as server, connected(server) as raw:
        head = await raw.request(headers)
        assert head.startswith(f"HTTP/1.1 {status} ")
        if status != 101:
            assert "application/problem+json" in head
        if headers.get("Sec-WebSocket-Protocol", "") is None:
            assert "Sec-WebSocket-Protocol" not in head


async def test_only_get_is_upgraded() -> None:
    async with ChatServer() as server, connected(server) as raw:
        assert (await raw.request(method="HEAD")).startswith("HTTP/1.1 400 ")


async def test_one_address_connects_so_often() -> None:
    settings = {"limits.connects_per_s": 0.5, "limits.connects_burst": 2}
    async with (
        ChatServer(settings=settings) as server,
        upgraded(server),
        upgraded(server),
        connected(server) as third,
    ):
        head = await third.request()
        assert head.startswith("HTTP/1.1 429 ")
        assert "retry-after: 2\r\n" in head.lower()


async def test_frames_behind_the_head_are_not_lost() -> None:
    async with ChatServer(users=["alice"]) as server, connected(server) as raw:
        hello = text({"type": "hello", "token": await server.token("alice")})
        writer, raw_request = raw.writer, raw.request
        later = asyncio.create_task(raw_request())
        await asyncio.sleep(0)  # the head is written
        writer.write(hello + text({"type": "ping", "ref": 1}))
        assert (await later).startswith("HTTP/1.1 101 ")
        assert (await raw.json())["type"] == "welcome"
        assert (await raw.until("pong"))["ref"] == 1


async def test_head_and_frames_in_single_bytes() -> None:
    async with ChatServer(users=["alice"]) as server, connected(server) as raw:
        head = (
            "GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        for byte in head.encode() + text({"type": "hello", "token": await server.token("alice")}):
            raw.writer.write(bytes([byte]))
            await raw.writer.drain()
            await asyncio.sleep(0)
        assert (await raw.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert (await raw.json())["type"] == "welcome"


async def test_a_head_that_does_not_end_is_answered_408() -> None:
    async with ChatServer(settings={"timing.head_s": 0.05}) as server, connected(server) as raw:
        raw.writer.write(b"GET /v1/ws HTTP/1.1\r\nHost: x\r\n")
        async with asyncio.timeout(PATIENCE_S):
            assert (await raw.reader.read()).startswith(b"HTTP/1.1 408 ")


async def test_no_hello_in_time() -> None:
    async with ChatServer(settings={"timing.hello_s": 0.05}) as server, upgraded(server) as raw:
        assert await raw.close_code() == 4408


async def test_a_token_that_is_none() -> None:
    async with ChatServer() as server, upgraded(server) as raw:
        raw.write(text({"type": "hello", "token": "nobody's", "ref": "h"}))
        error = await raw.json()
        assert (error["type"], error["code"], error["ref"]) == ("error", "unauthenticated", "h")
        assert await raw.close_code() == 4401


async def test_too_many_sockets_are_told_to_come_later() -> None:
    settings = {"limits.connections_max": 1}
    async with ChatServer(settings=settings) as server, upgraded(server), upgraded(server) as second:
        assert await second.close_code() == 1013


async def test_a_user_has_so_many_connections() -> None:
    settings = {"limits.connections_per_user_max": 1}
    async with ChatServer(users=["alice"], settings=settings) as server, upgraded(server) as one:
        one.write(text({"type": "hello", "token": await server.token("alice", "one")}))
        assert (await one.json())["type"] == "welcome"
        async with upgraded(server) as two:
            two.write(text({"type": "hello", "token": await server.token("alice", "two")}))
            error = await two.json()
            assert (error["code"], error["temporary"]) == ("overloaded", True)
            assert await two.close_code() == 1013


async def test_a_server_that_stops_takes_no_new_ones() -> None:
    async with ChatServer() as server, connected(server) as raw:
        server.server.sockets.draining = True
        head = await raw.request()
        assert head.startswith("HTTP/1.1 503 ")
        body = json.loads(await raw.reader.readuntil(b"}"))
        assert body["code"] == "unavailable"


async def test_the_last_address_that_a_trusted_proxy_adds_counts_also_in_a_line_of_its_own() -> None:
    settings = {"server.trusted_proxies": ["127.0.0.1"], "limits.connects_per_s": 0.001, "limits.connects_burst": 1}
    async with ChatServer(settings=settings) as server:
        answers = []
        for claimed, added in (
            ("192.0.2.1", "198.51.100.1"),
            ("192.0.2.2", "198.51.100.1"),
            ("192.0.2.1", "198.51.100.2"),
        ):
            async with connected(server) as raw:
                head = await raw.request({"X-Forwarded-For": f"{claimed}\r\nX-Forwarded-For: {added}"})
                answers.append(head.split()[1])
        assert answers == ["101", "429", "101"]
