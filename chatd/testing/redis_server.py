"""A real ``redis-server`` on a loopback port, in a temporary directory, as a child process.

::

    with RedisServer(appendfsync="always") as redis:
        ...  # redis.url

It is no part of any event loop, so one may serve many tests. Starting takes some 20 ms and blocks.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import redis

from chatd.testing.ports import free_port

Appendfsync = Literal["always", "everysec", "no"]

BINARY = "redis-server"
MISSING = "no redis-server on the PATH: install it (Debian: apt-get install redis-server)"
START_S = 20.0
POLL_S = 0.01


class RedisServer:
    """`start` and `close`, or a context manager. Its files are gone after `close`, not after `stop` or `kill`.

    ``appendfsync``: as Redis has it, or None: no file of commands at all. ``options``: further lines of redis.conf.
    ``arguments``: further ones of the command.
    """

    def __init__(
        self,
        *,
        appendfsync: Appendfsync | None = None,
        options: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="chatd-redis-")
        self._log = Path(self._directory.name) / "log"
        self.port = free_port()
        self._options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": self._directory.name,
            "save": '""',
            "appendonly": "no" if appendfsync is None else "yes",
            "appendfsync": appendfsync or "no",
            "daemonize": "no",
            "logfile": str(self._log),
            **(options or {}),
        }
        self._arguments = list(arguments)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:port/0``."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the running process. Raises: RuntimeError – it does not run."""
        return self._running().pid

    @property
    def runs(self) -> bool:
        """Whether it was started and not ended."""
        return self._process is not None

    def option(self, name: str) -> str:
        """What an option of redis.conf was set to."""
        return self._options[name]

    def set_option(self, name: str, value: str) -> None:
        """For the next `start`."""
        self._options[name] = value

    def command(self, *args: str | int) -> Any:
        """Tell it something; its answer, with text for bytes. Raises: redis.RedisError."""
        with redis.Redis(port=self.port, decode_responses=True, protocol=2) as client:
            client.response_callbacks.clear()
            return client.execute_command(*args)

    def cut_off(self) -> None:
        """From now on no replica gets anything of it, until it is started again."""
        self.command("ACL", "SETUSER", "default", "-psync", "-sync")
        self.command("CLIENT", "KILL", "TYPE", "replica")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("redis-server does not run")
        return self._process

    def __enter__(self) -> RedisServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start, with the data of an earlier run, and wait until it answers. Raises: RuntimeError – with its log."""
        binary = shutil.which(BINARY)
        if binary is None:
            raise RuntimeError(MISSING)
        config = Path(self._directory.name) / "redis.conf"
        config.write_text("".join(f"{name} {value}\n" for name, value in self._options.items()))
        self._process = subprocess.Popen([binary, str(config), *self._arguments], stdin=subprocess.DEVNULL)  # noqa: S603 - our own
        deadline_s = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.kill()
                log = self._log.read_text("utf-8", "replace")[-500:] if self._log.exists() else "no log"
                raise RuntimeError(f"redis-server does not answer: {log}")
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        """Whether it has loaded its data and takes commands."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=START_S) as link:
                link.sendall(b"PING\r\n")
                return link.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def pause(self) -> None:
        """Freeze the process: its sockets stay open and nothing is answered."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on."""
        self._running().send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it as an operator does; its files stay for the next `start`."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does; its files stay for the next `start`."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)  # a frozen one ends only when it goes on
            process.wait()

    def close(self) -> None:
        """Kill it and remove its files."""
        self.kill()
        self._directory.cleanup()
