"""Clients and the real server, in one process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chatd.client import CaughtUpEvent, Client, MessageEvent, wire
from chatd.errors import Unauthenticated
from chatd.model import Marks
from chatd.testing import ChatServer

PATIENCE_S = 20.0


async def bodies(client: Client, count: int) -> list[tuple[int, str]]:
    """The next ``count`` messages as (seq, body)."""
    found: list[tuple[int, str]] = []
    async with asyncio.timeout(PATIENCE_S):
        async for event in client.events():
            if isinstance(event, MessageEvent):
                found.append((event.seq, event.body))
                if len(found) == count:
                    return found
    raise AssertionError(f"the events ended after {len(found)} messages")


async def test_two_users_with_two_devices_each_end_with_the_same_log_and_marks() -> None:
    async with ChatServer(users=["alice", "bob"]) as server:
        devices = [await server.client(user, device) for user in ("alice", "bob") for device in ("one", "two")]
        reading = [asyncio.create_task(bodies(device, 40)) for device in devices]
        for i in range(10):
            for device, peer in zip(devices, ("bob", "bob", "alice", "alice"), strict=True):
                last = await device.send(peer, f"{i} for {peer}")
        logs = await asyncio.gather(*reading)
        assert [seq for seq, _ in logs[0]] == list(range(1, 41))
        assert all(log == logs[0] for log in logs)
        async with asyncio.timeout(PATIENCE_S):
            assert (await last.delivered()).conv == "alice:bob"
            for device in devices:
                while device.marks("alice:bob").mine.delivered < 40:
                    await device.marks_grew("alice:bob")
                while device.marks("alice:bob").peer.delivered < 40:
                    await device.marks_grew("alice:bob")
        assert {device.marks("alice:bob") for device in devices} == {devices[0].marks("alice:bob")}


async def test_read_reaches_the_sender() -> None:
    async with ChatServer(users=["alice", "bob"]) as server:
        alice, bob = await server.client("alice"), await server.client("bob")
        handle = await alice.send("bob", "hi")
        assert await bodies(bob, 1) == [(1, "hi")]
        await bob.mark_read("alice:bob", 1)
        async with asyncio.timeout(PATIENCE_S):
            assert (await handle.read()).seq == 1
        assert alice.marks("alice:bob").peer == Marks(1, 1)
        page = await alice.history("alice:bob", limit=10)
        assert [entry.seq for entry in page.entries] == [1]
        assert [row.peer for row in (await alice.conversations()).conversations] == ["bob"]


async def test_cuts_lose_nothing_and_repeat_nothing() -> None:
    async with ChatServer(users=["alice", "bob"]) as server:
        alice, bob = await server.client("alice"), await server.client("bob")
        reading = [asyncio.create_task(bodies(device, 60)) for device in (alice, bob)]
        handles = []
        for i in range(60):
            handles.append(await alice.send("bob", str(i)))
            if i % 20 == 10:
                async with asyncio.timeout(PATIENCE_S):
                    await handles[-5].sent()
                assert server.cut("alice") + server.cut("bob") >= 1
        expected = [(i + 1, str(i)) for i in range(60)]
        assert await asyncio.gather(*reading) == [expected, expected]
        assert [(await handle.sent()).seq for handle in handles] == list(range(1, 61))


async def test_an_application_slower_than_the_window_gets_everything() -> None:
    async with ChatServer(users=["alice", "bob"], settings={"limits.window_messages_max": 4}) as server:
        bob_token = await server.token("bob")
        alice = await server.client("alice")
        async with Client(server.url, token=bob_token, user="bob", events_messages_max=3) as bob:
            handles = [await alice.send("bob", str(i)) for i in range(50)]
            async with asyncio.timeout(PATIENCE_S):
                await handles[-1].sent()
            assert await bodies(bob, 50) == [(i + 1, str(i)) for i in range(50)]
            async with asyncio.timeout(PATIENCE_S):
                await handles[-1].delivered()


async def test_a_device_that_was_off_catches_up_and_then_is_told_so(tmp_path: Path) -> None:
    async with ChatServer(users=["alice", "bob"]) as server:
        token = await server.token("bob")
        alice = await server.client("alice")
        async with Client(server.url, token=token, user="bob", store=tmp_path / "bob.db") as bob:
            await alice.send("bob", "0")
            assert await bodies(bob, 1) == [(1, "0")]
            waiting = await bob.send("alice", "1")
            async with asyncio.timeout(PATIENCE_S):
                await waiting.sent()
        for i in range(2, 600):
            handle = await alice.send("bob", str(i))
        async with asyncio.timeout(PATIENCE_S):
            await handle.sent()
        async with Client(server.url, token=token, user="bob", store=tmp_path / "bob.db") as bob:
            seen: list[int] = []
            async with asyncio.timeout(PATIENCE_S):
                async for event in bob.events():
                    if isinstance(event, CaughtUpEvent):
                        break
                    if isinstance(event, MessageEvent):
                        seen.append(event.seq)
            assert seen == list(range(2, 601))


async def test_login_makes_a_device_once_and_its_store_keeps_it(tmp_path: Path) -> None:
    async with ChatServer(users=["bob"]) as server:
        store = tmp_path / "alice.db"
        with pytest.raises(Unauthenticated):
            await Client.login(server.url, "bob", "wrong", store=tmp_path / "bob.db")
        client = await Client.login(server.url, "alice", "secret!!", register=True, device_name="pc", store=store)
        async with client:
            async with asyncio.timeout(PATIENCE_S):
                assert (await (await client.send("bob", "hi")).sent()).seq == 1
        async with await Client.login(server.url, "alice", "not asked for", store=store) as again:
            async with asyncio.timeout(PATIENCE_S):
                assert (await (await again.send("bob", "again")).sent()).seq == 2
        assert len(await server.server.store.devices("alice")) == 1


async def test_notes_to_self_are_delivered_and_read() -> None:
    async with ChatServer(users=["alice"]) as server:
        alice = await server.client("alice")
        handle = await alice.send("alice", "milk")
        assert await bodies(alice, 1) == [(1, "milk")]
        await alice.mark_read("alice:alice", 1)
        async with asyncio.timeout(PATIENCE_S):
            assert (await handle.read()).seq == 1


async def test_a_server_that_takes_the_connection_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HANDSHAKE_TIMEOUT_S", 0.05)
    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client is gone
        writer.close()
        ended.set()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(wire.WireClosed) as closed:
            await wire.connect(f"ws://127.0.0.1:{port}/v1/ws")
        assert (closed.value.code, closed.value.final) == (1006, False)
        await ended.wait()
