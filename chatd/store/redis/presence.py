"""Who may watch whom, and when somebody was here last. See `chatd.store.base.PresenceStore`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from chatd.model import Acquaintance, conv_of, is_user
from chatd.store.redis.engine import Engine

_pack = msgspec.msgpack.encode


class RedisPresence:
    """`PresenceStore` over an engine."""

    engine: Engine

    async def acquainted(self, user: str, others: Sequence[str]) -> dict[str, Acquaintance]:
        """One round trip: the heads and blocks of the conversations, and the accounts."""
        self.engine.check_open()
        asked = [other for other in dict.fromkeys(others) if is_user(other)] if is_user(user) else []
        heads = [
            self.engine.script("heads", part[0], _pack(part))
            for part in self.engine.parts([conv_of(user, other) for other in asked])
        ]
        people = [self.engine.script("people", part[0], _pack(part)) for part in self.engine.parts(asked)]
        answers = await self.engine.run([*heads, *people], write=False)
        convs = [row for rows in answers[: len(heads)] for row in rows]
        found = [row for rows in answers[len(heads) :] for row in rows]
        return {
            other: Acquaintance(shows == b"1", None if seen is None else int(seen))
            for other, (head, apart), (there, shows, seen) in zip(asked, convs, found, strict=True)
            if head and there and not apart
        }

    async def seen(self, times_ms: Mapping[str, int]) -> None:
        """See `PresenceStore`."""
        parts = self.engine.parts(list(times_ms.items()))
        await self.engine.run([self.engine.script("seen", part[0][0], _pack(part)) for part in parts], write=True)

    async def set_shows_last_seen(self, user: str, on: bool) -> bool:
        """See `PresenceStore`."""
        return bool(await self.engine.one(self.engine.script("set_account", user, user, "shows", int(on)), write=True))
