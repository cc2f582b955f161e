"""Two processes write one conversation through one Redis, each message tried at both: ``python -m bench.two_writers``.

Each process sends what both users say, in batches and in an order of its own, so that every message is offered by
both, and many at the same time. In the end the log is 1…n without a gap, each id stands in it once, and every answer
that either process ever got names the seq at which the message stands. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import sys
import time
from collections.abc import Iterator

from chatd import configuration
from chatd.model import Appended, Draft, conv_of
from chatd.protocol import new_message_id
from chatd.store.redis import RedisStore
from chatd.testing.redis_server import RedisServer
from chatd.testing.server import GENEROUS

USERS = ("alice", "bob")
CONV = conv_of(*USERS)
BATCH = 100
PAGE = 1_000


def store_of(url: str) -> RedisStore:
    return RedisStore(
        configuration.load(env={}, overrides={**GENEROUS, "store.kind": "redis", "store.redis_url": url}).store
    )


def batches(ids: list[str], seed: int) -> Iterator[list[Draft]]:
    """All messages in this process's order; the sender and the body follow from the id, which both processes know."""
    order = list(ids)
    dice = random.Random(seed)
    for at in range(0, len(order), 10 * BATCH):  # near each other, so that both offer the same ones at the same time
        part = order[at : at + 10 * BATCH]
        dice.shuffle(part)
        order[at : at + 10 * BATCH] = part
    for at in range(0, len(order), BATCH):
        yield [Draft(CONV, USERS[int(name[-1], 16) % 2], name, f"body of {name}", 1) for name in order[at : at + BATCH]]


async def write(url: str, ids: list[str], seed: int) -> dict[str, int]:
    """Offer every message. Returns: the seq that this process was told for each."""
    store = store_of(url)
    await store.open()
    told: dict[str, int] = {}
    try:
        for drafts in batches(ids, seed):
            for draft, result in zip(drafts, (await store.commit(drafts, [])).appended, strict=True):
                if not isinstance(result, Appended):
                    raise SystemExit(f"{draft.id}: {result}")
                told[draft.id] = result.message.seq
    finally:
        await store.close()
    return told


def process(url: str, ids: list[str], seed: int, results: multiprocessing.SimpleQueue[dict[str, int]]) -> None:
    results.put(asyncio.run(write(url, ids, seed)))


async def log_of(url: str) -> dict[str, int]:
    """Id → seq of the whole log. Exits: a gap, or an id that stands twice."""
    store = store_of(url)
    await store.open()
    found: dict[str, int] = {}
    try:
        after = 0
        while page := await store.read(CONV, after=after, limit=PAGE, bytes_max=2**30):
            for message in page:
                if message.seq != after + 1 or message.id in found:
                    raise SystemExit(f"after #{after} comes #{message.seq}, {message.id}")
                found[message.id] = after = message.seq
    finally:
        await store.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser("python -m bench.two_writers", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    options = parser.parse_args()
    ids = [new_message_id() for _ in range(options.messages)]
    context = multiprocessing.get_context("spawn")
    with RedisServer(appendfsync="everysec") as redis:
        results: multiprocessing.SimpleQueue[dict[str, int]] = context.SimpleQueue()
        began_s = time.monotonic()
        writers = [context.Process(target=process, args=(redis.url, ids, seed, results)) for seed in (1, 2)]
        for one in writers:
            one.start()
        told = [results.get() for _ in writers]
        for one in writers:
            one.join()
        seconds = time.monotonic() - began_s
        log = asyncio.run(log_of(redis.url))
    wrong = sum(answer[name] != log.get(name) for answer in told for name in ids)
    print(
        f"{len(log)} messages, 1…{max(log.values())} without a gap, each id once; "
        f"{sum(map(len, told))} answers of two processes in {seconds:.1f} s, {wrong} of them wrong"
    )
    return 1 if wrong or len(log) != options.messages else 0


if __name__ == "__main__":
    sys.exit(main())
