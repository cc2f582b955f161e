"""The members in Redis: one sorted set, scored by when each lease ends."""

from __future__ import annotations

import msgspec

from chatd.routing.leases_redis import Leases
from chatd.routing.membership import Member

TAG = "members"


class RedisMembers:
    """See `Members`. Leases end by Redis's own clock, so the clocks of the processes do not matter.

    ``url``: of one Redis, of any one of a cluster, or of sentinels. ``key``: what it is noted under.
    """

    def __init__(self, url: str) -> None:
        self._leases = Leases(url, TAG)
        self.key = self._leases.key

    async def close(self) -> None:
        """See `Members`."""
        await self._leases.close()

    async def renew(self, member: Member, lease_s: float) -> None:
        """See `Members`."""
        await self._leases.alive(msgspec.json.encode(member), lease_s)

    async def resign(self, member: Member) -> None:
        """See `Members`."""
        await self._leases.alive(msgspec.json.encode(member))

    async def look(self) -> dict[str, Member]:
        """See `Members`. What is no member is passed over."""
        found = {}
        for one in await self._leases.alive():  # by the ends of their leases: the later one stands
            try:
                member = msgspec.json.decode(one, type=Member)
            except msgspec.DecodeError:
                continue
            if member.address and member.weight >= 1:
                found[member.address] = member
        return found
