"""Workers that share Redis are replaced and killed while people talk: everything arrives, once and in order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from cluster_rig import PATIENCE_S, Cluster, cluster, gone

from chatd.client import Client
from chatd.client.events import ConnectedEvent, MessageEvent
from chatd.testing.redis_server import RedisServer

USERS = [f"user-{n}" for n in range(6)]
WORKERS = ("worker-0", "worker-1")
PAUSE_S = 0.02
KILLS_EACH = 2


class Talker:
    """A user who sends numbers until told to stop. ``got``: bodies from others; ``connected``: how often."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.sent = 0
        self.got: list[str] = []
        self.connected = 0
        self.stop = asyncio.Event()
        self.arrived = asyncio.Event()

    async def listen(self) -> None:
        async for event in self.client.events():
            if isinstance(event, ConnectedEvent):
                self.connected += 1
            elif isinstance(event, MessageEvent) and not event.mine:
                self.got.append(event.body)
                self.arrived.set()

    async def talk(self, to: str) -> None:
        handles = []
        while not self.stop.is_set():
            handles.append(await self.client.send(to, str(self.sent)))
            self.sent += 1
            await asyncio.sleep(PAUSE_S)
        for handle in handles:
            await handle.sent()

    async def until(self, count: int) -> None:
        while len(self.got) < count:
            self.arrived.clear()
            await self.arrived.wait()


@asynccontextmanager
async def _conversations(running: Cluster) -> AsyncIterator[None]:
    """Everybody talks while the body runs. Afterwards everything is there, in order, once."""
    async with AsyncExitStack() as stack:
        talkers = []
        for user in USERS:
            client = await Client.login(running.url, user, "a good password", register=True)
            talkers.append(Talker(await stack.enter_async_context(client)))
        listening = [asyncio.create_task(talker.listen()) for talker in talkers]
        talking = [asyncio.create_task(t.talk(USERS[n ^ 1])) for n, t in enumerate(talkers)]
        async with asyncio.timeout(PATIENCE_S):
            for talker in talkers:
                await talker.until(5)
        yield
        for talker in talkers:
            talker.stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*talking)
            for number, talker in enumerate(talkers):
                await talker.until(talkers[number ^ 1].sent)
        for number, talker in enumerate(talkers):
            assert talker.got == [str(n) for n in range(talkers[number ^ 1].sent)]
            assert talker.connected > 1
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)


@pytest.mark.slow
async def test_nothing_is_lost_by_rolling_restarts(tmp_path: Path, chatd_redis: RedisServer) -> None:
    async with cluster(tmp_path, "--workers", "2", redis=chatd_redis.url) as running:
        async with _conversations(running):
            for _ in range(2):
                since = len(running.events)
                running.process.send_signal(signal.SIGHUP)
                for worker in WORKERS:
                    since = await running.until("worker_restarted", since, worker=worker)
        assert "worker_ended" not in running.said
        assert await running.end(signal.SIGTERM) == 0, running.said
        assert "Traceback" not in running.said


@pytest.mark.slow
async def test_nothing_is_lost_when_workers_are_killed(tmp_path: Path, chatd_redis: RedisServer) -> None:
    async with cluster(tmp_path, "--workers", "2", redis=chatd_redis.url) as running:
        async with _conversations(running):
            for worker in WORKERS * KILLS_EACH:
                since = len(running.events)
                os.kill(running.pid(worker), signal.SIGKILL)
                since = await running.until("worker_ended", since, worker=worker, how="-9")
                await running.until("workers_ready", since, workers=list(WORKERS))
        assert await running.end(signal.SIGTERM) == 0, running.said
        assert "Traceback" not in running.said


@pytest.mark.slow
async def test_nothing_is_lost_when_the_router_is_killed(tmp_path: Path, chatd_redis: RedisServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    again = partial(cluster, tmp_path, "--workers", "2", "--port", port, redis=chatd_redis.url)
    async with again() as first, AsyncExitStack() as stack:
        async with _conversations(first):
            first.process.kill()
            await first.process.wait()
            await gone(first.pids)
            second = await stack.enter_async_context(again())
        assert await second.end(signal.SIGTERM) == 0, second.said
