"""What an administrator sees over HTTP: this process, and those that share its data directory, as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from chatd import admin
from chatd.operations import Operations
from chatd.stats import Snapshot

ASK_S_MAX = 3.0


class Overview:
    """Asks ``operations`` and its neighbours. ``socket``: of this process among theirs; None: there are none."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self.socket: Path | None = None

    async def stats(self) -> tuple[Snapshot, ...]:
        """A snapshot of each process, this one first. One that does not answer in `ASK_S_MAX` is not ready."""
        own = await self._operations.status()
        if self.socket is None:
            return (own,)
        found = [own]
        for name, answer in (await self._ask("status", {})).items():
            if isinstance(answer, Exception):
                found.append(Snapshot(name=name, why=str(answer)))
            elif answer.get("kind") == "server":  # the supervisor has a socket there, too
                found.append(msgspec.convert(answer, Snapshot))
        return tuple(found)

    async def connected(self, users: Sequence[str]) -> dict[str, int]:
        """How many devices of each of these users are connected, to all the processes."""
        counts = await self._operations.connected(list(users))
        if self.socket is not None:
            for answer in (await self._ask("connected", {"users": list(users)})).values():
                for user, count in answer.items() if isinstance(answer, dict) else ():
                    counts[user] = counts.get(user, 0) + count
        return counts

    async def _ask(self, verb: str, args: dict[str, Any]) -> dict[str, Any]:
        if self.socket is None:
            return {}
        return await admin.ask(self.socket.parent, verb, args, timeout_s=ASK_S_MAX, but=self.socket)
