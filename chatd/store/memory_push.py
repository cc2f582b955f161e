"""The memory store's side of push: subscriptions, and what is owed to whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice

from chatd.model import Message, Owed, Pushed, Subscription, Unpushed, UnpushedPage, members_of, peer_of
from chatd.store.memory_presence import MemoryPresence


class MemoryPush(MemoryPresence):
    """A ``chatd.store.base.PushStore`` over the conversations of a memory store."""

    _convs_of: defaultdict[str, list[str]]

    def __init__(self) -> None:
        super().__init__()
        self._subscriptions: dict[str, dict[str, Subscription]] = {}  # user → device → its subscription
        self._kept: dict[str, str] = {}

    # --- subscriptions -----------------------------------------------------------------------------------

    async def put_subscription(self, subscription: Subscription) -> bool:
        self._check_open()
        if (subscription.user, subscription.device) not in self._devices:
            return False
        self._subscriptions.setdefault(subscription.user, {})[subscription.device] = subscription
        return True

    async def remove_subscription(self, user: str, device: str, endpoint: str | None = None) -> bool:
        self._check_open()
        mine = self._subscriptions.get(user, {})
        if device not in mine or endpoint not in (None, mine[device].endpoint):
            return False
        del mine[device]
        if not mine:
            del self._subscriptions[user]
        return True

    async def subscriptions(self, user: str, now_ms: int) -> Sequence[Subscription]:
        self._check_open()
        account = self._accounts.get(user)
        if user in self._accounts and (account is None or account.disabled):
            return []
        mine = sorted(self._subscriptions.get(user, {}).items())
        return [one for device, one in mine if not self._expired(user, device, now_ms)]

    def _expired(self, user: str, device: str, now_ms: int) -> bool:
        expires_ms = self._devices[user, device].expires_ms
        return expires_ms is not None and expires_ms <= now_ms

    async def remove_device(self, user: str, device: str) -> bool:
        removed = await super().remove_device(user, device)
        await self.remove_subscription(user, device)
        return removed

    # --- what is owed ------------------------------------------------------------------------------------

    async def owed(self, conv: str, user: str) -> Owed:
        self._check_open()
        known = self._convs.get(conv)
        if known is None or peer_of(conv, user) is None:
            return Owed(None, 0, self._unread(user))
        return Owed(self._newest_owed(conv, user), known.unread(user, known.user_marks(user).read), self._unread(user))

    def _newest_owed(self, conv: str, user: str) -> Message | None:
        """The message that is owed; None also in notes to self."""
        known, peer = self._convs[conv], peer_of(conv, user)
        if peer is None or peer == user or self._apart(user, peer):
            return None
        return known.newest_of_peer(user, max(known.user_marks(user).delivered, known.pushed.get(user, 0)))

    def _unread(self, user: str) -> int:
        """The user's unread messages over all conversations."""
        mine = (self._convs[conv] for conv in self._convs_of.get(user, ()))
        return sum(known.unread(user, known.user_marks(user).read) for known in mine)

    async def badge(self, user: str) -> int:
        self._check_open()
        return self._unread(user)

    async def pushed(self, marks: Sequence[Pushed]) -> None:
        self._check_open()
        for one in marks:
            if one.conv in self._convs and peer_of(one.conv, one.user) not in (None, one.user):
                known = self._convs[one.conv]
                known.pushed[one.user] = max(known.pushed.get(one.user, 0), min(one.seq, len(known.log)))

    async def unpushed(
        self, *, cursor: str | None = None, limit: int, newer_than_ms: int, every_user: bool
    ) -> UnpushedPage:
        self._check_open()
        start = int(cursor or 0)
        page = list(islice(self._convs, start, start + limit))  # a dict never reorders what is in it
        rows = [
            row
            for conv in page
            for user in dict.fromkeys(members_of(conv) or ())
            if (every_user or user in self._subscriptions)
            for row in self._unpushed_row(conv, user, newer_than_ms)
        ]
        return UnpushedPage(tuple(rows), str(start + limit) if len(page) == limit else None)

    def _unpushed_row(self, conv: str, user: str, newer_than_ms: int) -> list[Unpushed]:
        """The row of one user of a conversation, if there is one."""
        known, newest = self._convs[conv], self._newest_owed(conv, user)
        told = known.pushed.get(user, 0)
        shown = told if told > known.user_marks(user).read else 0
        due = newest is not None and known.log[-1].ts_ms >= newer_than_ms
        return [Unpushed(conv, user, newest.seq if newest else 0, shown)] if due or shown else []

    async def keep(self, name: str, value: str) -> str:
        self._check_open()
        return self._kept.setdefault(name, value)
