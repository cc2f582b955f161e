"""chatd inside another program: two servers in a process, in a host's application, for synchronous code, in pytest."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import urllib.request
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from chatd import configuration
from chatd.app import Server
from chatd.client import Client, MessageEvent
from chatd.errors import StartError
from chatd.testing import ChatServer, ThreadedChatServer


async def first_message(client: Client) -> MessageEvent:
    async for event in client.events():
        if isinstance(event, MessageEvent):
            return event
    raise AssertionError("the events ended without a message")


async def test_two_users_chat_in_ten_lines() -> None:
    async with ChatServer(users=["alice", "bob"]) as server:
        alice, bob = await server.client("alice"), await server.client("bob")
        handle = await alice.send("bob", "hello")
        message = await first_message(bob)
        assert (message.sender, message.body, message.seq) == ("alice", "hello", 1)
        await handle.delivered()
        await bob.mark_read(message.conv, message.seq)
        assert (await handle.read()).seq == 1


async def test_two_servers_in_one_process_know_nothing_of_each_other() -> None:
    async with ChatServer(users=["alice", "bob"]) as one, ChatServer(users=["alice", "bob"]) as two:
        sent = await (await (await one.client("alice")).send("bob", "only here")).sent()
        assert sent.seq == 1
        assert (await one.server.store.counts()).messages == 1
        assert (await two.server.store.counts()).messages == 0


async def test_it_leaves_signals_logging_and_the_loop_policy_alone() -> None:
    before = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), list(logging.root.handlers))
    policy = asyncio.get_event_loop_policy()
    async with ChatServer(store="sqlite", users=["alice"]):
        after = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), list(logging.root.handlers))
        assert after == before
        assert asyncio.get_event_loop_policy() is policy


async def test_a_host_mounts_it_under_a_path_of_its_own() -> None:
    server = Server(configuration.load(env={}, overrides={"store.kind": "memory"}))
    await server.start(listen=False)
    host = web.Application()
    host.add_subapp("/chat", server.web_app())
    async with TestServer(host) as site, ClientSession() as http:
        async with http.get(site.make_url("/chat/readyz")) as ready:
            assert ready.status == 200
        await server.accounts.add_user("alice", "a long password")
        token = await server.accounts.issue_token("alice")
        async with http.ws_connect(site.make_url("/chat/v1/ws"), protocols=("chatd.v1",)) as socket:
            await socket.send_str(json.dumps({"type": "hello", "token": token}))
            assert json.loads((await socket.receive()).data)["type"] == "welcome"
    await server.stop()


async def test_mounted_behind_a_host_registration_is_not_open_to_the_world() -> None:
    server = Server(configuration.load(env={}, overrides={"store.kind": "memory"}))
    await server.start(listen=False)
    assert server.accounts.registration == "invite"
    await server.stop()


def test_synchronous_code_has_a_server_in_a_thread() -> None:
    with ThreadedChatServer(users=["alice"]) as server:
        assert len(server.token("alice")) == 43
        with urllib.request.urlopen(server.url + "/healthz", timeout=10) as answer:
            assert answer.status == 200


def test_a_thread_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        ThreadedChatServer(store=tmp_path),
        pytest.raises(StartError, match="is in use by process"),
        ThreadedChatServer(store=tmp_path),
    ):
        pass


async def test_cut_is_what_a_failing_network_does_and_the_client_comes_back() -> None:
    async with ChatServer(users=["alice", "bob"]) as server:
        alice = await server.client("alice")
        await (await alice.send("bob", "one")).sent()
        assert server.cut("alice") == 1
        assert (await (await alice.send("bob", "two")).sent()).seq == 2


async def test_a_store_fault_is_felt_and_survived() -> None:
    async with ChatServer(users=["alice", "bob"]) as server:
        alice = await server.client("alice")
        for fault in ("gone", "unknown_stored", "unknown_lost"):
            server.store.fail_next(fault)
            await (await alice.send("bob", fault)).sent()
        log = await server.server.store.read("alice:bob", limit=10)
        assert [m.body for m in log] == ["gone", "unknown_stored", "unknown_lost"]


pytest_plugins = ["pytester"]


def test_the_pytest_plugin_gives_a_server_and_clients(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from chatd.client import MessageEvent

        async def test_chat(chatd_server, chatd_client):
            alice, bob = await chatd_client("alice"), await chatd_client("bob")
            await alice.send("bob", "hi")
            async for event in bob.events():
                if isinstance(event, MessageEvent):
                    assert event.body == "hi"
                    break
        """
    )
    result = pytester.runpytest_subprocess("-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
