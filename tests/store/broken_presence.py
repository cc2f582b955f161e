"""Stores that break one promise of presence each, for ``broken_stores``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from msgspec.structs import replace
from store_backends import FaultyMemoryStore

from chatd.model import Account, Acquaintance, Advance, Device, conv_of
from chatd.store.memory_conversation import Conversation


class EverybodyIsAcquainted(FaultyMemoryStore):
    async def acquainted(self, user: str, others: Sequence[str]) -> dict[str, Acquaintance]:
        return {one: Acquaintance(True) for one in others if self._accounts.get(one) is not None}


class SortsAcquaintances(FaultyMemoryStore):
    async def acquainted(self, user: str, others: Sequence[str]) -> dict[str, Acquaintance]:
        return await super().acquainted(user, sorted(others))


class MarksBeginConversations(FaultyMemoryStore):
    def _advance(self, advance: Advance) -> None:
        self._convs.setdefault(advance.conv, Conversation())
        super()._advance(advance)


class OnlyOwnBlocksCount(FaultyMemoryStore):
    def _apart(self, one: str, other: str) -> bool:
        return other in self._blocks[one]


class WatchesTheDeleted(FaultyMemoryStore):
    async def acquainted(self, user: str, others: Sequence[str]) -> dict[str, Acquaintance]:
        return {one: Acquaintance(True) for one in others if conv_of(user, one) in self._convs}


class NeverOneself(FaultyMemoryStore):
    async def acquainted(self, user: str, others: Sequence[str]) -> dict[str, Acquaintance]:
        return await super().acquainted(user, [one for one in others if one != user])


class LastTimeWins(FaultyMemoryStore):
    async def seen(self, times_ms: Mapping[str, int]) -> None:
        for user in times_ms:
            self._seen_ms.pop(user, None)
        await super().seen(times_ms)


class SeesStrangers(FaultyMemoryStore):
    """A time without an account waits for it."""

    async def seen(self, times_ms: Mapping[str, int]) -> None:
        await super().seen(times_ms)
        self._seen_ms.update({user: time for user, time in times_ms.items() if user not in self._accounts})


class TimesRace(FaultyMemoryStore):
    """Looks, waits, writes."""

    async def seen(self, times_ms: Mapping[str, int]) -> None:
        old = dict(self._seen_ms)
        await asyncio.sleep(0)
        self._seen_ms.update({user: max(old.get(user, 0), time) for user, time in times_ms.items()})


class ForgetsTheTimeOfTheShy(FaultyMemoryStore):
    async def acquainted(self, user: str, others: Sequence[str]) -> dict[str, Acquaintance]:
        found = await super().acquainted(user, others)
        return {name: one if one.shows_last_seen else Acquaintance(False) for name, one in found.items()}


class TokensTellNoChoice(FaultyMemoryStore):
    async def identity(self, token_hash: bytes) -> tuple[Device, Account] | None:
        found = await super().identity(token_hash)
        return found and (found[0], replace(found[1], shows_last_seen=True))


class PasswordsTakeTheChoice(FaultyMemoryStore):
    async def set_password(self, user: str, password_hash: str) -> bool:
        await self.set_shows_last_seen(user, True)
        return await super().set_password(user, password_hash)


class ForgetsTimesAtClose(FaultyMemoryStore):
    async def close(self) -> None:
        self._seen_ms.clear()
        await super().close()


BROKEN_PRESENCE: list[tuple[type[FaultyMemoryStore], str]] = [
    (EverybodyIsAcquainted, "who_shares_a_conversation_may_be_watched"),
    (SortsAcquaintances, "who_shares_a_conversation_may_be_watched"),
    (MarksBeginConversations, "a_conversation_begins_with_its_first_message"),
    (OnlyOwnBlocksCount, "nobody_watches_over_a_block"),
    (WatchesTheDeleted, "a_deleted_account_is_not_watched"),
    (NeverOneself, "notes_to_self_are_an_acquaintance"),
    (LastTimeWins, "last_seen_is_a_maximum"),
    (SeesStrangers, "last_seen_is_a_maximum"),
    (TimesRace, "times_that_race_end_at_their_maximum"),
    (ForgetsTheTimeOfTheShy, "everybody_chooses_to_show_last_seen"),
    (TokensTellNoChoice, "everybody_chooses_to_show_last_seen"),
    (PasswordsTakeTheChoice, "a_choice_outlives_other_changes_of_the_account"),
    (ForgetsTimesAtClose, "presence_survives_a_reopen"),
]
