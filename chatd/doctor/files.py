"""The data directory: whose it is, who may look into it, and who uses it."""

from __future__ import annotations

import asyncio
import os
import pwd
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from chatd.cli.looking import look
from chatd.doctor.finding import Finding
from chatd.settings import CONFIG_NAME
from chatd.store.sqlite import FILE_NAME, LOCK_NAME
from chatd.store.sqlite.wholeness import holder

CHECK = "data directory"
KEPT = (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", LOCK_NAME, CONFIG_NAME)
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def examine(directory: Path, ours: Collection[int] = (), uid: int | None = None) -> Iterator[Finding]:
    """``ours``: the processes that serve it. ``uid``: of the user that serves; None: this process's."""
    uid = os.geteuid() if uid is None else uid
    if not directory.is_dir():
        what = "is no directory" if directory.exists() else "is not there"
        yield Finding(CHECK, "fail", f"{directory} {what}", "name it with --data-dir, or make it with `chatd init`")
        return
    about = directory.stat()
    problems = list(_owners(directory, about.st_uid, uid))
    problems += _modes(directory, about.st_mode)
    if not problems:
        yield Finding(CHECK, "ok", f"{directory} belongs to {name_of(about.st_uid)}, and nobody else can read it")
    yield from problems
    yield Finding("server", "ok", _serving(sorted(ours) or holder(directory / LOCK_NAME)))


def _serving(who: list[int] | str | None) -> str:
    if isinstance(who, list) and len(who) > 1:
        return f"processes {', '.join(map(str, who))} serve it"
    pid = who[0] if isinstance(who, list) else who
    return "none runs on this directory" if pid is None else f"process {pid} serves it"


def processes(directory: Path) -> frozenset[int]:
    """The processes that serve a directory, as far as they can be asked."""
    found = asyncio.run(look(directory))
    pids = {one.pid for one in found.servers} | {found.cluster.pid if found.cluster else 0}
    if (pid := holder(directory / LOCK_NAME) or "").isdecimal():
        pids.add(int(pid))
    return frozenset(pids - {0})


def _owners(directory: Path, owner: int, uid: int) -> Iterator[Finding]:
    if uid not in (0, owner):
        found = f"{directory} belongs to {name_of(owner)}, and this is {name_of(uid)}"
        yield Finding(CHECK, "fail", found, f"run it as {name_of(owner)}, or chown -R {name_of(uid)} {directory}")
        return
    for path in _kept(directory):
        theirs = path.stat().st_uid
        if theirs != owner:
            found = f"{path} belongs to {name_of(theirs)}, and its directory to {name_of(owner)}"
            yield Finding(CHECK, "fail", found, f"chown -R {name_of(owner)} {directory}")


def _modes(directory: Path, mode: int) -> Iterator[Finding]:
    if mode & OTHERS:
        found = f"{directory} has mode {stat.S_IMODE(mode):04o}: others can look into it"
        yield Finding(CHECK, "warn", found, f"chmod 700 {directory}")
    for path in _kept(directory):
        own = path.stat().st_mode
        if own & OTHERS:
            found = f"{path} has mode {stat.S_IMODE(own):04o}: it holds what only the server may read"
            yield Finding(CHECK, "warn", found, f"chmod 600 {path}")


def _kept(directory: Path) -> list[Path]:
    return [path for name in KEPT if (path := directory / name).exists()]


def name_of(uid: int) -> str:
    """A user's name, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
