"""Messages are deleted while a device is away: it comes back, is told so once, and all its numbers are right."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from chatd.client import CaughtUpEvent, Client, Event, GoneEvent, MessageEvent
from chatd.errors import IdReuse
from chatd.model import Draft, conv_of
from chatd.protocol import new_message_id
from chatd.testing.redis_server import RedisServer
from chatd.testing.server import ChatServer

CONV = conv_of("alice", "bob")
AWAY = 3_000
PATIENCE_S = 30.0
DAY_S = 86_400


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> str:
    if request.param == "redis":
        redis: RedisServer = request.getfixturevalue("chatd_redis")
        return redis.url
    return str(request.param)


async def write(server: ChatServer, count: int, *, days_ago: int, body: str) -> list[Draft]:
    """Alice wrote to bob, so many days ago."""
    at_s = time.time() - days_ago * DAY_S
    drafts = [Draft(CONV, "alice", new_message_id(at_s), f"{body} {n}", int(at_s * 1000)) for n in range(count)]
    await server.store.commit(drafts, [])
    return drafts


async def read(server: ChatServer, client: Client, seq: int) -> None:
    """Bob has read up to seq, and the server knows."""
    await client.mark_read(CONV, seq)
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        devices = (await server.store.marks(CONV, "bob")).devices
        if any(mark.read >= seq for mark in devices.values()):
            return
        assert time.monotonic() < deadline_s, devices
        await asyncio.sleep(0.01)


async def upto_caught_up(client: Client) -> list[Event]:
    """What it is told until it is caught up, without the rest."""
    found: list[Event] = []
    async for event in client.events():
        if isinstance(event, MessageEvent | GoneEvent):
            found.append(event)
        if isinstance(event, CaughtUpEvent):
            return found
    raise AssertionError("the client ended")


async def test_a_device_that_was_away_while_messages_were_deleted(store: str, tmp_path: Path) -> None:
    settings = {"retention.days": 30, "store.redis_prefix": f"trim{time.monotonic_ns()}:"}
    async with ChatServer(store, users=["alice", "bob"], settings=settings) as server:
        token = await server.token("bob", "phone")
        await write(server, 5, days_ago=40, body="first")
        async with Client(server.url, token=token, user="bob", store=tmp_path / "state") as phone:
            first = await upto_caught_up(phone)
            assert [event.seq for event in first if isinstance(event, MessageEvent)] == [1, 2, 3, 4, 5]
            await read(server, phone, 3)
        old = await write(server, AWAY, days_ago=40, body="old")
        young = await write(server, 7, days_ago=1, body="young")
        assert await server.store.badge("bob") == 2 + AWAY + 7
        assert await server.server.retention.walk() == 5 + AWAY
        assert await server.server.retention.walk() == 0
        assert await server.store.badge("bob") == 7

        async with Client(server.url, token=token, user="bob", store=tmp_path / "state") as phone:
            gone, *kept = await upto_caught_up(phone)
            assert isinstance(gone, GoneEvent)
            assert (gone.first, gone.seq, gone.gone) == (6, 5 + AWAY, "expired")
            assert [event.body for event in kept if isinstance(event, MessageEvent)] == [d.body for d in young]
            assert phone.badge == 7
            async with Client(server.url, token=await server.token("alice"), user="alice") as alice:
                sent = await (await alice.send("bob", "now")).sent()
                assert sent.seq == 5 + AWAY + 7 + 1
                async for event in phone.events():
                    if isinstance(event, MessageEvent):
                        assert (event.seq, event.body) == (sent.seq, "now")
                        break
            assert phone.badge == await server.store.badge("bob") == 8
            await read(server, phone, sent.seq)
            assert phone.badge == await server.store.badge("bob") == 0

        assert (await server.store.owed(CONV, "bob")).newest is None
        for again in (old[0], old[-1]):
            with pytest.raises(IdReuse):
                await server.server.sequencer.send(again)
        repeated = await server.server.sequencer.send(young[0])
        assert (repeated.message.seq, repeated.duplicate) == (5 + AWAY + 1, True)
        assert await server.store.heads([CONV]) == {CONV: sent.seq}

        async with Client(server.url, token=await server.token("bob", "laptop"), user="bob") as laptop:
            logs = await upto_caught_up(laptop)
            assert [event.seq for event in logs if isinstance(event, MessageEvent)] == list(range(3_006, 3_014))
            page = await laptop.history(CONV, limit=200)
            assert isinstance(page.entries[0], GoneEvent)
            assert (page.entries[0].first, page.more) == (1, False)


async def test_a_device_that_missed_nothing_but_what_was_deleted(store: str) -> None:
    settings = {"retention.days": 30, "store.redis_prefix": f"trim{time.monotonic_ns()}:"}
    async with ChatServer(store, users=["alice", "bob"], settings=settings) as server:
        phone = await server.client("bob", "phone")
        await upto_caught_up(phone)
        await phone.close()
        await write(server, 10, days_ago=40, body="old")
        await server.server.retention.walk()
        phone = await server.client("bob", "phone")
        (gone,) = await upto_caught_up(phone)
        assert isinstance(gone, GoneEvent)
        assert (gone.first, gone.seq) == (1, 10)
        assert phone.badge == 0
        sent = await (await (await server.client("alice")).send("bob", "now")).sent()
        assert sent.seq == 11
