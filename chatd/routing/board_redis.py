"""The board in Redis: a hash a user with a field a process, and a lease a process.

A note may outlive its process by NOTE_S; whoever reads it asks for the lease.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chatd.errors import StartError, Unavailable
from chatd.model import PresenceState
from chatd.routing.bus import NOTE_S
from chatd.routing.leases_redis import Leases
from chatd.store.redis.node import Command

TAG = "processes"
WHAT = "here"
SHORT: dict[PresenceState, str] = {"online": "o", "away": "a"}
LONG: dict[bytes, PresenceState] = {short.encode(): state for state, short in SHORT.items()}


class RedisBoard:
    """See `Board`. Leases end by Redis's own clock, so the clocks of the processes do not matter.

    ``url``: of one Redis, of any one of a cluster, or of sentinels.
    """

    def __init__(self, url: str) -> None:
        self._process = ""
        self._lease_s = 0.0
        self._leases = Leases(url, TAG)

    async def open(self, process: str, lease_s: float) -> None:
        """See `Board`."""
        self._process, self._lease_s = process, lease_s
        try:
            await self.alive()
        except Unavailable as exc:
            await self._leases.close()
            raise StartError(f"cluster.bus_url: {exc.message}") from exc

    async def close(self) -> None:
        """See `Board`."""
        try:
            if self._process:
                await self._leases.alive(self._process)
        except Unavailable:  # it runs out
            return
        finally:
            await self._leases.close()

    async def alive(self) -> set[str]:
        """See `Board`."""
        return {process.decode() for process in await self._leases.alive(self._process, self._lease_s)}

    async def note(self, states: Mapping[str, PresenceState]) -> None:
        """See `Board`."""
        commands: list[Command] = []
        for user, state in states.items():
            key = self._leases.key_of(user, WHAT)
            if state == "offline":
                commands.append(("HDEL", key, self._process))
            else:
                commands += [("HSET", key, self._process, SHORT[state]), ("EXPIRE", key, NOTE_S)]
        if commands:
            await self._leases.run(commands)

    async def look(self, users: Sequence[str]) -> dict[str, dict[str, PresenceState]]:
        """See `Board`."""
        alive = await self.alive()
        notes = await self._leases.run([("HGETALL", self._leases.key_of(user, WHAT)) for user in users])
        return {user: _of(flat, alive) for user, flat in zip(users, notes, strict=True)}


def _of(flat: Sequence[bytes], alive: set[str]) -> dict[str, PresenceState]:
    """What living processes noted, from the fields and values of a hash in turn."""
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return {process.decode(): LONG[short] for process, short in pairs if process.decode() in alive and short in LONG}
