"""Who is on the ring: members on leases, read again and again; a change is told, an absent Redis changes nothing.

A wrong view costs hops between processes and no correctness, so each reader trusts what it read last. One that joins
is seen at once. One that is missing is believed gone only after a while in which every look succeeded: after an outage
all come back to note themselves, and the ring must not fall apart meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog
from msgspec import Struct

from chatd.errors import Refusal

EVERY_S_MAX = 1.0
ABSENT_S = 2.0
"""So long somebody is missing before it counts as gone; each member notes itself at least twice in that time."""
SETTLE_S = 2 * EVERY_S_MAX
"""After so long every router has seen a change that somebody saw; who is sent elsewhere before that may come back."""
RESIGN_S_MAX = 1.0

log = structlog.get_logger("chatd.members")


class Member(Struct, frozen=True, array_like=True):
    """``address``: where routers reach it, its name on the ring. ``process``: another one at each of its starts."""

    address: str
    weight: int
    process: str


class Members(Protocol):
    """Where members are noted. Errors: Unavailable."""

    async def renew(self, member: Member, lease_s: float) -> None:
        """Note a member for so long from now."""

    async def resign(self, member: Member) -> None:
        """Take the note away."""

    async def look(self) -> dict[str, Member]:
        """By address, all whose lease has not ended; of two with one address the one whose lease ends later."""

    async def close(self) -> None:
        """Let go."""


class Known:
    """What is believed of the members. Pure. ``members``: by address."""

    def __init__(self, lease_s: float) -> None:
        self.members: dict[str, Member] = {}
        self._lease_s = lease_s
        self._missing_since_s: dict[str, float] = {}
        self._trust_absence_at_s = float("-inf")

    def looked(self, found: Mapping[str, Member], now_s: float) -> bool:
        """A look succeeded. Returns: whether the belief changed; a member that was started again is a change, too."""
        before = self.members
        self.members = {**before, **found}
        for address in [*self._missing_since_s]:
            if address in found:
                del self._missing_since_s[address]
        for address in before.keys() - found.keys():
            since_s = self._missing_since_s.setdefault(address, now_s)
            if now_s >= max(since_s + ABSENT_S, self._trust_absence_at_s):
                del self.members[address], self._missing_since_s[address]
        return self.members != before

    def failed(self, now_s: float) -> None:
        """A look failed: for the time of a lease nobody is believed gone."""
        self._missing_since_s.clear()
        self._trust_absence_at_s = now_s + self._lease_s


class Membership:
    """Follows the members, and notes ``me`` among them if there is one.

    ``on_change`` is called from the loop with address → weight, at first when somebody is there.
    """

    def __init__(
        self,
        members: Members,
        *,
        lease_s: float,
        on_change: Callable[[Mapping[str, int]], None],
        me: Member | None = None,
    ) -> None:
        self._members = members
        self._lease_s = lease_s
        self._on_change = on_change
        self._me = me
        self._known = Known(lease_s)
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._failing = False

    def start(self) -> None:
        """Begin; nothing is waited for, since a Redis that is away may come back."""
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="chatd-members")

    async def close(self) -> None:
        """Resign, in a bounded time: a lease ends by itself."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=RESIGN_S_MAX)
        try:
            async with asyncio.timeout(RESIGN_S_MAX):
                if self._me is not None:
                    await self._members.resign(self._me)
        except (Refusal, TimeoutError) as exc:
            log.warning("not_resigned", error=str(exc))
        await self._members.close()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closing:  # a driver may swallow a cancellation
            try:
                if self._me is not None:
                    await self._members.renew(self._me, self._lease_s)
                found = await self._members.look()
            except Refusal as exc:
                if not self._failing:
                    log.warning("members_unknown", error=exc.message, kept=sorted(self._known.members))
                self._failing = True
                self._known.failed(loop.time())
            else:
                self._failing = False
                if self._known.looked(found, loop.time()):
                    self._tell()
            await asyncio.sleep(min(EVERY_S_MAX, self._lease_s / 3))

    def _tell(self) -> None:
        weights = {address: member.weight for address, member in sorted(self._known.members.items())}
        log.info("members", weights=weights)
        self._on_change(weights)
