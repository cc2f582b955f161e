"""All that is kept of one user, page by page, as plain values: what the user may see, and no secret."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from chatd import protocol
from chatd.errors import NotFound
from chatd.model import ConversationView, peer_of
from chatd.store.base import Store

CONVERSATIONS_PER_PAGE = 200
MESSAGES_PER_PAGE = 500


class Listed(Struct, frozen=True):
    """A page of a user's conversations, newest change first. ``cursor``: there are more.

    ``since``: give it to a second walk, which finds what changed meanwhile.
    """

    convs: Sequence[str]
    since: str
    cursor: str | None = None


class Exporting:
    """Reads a store for exports. Every line is an object with a ``type``. Errors of the store pass through.

    ``now_ms``: the wall clock, Unix ms.
    """

    def __init__(self, store: Store, *, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms

    async def export_account(self, user: str) -> list[dict[str, Any]]:
        """The account, its devices, its subscriptions without their keys, and whom it blocks. Raises: NotFound."""
        account = await self._store.account(user)
        if account is None:
            raise NotFound("no such user")
        known = _plain("account", account, "password_hash")
        lines = [{**known, "has_password": account.password_hash is not None, "exported_ms": self._now_ms()}]
        lines += [_plain("device", device, "user") for device in await self._store.devices(user)]
        subscriptions = await self._store.subscriptions(user, self._now_ms())
        lines += [_plain("subscription", one, "user", "keys") for one in subscriptions]
        lines += [{"type": "block", "user": peer} for peer in await self._store.blocks(user)]
        return lines

    async def export_conversations(self, user: str, cursor: str | None = None, since: str | None = None) -> Listed:
        """A page of the names of the user's conversations. Raises: NotFound."""
        if await self._store.account(user) is None:
            raise NotFound("no such user")
        page = await self._store.conversations(user, "", since=since, cursor=cursor, limit=CONVERSATIONS_PER_PAGE)
        return Listed([view.conv for view in page.conversations], page.since, page.cursor)

    async def export_marks(self, user: str, conv: str) -> dict[str, Any]:
        """One conversation: who it is with, where it ends, and how far each device and the peer have come."""
        if peer_of(conv, user) is None:
            raise NotFound("no such conversation")
        marks = await self._store.marks(conv, user)
        return {"type": "conversation", "peer": peer_of(conv, user), **msgspec.to_builtins(marks)}

    async def export_messages(self, user: str, conv: str, after: int = 0) -> list[dict[str, Any]]:
        """The next messages of one conversation as the user may see them; empty at its end."""
        if peer_of(conv, user) is None:
            raise NotFound("no such conversation")
        log = await self._store.read(conv, after=after, limit=MESSAGES_PER_PAGE)
        entries = [msgspec.to_builtins(protocol.entry(message, user)) for message in log]
        return [{"type": "message", "conv": conv, **entry} for entry in entries]


def _plain(kind: str, value: Struct | ConversationView, *without: str) -> dict[str, Any]:
    plain = msgspec.to_builtins(value)
    return {"type": kind, **{name: field for name, field in plain.items() if name not in without}}
