"""``chatd cluster`` as a process, with workers that have a SQLite file each: they show who was placed where."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt

from chatd import protocol
from chatd.client.wire import WireClosed, connect, websocket_url
from chatd.testing.speaker import Speaker

PATIENCE_S = 40.0
SECRET = b"0123456789abcdef" * 2
ISSUER = "https://host.example"
POLL_S = 0.02


class Cluster:
    """A running ``chatd cluster``. ``events``: what it and its workers logged; ``url``: where it serves."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self.url = ""
        self.said = ""

    async def read(self) -> bool:
        """Take the next line of output. False: there is no more."""
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        self.said += line
        if line.startswith("{"):
            self.events.append(json.loads(line))
        elif found := re.search(r"serves on (http://\S+) with \d+ workers", line):
            self.url = found[1]
        return bool(line)

    async def until(self, event: str, since: int = 0, **fields: Any) -> int:
        """Wait for an event with these fields, at or behind position ``since``. Returns: the position behind it."""
        async with asyncio.timeout(PATIENCE_S):
            at = since
            while True:
                while at == len(self.events):
                    assert await self.read(), f"it ended without {event} {fields}:\n{self.said}"
                one = self.events[at]
                at += 1
                if one["event"] == event and fields.items() <= one.items():
                    return at

    def pid(self, worker: str) -> int:
        """The newest process of a worker."""
        pids = [e["pid"] for e in self.events if e["event"] == "worker_started" and e["worker"] == worker]
        return int(pids[-1])

    @property
    def pids(self) -> list[int]:
        """All processes that were ever started."""
        return [e["pid"] for e in self.events if e["event"] == "worker_started"]

    async def end(self, number: signal.Signals) -> int:
        """Signal the supervisor and wait for its end. Returns: its exit code."""
        self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            code = await self.process.wait()
            while await self.read():
                pass
        return code

    async def speaker(self, user: str) -> tuple[Speaker, str]:
        """A connection of a user, and the incarnation of the store that it found. Raises: WireClosed."""
        claims = {"sub": user, "exp": int(time.time()) + 3600, "aud": "chatd", "iss": ISSUER}
        speaker = Speaker(await connect(websocket_url(self.url, user)))
        await speaker.tell(protocol.Hello(token=jwt.encode(claims, SECRET, "HS256", headers={"kid": "k"})))
        _, welcome = await speaker.until(protocol.Welcome)
        return speaker, welcome.incarnation

    async def home(self, user: str) -> str:
        """The incarnation of the store that a user finds; connections that break are tried again."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    speaker, incarnation = await self.speaker(user)
                except WireClosed:
                    continue
                await speaker.close()
                return incarnation


async def gone(pids: list[int]) -> None:
    """Wait until none of these processes runs."""
    async with asyncio.timeout(PATIENCE_S):
        while any(map(_runs, pids)):  # noqa: ASYNC110 - they are nobody's children any more
            await asyncio.sleep(POLL_S)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@asynccontextmanager
async def cluster(
    directory: Path, *args: str, command: str | None = None, redis: str | None = None, **env: str
) -> AsyncIterator[Cluster]:
    """Start one with these arguments; at the end nothing of it is left.

    ``command``: instead of real workers. ``redis``: URL of a Redis that the workers share, instead of a file each.
    """
    keys = directory / "keys.json"
    row = {"kid": "k", "kty": "oct", "k": base64.urlsafe_b64encode(SECRET).rstrip(b"=").decode()}
    keys.write_text(json.dumps({"keys": [row]}))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATD_")}
    given = {
        **kept,
        "CHATD_ACCOUNTS_JWT_KEYS": str(keys),
        "CHATD_ACCOUNTS_JWT_ISSUER": ISSUER,
        "CHATD_LIMITS_CONNECTS_BURST": "100000",
        "CHATD_SERVER_LOG_FORMAT": "json",
        **env,
    }
    if redis is not None:
        given |= {"CHATD_STORE_KIND": "redis", "CHATD_STORE_REDIS_URL": redis, "CHATD_CLUSTER_BUS_URL": redis}
        given |= {"CHATD_STORE_REDIS_PREFIX": f"{directory.name}:"}
    real = f"{sys.executable} -m chatd serve --handed {{handed}} --supervised --data-dir {directory}/{{name}}"
    workers = () if redis is not None else ("--worker-command", command or real)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chatd", "cluster", "--port", "0", *workers, *args),
        cwd=directory,
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    running = Cluster(process)
    try:
        if command is None:
            async with asyncio.timeout(PATIENCE_S):
                while not running.url:
                    assert await running.read(), running.said
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await gone(running.pids)
