"""``chatd migrate-store`` on a store of many conversations: ``python -m bench.move_store --messages 1000000``.

A data directory is filled, and moved to a Redis of its own by the command itself, in a process of its own, which reads
both stores again and compares them. CPU is what counts on a shared machine.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis

from chatd.model import Account, Advance, Device, Draft, conv_of
from chatd.protocol import new_message_id
from chatd.settings import StoreSettings
from chatd.store.sqlite import SqliteStore
from chatd.testing.redis_server import RedisServer

BATCH = 1_000
CONVERSATIONS_PER_USER = 4
DEVICES = ("phone", "web")


def fill(directory: Path, users: int, messages: int, seed: int) -> None:
    """Fill a data directory."""
    asyncio.run(_fill(directory, users, messages, seed))


async def _fill(directory: Path, users: int, messages: int, seed: int) -> None:
    """Users with two devices each, and messages of 12 to 180 bytes in some conversations of each."""
    dice = random.Random(seed)
    store = SqliteStore(directory, StoreSettings(synchronous="normal"))
    await store.open()
    names = [f"user{number}" for number in range(users)]
    for name in names:
        await store.add_account(Account(name, None, False, False, 1))
        for device in DEVICES:
            await store.put_device(Device(name, device, device, 1), dice.randbytes(32))
    convs = [conv_of(name, dice.choice(names)) for name in names for _ in range(CONVERSATIONS_PER_USER)]
    for _ in range(0, messages, BATCH):
        drafts = []
        for conv in dice.choices(convs, k=BATCH):
            body = "hello " * dice.randint(2, 30)
            drafts.append(Draft(conv, dice.choice(conv.split(":")), new_message_id(), body, 1))
        marks = [Advance(d.conv, d.sender, dice.choice(DEVICES), 100, 50) for d in drafts[: BATCH // 3]]
        await store.commit(drafts, marks)
    await store.close()


def move(directory: Path, messages: int) -> int:
    """Run the command and print what it cost. Returns: its exit code."""
    with RedisServer(appendfsync="everysec") as server, redis.Redis(port=server.port) as client:
        before = client.info()
        begun_s = time.monotonic()
        command = [sys.executable, "-m", "chatd", "migrate-store", f"sqlite:{directory}", server.url]
        process = subprocess.Popen(command)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds, info = time.monotonic() - begun_s, client.info()
        cpu_s = used.ru_utime + used.ru_stime
        redis_s = sum(info[key] - before[key] for key in ("used_cpu_user", "used_cpu_sys"))
        grown = info["used_memory"] - before["used_memory"]
        print(f"{messages / seconds:,.0f} messages/s, copied and compared")
        print(f"CPU a message: {cpu_s / messages * 1e6:.0f} us in chatd, {redis_s / messages * 1e6:.0f} us in Redis")
        print(f"memory: {used.ru_maxrss / 1024:.0f} MiB in chatd, {grown / messages:.0f} bytes a message in Redis")
    return process.returncode


def main() -> int:
    """Fill, move, tell."""
    parser = argparse.ArgumentParser("python -m bench.move_store", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chatd-move-") as directory:
        data = Path(directory) / "data"
        # A process of its own, or its memory would be counted as that of the command.
        filling = multiprocessing.get_context("spawn").Process(
            target=fill, args=(data, args.users, args.messages, args.seed)
        )
        filling.start()
        filling.join()
        return move(data, args.messages)


if __name__ == "__main__":
    sys.exit(main())
