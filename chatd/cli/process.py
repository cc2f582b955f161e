"""What a process that serves needs around its event loop: open files, a word to systemd, a certain end."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import click
import structlog

from chatd.errors import EXIT_FAILED

END_GRACE_S = 5.0
"""Beyond ``timing.drain_s``: what the store may need for its last commit and checkpoint."""
SPARE_FILES = 256


def open_streams() -> None:
    """Give whoever was started without standard streams empty ones: else the next files opened would be those."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - as long as we run


def say(text: str) -> None:
    """Tell it on standard output. Where that takes nothing, whoever serves goes on."""
    try:
        click.echo(text)
    except OSError as exc:
        structlog.get_logger("chatd").warning("not_said", error=exc.strerror or str(exc))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # what is in the buffer still
        os.close(nowhere)


def end_now() -> NoReturn:
    """End the process without closing anything: closing a store would be another fsync."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # nobody reads it, its disk is full, it was never there
            stream.flush()
    os._exit(EXIT_FAILED)


def tidy_at_sigterm() -> None:
    """Let SIGTERM end a command as ^C does, so that it takes away what it has half made; exit code 143."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def raise_open_files(wanted: int) -> None:
    """A connection needs a file: take what the hard limit allows, as far as it is wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def notify_ready() -> None:
    """Tell systemd, if it waits for that (``Type=notify``), that the start is over. Said to nobody else, and once."""
    path = os.environ.pop("NOTIFY_SOCKET", "")
    if not path:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.setblocking(False)
            link.sendto(b"READY=1", f"\0{path[1:]}" if path.startswith("@") else path)
    except OSError as exc:
        structlog.get_logger("chatd").warning("not_notified", path=path, error=str(exc))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the event loop: uvloop where there is one."""
    try:
        import uvloop
    except ImportError:  # it does not exist everywhere
        return asyncio.new_event_loop
    return uvloop.new_event_loop
