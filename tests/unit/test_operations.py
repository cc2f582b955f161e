"""What a running server tells of itself: its counts, its slowest devices, its state; and how it is told to end."""

from __future__ import annotations

import os

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from chatd import protocol
from chatd.client.wire import connect, websocket_url
from chatd.errors import Unavailable, Unsupported
from chatd.operations import SERIES_MAX, series_of
from chatd.stats import SlowDevice
from chatd.testing.server import ChatServer
from chatd.testing.speaker import Speaker


async def test_a_snapshot_tells_who_and_how_much() -> None:
    async with ChatServer(users=["alice", "bob"]) as server:
        alice = await server.client("alice")
        for device in ("phone", "laptop"):
            await (await server.client("bob", device)).conversations()  # it is answered, so it is connected
        await (await alice.send("bob", "hi")).sent()
        operations = server.server.operations
        operations.name = "worker-7"
        one = await operations.status()
        assert (one.name, one.pid, one.ready, one.draining, one.why) == ("worker-7", os.getpid(), True, False, "")
        assert (one.store, one.durability, one.incarnation) == ("memory", "memory", server.store.incarnation)
        assert (one.connections, one.users) == (3, 2)
        assert one.counters["messages_committed"] == 1
        assert one.gauges["connections"] == 3
        assert one.histograms["commit_seconds"].count >= 1
        assert one.rss_bytes > 1_000_000
        assert one.open_files > 3
        assert await operations.status() is one, "asked again at once it is the same"
        assert await operations.connected(["alice", "bob", "nobody"]) == {"alice": 1, "bob": 2}


async def test_a_device_that_does_not_acknowledge_is_listed_as_slow() -> None:
    async with ChatServer(users=["alice", "bob"], settings={"limits.window_messages_max": 5}) as server:
        speaker = Speaker(await connect(websocket_url(server.url, "bob")))
        await speaker.tell(protocol.Hello(token=await server.token("bob", "phone")))
        await speaker.until(protocol.CaughtUp)
        alice = await server.client("alice")
        for number in range(7):
            handle = await alice.send("bob", f"{number}")
        await handle.sent()
        (slow,) = await server.server.sockets.slowest(10)
        identity = await server.server.accounts.authenticate(await server.token("bob", "phone"))
        assert slow == SlowDevice(user="bob", device=identity.device, unacked=5, behind=True)
        assert await server.server.sockets.slowest(0) == ()
        await speaker.close()


async def test_a_store_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def full() -> None:
        raise Unavailable("the disk is full")

    async with ChatServer() as server:
        monkeypatch.setattr(server.store.inner, "probe", full)
        one = await server.server.operations.status()
        assert (one.ready, one.why) == (False, "the disk is full")


async def test_only_a_process_of_its_own_can_be_drained() -> None:
    async with ChatServer() as server:
        operations = server.server.operations
        with pytest.raises(Unsupported, match="part of another program"):
            await operations.drain()
        asked: list[int] = []
        operations.on_drain = lambda: asked.append(1)
        await operations.drain()
        assert asked == [1]
    ended = await operations.status()
    assert (ended.ready, ended.draining, ended.why) == (False, True, "it is ending")
    await operations.drain()
    assert asked == [1], "it is ending already"


def test_labels_and_buckets_are_taken_from_any_registry() -> None:
    registry = CollectorRegistry()
    closed = Counter("chatd_closed", "By code.", ["code"], registry=registry)
    closed.labels("1000").inc(3)
    closed.labels("4401").inc()
    took = Histogram("chatd_took_seconds", "How long.", ["way"], buckets=(0.1, 1), registry=registry)
    for seconds in (0.05, 0.5, 0.6, 7):
        took.labels("live").observe(seconds)
    series = series_of(registry.collect())
    assert series.counters == {"closed{code=1000}": 3.0, "closed{code=4401}": 1.0}
    (name,) = series.histograms
    assert name == "took_seconds{way=live}"
    assert series.histograms[name].bounds == (0.1, 1.0)
    assert series.histograms[name].counts == (1.0, 2.0, 1.0)
    assert series.histograms[name].sum == pytest.approx(8.15)


def test_a_registry_without_end_is_cut() -> None:
    registry = CollectorRegistry()
    many = Counter("chatd_many", "Many.", ["n"], registry=registry)
    for number in range(SERIES_MAX + 10):
        many.labels(str(number)).inc()
    assert len(series_of(registry.collect()).counters) == SERIES_MAX
