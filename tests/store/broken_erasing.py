"""Stores that break one promise of erasing each, for ``broken_stores``."""

from __future__ import annotations

from msgspec.structs import replace
from store_backends import FaultyMemoryStore

from chatd.model import Account
from chatd.store.base import Erased


class ErasesThePeer(FaultyMemoryStore):
    """What was written to the user goes, too."""

    async def erase(self, user: str, *, cursor: str | None = None) -> Erased | None:
        done = await super().erase(user, cursor=cursor)
        for conv in self._convs_of[user]:
            known = self._convs[conv]
            known.log = [replace(m, body="", hidden=True, erased=True) for m in known.log]
        return done


class ErasedIsUnread(FaultyMemoryStore):
    async def erase(self, user: str, *, cursor: str | None = None) -> Erased | None:
        done = await super().erase(user, cursor=cursor)
        for conv in self._convs_of[user]:
            known = self._convs[conv]
            known.log = [replace(m, hidden=False) if m.erased else m for m in known.log]
        return done


class FreesErasedNames(FaultyMemoryStore):
    async def add_account(self, account: Account) -> bool:
        if self._accounts.get(account.user, account) is None:
            del self._accounts[account.user]
        return await super().add_account(account)


class ErasesOneStep(FaultyMemoryStore):
    """It says that there is more, and does not go on."""

    async def erase(self, user: str, *, cursor: str | None = None) -> Erased | None:
        return Erased(0, None) if cursor else Erased(0, "more")


class RemembersAtClose(FaultyMemoryStore):
    async def close(self) -> None:
        for known in self._convs.values():
            known.log = [replace(m, body="again", erased=False) if m.erased else m for m in known.log]
        await super().close()


BROKEN_ERASING: list[tuple[type[FaultyMemoryStore], str]] = [
    (ErasesThePeer, "erased_messages_leave_their_places"),
    (ErasedIsUnread, "what_is_erased_is_neither_unread_nor_owed"),
    (FreesErasedNames, "an_erased_user_is_gone"),
    (ErasesOneStep, "erasing_goes_on_where_it_was_left"),
    (RemembersAtClose, "erasures_survive_a_reopen"),
]
