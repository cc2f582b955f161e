"""A systemd as the first process of namespaces of its own: this machine's files under a layer that is thrown away."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 60.0
POLL_S = 0.05
PROGRAM = "systemd-nspawn"
CGROUPS = [
    path for name in ("", "systemd", "unified") if (path := Path("/sys/fs/cgroup", name, "cgroup.procs")).exists()
]
BOOT = """
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
for group in {groups}; do mkdir "$group"; echo $$ >"$group/cgroup.procs"; done
exec systemd-nspawn --boot --directory "$1/root" --machine {name} --bind-ro "$2:$3" --private-network \
  --link-journal no --keep-unit --register no --console pipe systemd.unit=basic.target
"""


class Machine:
    """A booted one. It has a loopback of its own and no other network, and this machine's programs and users."""

    def __init__(self, pid: int) -> None:
        """``pid``: of its first process, as it is seen from here."""
        self._pid = pid

    def command(self, *command: str) -> list[str]:
        """What runs this in there, as root."""
        env = ("env", "-i", f"PATH={os.environ['PATH']}:/usr/local/bin:/usr/sbin:/usr/bin", "XDG_STATE_HOME=/run/state")
        return ["nsenter", "--target", str(self._pid), *(f"-{kind}" for kind in "muinpC"), *env, *command]

    def run(self, *command: str, given: str = "", code: int | None = 0) -> str:
        """Run a command to its end. Returns: what it said. ``code``: how it must end; None: however it likes."""
        ended = subprocess.run(
            self.command(*command), input=given, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        said = ended.stdout + ended.stderr
        assert code in (None, ended.returncode), f"{command}: exit code {ended.returncode}:\n{said}"
        return said

    def until(self, pattern: str, *command: str) -> str:
        """Run a command again and again until it says that. Returns: what it said."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not re.search(pattern, said := self.run(*command, code=None)):
            assert time.monotonic() < deadline_s, f"no {pattern!r} of {command} in {PATIENCE_S} s:\n{said}"
            time.sleep(POLL_S)
        return said

    def shows(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        told = self.run("systemctl", "show", *(f"--property={name}" for name in names), unit)
        return dict(line.split("=", 1) for line in told.splitlines())


@contextmanager
def machine(directory: Path, shown: Path, place: str) -> Iterator[Machine]:
    """Boot one, with ``directory`` (empty) for its layer, and with ``shown`` to be read at ``place``."""
    assert shutil.which(PROGRAM) is not None, f"no {PROGRAM}: install it (Debian: apt-get install systemd-container)"
    assert os.geteuid() == 0, "only root can boot a systemd in namespaces of its own"
    name = f"chatd-test-{os.getpid()}"
    groups = [path.parent / name for path in CGROUPS]
    script = BOOT.format(groups=" ".join(map(str, groups)), name=name)
    with (directory.parent / f"{name}.log").open("w+") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "-", directory, shown, place],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )
        try:
            yield _booted(process, Path(log.name))
        finally:
            for pid in _children(process):
                os.kill(pid, signal.SIGKILL)  # and with its first process all others
            process.wait()
            for group in groups:
                _remove(group)


def _booted(process: subprocess.Popen[bytes], log: Path) -> Machine:
    """Wait until everything that belongs to the boot has been started."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, f"it has not booted in {PATIENCE_S} s:\n{log.read_text()}"
        for pid in _children(process):
            running = Machine(pid)
            if running.run("systemctl", "is-system-running", code=None).strip() in ("running", "degraded"):
                return running
        time.sleep(POLL_S)


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("ascii").split()]


def _remove(group: Path) -> None:
    """A control group and all below it, as soon as nothing runs there any more."""
    deadline_s = time.monotonic() + PATIENCE_S
    while group.exists():
        try:
            for path, _, _ in os.walk(group, topdown=False):
                os.rmdir(path)
        except OSError:  # the kernel is not done with what was there
            assert time.monotonic() < deadline_s, f"{group} is still in use"
            time.sleep(POLL_S)
