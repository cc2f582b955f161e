"""The server of a hostile run, in a process of its own, with a probe on its event loop.

``python -m chatd.testing.hostile.server DIRECTORY USER…`` prints one JSON line with its port and tokens. Each line on
its standard input is answered with what the probe saw and how many frames were judged; the end of the input ends it.
It logs to standard error.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

import structlog

from chatd.settings import LimitSettings
from chatd.testing.server import ChatServer

PROBE_S = 0.005
DEVICES = 8
# Connections as fast as they come; everything else as a server has it.
RATES = ("sends_per_s", "sends_burst", "frames_per_s", "frames_burst", "bytes_per_s", "bytes_burst")
SETTINGS = {f"limits.{name}": getattr(LimitSettings(), name) for name in RATES}


class Probe:
    """How long the loop did not run: by the clock, and by the processor time that its thread used meanwhile.

    The clock also counts what other processes took from it; the processor time leaves out what it waited for.
    """

    def __init__(self) -> None:
        self.wall_s = 0.0
        self.cpu_s = 0.0

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            wall_s, cpu_s = time.perf_counter(), time.thread_time()
            await asyncio.sleep(PROBE_S)
            self.wall_s = max(self.wall_s, time.perf_counter() - wall_s - PROBE_S)
            self.cpu_s = max(self.cpu_s, time.thread_time() - cpu_s)

    def report(self) -> dict[str, float]:
        """What was seen since the last report."""
        seen = {"stall_ms": self.wall_s * 1000, "stall_cpu_ms": self.cpu_s * 1000, "rss_kib": _rss_kib()}
        self.wall_s = self.cpu_s = 0.0
        return seen


def _rss_kib() -> float:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize() / 1024


async def _serve(directory: Path, users: list[str]) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with ChatServer(store=directory, users=users, settings=SETTINGS) as server:
        tokens = {user: [await server.token(user, str(i)) for i in range(DEVICES)] for user in users}
        sys.stdout.write(json.dumps({"port": server.server.port, "tokens": tokens}) + "\n")
        sys.stdout.flush()
        probe = Probe()
        watching = asyncio.create_task(probe.run())
        while await reader.readline():
            sys.stdout.write(json.dumps({**probe.report(), "judged": server.server.metrics.frames_received}) + "\n")
            sys.stdout.flush()
        watching.cancel()


def main() -> None:
    """See above."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    logging.basicConfig(stream=sys.stderr, format="stdlib %(levelname)s %(message)s")
    factory = None
    with suppress(ImportError):  # a platform without uvloop
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(Path(sys.argv[1]), sys.argv[2:]))


if __name__ == "__main__":
    main()
