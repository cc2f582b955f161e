"""Clients whose server moved from its file to Redis: they go on where they were, and notice nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chatd.client import CaughtUpEvent, Client, ConnectedEvent, Event, MessageEvent, ResetEvent
from chatd.migration import move
from chatd.settings import StoreSettings
from chatd.store.redis.arriving import RedisTarget
from chatd.store.sqlite import SqliteStore
from chatd.store.sqlite.leaving import SqliteSource
from chatd.testing.ports import free_port
from chatd.testing.redis_server import RedisServer
from chatd.testing.server import ChatServer

PATIENCE_S = 20.0
CONV = "alice:bob"


async def migrate(directory: Path, settings: StoreSettings) -> None:
    store, target = SqliteStore(directory, settings), RedisTarget(settings)
    await store.open()
    await target.open()
    done = await move(SqliteSource(store), target)
    assert not done.differences
    await target.close()
    await store.close()


async def until(client: Client, seq: int) -> list[Event]:
    """What the client is told up to this message and the end of its catching up."""
    found: list[Event] = []
    async with asyncio.timeout(PATIENCE_S):
        async for event in client.events():
            found.append(event)
            seqs = [one.seq for one in found if isinstance(one, MessageEvent)]
            if seq in seqs and any(isinstance(one, CaughtUpEvent) for one in found):
                return found
    raise AssertionError(f"the events ended: {found}")


def messages(events: list[Event]) -> list[tuple[int, str]]:
    return [(one.seq, one.body) for one in events if isinstance(one, MessageEvent)]


async def test_two_clients_go_on_without_a_reset(
    tmp_path: Path, chatd_redis: RedisServer, request: pytest.FixtureRequest
) -> None:
    data, port = tmp_path / "data", free_port()
    settings = {"store.redis_prefix": f"{request.node.name}:"}
    kept = {user: tmp_path / f"{user}.db" for user in ("alice", "bob")}
    async with ChatServer(data, users=["alice", "bob"], port=port) as server:
        url = server.url
        tokens = {user: await server.token(user) for user in kept}
        async with (
            Client(url, token=tokens["alice"], user="alice", store=kept["alice"]) as alice,
            Client(url, token=tokens["bob"], user="bob", store=kept["bob"]) as bob,
        ):
            for n in range(1, 21):
                last = await (alice if n % 2 else bob).send("bob" if n % 2 else "alice", str(n))
                async with asyncio.timeout(PATIENCE_S):
                    await last.sent()
            for client in (alice, bob):
                assert [seq for seq, _ in messages(await until(client, 20))] == list(range(1, 21))
            await bob.mark_read(CONV, 20)
            async with asyncio.timeout(PATIENCE_S):
                while alice.marks(CONV).peer.read < 20:
                    await alice.marks_grew(CONV)
        # Bob is off while the last message before the move and the first one after it are written.
        async with Client(url, token=tokens["alice"], user="alice", store=kept["alice"]) as alice:
            async with asyncio.timeout(PATIENCE_S):
                await (await alice.send("bob", "21")).sent()
            assert messages(await until(alice, 21)) == [(21, "21")]
    async with Client(url, token=tokens["alice"], user="alice", store=kept["alice"]) as alice:
        unsent = await alice.send("bob", "22")  # nobody serves now
        redis_settings = StoreSettings(redis_url=chatd_redis.url, redis_prefix=settings["store.redis_prefix"])
        await migrate(data, redis_settings)
        async with ChatServer(chatd_redis.url, port=port, settings=settings) as server:
            assert server.url == url
            async with asyncio.timeout(PATIENCE_S):
                assert (await unsent.sent()).seq == 22
            async with Client(url, token=tokens["bob"], user="bob", store=kept["bob"]) as bob:
                seen = await until(bob, 22)
                assert messages(seen) == [(21, "21"), (22, "22")]
                assert not [one for one in seen if isinstance(one, ResetEvent)]
                async with asyncio.timeout(PATIENCE_S):
                    assert (await (await bob.send("alice", "23")).sent()).seq == 23
                heard = await until(alice, 23)
            assert not [one for one in heard if isinstance(one, ResetEvent)]
            assert len([one for one in heard if isinstance(one, ConnectedEvent)]) == 1
            assert [seq for seq, _ in messages(heard)] == [22, 23]
            assert alice.marks(CONV).peer.read == 20
