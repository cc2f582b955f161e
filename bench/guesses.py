"""What password guesses cost those who chat: ``python -m bench.guesses``.

A server of its own, two users with one message in flight each, and somebody who guesses passwords, from an address of
its own each time (a trusted proxy says so: no limit by address stops it) and as many at once as are taken. Slices with
and without guesses alternate until ``--guesses`` were checked; each has its rate, and its latency from a send to its
recipient. Then, alone, how long a login takes to fail for a name that exists and for one that does not. Exit code 1
if messages are slowed by more than a fifth, or the two names can be told apart.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import multiprocessing
import multiprocessing.synchronize
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from msgspec import Struct

from chatd.protocol import new_message_id

ATTEMPTS_AT_ONCE = 64
SLOWER_MAX = 1.2
TOLD_APART_MAX = 0.1
"""How far from even the odds may be that a failed login of an unknown name takes longer than one of a known name."""
PASSWORD = "a password that nobody guesses"
OPEN = {
    "CHATD_SERVER_TRUSTED_PROXIES": "127.0.0.1",
    "CHATD_SERVER_LOG_LEVEL": "error",
    "CHATD_ACCOUNTS_REGISTRATION": "open",
    "CHATD_LIMITS_SENDS_PER_S": "1e6",
    "CHATD_LIMITS_SENDS_BURST": "1000000",
    "CHATD_LIMITS_FRAMES_PER_S": "1e6",
    "CHATD_LIMITS_FRAMES_BURST": "1000000",
    "CHATD_LIMITS_BYTES_PER_S": "1e9",
    "CHATD_LIMITS_BYTES_BURST": "1000000000",
}


class Slice(Struct):
    """Messages of one slice: how many a second, and the latency to the recipient in ms."""

    per_s: float
    p50_ms: float
    p99_ms: float


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[str]:
    """A server; gives its URL."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chatd", "serve", "--port", "0", "--data-dir", str(directory)),
        env={**os.environ, **OPEN},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        while (found := re.search(rb"serves on (\S+)", line := await process.stdout.readline())) is None:
            if not line:
                raise SystemExit("the server did not start")
        yield found[1].decode()
    finally:
        process.terminate()
        await process.wait()


class Chat:
    """Two users; each sends its next message when its last one was answered, and acknowledges what comes."""

    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self._sent_at_s: dict[str, float] = {}

    async def user(self, http: aiohttp.ClientSession, url: str, me: str, peer: str) -> None:
        """Until cancelled."""
        account = {"user": me, "password": PASSWORD}
        await http.post(f"{url}/v1/register", json=account)
        async with http.post(f"{url}/v1/login", json=account) as answer:
            token = (await answer.json())["token"]
        async with http.ws_connect(f"{url}/v1/ws?user={me}", protocols=("chatd.v1",)) as socket:
            await socket.send_json({"type": "hello", "token": token})
            async for message in socket:
                frame = json.loads(message.data)
                if frame["type"] in ("caught_up", "sent"):
                    name = new_message_id()
                    self._sent_at_s[name] = time.perf_counter()
                    await socket.send_json({"type": "send", "id": name, "to": peer, "body": "x" * 50})
                elif frame["type"] == "messages":
                    now_s = time.perf_counter()
                    for entry in frame["messages"]:
                        if (sent_at_s := self._sent_at_s.pop(entry["id"], None)) is not None:
                            self.latencies_s.append(now_s - sent_at_s)
                    await socket.send_json({"type": "ack", "conv": frame["conv"], "seq": frame["messages"][-1]["seq"]})

    async def slice(self, seconds: float) -> Slice:
        """Measure for so long."""
        self.latencies_s.clear()
        began_s = time.perf_counter()
        await asyncio.sleep(seconds)
        took_s, latencies = time.perf_counter() - began_s, sorted(self.latencies_s)
        return Slice(
            len(latencies) / took_s,
            1_000 * latencies[len(latencies) // 2],
            1_000 * latencies[int(len(latencies) * 0.99)],
        )


async def guess(
    url: str, go: multiprocessing.synchronize.Event, end: multiprocessing.synchronize.Event, counts: Sequence[int]
) -> None:
    """Guess as long as ``go`` is set. ``counts``: guesses that were checked, and others that were refused before."""
    addresses = (f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in itertools.count())

    async def one(http: aiohttp.ClientSession) -> None:
        while not end.is_set():
            if not go.is_set():
                await asyncio.sleep(0.01)
                continue
            body = {"user": "alice", "password": f"{random.random()}"}
            headers = {"X-Forwarded-For": next(addresses)}
            with contextlib.suppress(aiohttp.ServerDisconnectedError):  # it was idle for too long
                async with http.post(f"{url}/v1/login", json=body, headers=headers) as answer:
                    await answer.read()
                    counts[0 if answer.status == 401 else 1] += 1  # type: ignore[index]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        await asyncio.gather(*(one(http) for _ in range(ATTEMPTS_AT_ONCE)))


def guesser(*args: object) -> None:
    asyncio.run(guess(*args))  # type: ignore[arg-type]


async def chat_while_guessed(url: str, guesses: int, slice_s: float) -> tuple[list[Slice], list[Slice], int, int]:
    """Slices without and with guesses, how many guesses were checked and how many refused."""
    context = multiprocessing.get_context("spawn")
    go, end, counts = context.Event(), context.Event(), context.Array("q", 2, lock=False)
    foe = context.Process(target=guesser, args=(url, go, end, counts), daemon=True)
    chat, quiet, loud = Chat(), [], []
    async with aiohttp.ClientSession() as http:
        users = [asyncio.create_task(chat.user(http, url, *pair)) for pair in (("alice", "bob"), ("bob", "alice"))]
        await asyncio.sleep(2.0)  # they have met
        foe.start()
        while counts[0] < guesses:
            quiet.append(await chat.slice(slice_s))
            go.set()
            await asyncio.sleep(0.5)
            loud.append(await chat.slice(slice_s))
            go.clear()
            await asyncio.sleep(1.5)  # what waits is checked by then
            if not foe.is_alive():
                raise SystemExit("who guesses has ended")
            failed = [user for user in users if user.done()]
            if failed:
                failed[0].result()
        end.set()
        await asyncio.to_thread(foe.join)
        for user in users:
            user.cancel()
        await asyncio.wait(users)
    return quiet, loud, counts[0], counts[1]


async def time_failures(url: str, rounds: int) -> tuple[list[float], list[float]]:
    """How long a login takes to fail, in ms: of a name that exists, and of none, in turns."""
    known: list[float] = []
    unknown: list[float] = []
    async with aiohttp.ClientSession() as http:
        for number in range(rounds):
            pairs = [("alice", known), (f"nobody-{number}", unknown)]
            for user, took in pairs if number % 2 else reversed(pairs):
                headers = {"X-Forwarded-For": f"172.16.{number >> 8}.{number & 255}"}
                began_s = time.perf_counter()
                body = {"user": user, "password": "wrong password"}
                async with http.post(f"{url}/v1/login", json=body, headers=headers) as answer:
                    await answer.read()
                took.append(1_000 * (time.perf_counter() - began_s))
    return known, unknown


def odds(one: Sequence[float], other: Sequence[float]) -> float:
    """How likely a value of ``other`` is above one of ``one``: 0.5 if nothing tells them apart."""
    return statistics.fmean((a < b) + (a == b) / 2 for a in one for b in other)


async def run(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="chatd-guesses-") as directory:
        async with serving(Path(directory) / "data") as url:
            quiet, loud, checked, refused = await chat_while_guessed(url, options.guesses, options.slice_s)
            known, unknown = await time_failures(url, options.rounds)
    rows = {"without": quiet, "with": loud}
    medians = {
        name: [statistics.median(getattr(one, field) for one in some) for field in Slice.__struct_fields__]
        for name, some in rows.items()
    }
    for name, (per_s, p50_ms, p99_ms) in medians.items():
        print(f"{name:8} guesses: {per_s:7.0f} messages/s, p50 {p50_ms:6.2f} ms, p99 {p99_ms:6.2f} ms")
    guesses_s = len(loud) * (options.slice_s + 0.5)
    print(f"{checked} guesses were checked ({checked / guesses_s:.0f}/s), {refused} refused unchecked")
    pairs = list(zip(quiet, loud, strict=True))  # neighbours in time: whatever else the machine does, it does to both
    slower = {
        "rate": statistics.median(without.per_s / with_.per_s for without, with_ in pairs),
        "p50": statistics.median(with_.p50_ms / without.p50_ms for without, with_ in pairs),
        "p99": statistics.median(with_.p99_ms / without.p99_ms for without, with_ in pairs),
    }
    print(
        f"slower by (median of {len(pairs)} pairs of slices): "
        + ", ".join(f"{name} × {value:.2f}" for name, value in slower.items())
    )
    told_apart = odds(known, unknown)
    print(
        f"a failed login: a name that exists {statistics.median(known):.1f} ms, none {statistics.median(unknown):.1f} "
        f"ms (median of {len(known)} each), odds {told_apart:.2f} of 0.50"
    )
    good = slower["rate"] <= SLOWER_MAX and math.fabs(told_apart - 0.5) <= TOLD_APART_MAX
    return 0 if good else 1


def main() -> int:
    parser = argparse.ArgumentParser("python -m bench.guesses", description=__doc__)
    parser.add_argument("--guesses", type=int, default=10_000)
    parser.add_argument("--slice-s", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=300, help="failed logins of each kind that are timed")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
