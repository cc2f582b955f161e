"""What a commit looks like to the commit script, and what its answer means to who asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from chatd.errors import IdReuse
from chatd.model import Advance, Appended, Draft, Grown, Message, born_ms
from chatd.store.base import ID_EXPIRED, Committed
from chatd.store.redis.names import bucket_of, pair_of, short_id

DUPLICATE, REUSED, HIDDEN, EXPIRED = 1, 2, 4, 8


class Done(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the commit script says of one conversation."""

    appended: list[tuple[int, int, int]]
    grown: tuple[tuple[int, int, bool] | bool, tuple[int, int, bool] | bool]
    private: bool
    changed: bool
    began: bool


decode = msgspec.msgpack.Decoder(list[Done]).decode


class Work:
    """The drafts and advances of one conversation, as the commit script takes them."""

    __slots__ = ("advances", "at", "drafts", "pair")

    def __init__(self, at: int, pair: tuple[str, str]) -> None:
        self.at = at
        self.pair = pair
        self.drafts: list[tuple[int, str, str, int, int]] = []
        self.advances: dict[tuple[int, str], tuple[int, int]] = {}  # (member, device) → delivered, read: maxima

    def packed(self, conv: str) -> tuple[object, ...]:
        """What the script takes of it."""
        advances = [(*key, *marks) for key, marks in self.advances.items()]
        return conv, tuple(dict.fromkeys(self.pair)), bucket_of(conv), self.drafts, advances


def sort(drafts: Sequence[Draft], advances: Sequence[Advance]) -> dict[str, Work]:
    """The work by conversation, in order of first appearance. Raises: ValueError – somebody is in none of them."""
    work: dict[str, Work] = {}
    for draft in drafts:
        one = work.get(draft.conv)
        if one is None:
            one = work[draft.conv] = Work(len(work), pair_of(draft.conv))
        member, born = one.pair.index(draft.sender), born_ms(draft.id)
        one.drafts.append((member, short_id(draft.id), draft.body, draft.ts_ms, born))
    for advance in advances:
        one = work.get(advance.conv)
        if one is None:
            one = work[advance.conv] = Work(len(work), pair_of(advance.conv))
        key = (one.pair.index(advance.user), advance.device)
        delivered, read = one.advances.get(key, (0, 0))
        one.advances[key] = (max(delivered, advance.delivered), max(read, advance.read))
    return work


def committed(
    drafts: Sequence[Draft], advances: Sequence[Advance], work: dict[str, Work], done: Sequence[Done]
) -> Committed:
    """The script's answer in the shape of the contract: a result a draft, in their order."""
    answers = [iter(one.appended) for one in done]
    appended: list[Appended | IdReuse] = []
    for draft in drafts:
        seq, ts_ms, flags = next(answers[work[draft.conv].at])
        if flags & (REUSED | EXPIRED):
            why = ID_EXPIRED if flags & EXPIRED else "this id already names a message with another body"
            appended.append(IdReuse(why))
            continue
        stored = Message(draft.conv, seq, draft.id, draft.sender, draft.body, ts_ms, bool(flags & HIDDEN))
        appended.append(Appended(stored, bool(flags & DUPLICATE)))
    grown = []
    for conv, user in dict.fromkeys((one.conv, one.user) for one in advances):
        mine: Any = done[work[conv].at].grown[work[conv].pair.index(user)]
        grown.append(Grown(conv, user, mine[0], mine[1], grew=mine[2], private=done[work[conv].at].private))
    return Committed(appended, grown)
