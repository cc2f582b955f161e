"""Lists of conversations: a user's index by newest change, views of a conversation, where a device starts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from chatd.model import ConversationPage, ConversationView, Message, peer_of, trimmed_place
from chatd.store.redis.engine import TAGS_PER_CALL_MAX, Engine, whole
from chatd.store.redis.names import bucket_tag, message, pair_of
from chatd.store.redis.node import Command

_NUMBERS: Final = re.compile(r"[0-9]{1,16}(?:\.[0-9]{1,16}){0,2}\Z", re.ASCII)
TOUCHING_S_MAX: Final = 600  # a commit that is not done by then is not done at all
_pack = msgspec.msgpack.encode


class Seen(NamedTuple):
    """A conversation as one user sees it; what `views.lua` returns."""

    head: int
    ts_ms: int
    delivered: int
    read: int
    peer_delivered: int
    peer_read: int
    unread: int
    position: int
    owed: int
    pushed: int
    apart: int
    trimmed_ms: int
    entry: Any


class RedisLists:
    """The part of `MessageStore` that lists, and what push needs of it."""

    engine: Engine
    _incarnation: str

    @whole
    async def conversations(
        self,
        user: str,
        device: str,
        *,
        since: str | None = None,
        cursor: str | None = None,
        limit: int,
    ) -> ConversationPage:
        """See `MessageStore.conversations`."""
        newer, older, shown = *(self._numbers(since, 1) or [0]), 0, 0
        if walk := self._numbers(cursor, 3):  # it carries what its walk began with
            newer, older, shown = walk
        load: list[Command] = [
            self.engine.script("page", user, user, limit, newer, older, shown),
            ("ZCARD", self.engine.key(user, "touching")),
        ]
        (newer, shown, flat), touching = await self.engine.run(load, write=False)
        if touching and not walk:
            await self._repair(user)
            newer, shown, flat = (await self.engine.run(load[:1], write=False))[0]
        convs = [name.decode() for name in flat[: 2 * limit : 2]]
        more = None
        if len(flat) > 2 * limit:
            more = f"{self._incarnation}/{newer}.{int(flat[2 * limit - 1])}.{shown}"
        views = await self._views(user, convs, device=device, which="last")
        return ConversationPage(
            tuple(_view(conv, user, view) for conv, view in zip(convs, views, strict=True) if view.head),
            since=f"{self._incarnation}/{shown}",
            cursor=more,
        )

    def _numbers(self, text: str | None, count: int) -> list[int] | None:
        """The numbers in a ``since`` (1) or ``cursor`` (3); None when this store did not make it."""
        incarnation, _, rest = (text or "").rpartition("/")
        if incarnation != self._incarnation or not _NUMBERS.match(rest):
            return None
        numbers = [int(part) for part in rest.split(".")]
        return numbers if len(numbers) == count else None

    async def _views(
        self, user: str, convs: Sequence[str], *, device: str = "", which: Literal["last", "owed", "none"] = "none"
    ) -> list[Seen]:
        """How the user sees each of these conversations, ``which`` message along with it."""
        return await self._views_of([(conv, user) for conv in convs], device=device, which=which)

    async def _views_of(
        self, pairs: Sequence[tuple[str, str]], *, device: str = "", which: Literal["last", "owed", "none"] = "none"
    ) -> list[Seen]:
        """The same for (conv, user) each."""
        commands = []
        for part in self.engine.parts(pairs):
            asked = []
            for conv, user in part:
                pair = pair_of(conv)
                asked.append((conv, pair.index(user), pair.index(peer_of(conv, user) or user)))
            commands.append(self.engine.script("views", part[0][0], device, which, _pack(asked)))
        return [Seen(*row) for rows in await self.engine.run(commands, write=False) for row in rows]

    async def _convs(self, user: str) -> list[str]:
        """All the user's conversations, newest change first."""
        load: list[Command] = [
            ("ZRANGE", self.engine.key(user, "convs"), 0, -1, "REV"),
            ("ZCARD", self.engine.key(user, "touching")),
        ]
        names, touching = await self.engine.run(load, write=False)
        if touching:
            await self._repair(user)
            names, _ = await self.engine.run(load, write=False)
        return [name.decode() for name in names]

    async def _repair(self, user: str) -> None:
        """Let what a commit is touching count as changed. See touch.lua."""
        await self.engine.one(self.engine.script("repair", user, user, TOUCHING_S_MAX), write=False)

    @whole
    async def enroll(
        self, user: str, device: str, *, initial_history: int, newest_max: int, again: bool = False
    ) -> None:
        """The starts first, then the note that they are set: who dies between does it again, to the same end."""
        key = self.engine.key(user, "enrolled")
        if await self.engine.one(("SISMEMBER", key, device), write=False) and not again:
            return
        commands = []
        for part in self.engine.parts(list(enumerate(await self._convs(user)))):
            starts = [
                (conv, pair_of(conv).index(user), initial_history if rank < newest_max else 0) for rank, conv in part
            ]
            commands.append(self.engine.script("starts", starts[0][0], device, int(again), _pack(starts)))
        commands.append(("SADD", key, device))
        await self.engine.run(commands, write=True)

    async def _bucket(self, number: int) -> AsyncIterator[list[str]]:
        """The conversations of a bucket of the whole store, some at a time, in order of name."""
        key, after = self.engine.key(bucket_tag(number), "convs"), "-"
        while True:
            command = ("ZRANGE", key, after, "+", "BYLEX", "LIMIT", 0, TAGS_PER_CALL_MAX)
            names = [name.decode() for name in await self.engine.one(command, write=False)]
            if names:
                yield names
            if len(names) < TAGS_PER_CALL_MAX:
                return
            after = f"({names[-1]}"


def _last(conv: str, seen: Seen) -> Message | None:
    if seen.trimmed_ms:
        return trimmed_place(conv, seen.head, seen.head, seen.trimmed_ms)
    return None if seen.entry is None else message(conv, seen.entry)


def _view(conv: str, user: str, seen: Seen) -> ConversationView:
    return ConversationView(
        conv=conv,
        peer=peer_of(conv, user) or user,
        head=seen.head,
        delivered=seen.delivered,
        read=seen.read,
        peer_delivered=seen.peer_delivered,
        peer_read=seen.peer_read,
        unread=seen.unread,
        updated_ms=seen.ts_ms,
        position=seen.position,
        last=_last(conv, seen),
    )
