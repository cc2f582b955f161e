"""The memory store's side of presence: who may watch whom, and when somebody was here last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from chatd.model import Acquaintance, conv_of
from chatd.store.memory_accounts import MemoryAccounts
from chatd.store.memory_conversation import Conversation


class MemoryPresence(MemoryAccounts):
    """A ``chatd.store.base.PresenceStore`` over the conversations and blocks of a memory store."""

    _convs: dict[str, Conversation]
    _blocks: defaultdict[str, set[str]]

    def __init__(self) -> None:
        super().__init__()
        self._seen_ms: dict[str, int] = {}

    async def acquainted(self, user: str, others: Sequence[str]) -> dict[str, Acquaintance]:
        self._check_open()
        found = {}
        for other in others:
            account = self._accounts.get(other)
            if account is not None and conv_of(user, other) in self._convs and not self._apart(user, other):
                found[other] = Acquaintance(account.shows_last_seen, self._seen_ms.get(other))
        return found

    def _apart(self, one: str, other: str) -> bool:
        """Whether either of the two blocks the other."""
        return other in self._blocks.get(one, ()) or one in self._blocks.get(other, ())

    async def seen(self, times_ms: Mapping[str, int]) -> None:
        self._check_open()
        for user, time_ms in times_ms.items():
            if self._accounts.get(user) is not None:
                self._seen_ms[user] = max(self._seen_ms.get(user, time_ms), time_ms)

    async def set_shows_last_seen(self, user: str, on: bool) -> bool:
        self._check_open()
        account = self._accounts.get(user)
        if account is None:
            return False
        self._accounts[user] = replace(account, shows_last_seen=on)
        return True
