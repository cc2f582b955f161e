"""What happens in a real server is what its metrics say happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import TypeAlias, cast

import aiohttp
import pytest
from scraping_rig import page, scrape

from chatd import protocol
from chatd.errors import OutcomeUnknown, Unavailable
from chatd.store.base import Store
from chatd.store.memory import MemoryStore
from chatd.testing import ChatServer
from chatd.testing.bus import Hub, LoopBoard
from chatd.testing.speaker import Speaker

CONV = "alice:bob"
PATIENCE_S = 30.0


@pytest.fixture
async def server() -> AsyncIterator[ChatServer]:
    async with ChatServer(store="sqlite", users=["alice", "bob", "carol"]) as server:
        yield server


async def until(server: ChatServer, condition: Callable[[Mapping[str, float]], bool]) -> dict[str, float]:
    """Scrape until it is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition(series := await scrape(server)):  # each scrape is a turn of the server's loop
            pass
    return series


Enter: TypeAlias = Callable[..., Awaitable[Speaker]]


@pytest.fixture
async def enter() -> AsyncIterator[Enter]:
    """Connects a device that is caught up then; each is closed at the end."""
    async with AsyncExitStack() as stack:

        async def enter(server: ChatServer, user: str, device: str = "test", **hello: object) -> Speaker:
            speaker = await Speaker.connect(server.url, await server.token(user, device), **hello)
            stack.push_async_callback(speaker.close)
            await speaker.until(protocol.CaughtUp)
            return speaker

        yield enter


async def say(speaker: Speaker, to: str, times: int = 1, id: str | None = None) -> protocol.Sent:
    for _ in range(times):
        name = id or protocol.new_message_id()
        sent = await speaker.ask(protocol.Send(id=name, to=to, body="hi"), protocol.Sent)
    return sent


async def test_messages_to_who_is_there_and_their_reading(server: ChatServer, enter: Enter) -> None:
    alice, bob = await enter(server, "alice"), await enter(server, "bob")
    await enter(server, "bob", "second")
    await say(alice, "bob", 3)
    await bob.ask(protocol.Ack(conv=CONV, seq=2, ref=1), protocol.Ok)
    await bob.ask(protocol.Read(conv=CONV, seq=3, ref=2), protocol.Ok)
    series = await scrape(server)
    assert series["chatd_sent_seconds_count"] == series["chatd_messages_committed_total"] == 3
    assert series["chatd_delivered_online_seconds_count"] == 3
    assert series["chatd_delivered_offline_seconds_count"] == 0
    assert series["chatd_read_seconds_count"] == 3
    assert series["chatd_commit_drafts_sum"] == 3
    assert series["chatd_commit_marks_sum"] == 2
    assert series["chatd_commit_seconds_count"] == series["chatd_commits_total"] == 5
    assert series["chatd_fsync_seconds_count"] >= 5
    assert series['chatd_hot_conversation_messages{rank="1"}'] == series["chatd_hot_window_messages"] == 3
    assert server.server.metrics.hot_conversations() == [(CONV, 3)]
    assert series["chatd_connections"] == 3
    assert 'chatd_build_info{python="' in " ".join(series)
    for name in ("process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"):
        assert series[f"chatd_{name}"] > 0


async def test_messages_to_who_comes_later_count_apart_and_once_for_all_devices(
    server: ChatServer, enter: Enter
) -> None:
    alice = await enter(server, "alice")
    await say(alice, "bob", 5)
    one, two = await enter(server, "bob", "one"), await enter(server, "bob", "two")
    await one.ask(protocol.Read(conv=CONV, seq=5, ref=1), protocol.Ok)
    await two.ask(protocol.Ack(conv=CONV, seq=5, ref=1), protocol.Ok)
    await enter(server, "bob", "three")
    series = await scrape(server)
    assert series["chatd_delivered_offline_seconds_count"] == series["chatd_read_seconds_count"] == 5
    assert series["chatd_delivered_online_seconds_count"] == 0
    assert series["chatd_messages_read_total"] == 15
    assert series["chatd_gaps_repaired_total"] == 0
    assert len(server.server.metrics.latencies) == 0


async def test_a_recipient_at_another_process_is_timed_by_that_one(enter: Enter) -> None:
    hub, store = Hub(), cast(Store, MemoryStore())
    async with (
        ChatServer(users=["alice", "bob"], share=store, bus=hub.end(), board=LoopBoard(hub)) as one,
        ChatServer(share=store, bus=hub.end(), board=LoopBoard(hub)) as two,
    ):
        alice = await enter(one, "alice")
        bob = await Speaker.connect(two.url, await one.token("bob"))
        await bob.until(protocol.CaughtUp)
        await say(alice, "bob", 3)
        has = 0
        while has < 3:
            _, frame = await bob.until(protocol.Messages)
            has = frame.messages[-1].seq
        await bob.ask(protocol.Read(conv=CONV, seq=3, ref=1), protocol.Ok)
        names = ("chatd_delivered_online_seconds_count", "chatd_read_seconds_count", "chatd_sent_seconds_count")
        assert [[(await scrape(server))[name] for name in names] for server in (one, two)] == [[0, 0, 3], [3, 3, 0]]
        await bob.close()


async def test_a_recipient_with_devices_at_two_processes_is_timed_once(enter: Enter) -> None:
    hub, store = Hub(), cast(Store, MemoryStore())
    async with (
        ChatServer(users=["alice", "bob"], share=store, bus=hub.end(), board=LoopBoard(hub)) as one,
        ChatServer(share=store, bus=hub.end(), board=LoopBoard(hub)) as two,
    ):
        alice, here = await enter(one, "alice"), await enter(one, "bob")
        there = await Speaker.connect(two.url, await one.token("bob", "second"))
        await there.until(protocol.CaughtUp)
        await say(alice, "bob")
        await there.until(protocol.Messages)
        await here.ask(protocol.Read(conv=CONV, seq=1, ref=1), protocol.Ok)
        await there.until(protocol.Receipt)
        await there.ask(protocol.Read(conv=CONV, seq=1, ref=1), protocol.Ok)
        metrics = [server.server.metrics for server in (one, two)]
        assert [(m.delivered_online_seconds.count, m.read_seconds.count) for m in metrics] == [(1, 1), (0, 0)]
        assert [len(m.latencies) for m in metrics] == [0, 0]
        await there.close()


async def test_a_closed_window_is_a_gap_that_is_repaired(enter: Enter) -> None:
    async with ChatServer(users=["alice", "bob"], settings={"limits.window_messages_max": 2}) as server:
        alice, bob = await enter(server, "alice"), await enter(server, "bob")
        await say(alice, "bob", 6)
        has = 0
        while has < 6:
            _, frame = await bob.until(protocol.Messages)
            has = frame.messages[-1].seq
            await bob.tell(protocol.Ack(conv=CONV, seq=has))
        series = await until(server, lambda now: now["chatd_delivered_online_seconds_count"] == 6)
        assert series["chatd_gaps_repaired_total"] >= 1
        assert series["chatd_messages_live_total"] + series["chatd_messages_read_total"] == 6


async def test_a_repeated_send_is_a_duplicate_and_not_timed(server: ChatServer, enter: Enter) -> None:
    alice, name = await enter(server, "alice"), protocol.new_message_id()
    await say(alice, "bob", 2, id=name)
    series = await scrape(server)
    assert series["chatd_messages_duplicate_total"] == series["chatd_sent_seconds_count"] == 1


async def test_who_comes_back_resumes_or_is_reset(server: ChatServer, enter: Enter) -> None:
    alice = await Speaker.connect(server.url, await server.token("alice"))
    _, welcome = await alice.until(protocol.Welcome)
    _, caught_up = await alice.until(protocol.CaughtUp)
    await say(alice, "bob")
    await alice.close()
    await enter(server, "alice", "b", incarnation=welcome.incarnation, since=caught_up.since)
    await enter(server, "alice", "c", incarnation=welcome.incarnation, watermarks={CONV: 1})
    await enter(server, "alice", "d", incarnation=welcome.incarnation, watermarks={CONV: 9})
    await enter(server, "alice", "e", incarnation="another", since=caught_up.since)
    await enter(server, "alice", "f", incarnation=welcome.incarnation)
    series = await scrape(server)
    counted = [series[f"chatd_{name}_total"] for name in ("reconnects", "resumes", "resets")]
    assert counted == [5, 2, 2]


async def test_connections_end_by_their_close_code(server: ChatServer, enter: Enter) -> None:
    one = await enter(server, "alice")
    await enter(server, "alice")  # the same device: 4409 for the first one
    await one.rest()
    bob = await enter(server, "bob")
    await bob.close()
    await enter(server, "carol")
    assert server.cut("carol") == 1
    await (await Speaker.connect(server.url, "no token")).rest()
    series = await until(server, lambda now: now["chatd_connections"] == 1)
    ended = {code: series[f'chatd_connections_closed_total{{code="{code}"}}'] for code in (1000, 1006, 4401, 4409)}
    assert ended == {1000: 1, 1006: 1, 4401: 1, 4409: 1}
    assert series["chatd_connections_opened_total"] == 5
    server.server.metrics.closed(4_999)
    assert (await scrape(server))['chatd_connections_closed_total{code="other"}'] == 1


async def test_a_store_that_fails_is_counted_by_what_it_left_open(server: ChatServer, enter: Enter) -> None:
    alice, name = await enter(server, "alice"), protocol.new_message_id()
    server.store.fail_next("gone")
    await alice.ask(protocol.Send(id=name, to="bob", body="hi"), protocol.Error)
    server.store.fail_next("unknown_stored")
    await say(alice, "bob", id=name)
    series = await scrape(server)
    assert series['chatd_store_errors_total{kind="unavailable"}'] == 1
    assert series['chatd_store_errors_total{kind="unknown"}'] == 1
    assert series["chatd_commit_seconds_count"] == 2
    assert series["chatd_sent_seconds_count"] == 1, "read back, it was sent all the same"
    server.store.fail_next("broken")
    await alice.tell(protocol.Send(id=protocol.new_message_id(), to="bob", body="hi"))
    await until(server, lambda now: now['chatd_store_errors_total{kind="broken"}'] == 1)


async def test_errors_of_http_count_once_and_those_that_are_not_the_store_s_do_not(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = server.server.metrics.store_errors
    headers = {"Authorization": f"Bearer {await server.token('alice')}"}
    assert (await page(f"{server.url}/v1/conversations?limit=0", headers))[0] == 400
    assert (await page(f"{server.url}/v1/conversations", {"Authorization": "Bearer x"}))[0] == 401

    async def fails(*args: object, **kwargs: object) -> None:
        raise Unavailable("gone") if errors["unavailable"] == 0 else OutcomeUnknown("no answer")

    monkeypatch.setattr(server.store.inner, "conversations", fails)
    assert (await page(f"{server.url}/v1/conversations", headers))[0] == 503
    assert errors == {"unavailable": 1, "unknown": 0, "broken": 0}
    assert (await page(f"{server.url}/v1/conversations", headers))[0] == 503
    assert errors == {"unavailable": 1, "unknown": 1, "broken": 0}
    monkeypatch.setattr(server.store.inner, "probe", fails)
    assert (await page(f"{server.url}/readyz"))[0] == 503
    assert errors == {"unavailable": 1, "unknown": 2, "broken": 0}
    server.store.fail_next("gone")
    body = {"to": "bob", "id": protocol.new_message_id(), "body": "hi"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{server.url}/v1/messages", json=body, headers=headers) as answer,
    ):
        assert answer.status == 503
    assert errors == {"unavailable": 2, "unknown": 2, "broken": 0}


async def test_what_waits_for_a_commit_is_seen_by_lane(server: ChatServer, enter: Enter) -> None:
    alice = await enter(server, "alice")
    server.store.stall()
    for _ in range(3):
        await alice.tell(protocol.Send(id=protocol.new_message_id(), to="bob", body="hi"))
    await alice.tell(protocol.Send(id=protocol.new_message_id(), to="carol", body="hi"))
    series = await until(server, lambda now: now["chatd_queue_drafts"] == 4)
    assert (series["chatd_lanes"], series["chatd_lane_deepest_drafts"], series["chatd_lanes_stopped"]) == (2, 3, 0)
    server.store.resume()
    series = await until(server, lambda now: now["chatd_messages_committed_total"] == 4)
    assert (series["chatd_lanes"], series["chatd_lane_deepest_drafts"], series["chatd_queue_drafts"]) == (0, 0, 0)


async def test_no_name_of_a_user_is_in_the_metrics_and_no_two_servers_share_them(
    server: ChatServer, enter: Enter
) -> None:
    alice = await enter(server, "alice")
    await say(alice, "bob", 5)
    async with ChatServer() as other:
        assert (await scrape(other))["chatd_messages_committed_total"] == 0
    _, text = await page(f"{server.url}/metrics")
    assert [name for name in ("alice", "bob", "carol") if name in text] == []
