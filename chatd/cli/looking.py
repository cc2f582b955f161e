"""A look at the servers of a data directory, through their sockets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from chatd.cli.common import Failed
from chatd.errors import NoServer
from chatd.stats import ClusterSnapshot, Snapshot

LOOK_S_MAX = 5.0
"""Who has not answered by then is told as silent."""


class Look(Struct, frozen=True):
    """``servers``: what each process said; one that was silent says so. ``sockets``: by the processes' names."""

    servers: tuple[Snapshot, ...] = ()
    cluster: ClusterSnapshot | None = None
    sockets: Mapping[str, str] = {}

    @property
    def ready(self) -> bool:
        """Whether all that should serve does."""
        if self.cluster is not None and not self.cluster.ready:
            return False
        return all(one.ready for one in self.servers) and bool(self.servers or self.cluster)

    @property
    def is_empty(self) -> bool:
        """Nobody is there."""
        return not self.servers and self.cluster is None


def read(answers: Mapping[str, Any]) -> Look:
    """What `chatd.admin.ask` found, as a look. A kind of process that this version does not know is left out."""
    servers: list[Snapshot] = []
    sockets: dict[str, str] = {}
    cluster = None
    for socket, answer in answers.items():
        if isinstance(answer, Exception):
            one = Snapshot(name=socket.removesuffix(".sock"), why=str(answer))
        elif answer.get("kind") == "cluster":
            cluster = msgspec.convert(answer, ClusterSnapshot)
            continue
        elif answer.get("kind") == "server":
            one = msgspec.convert(answer, Snapshot)
        else:
            continue
        servers.append(one)
        sockets[called(one)] = socket
    return Look(tuple(sorted(servers, key=called)), cluster, sockets)


def called(one: Snapshot) -> str:
    """What a process is called, for people."""
    return one.name or f"process {one.pid}"


async def look(directory: Path, *, timeout_s: float = LOOK_S_MAX) -> Look:
    """Ask all of them at the same time. Empty: nobody is there."""
    from chatd import admin

    return read(await admin.ask(directory, "status", {}, timeout_s=timeout_s))


def must_be_there(found: Look, directory: Path) -> Look:
    """The look. Raises: NoServer – nobody is there. Failed – this user may not look."""
    if found.is_empty and directory.is_dir() and not os.access(directory, os.R_OK | os.X_OK):
        raise Failed(f"{directory.absolute()} belongs to another user: run this as the one that the server has")
    if found.is_empty:
        raise NoServer(
            f"no server runs on {directory.absolute()}: start one with `chatd serve`, or name another directory "
            "with --data-dir"
        )
    return found


def names(servers: Sequence[Snapshot]) -> str:
    """Who they are, for a message."""
    return ", ".join(map(called, servers)) or "none"
