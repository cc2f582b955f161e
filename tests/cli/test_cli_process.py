"""The end of a process that is certain, whatever has become of its output."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from chatd import configuration
from chatd.app import Server
from chatd.cli import process
from chatd.errors import StoreBroken


class _Ended(BaseException):
    """Instead of the end of this process."""


class _Full(io.StringIO):
    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("stream", [_Full(), None])
def test_it_ends_though_its_output_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None
) -> None:
    def ended(code: int) -> NoReturn:
        raise _Ended(code)

    monkeypatch.setattr("os._exit", ended)
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(_Ended, match="1"):
        process.end_now()


HALF = """
import signal, sys
from pathlib import Path
from chatd.cli.process import tidy_at_sigterm
from chatd.newfile import new_file
tidy_at_sigterm()
with new_file(Path(sys.argv[1])) as (file, _):
    print("half", flush=True)
    signal.pause()
"""


def test_sigterm_leaves_nothing_half_made(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HALF, str(tmp_path / "x")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as half:
        assert half.stdout is not None
        assert half.stdout.readline() == b"half\n"
        assert [one.name for one in tmp_path.iterdir()] == ["x.part"]
        half.terminate()
        assert half.wait(30) == 143
    assert list(tmp_path.iterdir()) == []


def test_a_broken_store_ends_the_process_though_the_log_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(event: str, **fields: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("chatd.app.log.critical", full, raising=False)
    told: list[StoreBroken] = []
    settings = configuration.load(env={}, overrides={"store.kind": "memory"})
    server = Server(settings, on_broken=told.append)
    broken = StoreBroken("the disk cannot be trusted")
    with pytest.raises(OSError, match="No space"):
        server._store_broke(broken)
    assert told == [broken]
