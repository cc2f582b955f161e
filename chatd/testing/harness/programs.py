"""Whole programs of chatd as processes: workers with an address of their own, routers, and ``chatd cluster``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from chatd import configuration
from chatd.store.redis import RedisStore
from chatd.testing.harness.process import START_S_MAX, HarnessError, faults_in
from chatd.testing.harness.tokens import messages_in, tokens_in
from chatd.testing.killing import Point
from chatd.testing.ports import free_port
from chatd.testing.redis_server import RedisServer
from chatd.testing.server import GENEROUS

POLL_S = 0.05
END_S_MAX = 30.0


class Program:
    """One ``chatd VERB`` on a port that stays the same, started again and again; its log is one file."""

    def __init__(self, directory: Path, verb: Sequence[str], values: Mapping[str, Any]) -> None:
        self.port = free_port()
        self._verb = verb
        given = {**GENEROUS, "server.data_dir": str(directory / f"{self.port}"), **values}
        names = {name: "CHATD_" + name.replace(".", "_").upper() for name in given}
        self._env = {names[name]: str(value).replace("{port}", f"{self.port}") for name, value in given.items()}
        self._log = directory / f"log-{self.port}"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """``http://127.0.0.1:port``."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def runs(self) -> bool:
        """Whether it has been started and is not dead."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start. It is not ready yet."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "chatd", *self._verb, "--port", f"{self.port}"),
                env={**os.environ, **self._env},
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=log,
            )

    async def ready(self) -> None:
        """Wait until ``/readyz`` is answered with 200. Raises: HarnessError – it is not in time."""
        deadline_s = time.monotonic() + START_S_MAX
        async with aiohttp.ClientSession() as http:
            while not await self._is_ready(http):
                if time.monotonic() > deadline_s or not self.runs:
                    raise HarnessError(f"{self._verb} is not ready:\n{self._log.read_text()[-2000:]}")
                await asyncio.sleep(POLL_S)

    async def _is_ready(self, http: aiohttp.ClientSession) -> bool:
        try:
            async with http.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def end(self, number: signal.Signals) -> None:
        """Send a signal and wait for the end. Raises: HarnessError – it does not end."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(number)
        try:
            async with asyncio.timeout(END_S_MAX):
                await self._process.wait()
        except TimeoutError as exc:
            raise HarnessError(f"{self._verb} does not end") from exc

    def tell(self, number: signal.Signals) -> None:
        """Send a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """All its log lines of one event."""
        lines = (line for line in self._log.read_bytes().splitlines() if event.encode() in line)
        entries = (msgspec.json.decode(line, type=dict[str, Any]) for line in lines)
        return [entry for entry in entries if entry.get("event") == event]

    def faults(self) -> list[str]:
        """What its log tells of errors."""
        return faults_in(self._log) if self._log.exists() else []


class Programs:
    """Several programs on one Redis; `Killable` as a whole. Further users get a token in ``passengers``."""

    def __init__(self, directory: Path, redis: RedisServer, passengers: Sequence[str]) -> None:
        self.passengers = dict.fromkeys(passengers, "")
        self.incarnation = ""
        self.all: list[Program] = []
        self._directory = directory
        self._values: dict[str, Any] = {
            "store.kind": "redis",
            "store.redis_url": redis.url,
            "cluster.bus_url": redis.url,
            "cluster.reconcile_s": 1.0,
            "cluster.spread_s": 0.2,
            "cluster.lease_s": 2.0,
            "limits.window_messages_max": 16,
        }

    def add(self, *verb: str, **values: Any) -> Program:
        """One more program, not started; ``values``: settings, with ``__`` for the full stop."""
        named = {name.replace("__", "."): value for name, value in values.items()}
        program = Program(self._directory, verb, {**self._values, **named})
        self.all.append(program)
        return program

    def _store(self) -> RedisStore:
        return RedisStore(configuration.load(env={}, overrides={**GENEROUS, **self._values}).store)

    @property
    def port(self) -> int:
        """Of the first one."""
        return self.all[0].port

    async def make_tokens(self, users: Sequence[str], devices: Sequence[str]) -> dict[tuple[str, str], str]:
        """See `Killable`; the passengers' too."""
        tokens = await tokens_in(self._store(), users, devices)
        self.passengers = {u: t for (u, _), t in (await tokens_in(self._store(), [*self.passengers], ["p"])).items()}
        return tokens

    async def start(self, *, new_migrations: int = 0, die_in_migration: int = 0) -> bool:
        """See `Killable`: all that do not run."""
        store = self._store()
        await store.open()
        self.incarnation = store.incarnation
        await store.close()
        fresh = [program for program in self.all if not program.runs]
        await asyncio.gather(*(program.start() for program in fresh))
        await asyncio.gather(*(program.ready() for program in fresh))
        return True

    async def arm(self, point: Point, passings: int) -> None:
        """See `Killable`."""
        raise HarnessError("whole programs have no named points")

    async def gone(self) -> None:
        """See `Killable`: they do not die by themselves."""

    async def kill(self) -> None:
        """See `Killable`: all end, in order, so that workers of a cluster end as well."""
        await asyncio.gather(*(program.end(signal.SIGTERM) for program in self.all))

    async def counts(self) -> int:
        """See `Killable`."""
        return await messages_in(self._store())

    def faults(self) -> list[str]:
        """See `Killable`."""
        return [line for program in self.all for line in program.faults()]
