"""The end of a process that is certain, whatever has become of its output."""

from __future__ import annotations

import errno
import io
import sys
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
