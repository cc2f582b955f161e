"""What presence costs: ``python -m bench.presence``.

First alone and in simulated time, for ten minutes: users of whom half flap every second, each watched by fifty. Then
in real time beside messages, in one process with the SQLite store: half of the windows without the flapping. Ends with
exit code 1 when a bound does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from msgspec import Struct

from chatd import configuration, protocol
from chatd.app import Server
from chatd.connection import Connection
from chatd.metrics import Metrics
from chatd.model import Account, Acquaintance, Draft, conv_of
from chatd.presence.service import Presence, Watcher
from chatd.settings import PresenceSettings
from chatd.testing.server import GENEROUS
from chatd.testing.virtual_time import VirtualLoop

PRESENCE = b'{"type":"presence"'
MESSAGES = b'{"type":"messages"'
PARTS = ("alone", "beside", "growth")
GROWTH = ((2_500, 50, 1), (5_000, 50, 1), (10_000, 10, 1), (10_000, 200, 1), (5_000, 50, 2))  # users, watchers, devices
STEPS_PER_S = 100
FINE_STEPS_PER_S = 500  # in real time: frames of many clients come one by one and not in bursts
RSS_GROWTH_BYTES_MAX = 4_194_304


class Friends:
    """Everybody may watch everybody."""

    async def acquainted(self, user: str, others: Sequence[str]) -> dict[str, Acquaintance]:
        return {other: Acquaintance(True) for other in others}

    async def seen(self, times_ms: Mapping[str, int]) -> None:
        return None

    async def set_shows_last_seen(self, user: str, on: bool) -> bool:
        return True


class Listener:
    """A device that counts what it hears."""

    __slots__ = ("closest_s", "device", "frames", "full", "last_s", "loop", "user", "watcher")

    def __init__(self, loop: VirtualLoop, user: str, device: str) -> None:
        self.loop = loop
        self.user, self.device = user, device
        self.watcher: Watcher | None = None
        self.full = False
        self.frames = 0
        self.last_s = float("-inf")
        self.closest_s = float("inf")

    def hint(self, payload: bytes) -> None:
        now_s = self.loop.time()
        self.frames += 1
        self.closest_s = min(self.closest_s, now_s - self.last_s)
        self.last_s = now_s


class Alone(Struct):
    """Of simulated time. ``closest_s``: the shortest time between two frames of one subscriber."""

    users: int
    watchers: int
    devices: int
    cpu_share: float
    frames: int
    frames_per_interval: float
    closest_s: float
    rss_growth_bytes: int


def alone(*, users: int, watchers: int, devices: int, seconds: int, flapping: float) -> Alone:
    """Run the service by itself under a clock that does not wait; the processor's time is real."""
    loop = VirtualLoop()
    names = [f"u{n}" for n in range(users)]
    listeners = [Listener(loop, name, f"d{d}") for name in names for d in range(devices)]
    by_user: dict[str, list[Listener]] = {}
    for one in listeners:
        by_user.setdefault(one.user, []).append(one)

    async def run() -> tuple[float, int]:
        service = Presence(
            Friends(),
            PresenceSettings(),
            Metrics(),
            devices=lambda user: iter(by_user.get(user, ())),
            now_s=loop.time,
            now_ms=lambda: int(loop.time() * 1000),
        )
        for n, one in enumerate(listeners):
            service.connected(one, shows_last_seen=True)
            await service.watch(one, [names[(n // devices + k + 1) % users] for k in range(watchers)])
        await asyncio.sleep(60)  # what joining cost is over, and every buffer has its size
        flappers = [by_user[name] for name in names[: int(users * flapping)]]
        await _flap(service, flappers, 60)
        gc.collect()
        rss, began_s = _rss_bytes(), time.process_time()
        await _flap(service, flappers, seconds)
        spent_s = time.process_time() - began_s
        gc.collect()
        grown = _rss_bytes() - rss
        for one in listeners:
            service.lost(one)
        await service.close()
        return spent_s, grown

    try:
        spent_s, grown = loop.run_until_complete(run())
    finally:
        loop.close()
    frames = sum(one.frames for one in listeners)
    return Alone(
        users=users,
        watchers=watchers,
        devices=devices,
        cpu_share=round(spent_s / seconds, 4),
        frames=frames,
        frames_per_interval=round(frames / len(listeners) / ((seconds + 60) / PresenceSettings().interval_s), 3),
        closest_s=round(min(one.closest_s for one in listeners), 3),
        rss_growth_bytes=grown,
    )


async def _flap(service: Presence, flappers: Sequence[Sequence[Listener]], seconds: int) -> None:
    """Each of them changes its state once a second, spread over the second."""
    for step in range(seconds * STEPS_PER_S):
        away = (step // STEPS_PER_S) % 2 == 0
        for devices in flappers[step % STEPS_PER_S :: STEPS_PER_S]:
            for one in devices:
                service.status(one, away=away, inactive=False)
        await asyncio.sleep(1 / STEPS_PER_S)


# --- beside messages -----------------------------------------------------------------------------------------


class Wire:
    """A client that takes everything at once: it acknowledges messages and notes when they came."""

    def __init__(self, came: dict[str, float]) -> None:
        self.connection: Connection
        self.came = came
        self.presence_frames = 0
        self.caught_up = asyncio.Event()

    def write(self, payload: bytes) -> None:
        if payload.startswith(PRESENCE):
            self.presence_frames += 1
        elif payload.startswith(MESSAGES):
            frame = protocol.decode_server(payload)
            if isinstance(frame, protocol.Messages):
                self.came[frame.messages[-1].id or ""] = time.perf_counter()
                ack = protocol.encode(protocol.Ack(conv=frame.conv, seq=frame.messages[-1].seq))
                asyncio.get_running_loop().call_soon(self.connection.receive, ack)
        elif payload.startswith(b'{"type":"caught_up"'):
            self.caught_up.set()

    def close(self, code: int, reason: str) -> None:
        raise SystemExit(f"a session was closed: {code} {reason}")

    def hold(self, on: bool) -> None:
        return None


class Window(Struct):
    """Some seconds of messages, with or without flapping."""

    flapping: bool
    p50_ms: float
    p99_ms: float
    cpu_share: float
    presence_frames: int


class Beside:
    """A server without a socket, and its sessions."""

    def __init__(self, directory: Path, users: int) -> None:
        overrides = {
            **GENEROUS,
            "server.data_dir": str(directory),
            "limits.initial_history": 0,
        }
        self.server = Server(configuration.load(env={}, overrides=overrides))
        self.names = [f"u{n}" for n in range(users)]
        self.came: dict[str, float] = {}
        self.wires: list[Wire] = []

    async def prepare(self, watchers: int) -> None:
        """Users who know those next to them, connected and watching them."""
        await self.server.start(listen=False)
        users, store, half = len(self.names), self.server.store, watchers // 2
        pairs = [(self.names[n], self.names[(n + k) % users]) for n in range(users) for k in range(1, half + 1)]
        drafts = [Draft(conv_of(a, b), a, protocol.new_message_id(), "hi", 1) for a, b in pairs]
        for at in range(0, len(drafts), 10_000):
            await store.commit(drafts[at : at + 10_000], [])
        tokens = {}
        for name in self.names:
            await store.add_account(Account(name, None, False, False, 1))
            tokens[name] = await self.server.accounts.issue_token(name, "bench", 0)
        for n, name in enumerate(self.names):
            wire = Wire(self.came)
            wire.connection = Connection(self.server.sockets.services, wire)
            wire.connection.receive(protocol.encode(protocol.Hello(token=tokens[name])))
            await wire.caught_up.wait()
            near = tuple(self.names[(n + k) % users] for k in range(-half, half + 1) if k)
            wire.connection.receive(protocol.encode(protocol.Watch(users=near)))
            self.wires.append(wire)

    async def window(self, *, flapping: bool, seconds: float, per_s: float) -> Window:
        """Messages at a steady rate from user to neighbour; with ``flapping`` half of the users change every second."""
        sent: dict[str, float] = {}
        self.came.clear()
        frames, cpu_s, began = self._presence_frames(), time.process_time(), time.perf_counter()
        work = [self._send(sent, per_s, began + seconds)]
        if flapping:
            work.append(self._flap(began + seconds))
        await asyncio.gather(*work)
        spent_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - began
        await self._all_came(sent)
        times = [(self.came[name] - at_s) * 1000 for name, at_s in sent.items()]
        cuts = quantiles(times, n=100)
        return Window(flapping, cuts[49], cuts[98], spent_s / wall_s, self._presence_frames() - frames)

    async def _all_came(self, sent: Mapping[str, float]) -> None:
        async with asyncio.timeout(30):
            while not sent.keys() <= self.came.keys():  # noqa: ASYNC110 - the wires only note times, to cost nothing
                await asyncio.sleep(0.01)

    def _presence_frames(self) -> int:
        return sum(wire.presence_frames for wire in self.wires)

    async def _send(self, sent: dict[str, float], per_s: float, until: float) -> None:
        for n in _beats(per_s):
            at = n % (len(self.wires) - 1)
            name = protocol.new_message_id()
            frame = protocol.encode(protocol.Send(id=name, to=self.names[at + 1], body="x" * 256))
            sent[name] = time.perf_counter()
            self.wires[at].connection.receive(frame)
            if not await _next_beat(until, 1 / per_s):
                return

    async def _flap(self, until: float) -> None:
        flappers = self.wires[: len(self.wires) // 2]
        states = [protocol.encode(protocol.Status(state=state)) for state in ("away", "online")]
        for step in _beats(FINE_STEPS_PER_S):
            for wire in flappers[step % FINE_STEPS_PER_S :: FINE_STEPS_PER_S]:
                wire.connection.receive(states[(step // FINE_STEPS_PER_S) % 2])
            if not await _next_beat(until, 1 / FINE_STEPS_PER_S):
                return


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _beats(per_s: float) -> Iterator[int]:
    n = 0
    while True:
        yield n
        n += 1


async def _next_beat(until: float, pause_s: float) -> bool:
    await asyncio.sleep(pause_s)
    return time.perf_counter() < until


async def beside(options: argparse.Namespace) -> list[Window]:
    """Windows without and with flapping, in turns."""
    with tempfile.TemporaryDirectory(prefix="chatd-bench-", dir=options.dir) as directory:
        one = Beside(Path(directory), options.users)
        await one.prepare(options.watchers)
        try:
            await one.window(flapping=True, seconds=10, per_s=options.rate)
            return [
                await one.window(flapping=n % 2 == 1, seconds=options.seconds, per_s=options.rate)
                for n in range(2 * options.windows)
            ]
        finally:
            for wire in one.wires:
                wire.connection.lost()
            await one.server.stop()


def _middle(windows: Iterable[Window], what: str) -> float:
    return float(median(getattr(window, what) for window in windows))


def main() -> int:
    parser = argparse.ArgumentParser("python -m bench.presence", description=__doc__)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--watchers", type=int, default=50)
    parser.add_argument("--simulated-s", type=int, default=600, help="simulated seconds of the service alone")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each window beside messages")
    parser.add_argument("--windows", type=int, default=5, help="of either kind")
    parser.add_argument("--rate", type=float, default=200.0, help="messages a second")
    parser.add_argument("--dir", help="where the store lies: the disk that is measured")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    options = parser.parse_args()
    faults: list[str] = []
    if "alone" in options.only:
        found = alone(
            users=options.users, watchers=options.watchers, devices=1, seconds=options.simulated_s, flapping=0.5
        )
        say("alone", found)
        if found.closest_s < PresenceSettings().interval_s * 0.999:
            faults.append("a subscriber heard twice in one interval")
        if found.cpu_share > 0.2:
            faults.append("more than 20 % of a core")
        if found.rss_growth_bytes > RSS_GROWTH_BYTES_MAX:
            faults.append("memory grew")
    if "growth" in options.only:
        for users, watchers, devices in GROWTH:
            say("growth", alone(users=users, watchers=watchers, devices=devices, seconds=60, flapping=0.5))
        say("growth, nobody flaps", alone(users=10_000, watchers=50, devices=1, seconds=60, flapping=0.0))
    if "beside" in options.only:
        windows = asyncio.run(beside(options))
        quiet, flapping = [w for w in windows if not w.flapping], [w for w in windows if w.flapping]
        ratio = _middle(flapping, "p99_ms") / _middle(quiet, "p99_ms")
        for name, of in (("without", quiet), ("with", flapping)):
            figures = {what: round(_middle(of, what), 3) for what in ("p50_ms", "p99_ms", "cpu_share")}
            say(name, {**figures, "presence_frames": sum(w.presence_frames for w in of)})
        say("p99_ratio", round(ratio, 3))
        if ratio > 1.2:
            faults.append("p99 of messages rose by more than 20 %")
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


def say(name: str, value: Any) -> None:
    """Print one figure."""
    text = value if isinstance(value, float) else json.dumps(value if isinstance(value, dict) else _plain(value))
    print(f"{name}: {text}", flush=True)


def _plain(value: Struct) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__struct_fields__}


if __name__ == "__main__":
    sys.exit(main())
