"""The machine: disk, clock, ports, open files, the certificate."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import stat
import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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
    if about.f_flag & os.ST_RDONLY:
        yield Finding("disk", "fail", "it is mounted for reading only", "mount it for writing")
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


def ports(settings: Settings, ours: Collection[int] = ()) -> Iterator[Finding]:
    """Whether the server can listen where it is to, or does. ``ours``: the processes that serve its directory."""
    server = settings.server
    if server.port:
        yield port(server.host, server.port, ours)
    else:
        yield Finding("port", "ok", "any free one")
    if server.metrics_listen:
        host, number = host_and_port(server.metrics_listen)
        yield port(host, number, ours, ("server.metrics_listen", "server.metrics_listen"))


def port(
    host: str, number: int, ours: Collection[int] = (), names: tuple[str, str] = ("server.host", "server.port")
) -> Finding:
    """Whether one can listen there; if not, who does. ``names``: of the settings of the two."""
    where = f"{f'[{host}]' if ':' in host else host}:{number}"
    out = f"set {names[0]} to an address of this machine"
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, number, type=socket.SOCK_STREAM):
            _try(family, address)
    except socket.gaierror as exc:
        return Finding("port", "fail", f"{names[0]} {host}: {exc.strerror}", out)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            uid, pid, program = _who_listens(number)
            if pid in ours:
                return Finding("port", "ok", f"{where}: this server listens there (process {pid})")
            if ours and not pid and uid == os.geteuid():  # PrivateUsers= of a unit hides it from its own user
                return Finding("port", "ok", f"{where}: this server's user listens there")
            who = f"process {pid} ({program[:60]})" if pid else "a process of another user"
            return Finding("port", "fail", f"{where}: {who} listens there", f"stop it, or set {names[1]}")
        if exc.errno == errno.EACCES:
            out = f"set {names[1]}, or put a proxy in front"
            return Finding("port", "fail", f"{where}: ports below 1024 need a right", out)
        return Finding("port", "fail", f"{where}: {exc.strerror}", out)
    return Finding("port", "ok", f"{where} is free")


def _try(family: int, address: Any) -> None:
    """Listen for a moment as the server would. Raises: OSError."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(1)


def _who_listens(number: int) -> tuple[int, int, str]:
    """The user that listens on a port, -1: none; the process, 0: it cannot be seen; and its command line."""
    uid, inodes = -1, set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == number:
                uid = int(fields[7])
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd) in inodes for fd in (process / "fd").iterdir()):
                raw = (process / "cmdline").read_bytes()
                return uid, int(process.name), raw.replace(b"\0", b" ").decode("utf-8", "replace").strip()
        except OSError:  # it ended, or belongs to somebody else
            continue
    return uid, 0, ""


def open_files(connections_max: int, pid: int = 0) -> Iterator[Finding]:
    """A connection needs a file. ``pid``: the process that serves; 0: none, so what is started here is told of."""
    try:
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    except OSError:  # it ended, or belongs to somebody else
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        found = f"{hard}, which is less than limits.connections_max and {SPARE_FILES}: {wanted}"
        out = f"set LimitNOFILE={wanted} in the unit (`ulimits` of a container), or lower limits.connections_max"
        yield Finding("open files", "warn", found, out)
    else:
        told = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard}, {wanted} are needed"
        yield Finding("open files", "ok", told)


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


def key(path: str) -> Iterator[Finding]:
    """Whether everybody may read the certificate's key; "": there is none."""
    if path and os.path.exists(path) and (mode := os.stat(path).st_mode) & stat.S_IRWXO:
        found = f"{path} has mode {stat.S_IMODE(mode):04o}: whoever reads it can pass for this server"
        yield Finding("certificate", "warn", found, f"chmod 600 {path}")
