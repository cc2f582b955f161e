"""The store in plain dicts: nothing survives the object. For tests, embedding, and readers.

No method waits for anything, so on one event loop every call is atomic, and that is all the locking there is.
"""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from chatd.errors import IdReuse
from chatd.model import (
    ID_AHEAD_MS_MAX,
    Advance,
    Appended,
    ConversationPage,
    ConversationView,
    Draft,
    Durability,
    Grown,
    Marks,
    MarksView,
    Message,
    born_ms,
    conv_of,
    members_of,
    peer_of,
    trimmed_place,
    with_trimmed,
)
from chatd.store.base import ID_EXPIRED, Committed, Counts, Erased, Trimmed
from chatd.store.memory_conversation import Conversation
from chatd.store.memory_push import MemoryPush

TRIMMED_MAX = 1_000
ERASED_MAX = 1_000
_NUMBERS = re.compile(r"[0-9]{1,16}(?:\.[0-9]{1,16}){0,2}\Z", re.ASCII)


class MemoryStore(MemoryPush):
    """A ``chatd.store.base.Store`` for one event loop.

    The history lives as long as the object, also over close and open.

    ``incarnation``: names this history, ≤ 64 ASCII characters; random when None.
    """

    durability: Final[Durability] = "memory"

    def __init__(self, incarnation: str | None = None) -> None:
        super().__init__()
        self.incarnation: Final = secrets.token_hex(8) if incarnation is None else incarnation
        self._change = 0
        self._convs: dict[str, Conversation] = {}
        self._convs_of: defaultdict[str, list[str]] = defaultdict(list)
        self._enrolled: set[tuple[str, str]] = set()
        self._blocks: defaultdict[str, set[str]] = defaultdict(set)
        # conv → user → the marks that the other one sees; there while either of the two blocks the other
        self._frozen: dict[str, dict[str, Marks]] = {}

    # --- logs and marks ----------------------------------------------------------------------------------

    async def commit(self, drafts: Sequence[Draft], advances: Sequence[Advance]) -> Committed:
        self._check_open()
        for one in drafts:  # before anything is stored: all of it or none
            if peer_of(one.conv, one.sender) is None:
                raise ValueError(f"{one.sender!r} is not in conversation {one.conv!r}")
        appended = [self._append(draft) for draft in drafts]
        pairs = dict.fromkeys((one.conv, one.user) for one in advances)
        before = {pair: self._user_marks(*pair) for pair in pairs}
        for advance in advances:
            self._advance(advance)
        return Committed(appended, [self._grown(conv, user, before[conv, user]) for conv, user in pairs])

    def _append(self, draft: Draft) -> Appended | IdReuse:
        conv = self._convs.get(draft.conv)
        if conv is None:
            conv = self._convs[draft.conv] = Conversation()
            for user in set(members_of(draft.conv) or ()):
                self._convs_of[user].append(draft.conv)
        seq = conv.seqs.get((draft.sender, draft.id))
        if seq is not None:
            first = conv.log[seq - 1]
            if first.body != draft.body or first.erased:
                return IdReuse("this id already names a message with another body")
            return Appended(first, duplicate=True)
        if conv.trimmed and 0 < born_ms(draft.id) <= conv.log[conv.trimmed - 1].ts_ms + ID_AHEAD_MS_MAX:
            return IdReuse(ID_EXPIRED)
        message = Message(
            conv=draft.conv,
            seq=len(conv.log) + 1,
            id=draft.id,
            sender=draft.sender,
            body=draft.body,
            ts_ms=max(draft.ts_ms, conv.log[-1].ts_ms) if conv.log else draft.ts_ms,
            hidden=draft.sender in self._blocks[peer_of(draft.conv, draft.sender) or ""],
        )
        conv.log.append(message)
        conv.seqs[draft.sender, draft.id] = message.seq
        self._touch(conv)
        return Appended(message)

    def _advance(self, advance: Advance) -> None:
        conv = self._convs.get(advance.conv)
        if conv is None:
            return
        head, key = len(conv.log), (advance.user, advance.device)
        devices = conv.marks.setdefault(advance.user, {})
        old = devices.get(advance.device, Marks())
        held = min(head, max(advance.delivered, advance.read))
        new = Marks(max(old.delivered, held), max(old.read, min(head, advance.read)))
        conv.positions[key] = max(conv.positions.get(key, 0), held)
        if new != old:
            devices[advance.device] = new
            self._touch(conv)

    def _touch(self, conv: Conversation) -> None:
        self._change += 1
        conv.changed = self._change

    def _user_marks(self, conv: str, user: str) -> Marks:
        return self._convs[conv].user_marks(user) if conv in self._convs else Marks()

    def _marks_told(self, conv: str, peer: str) -> Marks:
        """The marks of ``peer`` that the other one may see."""
        return self._frozen[conv][peer] if conv in self._frozen else self._user_marks(conv, peer)

    def _grown(self, conv: str, user: str, before: Marks) -> Grown:
        now = self._user_marks(conv, user)
        return Grown(conv, user, now.delivered, now.read, grew=now != before, private=conv in self._frozen)

    async def find(self, conv: str, sender: str, id: str) -> Message | None:
        self._check_open()
        known = self._convs.get(conv)
        seq = known.seqs.get((sender, id)) if known else None
        return known.log[seq - 1] if known and seq else None

    async def read(
        self,
        conv: str,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        bytes_max: int = 262_144,
    ) -> Sequence[Message]:
        self._check_open()
        known = self._convs.get(conv, Conversation())
        log, upto = known.log, known.trimmed
        if after is not None:
            begin = max(after, upto)
            found = _fitting(log[begin : begin + limit], bytes_max)
        else:
            end = len(log) if before is None else min(len(log), max(0, before - 1))
            found = _fitting(reversed(log[max(upto, end - limit) : end]), bytes_max)[::-1]
        if not upto:
            return found
        return with_trimmed(found, conv, upto, log[upto - 1].ts_ms, after=after, before=before, limit=limit)

    async def heads(self, convs: Sequence[str]) -> dict[str, int]:
        self._check_open()
        return {conv: len(self._convs[conv].log) if conv in self._convs else 0 for conv in convs}

    async def position(self, conv: str, user: str, device: str) -> int:
        self._check_open()
        return self._convs[conv].positions.get((user, device), 0) if conv in self._convs else 0

    async def marks(self, conv: str, user: str) -> MarksView:
        self._check_open()
        known = self._convs.get(conv, Conversation())
        peer = self._marks_told(conv, peer_of(conv, user) or user)
        return MarksView(conv, len(known.log), dict(known.marks.get(user, {})), peer)

    # --- lists of conversations --------------------------------------------------------------------------

    async def conversations(
        self,
        user: str,
        device: str,
        *,
        since: str | None = None,
        cursor: str | None = None,
        limit: int,
    ) -> ConversationPage:
        self._check_open()
        newer_than, older_than, shown = 0, self._change + 1, self._change
        if point := self._numbers(since, 1):
            newer_than = point[0]
        if point := self._numbers(cursor, 3):  # it carries what its walk began with
            newer_than, older_than, shown = point
        names = [c for c in self._newest(user) if newer_than < self._convs[c].changed < older_than]
        page = names[:limit]
        more = f"{newer_than}.{self._convs[page[-1]].changed}.{shown}" if len(names) > limit else None
        return ConversationPage(
            tuple(self._view(conv, user, device) for conv in page),
            since=f"{self.incarnation}/{shown}",
            cursor=f"{self.incarnation}/{more}" if more else None,
        )

    def _newest(self, user: str) -> list[str]:
        """The user's conversations, newest change first."""
        return sorted(self._convs_of[user], key=lambda conv: -self._convs[conv].changed)

    def _numbers(self, text: str | None, count: int) -> list[int] | None:
        """The numbers in a ``since`` (1) or ``cursor`` (3); None when this store did not make it."""
        incarnation, _, rest = (text or "").rpartition("/")
        if incarnation != self.incarnation or not _NUMBERS.match(rest):
            return None
        numbers = [int(part) for part in rest.split(".")]
        return numbers if len(numbers) == count and max(numbers) <= self._change else None

    def _view(self, name: str, user: str, device: str) -> ConversationView:
        conv, peer = self._convs[name], peer_of(name, user) or user
        own, other, last = conv.user_marks(user), self._marks_told(name, peer), conv.log[-1]
        if last.first:
            last = trimmed_place(name, last.seq, last.seq, last.ts_ms)
        return ConversationView(
            conv=name,
            peer=peer,
            head=last.seq,
            delivered=own.delivered,
            read=own.read,
            peer_delivered=other.delivered,
            peer_read=other.read,
            unread=conv.unread(user, own.read),
            updated_ms=last.ts_ms,
            position=conv.positions.get((user, device), 0),
            last=last,
        )

    async def enroll(
        self, user: str, device: str, *, initial_history: int, newest_max: int, again: bool = False
    ) -> None:
        self._check_open()
        key = (user, device)
        if key in self._enrolled and not again:
            return
        self._enrolled.add(key)
        for rank, name in enumerate(self._newest(user)):
            conv = self._convs[name]
            start = max(0, len(conv.log) - initial_history) if rank < newest_max else len(conv.log)
            conv.positions[key] = start if again else max(start, conv.positions.get(key, 0))

    async def trim(self, *, older_than_ms: int, cursor: str | None = None, limit: int) -> Trimmed:
        self._check_open()
        start, count = int(cursor or 0), 0
        page = list(islice(self._convs, start, start + limit))  # a dict never reorders what is in it
        for at, name in enumerate(page, start):
            trimmed = self._convs[name].trim(name, older_than_ms, TRIMMED_MAX)
            count += trimmed
            if trimmed == TRIMMED_MAX:
                return Trimmed(count, str(at))
        return Trimmed(count, str(start + limit) if len(page) == limit else None)

    # --- blocks ------------------------------------------------------------------------------------------

    async def block(self, user: str, peer: str, *, on: bool) -> None:
        self._check_open()
        conv = conv_of(user, peer)
        if on:
            self._blocks[user].add(peer)
            if conv not in self._frozen:
                self._frozen[conv] = {one: self._user_marks(conv, one) for one in (user, peer)}
        else:
            self._blocks[user].discard(peer)
            if user not in self._blocks[peer]:
                self._frozen.pop(conv, None)

    async def erase(self, user: str, *, cursor: str | None = None) -> Erased | None:
        self._check_open()
        if user not in self._accounts:
            return None
        await self.delete_account(user)
        for peer in await self.blocks(user):
            await self.block(user, peer, on=False)
        count = 0
        for conv in self._convs_of[user]:
            count += self._convs[conv].erase(user, ERASED_MAX - count)
        return Erased(count, "more" if count == ERASED_MAX else None)

    async def blocks(self, user: str) -> Sequence[str]:
        self._check_open()
        return sorted(self._blocks[user])

    async def probe(self) -> None:
        self._check_open()

    async def counts(self) -> Counts:
        self._check_open()
        return Counts(self._users(), len(self._convs), sum(len(conv.log) for conv in self._convs.values()))


def _fitting(messages: Iterable[Message], bytes_max: int) -> list[Message]:
    """The first messages whose bodies fit in ``bytes_max`` UTF-8 bytes together; at least one."""
    chosen: list[Message] = []
    size = 0
    for message in messages:
        size += len(message.body.encode())
        if chosen and size > bytes_max:
            break
        chosen.append(message)
    return chosen
