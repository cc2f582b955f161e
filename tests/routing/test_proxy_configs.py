"""The shipped configurations of nginx, HAProxy and Caddy, in those programs, in front of two real servers."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest
from proxy_rig import PATIENCE_S, PROGRAMS, proxy

from chatd import protocol
from chatd.client.wire import WireClosed, connect, websocket_url
from chatd.testing import ChatServer
from chatd.testing.speaker import Speaker

USERS = [f"user-{n}" for n in range(8)]


async def _place(url: str, user: str | None, token: str) -> str:
    """The incarnation of the store that a connection finds."""
    speaker = Speaker(await connect(websocket_url(url, user)))
    await speaker.tell(protocol.Hello(token=token))
    try:
        _, welcome = await speaker.until(protocol.Welcome)
    except WireClosed as closed:
        return closed.reason  # a token of the other server: it says so, and that tells them apart as well
    finally:
        await speaker.close()
    return welcome.incarnation


SETTINGS = {"server.trusted_proxies": ["127.0.0.1"]}


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_user_s_devices_meet_and_a_host_that_went_is_passed_over(program: str, tmp_path: Path) -> None:
    async with ChatServer(users=["alice"], settings=SETTINGS) as one, ChatServer(settings=SETTINGS) as two:
        hosts = [server.url.removeprefix("http://") for server in (one, two)]
        token = await one.token("alice")
        async with proxy(program, tmp_path, hosts) as url:
            places = {user: await _place(url, user, token) for user in USERS}
            assert {user: await _place(url, user, token) for user in USERS} == places
            assert len(set(places.values())) == 2
            assert len({await _place(url, None, token) for _ in range(20)}) == 2
            async with aiohttp.ClientSession() as http:
                for _ in range(4):
                    async with http.get(f"{url}/version") as answer:
                        assert answer.status == 200
            await two.server.stop()
            async with asyncio.timeout(PATIENCE_S):
                for user in USERS:
                    while await _elsewhere(url, user, token, one.store.incarnation):  # noqa: ASYNC110 - polled
                        await asyncio.sleep(0.02)


async def _elsewhere(url: str, user: str, token: str, home: str) -> bool:
    try:
        return await _place(url, user, token) != home
    except WireClosed:  # it is just noticed that the host has gone
        return True


@pytest.mark.parametrize("program", PROGRAMS)
async def test_the_hosts_are_told_the_client_s_address_whatever_it_claims(program: str, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if "get /readyz" not in head:
            seen.append(re.findall(r"\r\nx-forwarded-for: *([^\r]*)", head))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with proxy(program, tmp_path, [host, host]) as url, aiohttp.ClientSession() as http:
            for path in ("/version", "/v1/ws?user=alice"):
                async with http.get(url + path, headers={"X-Forwarded-For": "192.0.2.1"}) as answer:
                    assert answer.status == 200
    assert seen == [["127.0.0.1"], ["127.0.0.1"]]


@pytest.mark.parametrize("program", PROGRAMS)
async def test_messages_go_both_ways(program: str, tmp_path: Path) -> None:
    async with ChatServer(users=["alice", "bob"], settings=SETTINGS) as chat:
        host = chat.url.removeprefix("http://")
        async with proxy(program, tmp_path, [host, host]) as url:
            alice = Speaker(await connect(websocket_url(url, "alice")))
            bob = Speaker(await connect(websocket_url(url, "bob")))
            for speaker, user in ((alice, "alice"), (bob, "bob")):
                await speaker.tell(protocol.Hello(token=await chat.token(user)))
                await speaker.until(protocol.CaughtUp)
            body = "x" * 16_000
            await alice.ask(protocol.Send(id=protocol.new_message_id(), to="bob", body=body), protocol.Sent)
            _, messages = await bob.until(protocol.Messages)
            assert messages.messages[0].body == body
            await alice.close()
            await bob.close()


@pytest.mark.parametrize("program", PROGRAMS)
async def test_no_proxy_tells_the_metrics_to_strangers(program: str, tmp_path: Path) -> None:
    """On the same machine the proxy itself is no stranger: what it passes on says so."""
    async with ChatServer(settings=SETTINGS) as chat, aiohttp.ClientSession() as http:
        host = chat.url.removeprefix("http://")
        async with http.get(f"{chat.url}/metrics") as answer:
            assert answer.status == 200
        async with (
            proxy(program, tmp_path, [host, host]) as url,
            http.get(f"{url}/metrics", headers={"Connection": "X-Forwarded-For, close"}) as answer,
        ):
            assert answer.status == 403
            assert b"chatd_" not in await answer.read()
