"""The reference model: what a chat is, in dicts of lists, and a store that is compared with it at every commit."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from chatd import protocol
from chatd.errors import IdReuse
from chatd.model import Advance, Draft, born_ms, conv_of, members_of, peer_of
from chatd.store.base import Committed
from chatd.store.memory import MemoryStore

ALL = 1_000_000
READS = {"heads", "enroll", "conversations", "read", "position", "identity", "account", "find"}


class Reference:
    """``log``: (sender, id, body, hidden) by conversation; ``marks``: by conversation, user and device."""

    def __init__(self) -> None:
        self.log: defaultdict[str, list[tuple[str, str, str, bool]]] = defaultdict(list)
        self.marks: defaultdict[tuple[str, str], dict[str, list[int]]] = defaultdict(dict)
        self.blocks: set[tuple[str, str]] = set()
        self.frozen: dict[str, dict[str, list[int]]] = {}
        self.trimmed: defaultdict[str, int] = defaultdict(int)

    def commit(self, drafts: Sequence[Draft], advances: Sequence[Advance]) -> tuple[list[Any], dict[Any, list[int]]]:
        """Returns: (seq, duplicate) or "reuse" for each draft, and the users' marks that were advanced."""
        results: list[Any] = []
        for d in drafts:
            log = self.log[d.conv]
            same = [n for n, (sender, id_, _, _) in enumerate(log, 1) if (sender, id_) == (d.sender, d.id)]
            if not same:
                log.append((d.sender, d.id, d.body, (peer_of(d.conv, d.sender), d.sender) in self.blocks))
                results.append((len(log), False))
            else:
                kept = same[0] > self.trimmed[d.conv] and log[same[0] - 1][2] == d.body
                results.append((same[0], True) if kept else "reuse")
        for a in advances:
            head = len(self.log[a.conv])
            mark = self.marks[a.conv, a.user].setdefault(a.device, [0, 0])
            mark[0] = max(mark[0], min(head, max(a.delivered, a.read)))
            mark[1] = max(mark[1], min(head, a.read))
        return results, {(a.conv, a.user): self.user_marks(a.conv, a.user) for a in advances}

    def user_marks(self, conv: str, user: str) -> list[int]:
        """The maximum over the user's devices: delivered, read."""
        devices = self.marks[conv, user].values()
        return [max((mark[n] for mark in devices), default=0) for n in (0, 1)]

    def told(self, conv: str, user: str, viewer: str) -> list[int]:
        """A user's marks as the viewer may know them."""
        if user != viewer and conv in self.frozen:
            return self.frozen[conv][user]
        return self.user_marks(conv, user)

    def block(self, user: str, peer: str, *, on: bool) -> None:
        """While either blocks the other, each sees the marks of when that began."""
        conv = conv_of(user, peer)
        if on:
            self.blocks.add((user, peer))
            self.frozen.setdefault(conv, {one: self.user_marks(conv, one) for one in members_of(conv) or ()})
        else:
            self.blocks.discard((user, peer))
            if (peer, user) not in self.blocks:
                self.frozen.pop(conv, None)

    def entry_is_right(self, conv: str, entry: protocol.Entry, viewer: str) -> bool:
        """Whether this is what the viewer may see at this place of the log, and it is committed."""
        if not 1 <= entry.seq <= len(self.log[conv]):
            return False
        sender, id_, body, hidden = self.log[conv][entry.seq - 1]
        if entry.gone == "expired":
            nothing = (entry.id, entry.sender, entry.body) == (None, None, None)
            return nothing and 1 <= (entry.first or entry.seq) <= entry.seq <= self.trimmed[conv]
        if hidden and viewer != sender:
            return (entry.gone, entry.id, entry.sender, entry.body) == ("hidden", None, None, None)
        return (entry.gone, entry.id, entry.sender, entry.body) == (None, id_, sender, body)


class ComparedStore(MemoryStore):
    """A memory store whose every commit is made in the reference too, and must have the same outcome."""

    def __init__(self) -> None:
        super().__init__("i1")
        self.reference = Reference()

    async def commit(self, drafts: Sequence[Draft], advances: Sequence[Advance]) -> Committed:
        drafts = [replace(d, ts_ms=born_ms(d.id)) for d in drafts]  # hours apart, however little time has passed
        committed = await super().commit(drafts, advances)
        results, marks = self.reference.commit(drafts, advances)
        got: list[Any] = [
            "reuse" if isinstance(one, IdReuse) else (one.message.seq, one.duplicate) for one in committed.appended
        ]
        assert got == results
        assert {(g.conv, g.user): [g.delivered, g.read] for g in committed.grown} == marks
        return committed

    async def trim_some(self, conv: str, older_than_ms: int) -> None:
        """Trim, and look that no more went than should."""
        old = 0
        if conv in self._convs:
            old = sum(message.ts_ms < older_than_ms for message in self._convs[conv].log)
            self._convs[conv].trim(conv, older_than_ms, ALL)
            assert self._convs[conv].trimmed == max(old, self.reference.trimmed[conv])
            self.reference.trimmed[conv] = self._convs[conv].trimmed

    async def block(self, user: str, peer: str, *, on: bool) -> None:
        await super().block(user, peer, on=on)
        self.reference.block(user, peer, on=on)


class SlowStore:
    """Every call takes a while before and after it does its work, so that calls overlap in every way."""

    def __init__(self, inner: Any, dice: random.Random) -> None:
        self.inner = inner
        self._dice = dice

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name not in READS and name != "commit":
            return method

        async def slow(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(self._dice.choice((0.0, 0.001, 0.004)))
            result = await method(*args, **kwargs)
            await asyncio.sleep(self._dice.choice((0.0, 0.001, 0.004)))
            return result

        return slow
