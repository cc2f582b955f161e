"""What a process says of itself is what the system says of it."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from chatd.metrics import process


def test_open_files_are_counted_with_and_without_the_kernel_s_help(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = process.open_files()
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(50)]
    try:
        assert process.open_files() == before + 50
        monkeypatch.setattr(process, "FILES", tmp_path)
        for number in range(4):
            (tmp_path / str(number)).touch()
        stat = os.stat_result((0o40700, 0, 0, 0, 0, 0, 0, 0, 0, 0))  # older kernels: a size of 0
        monkeypatch.setattr(Path, "stat", lambda path: stat)
        assert process.open_files() == 4
    finally:
        for fd in files:
            os.close(fd)


def test_a_system_without_proc_tells_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "FILES", tmp_path / "absent")
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: (_ for _ in ()).throw(FileNotFoundError(path)))
    assert (process.open_files(), process.resident_bytes()) == (0, 0)


def test_memory_time_and_limits_are_those_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    resident = int(status["VmRSS"].removesuffix("kB")) * 1024  # the peak of getrusage may lag behind it
    assert process.resident_bytes() == pytest.approx(resident, rel=0.05)
    assert 0 < process.cpu_seconds() <= time.process_time()
    assert process.started_s() < time.time()
    assert process.open_files_max() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert process.open_files_max() == float("inf")
