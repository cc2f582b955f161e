"""A user is erased: what it wrote goes from the logs, and Redis writes its files anew. See `AccountStore.erase`."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from chatd.errors import OutcomeUnknown, Unavailable
from chatd.store.base import Erased
from chatd.store.redis.lists import RedisLists
from chatd.store.redis.names import pair_of
from chatd.store.redis.node import Command

ENTRIES_PER_SCRIPT: Final = 250
SCRIPTS_PER_STEP: Final = 40
BODIES_PER_STEP: Final = 1_000


class RedisErasing(RedisLists):
    """What erasing does with conversations. Its cursor is the name of one."""

    async def _erase_bodies(self, user: str, cursor: str) -> Erased:
        convs = sorted(await self._convs(user))
        at, count = bisect_left(convs, cursor), 0
        for _ in range(SCRIPTS_PER_STEP):
            if at == len(convs) or count >= BODIES_PER_STEP:
                break
            args = (convs[at], pair_of(convs[at]).index(user), ENTRIES_PER_SCRIPT)
            gone, more = await self.engine.one(self.engine.script("erase", convs[at], *args), write=True)
            count, at = count + gone, at + (not more)
        return Erased(count, convs[at]) if at < len(convs) else Erased(count, None, await self._files_anew())

    async def _files_anew(self) -> tuple[str, ...]:
        """Let every server write its files anew, where that is its way. Returns: what holds bodies until it is done."""
        try:
            saved = await self.engine.everywhere(("CONFIG", "GET", "appendonly"), ("CONFIG", "GET", "save"))
            anew: list[Command] = [("BGREWRITEAOF",)] if any(aof[1] == b"yes" for aof, _ in saved) else []
            if any(save[1] for _, save in saved):
                anew.append(("BGSAVE", "SCHEDULE"))
            for command in anew:
                await self.engine.everywhere(command)
        except (Unavailable, OutcomeUnknown) as exc:
            return (f"Redis did not write its files anew ({exc}): run BGREWRITEAOF and BGSAVE on each master",)
        files = " and ".join("AOF" if command[0] == "BGREWRITEAOF" else "RDB file" for command in anew)
        return (f"Redis writes its {files} anew, and has the bodies until that is done",) if anew else ()
