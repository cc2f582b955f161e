"""The machine: disk, clock, ports, open files, the certificate."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from chatd.cli.process import SPARE_FILES
from chatd.doctor.finding import Finding, size
from chatd.settings import Settings, host_and_port

FREE_BYTES_FAIL = 16 * 1024 * 1024
FREE_PART_WARN = 0.05
INODES_FAIL = 100
AHEAD_MS_WARN = 60_000
CLOCK_LOOK_S = 0.1
CLOCK_STEP_S_WARN = 0.05
BEGINNING_S = datetime(2026, 1, 1, tzinfo=UTC).timestamp()  # this program is younger
CERTIFICATE_WARN = timedelta(days=14)
OURS = "set server.host to an address of this machine"
LISTENING = "0A"  # the state in /proc/net/tcp


def disk(directory: Path) -> Iterator[Finding]:
    """Room for the log, and for a copy as an upgrade and a backup make it."""
    if not directory.is_dir():
        return
    usage, about = shutil.disk_usage(directory), os.statvfs(directory)
    if usage.free < FREE_BYTES_FAIL:
        out = "free space there: until then messages are refused as unavailable, and nothing that was answered is lost"
        yield Finding("disk", "fail", f"full: {size(usage.free)} of {size(usage.total)} are free", out)
    elif usage.free < usage.total * FREE_PART_WARN:
        yield Finding("disk", "warn", f"{size(usage.free)} of {size(usage.total)} are free", "free some space there")
    else:
        yield Finding("disk", "ok", f"{size(usage.free)} of {size(usage.total)} are free")
    if about.f_files and about.f_favail < INODES_FAIL:  # 0: a file system that does not count them
        out = "delete files that are not needed: none can be made"
        yield Finding("disk", "fail", f"{about.f_favail} of {about.f_files} inodes are free", out)


def clock(newest_ms: int, now_s: float | None = None) -> Iterator[Finding]:
    """Whether the wall clock can be right. ``newest_ms``: when the newest message was stored, or 0."""
    wall_s, steady_s = time.time(), time.monotonic()
    time.sleep(CLOCK_LOOK_S)
    step_s = (time.time() - wall_s) - (time.monotonic() - steady_s)
    wall_s = wall_s if now_s is None else now_s
    shown = datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%MZ")
    out = "let NTP set it (timedatectl); messages keep their order, but times, retention and tokens go by it"
    if wall_s < BEGINNING_S:
        yield Finding("clock", "fail", f"it says {shown}, which is long ago", out)
    elif newest_ms - wall_s * 1000 > AHEAD_MS_WARN:
        ahead_s = (newest_ms - wall_s * 1000) / 1000
        yield Finding("clock", "warn", f"it says {shown}, and the newest message is {ahead_s:.0f} s younger", out)
    elif abs(step_s) > CLOCK_STEP_S_WARN:
        yield Finding("clock", "warn", f"it moved by {step_s:+.2f} s while it was looked at", out)
    else:
        yield Finding("clock", "ok", f"it says {shown}")


def ports(settings: Settings) -> Iterator[Finding]:
    """Whether the server can listen where it is to, or does."""
    server = settings.server
    if server.port:
        yield port(server.host, server.port)
    else:
        yield Finding("port", "ok", "any free one")
    if server.metrics_listen:
        yield port(*host_and_port(server.metrics_listen))


def port(host: str, number: int) -> Finding:
    """Whether one can listen there; if not, who does."""
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(1)
    except socket.gaierror as exc:
        return Finding(
            "port", "fail", f"server.host {host}: {exc.strerror}", "set server.host to an address of this machine"
        )
    except OSError as exc:
        where = f"{host}:{number}"
        if exc.errno == errno.EADDRINUSE:
            pid, program = _who_listens(number)
            if "chatd" in program:
                return Finding("port", "ok", f"{where}: chatd listens there (process {pid})")
            who = f"process {pid} ({program[:60]})" if pid else "a process of another user"
            return Finding("port", "fail", f"{where}: {who} listens there", "stop it, or set server.port")
        if exc.errno == errno.EACCES:
            return Finding(
                "port", "fail", f"{where}: ports below 1024 need a right", "set server.port, or put a proxy in front"
            )
        return Finding("port", "fail", f"{where}: {exc.strerror}", "set server.host to an address of this machine")
    return Finding("port", "ok", f"{host}:{number} is free")


def _who_listens(number: int) -> tuple[int, str]:
    """The process that listens on a port, and its command line; 0: it cannot be seen."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == number:
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd) in inodes for fd in (process / "fd").iterdir()):
                raw = (process / "cmdline").read_bytes()
                return int(process.name), raw.replace(b"\0", b" ").decode("utf-8", "replace").strip()
        except OSError:  # it ended, or belongs to somebody else
            continue
    return 0, ""


def open_files(connections_max: int) -> Iterator[Finding]:
    """A connection needs a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        found = f"{hard}, which is less than limits.connections_max and {SPARE_FILES}: {wanted}"
        yield Finding(
            "open files", "warn", found, f"set LimitNOFILE={wanted} in the unit, or lower limits.connections_max"
        )
    else:
        yield Finding(
            "open files", "ok", "unlimited" if hard == resource.RLIM_INFINITY else f"{hard}, {wanted} are needed"
        )


def certificate(path: str, now: datetime | None = None) -> Iterator[Finding]:
    """Whether the certificate is there and good for some time; "": there is to be none."""
    if not path:
        return
    from cryptography import x509

    try:
        ends = x509.load_pem_x509_certificate(Path(path).read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as exc:
        yield Finding("certificate", "fail", f"{path}: {exc}", "set server.tls_certificate to a PEM file")
        return
    left = ends - (now or datetime.now(UTC))
    found = f"{path} is good until {ends:%Y-%m-%d}"
    if left < timedelta(0):
        yield Finding("certificate", "fail", f"{path} ended on {ends:%Y-%m-%d}", "renew it")
    elif left < CERTIFICATE_WARN:
        yield Finding("certificate", "warn", found, "renew it")
    else:
        yield Finding("certificate", "ok", found)
