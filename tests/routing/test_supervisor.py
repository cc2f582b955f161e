"""The supervisor with workers that are real processes, and times that are short."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from cluster_rig import PATIENCE_S

from chatd.routing import supervisor
from chatd.routing.router import Router
from chatd.routing.supervisor import Supervisor


async def test_a_worker_that_hangs_is_killed_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "HUNG_S_MAX", 2.5)  # it says that it is ready once a second
    monkeypatch.setattr(supervisor, "LOOK_S", 0.1)
    monkeypatch.setattr(supervisor, "BACKOFF_S_MIN", 0.05)
    path = tmp_path / "w"
    router = Router({"w": path}, head_s=1.0)
    command = [sys.executable, "-m", "chatd", "serve", "--handed", str(path), "--supervised", "--data-dir", f"{path}-d"]
    workers = Supervisor({"w": command}, router, end_s=2.0)
    await router.start("127.0.0.1", 0)
    workers.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            await router.until(lambda: router.ready("w"))
            first = workers.processes["w"]
            os.kill(first.pid, signal.SIGSTOP)
            assert await first.wait() == -signal.SIGKILL
            await router.until(lambda: router.ready("w") and workers.processes["w"] is not first)
        assert await workers.stop()
    finally:
        workers.kill()
        await router.stop()


async def test_a_worker_that_is_drained_stays_away_until_a_restart_and_is_killed_if_it_hangs(tmp_path: Path) -> None:
    path = tmp_path / "w"
    router = Router({"w": path}, head_s=1.0)
    command = [sys.executable, "-m", "chatd", "serve", "--handed", str(path), "--supervised", "--data-dir", f"{path}-d"]
    workers = Supervisor({"w": command}, router, end_s=0.5)
    await router.start("127.0.0.1", 0)
    workers.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            await router.until(lambda: router.ready("w"))
            assert (workers.state("w", ready=True), workers.starts("w")) == ("ready", 1)
            first = workers.processes["w"]
            os.kill(first.pid, signal.SIGSTOP)
            workers.drain("w")
            workers.drain("w")  # once more does nothing
            assert workers.state("w", ready=True) == "draining"
            assert await first.wait() == -signal.SIGKILL
            assert (workers.state("w", ready=False), workers.pid("w"), workers.starts("w")) == ("drained", 0, 1)
            workers.restart()
            await router.until(lambda: router.ready("w") and workers.processes["w"] is not first)
            assert (workers.state("w", ready=True), workers.starts("w")) == ("ready", 2)
    finally:
        workers.kill()
        await workers.stop()
        await router.stop()


def test_one_that_was_never_ready_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    router = Router({}, head_s=1.0)
    watch = Supervisor({}, router, end_s=40.0)
    heard_at_s = {"starts": float("-inf"), "again": 5.0, "lives": 1_000.0}
    monkeypatch.setattr(router, "heard_at_s", heard_at_s.__getitem__)
    watch._started_at_s = dict.fromkeys(heard_at_s, 100.0)
    times_s = (130.0, 159.0, 161.0, 1_030.0, 1_041.0)
    hung = {name: [at_s for at_s in times_s if watch._hangs(name, at_s)] for name in heard_at_s}
    assert hung == {"starts": [161.0, 1_030.0, 1_041.0], "again": [161.0, 1_030.0, 1_041.0], "lives": [1_041.0]}
