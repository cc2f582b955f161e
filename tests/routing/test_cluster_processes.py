"""``chatd cluster`` in real processes: placement, death, return, rolling restart, and an end that leaves nothing."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from cluster_rig import PATIENCE_S, Cluster, cluster, gone

from chatd import protocol
from chatd.routing.ring import Ring
from chatd.testing.ports import free_port
from chatd.testing.redis_server import RedisServer

RING = Ring({"worker-0": 1, "worker-1": 1})
USERS = [f"user-{n}" for n in range(8)]
MINE = {worker: next(u for u in USERS if RING.place(u) == worker) for worker in RING.weights}


async def _status(running: Cluster, path: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(running.url + path) as answer:
        await answer.read()
        return answer.status


async def test_a_worker_that_is_killed_is_stood_in_for_and_comes_back(tmp_path: Path) -> None:
    async with cluster(tmp_path, "--workers", "2") as running:
        homes = {user: await running.home(user) for user in USERS}
        assert {user: await running.home(user) for user in USERS} == homes
        stores = {worker: homes[user] for worker, user in MINE.items()}
        assert homes == {user: stores[RING.place(user)] for user in USERS}
        assert len(set(stores.values())) == 2
        for path in ("/version", "/version", "/readyz", "/readyz"):
            assert await _status(running, path) == 200

        killed = running.pid("worker-0")
        since = len(running.events)
        os.kill(killed, signal.SIGKILL)
        since = await running.until("workers_ready", since, workers=["worker-1"])
        assert await running.home(MINE["worker-0"]) == stores["worker-1"]
        assert await running.home(MINE["worker-1"]) == stores["worker-1"]
        await running.until("workers_ready", since, workers=["worker-0", "worker-1"])
        assert running.pid("worker-0") != killed
        assert await running.home(MINE["worker-0"]) == stores["worker-0"]
        assert await running.end(signal.SIGTERM) == 0, running.said
        await gone(running.pids)
        assert "Traceback" not in running.said


async def test_systemd_is_told_once_when_all_workers_serve(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(PATIENCE_S)
        async with cluster(tmp_path, "--workers", "2", NOTIFY_SOCKET=str(path)) as running:
            assert await asyncio.to_thread(systemd.recv, 100) == b"READY=1"
            assert [one["workers"] for one in running.events if one["event"] == "workers_ready"][-1] == sorted(MINE)
            assert await running.end(signal.SIGTERM) == 0, running.said
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(100)


async def test_a_rolling_restart_replaces_each_worker_and_refuses_nobody(tmp_path: Path) -> None:
    async with cluster(tmp_path, "--workers", "2") as running:
        before = [running.pid(worker) for worker in RING.weights]
        speaker, _ = await running.speaker(MINE["worker-0"])
        asking = asyncio.create_task(_ask_without_end(running))
        since = len(running.events)
        running.process.send_signal(signal.SIGHUP)
        frames, code = await speaker.rest()
        assert any(isinstance(frame, protocol.Goaway) for frame in frames)
        assert code == 1012
        since = await running.until("worker_restarted", since, worker="worker-0")
        await running.until("worker_restarted", since, worker="worker-1")
        assert not asking.done(), asking.exception()
        asking.cancel()
        await gone(before)
        assert "worker_ended" not in running.said
        assert await running.end(signal.SIGTERM) == 0, running.said
        await gone(running.pids)


async def _ask_without_end(running: Cluster) -> None:
    while True:
        assert await _status(running, "/version") == 200


async def test_the_workers_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    async with cluster(tmp_path, "--workers", "2") as running:
        running.process.kill()
        await running.process.wait()
        await gone(running.pids)


async def test_a_worker_that_hangs_is_killed_at_the_end(tmp_path: Path) -> None:
    async with cluster(tmp_path, "--workers", "2", CHATD_TIMING_DRAIN_S="0") as running:
        os.kill(running.pid("worker-1"), signal.SIGSTOP)
        assert await running.end(signal.SIGTERM) == 1
        assert [e["count"] for e in running.events if e["event"] == "workers_killed"] == [1]
        await gone(running.pids)


async def test_a_worker_that_hangs_is_passed_over_until_it_goes_on(tmp_path: Path) -> None:
    async with cluster(tmp_path, "--workers", "2") as running:
        home, other = await running.home(MINE["worker-0"]), await running.home(MINE["worker-1"])
        since = len(running.events)
        os.kill(running.pid("worker-0"), signal.SIGSTOP)
        since = await running.until("workers_ready", since, workers=["worker-1"])
        assert await running.home(MINE["worker-0"]) == other
        os.kill(running.pid("worker-0"), signal.SIGCONT)
        await running.until("workers_ready", since, workers=["worker-0", "worker-1"])
        assert await running.home(MINE["worker-0"]) == home
        assert await running.end(signal.SIGTERM) == 0, running.said


async def test_a_second_signal_waits_for_nobody(tmp_path: Path) -> None:
    async with cluster(tmp_path, "--workers", "1") as running:
        os.kill(running.pid("worker-0"), signal.SIGSTOP)
        running.process.send_signal(signal.SIGTERM)
        host, port = running.url.removeprefix("http://").split(":")
        async with asyncio.timeout(PATIENCE_S):
            while True:  # until it has heard the first one
                try:
                    _, writer = await asyncio.open_connection(host, int(port))
                except OSError:
                    break
                writer.close()
        assert await running.end(signal.SIGTERM) == 1
        await gone(running.pids)


async def test_a_worker_that_cannot_live_is_started_less_and_less_often(tmp_path: Path) -> None:
    async with cluster(tmp_path, "--workers", "1", command="sh -c 'exit 7'") as running:
        since = 0
        for pause_s in (0.5, 1.0, 2.0):
            since = await running.until("worker_ended", since, how="7", again_in_s=pause_s)
        assert await running.end(signal.SIGTERM) == 0


async def test_a_command_that_is_not_there_is_told_and_tried_again(tmp_path: Path) -> None:
    async with cluster(tmp_path, "--workers", "1", command="./nothing") as running:
        at = await running.until("worker_ended")
        assert "No such file" in running.events[at - 1]["how"]
        assert await running.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("kind", "line"), [("sqlite", "chatd: store.kind: many processes"), ("memory", "chatd: store.kind: many processes")]
)
async def test_a_store_that_cannot_be_shared_is_refused(tmp_path: Path, kind: str, line: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chatd", "cluster", "--workers", "2"),
        cwd=tmp_path,
        env={**os.environ, "CHATD_STORE_KIND": kind},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode == 78
    assert err.decode().startswith(line)
    assert err.count(b"\n") == 1
    assert out == b""


async def test_the_first_lines_help_the_first_administrator_and_a_verb_is_heard_by_every_process(
    tmp_path: Path, chatd_redis: RedisServer
) -> None:
    async with cluster(
        tmp_path, "--workers", "2", redis=chatd_redis.url, CHATD_ACCOUNTS_REGISTRATION="invite"
    ) as running:
        async with asyncio.timeout(PATIENCE_S):
            while "^C ends it." not in running.said:
                assert await running.read(), running.said
        assert re.search(rf"{running.url}/join#\w+", running.said), running.said
        await _chatd(tmp_path, chatd_redis, "user", "add", "alice", "--no-password")
        speaker, _ = await running.speaker("alice")
        assert "alice" in await _chatd(tmp_path, chatd_redis, "user", "list")
        await _chatd(tmp_path, chatd_redis, "user", "disable", "alice")
        _, code = await speaker.rest()
        assert code == 4403
        assert await running.end(signal.SIGTERM) == 0, running.said
        assert "Traceback" not in running.said


async def _chatd(directory: Path, redis: RedisServer, *args: str) -> str:
    """A verb of the administration on the cluster's store."""
    given = {"STORE_KIND": "redis", "STORE_REDIS_URL": redis.url, "STORE_REDIS_PREFIX": f"{directory.name}:"}
    given |= {"CLUSTER_BUS_URL": redis.url, "SERVER_DATA_DIR": str(directory)}
    env = {**os.environ, **{f"CHATD_{name}": value for name, value in given.items()}}
    command = [sys.executable, "-m", "chatd", *args]
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await process.communicate()
    assert process.returncode == 0, out
    return out.decode()


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("CHATD_CLUSTER_BUS_URL", "", "chatd: cluster.bus_url: needed"),
        ("CHATD_CLUSTER_ADVERTISE", "http://a:1", "chatd: cluster.advertise: for `chatd serve`"),
    ],
)
async def test_workers_that_could_not_work_together_are_refused(
    tmp_path: Path, name: str, value: str, line: str
) -> None:
    env = {**os.environ, "CHATD_STORE_KIND": "redis", "CHATD_CLUSTER_BUS_URL": "redis://127.0.0.1:1/0", name: value}
    command = [sys.executable, "-m", "chatd", "cluster", "--workers", "2"]
    process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, env=env, stderr=subprocess.PIPE)
    async with asyncio.timeout(PATIENCE_S):
        _, err = await process.communicate()
    assert process.returncode == 78
    assert err.decode().startswith(line)


async def test_each_worker_serves_its_metrics_at_a_port_of_its_own(tmp_path: Path, chatd_redis: RedisServer) -> None:
    first = free_port()
    listen = f"127.0.0.1:{first}"
    async with cluster(
        tmp_path, "--workers", "2", redis=chatd_redis.url, CHATD_SERVER_METRICS_LISTEN=listen
    ) as running:
        for user in MINE.values():  # so that both are there
            await running.home(user)
        async with aiohttp.ClientSession() as http:
            started = set()
            for port in (first, first + 1):
                async with http.get(f"http://127.0.0.1:{port}/metrics") as answer:
                    page = await answer.text()
                started |= set(re.findall(r"^chatd_process_start_time_seconds (.+)$", page, re.MULTILINE))
        assert await _status(running, "/metrics") == 404
        assert len(started) == 2, "two processes"
