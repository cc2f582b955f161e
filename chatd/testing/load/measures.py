"""What is measured against a running server. Each measure starts a server of its own on an empty directory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import cast

from msgspec import Struct

from chatd.model import Appended, Draft, conv_of, members_of
from chatd.store.sqlite import SqliteStore
from chatd.testing.history import Recorder, Report
from chatd.testing.load.fleet import Fleet, judge, prepare
from chatd.testing.load.process import ServerProcess
from chatd.testing.load.talk import NEW_ID, Ids, Talk, body_of, pair_names

WARM_UP_S = 2.0
FILL_BATCH = 256
WARM_CONNECTIONS = 100
SETTLED_KIB = 64
SETTLE_S_MAX = 60.0


class Bench(Struct, frozen=True):
    """Where and how: ``directory`` exists and is empty; ``command`` serves."""

    directory: Path
    command: Sequence[str]
    ids: Ids = "v7"


async def start_ms(bench: Bench) -> float:
    """From the start of the process until it accepts a connection."""
    async with ServerProcess(bench.directory, bench.command) as server:
        return server.start_ms


class Window(Struct, frozen=True):
    """One stretch of saturation. ``*_cpu``: how much of one core; ``cpu_us``: of the server, a delivered message."""

    delivered_per_s: float
    cpu_us: float
    disk_bytes: float
    server_cpu: float
    load_cpu: float


class Saturation(Struct, frozen=True):
    """Closed loop: every user has one message in flight."""

    windows: list[Window]
    report: Report

    def middle(self, what: Callable[[Window], float]) -> float:
        """The median over the windows."""
        return median(what(window) for window in self.windows)


async def saturation(bench: Bench, *, pairs: int, seconds: float, windows: int, filled: int = 0) -> Saturation:
    """``filled``: messages that are in the store before, in as many other conversations."""
    names = pair_names(pairs)
    users = [user for pair in names for user in pair]
    recorder = Recorder("load")

    async def fill(store: SqliteStore) -> None:
        await fill_store(store, [conv_of(f"x{n:04}", f"y{n:04}") for n in range(pairs)], filled)

    tokens = await prepare(bench.directory, users, fill if filled else None)
    async with ServerProcess(bench.directory, bench.command) as server, Fleet(server, tokens, recorder) as fleet:
        talk = Talk(fleet, names, bench.ids)
        talk.start()
        await fleet.pause(min(WARM_UP_S, seconds))
        found = [await _window(server, fleet, talk, seconds) for _ in range(windows)]
        await talk.settle()
        await fleet.read_logs(talk.readers)
    return Saturation(found, await judge(bench.directory, recorder, unrecorded=filled))


async def _window(server: ServerProcess, fleet: Fleet, talk: Talk, seconds: float) -> Window:
    delivered, cpu_s, written = talk.delivered, server.cpu_s, server.written_bytes
    load_s, began_s = time.process_time(), time.perf_counter()
    await fleet.pause(seconds)
    delivered, cpu_s, written = talk.delivered - delivered, server.cpu_s - cpu_s, server.written_bytes - written
    load_s, wall_s = time.process_time() - load_s, time.perf_counter() - began_s
    each = max(1, delivered)
    return Window(delivered / wall_s, cpu_s / each * 1e6, written / each, cpu_s / wall_s, load_s / wall_s)


class Steady(Struct, frozen=True):
    """Open loop. Milliseconds from the write of a `send` to the recipient's `messages`, and to its receipt."""

    per_s: float
    messages: int
    delivered_p50_ms: float
    delivered_p99_ms: float
    receipt_p50_ms: float
    receipt_p99_ms: float
    late_p99_ms: float
    report: Report


async def steady(bench: Bench, *, pairs: int, per_s: float, seconds: float) -> Steady:
    """Sends at random times, ``per_s`` in the mean, by all users in turn, whatever the server does."""
    names = pair_names(pairs)
    recorder = Recorder("load")
    tokens = await prepare(bench.directory, [user for pair in names for user in pair])
    async with ServerProcess(bench.directory, bench.command) as server, Fleet(server, tokens, recorder) as fleet:
        talk = Talk(fleet, names, bench.ids)
        await talk.at_rate(per_s, min(WARM_UP_S, seconds))
        await talk.settle()
        for figures in (talk.to_recipient_s, talk.to_receipt_s, talk.late_s):
            figures.clear()
        await talk.at_rate(per_s, seconds)
        await talk.settle()
        await fleet.read_logs(talk.readers)
    return Steady(
        per_s,
        len(talk.to_receipt_s),
        percentile_ms(talk.to_recipient_s, 0.50),
        percentile_ms(talk.to_recipient_s, 0.99),
        percentile_ms(talk.to_receipt_s, 0.50),
        percentile_ms(talk.to_receipt_s, 0.99),
        percentile_ms(talk.late_s, 0.99),
        await judge(bench.directory, recorder),
    )


def percentile_ms(seconds: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of the values does not exceed, in milliseconds."""
    return sorted(seconds)[max(0, math.ceil(part * len(seconds)) - 1)] * 1000


class CatchUp(Struct, frozen=True):
    """One device that was off, from its hello to `caught_up`, acknowledging what comes."""

    per_s: float
    cpu_us: float
    report: Report


async def catch_up(bench: Bench, *, messages: int, conversations: int) -> CatchUp:
    """``messages``: that the device missed, spread over ``conversations``."""
    recorder = Recorder("load")
    convs = [conv_of("reader", f"writer{n:03}") for n in range(conversations)]

    async def fill(store: SqliteStore) -> None:
        device = (await store.devices("reader"))[0].device
        await store.enroll("reader", device, initial_history=0, newest_max=100)
        await fill_store(store, convs, messages, recorder)

    tokens = await prepare(bench.directory, ["reader"], fill)
    async with ServerProcess(bench.directory, bench.command) as server:
        cpu_s, began_s = server.cpu_s, time.perf_counter()
        async with Fleet(server, tokens, recorder) as fleet:
            wall_s, cpu_s = time.perf_counter() - began_s, server.cpu_s - cpu_s
            await fleet.read_logs(dict.fromkeys(convs, fleet.devices["reader"]))
    return CatchUp(messages / wall_s, cpu_s / messages * 1e6, await judge(bench.directory, recorder))


async def fill_store(store: SqliteStore, convs: Sequence[str], messages: int, recorder: Recorder | None = None) -> None:
    """Put messages into the store, without a server, over all the conversations in turn; record them as sent."""
    writers = [(members_of(conv) or (conv, conv))[1] for conv in convs]
    records = [recorder.device(writer, "fill") for writer in writers] if recorder is not None else []
    for first in range(0, messages, FILL_BATCH):
        numbers = range(first, min(first + FILL_BATCH, messages))
        drafts = [
            Draft(convs[n % len(convs)], writers[n % len(convs)], NEW_ID["v7"](), body_of(n), 1 + n) for n in numbers
        ]
        if records:
            for n, draft in zip(numbers, drafts, strict=True):
                records[n % len(convs)].invoke(draft.conv, draft.id, draft.body)
        committed = await store.commit(drafts, ())
        if records:
            for n, result in zip(numbers, committed.appended, strict=True):
                message = cast(Appended, result).message  # every id is new
                records[n % len(convs)].ok(message.conv, message.id, message.seq, message.ts_ms)


class Idle(Struct, frozen=True):
    """Connections that do nothing. ``rss_kib`` of the server, for each of them."""

    connections: int
    rss_kib: float
    report: Report


async def idle(bench: Bench, *, connections: int, hold_s: float) -> Idle:
    """A user each, said hello, caught up; memory is read when it has not moved for ``hold_s``.

    What the first WARM_CONNECTIONS take belongs to the server itself (code, caches) and does not count.
    """
    recorder = Recorder("load")
    users = [f"u{n:05}" for n in range(WARM_CONNECTIONS + connections)]
    tokens = await prepare(bench.directory, users)
    first = {user: tokens[user] for user in users[:WARM_CONNECTIONS]}
    async with ServerProcess(bench.directory, bench.command) as server, Fleet(server, first, recorder) as fleet:
        before_kib = await _settled_kib(server, fleet, min(hold_s, WARM_UP_S))
        await fleet.connect(tokens, users[WARM_CONNECTIONS:])
        after_kib = await _settled_kib(server, fleet, hold_s)
        await fleet.read_logs({})
    return Idle(connections, (after_kib - before_kib) / connections, await judge(bench.directory, recorder))


async def _settled_kib(server: ServerProcess, fleet: Fleet, hold_s: float) -> int:
    """Resident memory once it has stayed within SETTLED_KIB for ``hold_s``, or after SETTLE_S_MAX."""
    began_s = since_s = time.perf_counter()
    kib = server.rss_kib
    while (now_s := time.perf_counter()) - since_s < hold_s and now_s - began_s < SETTLE_S_MAX:
        await fleet.pause(0.25)
        if abs(server.rss_kib - kib) > SETTLED_KIB:
            kib, since_s = server.rss_kib, now_s
    return server.rss_kib
