"""Stores that break one promise of trimming each, for ``broken_stores``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace
from store_backends import FaultyMemoryStore

from chatd.errors import IdReuse
from chatd.model import Appended, Draft, Message
from chatd.store.base import Trimmed


class LeavesNoPlace(FaultyMemoryStore):
    async def read(self, conv: str, **where: Any) -> Sequence[Message]:
        return [message for message in await super().read(conv, **where) if not message.first]


class CountsWhatIsKept(FaultyMemoryStore):
    """The head is how many there are."""

    async def heads(self, convs: Sequence[str]) -> dict[str, int]:
        return {conv: head - self._convs[conv].trimmed for conv, head in (await super().heads(convs)).items()}


class BadgeCountsTheTrimmed(FaultyMemoryStore):
    async def badge(self, user: str) -> int:
        return await super().badge(user) + sum(self._convs[conv].trimmed for conv in self._convs_of[user])


class StoresTheTrimmedAgain(FaultyMemoryStore):
    def _append(self, draft: Draft) -> Appended | IdReuse:
        done = super()._append(draft)
        if isinstance(done, IdReuse) and (draft.sender, draft.id) not in self._convs[draft.conv].seqs:
            return super()._append(replace(draft, id=f"{draft.id[:14]}4{draft.id[15:]}"))
        return done


class WalksOneStep(FaultyMemoryStore):
    async def trim(self, *, older_than_ms: int, cursor: str | None = None, limit: int) -> Trimmed:
        step = await super().trim(older_than_ms=older_than_ms, cursor=cursor, limit=limit)
        return Trimmed(step.messages, None)


class ForgetsTrimsAtClose(FaultyMemoryStore):
    async def close(self) -> None:
        for conv in self._convs.values():
            conv.trimmed = 0
        await super().close()


BROKEN_RETENTION: list[tuple[type[FaultyMemoryStore], str]] = [
    (LeavesNoPlace, "what_is_trimmed_leaves_its_place"),
    (CountsWhatIsKept, "a_log_may_be_trimmed_to_its_end"),
    (BadgeCountsTheTrimmed, "what_is_trimmed_is_neither_unread_nor_owed"),
    (StoresTheTrimmedAgain, "a_repeat_of_a_trimmed_message_is_refused"),
    (WalksOneStep, "walks_that_trim_do_not_disturb_each_other"),
    (ForgetsTrimsAtClose, "trims_survive_a_reopen"),
]
