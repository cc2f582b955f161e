"""What the router costs: ``python -m bench.router``. Real processes: ``chatd cluster``, Redis, and this, the clients.

First connections: each is opened through the router, upgraded, and says hello. Then messages between the connected
users. CPU is the kernel's own count of the time that a process ran, in nanoseconds, of all of its threads.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import jwt

from chatd import protocol
from chatd.client.wire import Wire, connect, websocket_url
from chatd.testing.load.process import SETTINGS
from chatd.testing.redis_server import RedisServer

SECRET = b"0123456789abcdef" * 2
ISSUER = "https://host.example"
AT_ONCE = 50
IDLE_S = 5.0


def cpu_s(pid: int) -> float:
    """CPU time of a process, all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text("ascii").split()[0]) for task in tasks) / 1e9


class Cluster:
    """A router with workers, on Redis with a file of commands that is synced each second."""

    def __init__(self, directory: Path, redis: RedisServer) -> None:
        self._directory = directory
        self._redis = redis
        self.url = ""
        self.pids: dict[str, int] = {}

    async def start(self, workers: int) -> None:
        """Start, and wait until all workers are ready."""
        keys = self._directory / "keys.json"
        row = {"kid": "k", "kty": "oct", "k": base64.urlsafe_b64encode(SECRET).rstrip(b"=").decode()}
        keys.write_text(json.dumps({"keys": [row]}))
        given = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CHATD_")},
            **SETTINGS,
            "CHATD_STORE_KIND": "redis",
            "CHATD_STORE_REDIS_URL": self._redis.url,
            "CHATD_CLUSTER_BUS_URL": self._redis.url,
            "CHATD_SERVER_LOG_LEVEL": "info",
            "CHATD_TIMING_PONG_S": "25",  # who waits for its part of the load does not read its pings
            "CHATD_ACCOUNTS_JWT_KEYS": str(keys),
            "CHATD_ACCOUNTS_JWT_ISSUER": ISSUER,
        }
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "chatd", "cluster", "--port", "0", "--workers", str(workers)),
            cwd=self._directory,
            env=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        said = ""
        while not self.url:
            line = (await self.process.stdout.readline()).decode()
            assert line, said
            said += line
            if found := re.search(r'"worker": ?"([^"]+)", ?"pid": ?(\d+)', line):
                self.pids[found[1]] = int(found[2])
            elif found := re.search(r"serves on (\S+)", line):
                self.url = found[1]
        self.pids["router"] = self.process.pid
        self.pids["redis"] = self._redis.pid

    async def stop(self) -> None:
        """End in order."""
        self.process.send_signal(signal.SIGTERM)
        await self.process.wait()

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far of router, workers (together) and Redis."""
        used = {name: cpu_s(pid) for name, pid in self.pids.items()}
        return {
            "router": used.pop("router"),
            "redis": used.pop("redis"),
            "workers": sum(used.values()),
        }


async def _enter(url: str, user: str, gate: asyncio.Semaphore) -> Wire:
    claims = {"sub": user, "exp": int(time.time()) + 3600, "aud": "chatd", "iss": ISSUER}
    token = jwt.encode(claims, SECRET, "HS256", headers={"kid": "k"})
    async with gate:
        wire = await connect(websocket_url(url, user))
        await wire.send(protocol.encode(protocol.Hello(token=token)))
        await _until(wire, protocol.CaughtUp)
    return wire


async def _until(wire: Wire, *kinds: type[protocol.ServerFrame]) -> None:
    while True:
        data = await wire.receive()
        if data is None:
            continue
        frame = protocol.decode_server(data)
        if isinstance(frame, protocol.Error):
            raise SystemExit(f"refused: {frame}")
        if isinstance(frame, kinds):
            return


async def _talk(wire: Wire, to: str, count: int) -> None:
    for _ in range(count):
        await wire.send(protocol.encode(protocol.Send(id=protocol.new_message_id(), to=to, body="x" * 50)))
        await _until(wire, protocol.Sent)


def _report(what: str, count: int, before: dict[str, float], after: dict[str, float], took_s: float) -> None:
    used = {name: after[name] - before[name] for name in before}
    whole = sum(used.values())
    print(f"{what}: {count} in {took_s:.1f} s")
    for name, one_s in used.items():
        print(f"  {name:8} {one_s * 1e6 / count:8.2f} us each  {one_s:7.3f} s  {100 * one_s / whole:5.1f} %")
    share = 100 * used["router"] / (used["router"] + used["workers"])
    print(f"  router over router and workers: {share:.2f} %")


async def _measure(connections: int, messages: int, workers: int, directory: Path, redis: RedisServer) -> None:
    cluster = Cluster(directory, redis)
    await cluster.start(workers)
    gate = asyncio.Semaphore(AT_ONCE)
    users = [f"user-{n}" for n in range(connections)]
    wires: list[Wire] = []
    try:
        before, began_s = cluster.cpu(), time.perf_counter()
        wires = list(await asyncio.gather(*(_enter(cluster.url, user, gate) for user in users)))
        _report("connections", connections, before, cluster.cpu(), time.perf_counter() - began_s)

        before, began_s = cluster.cpu(), time.perf_counter()
        pairs: Iterable[tuple[int, Wire]] = itertools.islice(enumerate(wires), 0, 2 * AT_ONCE, 2)
        each = messages // AT_ONCE
        await asyncio.gather(*(_talk(wire, users[n + 1], each) for n, wire in pairs))
        _report("messages", each * AT_ONCE, before, cluster.cpu(), time.perf_counter() - began_s)

        before = cluster.cpu()
        await asyncio.sleep(IDLE_S)
        idle = {name: used - before[name] for name, used in cluster.cpu().items()}
        print(f"idle for {IDLE_S:.0f} s:", ", ".join(f"{name} {1e3 * used:.1f} ms" for name, used in idle.items()))
    finally:
        await asyncio.gather(*(wire.close() for wire in wires))
        await cluster.stop()


def main() -> None:
    """Parse, start Redis, measure."""
    parser = argparse.ArgumentParser("python -m bench.router", description=__doc__)
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, RedisServer(appendfsync="everysec") as redis:
        asyncio.run(_measure(args.connections, args.messages, args.workers, Path(directory), redis))


if __name__ == "__main__":
    main()
