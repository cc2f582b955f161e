"""What a client is behind the shipped proxies: alive while it says nothing, and one address whatever it claims."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest
from proxy_rig import PATIENCE_S, PROGRAMS, proxy

from chatd import protocol
from chatd.client.wire import connect, websocket_url
from chatd.testing import ChatServer
from chatd.testing.speaker import Speaker

LOGINS_BURST = 3
LIMITED = {"limits.logins_burst": LOGINS_BURST, "limits.logins_per_s": 0.001}
IDLE_S = 2
"""What the proxies are given for silence in place of the shipped 90 s; the heartbeat is 1 s in place of 25."""


def _impatient(text: str) -> str:
    return re.sub(r"\b90s\b", f"{IDLE_S}s", text)


@pytest.mark.parametrize("program", PROGRAMS)
async def test_who_says_nothing_is_kept_by_the_heartbeat_past_the_proxy_s_patience(
    program: str, tmp_path: Path
) -> None:
    shipped = (Path(__file__).parent.parent.parent / "config" / PROGRAMS[program]).read_text("utf-8")
    assert (_impatient(shipped) != shipped) is (program != "caddy")  # which has no such limit
    settings = {"server.trusted_proxies": ["127.0.0.1"], "timing.heartbeat_s": 1, "timing.pong_s": 1}
    async with ChatServer(users=["alice", "bob"], settings=settings) as chat:
        host = chat.url.removeprefix("http://")
        async with proxy(program, tmp_path, [host, host], _impatient) as url:
            wire = await connect(websocket_url(url, "bob"))
            bob = Speaker(wire)
            await bob.tell(protocol.Hello(token=await chat.token("bob")))
            await bob.until(protocol.CaughtUp)
            async with asyncio.timeout(PATIENCE_S):
                for _ in range(2 * IDLE_S):  # so many heartbeats, and nothing else
                    assert await wire.receive() is None
            alice = await Speaker.connect(chat.url, await chat.token("alice"))
            await alice.until(protocol.CaughtUp)
            await alice.ask(protocol.Send(id=protocol.new_message_id(), to="bob", body="still there?"), protocol.Sent)
            _, messages = await bob.until(protocol.Messages)
            assert messages.messages[0].body == "still there?"
            await alice.close()
            await bob.close()


@pytest.mark.parametrize("program", ["nginx", "haproxy"])
async def test_without_a_heartbeat_the_proxy_would_have_ended_it(program: str, tmp_path: Path) -> None:
    async with ChatServer(users=["bob"], settings={"timing.heartbeat_s": 600}) as chat:
        host = chat.url.removeprefix("http://")
        async with proxy(program, tmp_path, [host, host], _impatient) as url:
            bob = await Speaker.connect(url, await chat.token("bob"))
            await bob.until(protocol.CaughtUp)
            _, code = await bob.rest()
            assert code == 1006


async def _logins(url: str, source: str, claimed: str = "192.0.2.{n}") -> list[int]:
    """Log in with a wrong password from this address until one more than is allowed; the statuses of the answers."""
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    async with aiohttp.ClientSession(connector=connector) as http:
        statuses = []
        for n in range(LOGINS_BURST + 1):
            headers = {
                "X-Forwarded-For": claimed.format(n=n),
                "Forwarded": f"for=192.0.2.{n}",
                "X-Real-IP": f"192.0.2.{n}",
            }
            body = {"user": "alice", "password": "not that one"}
            async with http.post(f"{url}/v1/login", json=body, headers=headers) as answer:
                statuses.append(answer.status)
    return statuses


ONE_ADDRESS = [401] * LOGINS_BURST + [429]


@pytest.mark.parametrize("program", PROGRAMS)
async def test_behind_a_trusted_proxy_each_address_pays_for_itself_whatever_it_claims(
    program: str, tmp_path: Path
) -> None:
    async with ChatServer(users=["alice"], settings=LIMITED | {"server.trusted_proxies": ["127.0.0.1"]}) as chat:
        host = chat.url.removeprefix("http://")
        async with proxy(program, tmp_path, [host, host]) as url:
            assert await _logins(url, "127.0.0.1") == ONE_ADDRESS
            assert await _logins(url, "127.0.0.2") == ONE_ADDRESS
            assert await _logins(url, "127.0.0.3", "127.0.0.1, 192.0.2.{n}") == ONE_ADDRESS


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_proxy_that_is_not_trusted_is_one_client(program: str, tmp_path: Path) -> None:
    async with ChatServer(users=["alice"], settings=LIMITED | {"server.trusted_proxies": ["10.0.0.1"]}) as chat:
        host = chat.url.removeprefix("http://")
        async with proxy(program, tmp_path, [host, host]) as url:
            assert await _logins(url, "127.0.0.1") == ONE_ADDRESS
            assert await _logins(url, "127.0.0.2") == [429] * (LOGINS_BURST + 1)


async def test_a_client_that_comes_past_the_proxy_is_not_believed() -> None:
    async with ChatServer(users=["alice"], settings=LIMITED | {"server.trusted_proxies": ["10.0.0.1"]}) as chat:
        assert await _logins(chat.url, "127.0.0.1") == ONE_ADDRESS
