"""Subscriptions, and what is owed to whom. See `chatd.store.base.PushStore`.

What is owed is read from what commits and acknowledgements write anyway; only pushed marks are its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from chatd.model import Owed, Pushed, Subscription, Unpushed, UnpushedPage, members_of, peer_of
from chatd.store.base import Trimmed
from chatd.store.redis.engine import Engine, whole
from chatd.store.redis.lists import RedisLists, Seen
from chatd.store.redis.names import BUCKETS, bucket_number, bucket_tag, message, pair_of
from chatd.store.redis.node import Command

TRIMMED_MAX = 250  # of a conversation in one script
_pack = msgspec.msgpack.encode


class RedisPush(RedisLists):
    """`PushStore` over an engine."""

    engine: Engine

    async def put_subscription(self, subscription: Subscription) -> bool:
        """See `PushStore`."""
        one = subscription
        command = self.engine.script("subscribe", one.user, one.user, one.device, msgspec.json.encode(one))
        return bool(await self.engine.one(command, write=True))

    async def remove_subscription(self, user: str, device: str, endpoint: str | None = None) -> bool:
        """See `PushStore`."""
        only = () if endpoint is None else (endpoint,)
        return bool(await self.engine.one(self.engine.script("unsubscribe", user, user, device, *only), write=True))

    async def subscriptions(self, user: str, now_ms: int) -> Sequence[Subscription]:
        """See `PushStore`."""
        key = self.engine.key
        load: list[Command] = [
            ("HMGET", key(user, "account"), "disabled", "deleted"),
            ("HVALS", key(user, "subscriptions")),
            ("HGETALL", key(user, "devices")),
        ]
        (disabled, deleted), kept, flat = await self.engine.run(load, write=False)
        if disabled == b"1" or deleted is not None:
            return []
        devices: dict[bytes, bytes] = dict(zip(flat[::2], flat[1::2], strict=True))
        found = [msgspec.json.decode(text, type=Subscription) for text in kept]
        good = [one for one in found if int(devices.get(f"x{one.device}".encode(), now_ms + 1)) > now_ms]
        return sorted(good, key=lambda one: one.device)

    # --- what is owed ------------------------------------------------------------------------------------

    @whole
    async def owed(self, conv: str, user: str) -> Owed:
        """See `PushStore`."""
        convs = await self._convs(user)
        if peer_of(conv, user) in (None, user):
            return Owed(None, 0, await self._badge(user, convs))
        pairs = [(one, user) for one in convs if one != conv]
        mine, *others = await self._views_of([(conv, user), *pairs], which="none")
        newest = None
        if mine.owed:
            (mine,) = await self._views(user, [conv], which="owed")
            newest = None if mine.entry is None else message(conv, mine.entry)
        return Owed(newest, mine.unread, mine.unread + sum(one.unread for one in others))

    async def _badge(self, user: str, convs: Sequence[str]) -> int:
        return sum(one.unread for one in await self._views(user, convs))

    @whole
    async def badge(self, user: str) -> int:
        """See `PushStore`."""
        return await self._badge(user, await self._convs(user))

    async def pushed(self, marks: Sequence[Pushed]) -> None:
        """See `PushStore`."""
        told = [
            (one.conv, pair_of(one.conv).index(one.user), one.seq)
            for one in marks
            if peer_of(one.conv, one.user) not in (None, one.user)
        ]
        parts = self.engine.parts(told)
        await self.engine.run([self.engine.script("pushed", part[0][0], _pack(part)) for part in parts], write=True)

    @whole
    async def unpushed(
        self, *, cursor: str | None = None, limit: int, newer_than_ms: int, every_user: bool
    ) -> UnpushedPage:
        """Bucket after bucket, each in order of name; the cursor is a bucket and the last name seen in it."""
        convs, after = await self._page(cursor or "0:", limit)
        pairs = [(conv, user) for conv in convs for user in dict.fromkeys(members_of(conv) or ())]
        rows = [
            row
            for (conv, user), view in zip(pairs, await self._views_of(pairs), strict=True)
            if (row := _row(conv, user, view, newer_than_ms)) is not None
        ]
        if not every_user and rows:
            users = [*dict.fromkeys(row.user for row in rows)]
            known = await self.engine.run(
                [("EXISTS", self.engine.key(user, "subscriptions")) for user in users], write=False
            )
            subscribed = {user for user, there in zip(users, known, strict=True) if there}
            rows = [row for row in rows if row.user in subscribed]
        return UnpushedPage(tuple(rows), after)

    @whole
    async def trim(self, *, older_than_ms: int, cursor: str | None = None, limit: int) -> Trimmed:
        """See `MessageStore.trim`. One short script a conversation, so that no other call waits for long."""
        convs, after = await self._page(cursor or "0:", limit)
        commands = [self.engine.script("trim", conv, conv, older_than_ms, TRIMMED_MAX) for conv in convs]
        counts = [int(count) for count in await self.engine.run(commands, write=True)]
        if TRIMMED_MAX in counts:
            at = counts.index(TRIMMED_MAX)
            after = f"{bucket_number(convs[at - 1])}:{convs[at - 1]}" if at else cursor or "0:"
        return Trimmed(sum(counts), after)

    async def _page(self, cursor: str, limit: int) -> tuple[list[str], str | None]:
        """The next conversations of the whole store, and where to go on; two round trips, however empty it is."""
        bucket, _, after = cursor.partition(":")
        first, begin = int(bucket), f"({after}" if after else "-"
        keys = [self.engine.key(bucket_tag(number), "convs") for number in range(first, BUCKETS)]
        begins = [begin] + ["-"] * (len(keys) - 1)
        asked: list[Command] = [("ZLEXCOUNT", key, start, "+") for key, start in zip(keys, begins, strict=True)]
        sizes = await self.engine.run(asked, write=False)
        wanted: list[Command] = []
        numbers: list[int] = []
        room = limit
        for offset, size in enumerate(sizes):
            if size and room:
                take = min(room, size)
                wanted.append(("ZRANGE", keys[offset], begins[offset], "+", "BYLEX", "LIMIT", 0, take))
                numbers.append(first + offset)
                room -= take
        if not wanted:
            return [], None
        found = [[name.decode() for name in names] for names in await self.engine.run(wanted, write=False)]
        convs = [conv for names in found for conv in names]
        more = sum(sizes) > limit
        last = found[-1][-1] if found[-1] else ""
        return convs, f"{numbers[-1]}:{last}" if more else None

    async def keep(self, name: str, value: str) -> str:
        """See `PushStore`."""
        kept = await self.engine.one(("SET", f"{self.engine.prefix}kept:{name}", value, "NX", "GET"), write=True)
        return value if kept is None else str(kept.decode())


def _row(conv: str, user: str, view: Seen, newer_than_ms: int) -> Unpushed | None:
    """The row of one user of a conversation, if there is one."""
    shown = view.pushed if view.pushed > view.read else 0
    due = view.owed and view.ts_ms >= newer_than_ms
    return Unpushed(conv, user, view.owed, shown) if due or shown else None
