"""A real server in trouble: the trouble is seen on its panel and fires its alert, and nothing else does.

Each run is healthy, then in trouble, then healthy again; its series go to promtool as they were scraped.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from promtool import Recording

from chatd import protocol
from chatd.store.sqlite import engine
from chatd.testing import ChatServer
from chatd.testing.push_service import FakePushService, FakeSubscription, Reply
from chatd.testing.speaker import Speaker

HEALTHY_LOOKS = 6
TROUBLE_LOOKS = 18
RECOVERED_LOOKS = 26
"""So many make the five minutes over which rates are taken, the time for which an alert waits, and some."""
PATIENCE_S = 30.0


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def enter(stack: AsyncExitStack, server: ChatServer, user: str, **hello: object) -> Speaker:
    speaker = await Speaker.connect(server.url, await server.token(user), **hello)
    stack.push_async_callback(speaker.close)
    await speaker.until(protocol.CaughtUp)
    return speaker


async def say(speaker: Speaker, to: str, times: int = 1) -> None:
    """Send so many messages at once, and wait until all are sent."""
    for _ in range(times):
        await speaker.tell(protocol.Send(id=protocol.new_message_id(), to=to, body="hi"))
    for _ in range(times):
        await speaker.until(protocol.Sent)


async def test_what_is_not_so_would_be_found(stack: AsyncExitStack, tmp_path: Path) -> None:
    server = await stack.enter_async_context(ChatServer())
    for firing, shown in ((["ChatdDown"], []), ([], [("Connections", "connected", -1.0, False)])):
        recording = Recording(server)
        await recording.look()
        recording.expect(*firing, shown=shown)
        with pytest.raises(AssertionError, match="FAILED"):
            await recording.ask(tmp_path)


async def test_a_slow_disk(stack: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's COMMIT takes a quarter of a second, as with a disk that is slow to fsync."""
    server = await stack.enter_async_context(ChatServer("sqlite", users=["alice", "bob"]))
    alice, recording = await enter(stack, server, "alice"), Recording(server)
    end = engine._end

    def slow_end(db: sqlite3.Connection) -> None:
        time.sleep(0.26)
        end(db)

    for _ in range(HEALTHY_LOOKS):
        await say(alice, "bob", 3)
        await recording.look()
    recording.expect(shown=[(panel, "p99", 0.2, False) for panel in ("Commit", "fsync", "Send → sent")])
    monkeypatch.setattr(engine, "_end", slow_end)
    for _ in range(TROUBLE_LOOKS):
        await say(alice, "bob")
        await recording.look()
    recording.expect(
        "ChatdCommitsSlow", shown=[(panel, "p99", 0.25, True) for panel in ("Commit", "fsync", "Send → sent")]
    )
    monkeypatch.setattr(engine, "_end", end)
    for _ in range(RECOVERED_LOOKS):
        await say(alice, "bob", 3)
        await recording.look()
    recording.expect(shown=[(panel, "p99", 0.2, False) for panel in ("Commit", "fsync")])
    await recording.ask(tmp_path)


async def test_a_hot_conversation(stack: AsyncExitStack, tmp_path: Path) -> None:
    users = ["alice", "bob", *(f"user{number}" for number in range(10))]
    server = await stack.enter_async_context(ChatServer(users=users))
    alice, recording = await enter(stack, server, "alice"), Recording(server)
    others = [await enter(stack, server, user) for user in users[2:]]
    hot = server.server.metrics.hot

    async def evenly() -> None:
        await asyncio.gather(*(say(one, "bob", 2) for one in others))
        await say(alice, "bob", 2)

    for _ in range(HEALTHY_LOOKS):
        await evenly()
        await recording.look()
    recording.expect(shown=[("Hottest conversations", "the hottest", 0.2, False)])
    await say(alice, "bob", 700)
    for _ in range(TROUBLE_LOOKS):
        await evenly()
        await recording.look()
    recording.expect("ChatdHotConversation", shown=[("Hottest conversations", "the hottest", 0.5, True)])
    assert server.server.metrics.hot_conversations()[0][0] == "alice:bob"
    hot.turn()
    hot.turn()
    for _ in range(2):
        await evenly()
        await recording.look()
    recording.expect()
    await recording.ask(tmp_path)


async def test_a_reconnect_storm(stack: AsyncExitStack, tmp_path: Path) -> None:
    users = [f"user{number}" for number in range(300)]
    server = await stack.enter_async_context(ChatServer(users=users))
    incarnation = server.server.store.incarnation
    recording, places = Recording(server), asyncio.Semaphore(16)

    async def come(user: str, **hello: object) -> None:
        async with places:
            await enter(stack, server, user, **hello)

    await asyncio.gather(*(come(user) for user in users))
    for _ in range(HEALTHY_LOOKS):
        await recording.look()
    recording.expect(shown=[("Coming back", "came back", 0.01, False)])
    for user in users:
        assert server.cut(user) == 1
    await gone(recording, lambda look: look["chatd_connections"] == 0)
    await asyncio.gather(*(come(user, incarnation=incarnation) for user in users))
    look = await recording.look()
    assert look["chatd_reconnects_total"] == look['chatd_connections_closed_total{code="1006"}'] == 300
    recording.expect(
        "ChatdReconnectStorm",
        shown=[("Coming back", "came back", 1, True), ("Coming and going", "closed {{code}}", 1, True)],
    )
    for _ in range(RECOVERED_LOOKS):
        await recording.look()
    recording.expect(shown=[("Coming back", "came back", 0.01, False)])
    await recording.ask(tmp_path)


async def gone(recording: Recording, condition: Callable[[dict[str, float]], bool]) -> None:
    """Look until it is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition(await recording.look()):  # each look gives the server its turns
            pass


async def test_a_dead_push_service(stack: AsyncExitStack, tmp_path: Path) -> None:
    service = await stack.enter_async_context(FakePushService())
    users = ["alice", *(f"user{number}" for number in range(10))]
    fast = {"push.private_endpoints": True, "push.retry_s_min": 0.01, "push.retry_s_max": 0.02}
    server = await stack.enter_async_context(ChatServer(users=users, settings=fast))
    alice, recording = await enter(stack, server, "alice"), Recording(server)
    for user in users[1:]:
        await subscribe(server, service, user)

    async def told(name: str, more: int) -> None:
        """Notify everybody, and look once the counter has grown by so many."""
        before = getattr(server.server.metrics, name)
        for user in users[1:]:
            await say(alice, user)
        async with asyncio.timeout(PATIENCE_S):
            while getattr(server.server.metrics, name) < before + more:  # noqa: ASYNC110 - a counter tells nobody
                await asyncio.sleep(0.005)
        await recording.look()

    await recording.look()
    await told("push_delivered", 10)
    for _ in range(3):
        await recording.look()
    recording.expect(shown=[("Notifications", "delivered", 0.01, True), ("Notifications", "tried again", 0.01, False)])
    service.script(Reply(503))
    for _ in range(TROUBLE_LOOKS):
        await told("push_retried", 30)
    recording.expect("ChatdPushFailing", shown=[("Notifications", "tried again", 0.5, True)])
    service.script(Reply(201))
    async with asyncio.timeout(PATIENCE_S):
        while server.server.metrics.push_delivered < 20:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
    for _ in range(RECOVERED_LOOKS):
        await recording.look()
    recording.expect(shown=[("Notifications", "tried again", 0.01, False)])
    await recording.ask(tmp_path)


async def subscribe(server: ChatServer, service: FakePushService, user: str) -> FakeSubscription:
    """This user is away and wants to be told."""
    vapid = (await server.server.subscriptions.kinds())["webpush"]["vapid"]
    made = service.subscribe(vapid)
    body = {"endpoint": made.endpoint, "keys": made.keys, "expirationTime": None}
    headers = {"Authorization": f"Bearer {await server.token(user)}"}
    async with (
        aiohttp.ClientSession() as http,
        http.put(f"{server.url}/v1/push/subscription", json=body, headers=headers) as answer,
    ):
        assert answer.status == 204, await answer.text()
    return made
