"""What is measured of the store alone, without a server: bytes to the disk, and whether its cost stays flat."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from msgspec import Struct

from chatd.model import Draft, conv_of
from chatd.settings import StoreSettings
from chatd.store.sqlite import SqliteStore
from chatd.testing.load.talk import NEW_ID, Ids, body_of

BATCH = 256
CONVERSATIONS = 50


class Segment(Struct, frozen=True):
    """A stretch of commits; ``messages``: in the store after it. CPU is of the whole process, in commits only."""

    messages: int
    cpu_us: float
    disk_bytes: float


async def segments(directory: Path, *, messages: int, parts: int, ids: Ids) -> list[Segment]:
    """Commit messages in batches of BATCH, each batch over CONVERSATIONS, with ``synchronous=full``."""
    store = SqliteStore(directory, StoreSettings())
    pairs = [(f"a{n:04}", f"b{n:04}") for n in range(CONVERSATIONS)]
    convs = [conv_of(*pair) for pair in pairs]
    batches = messages // parts // BATCH
    found: list[Segment] = []
    await store.open()
    try:
        number = 0
        for _ in range(parts):
            cpu_s, written = 0.0, _written_bytes()
            for _ in range(batches):
                drafts = []
                for _ in range(BATCH):
                    number += 1
                    n = number % CONVERSATIONS
                    sender = pairs[n][number // CONVERSATIONS % 2]
                    drafts.append(Draft(convs[n], sender, NEW_ID[ids](), body_of(number), number))
                began_s = time.process_time()
                await store.commit(drafts, ())
                cpu_s += time.process_time() - began_s
            each = batches * BATCH
            found.append(Segment(number, cpu_s / each * 1e6, (_written_bytes() - written) / each))
    finally:
        await store.close()
    return found


def flat_ratio(found: list[Segment]) -> float:
    """CPU a message at the end over CPU at the beginning: medians of three segments, the very first one left out."""
    return median(s.cpu_us for s in found[-3:]) / median(s.cpu_us for s in found[1:4])


def _written_bytes() -> int:
    for line in Path("/proc/self/io").read_text("ascii").splitlines():
        if line.startswith("write_bytes:"):
            return int(line.partition(":")[2])
    raise OSError("/proc/self/io has no write_bytes")
