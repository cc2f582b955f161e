"""The words of chatd: frozen values that every layer passes on and none changes.

Units: ``seq`` counts from 1 without gaps inside a conversation; ``*_ms`` is Unix time in milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

from msgspec import Struct

SEQ_MAX = 2**53 - 1
# "$" of Python also matches before a final newline, which "(?!\n)" rules out. Documents for others go without, see
# `portable`: "$" of ECMA-262, which JSON Schema means, matches at the end alone, and RE2 (Go, Rust) has no lookahead.
USER_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$(?!\n)"
DEVICE_PATTERN = r"^[A-Za-z0-9_-]{1,64}$(?!\n)"
UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$(?!\n)"
CONV_CHARS_MAX = 160
WATERMARKS_MAX = 1_000
PAGE_ITEMS_MAX = 200
WATCHES_MAX = 1_000
WATCH_USERS_MAX = 200
ID_AHEAD_MS_MAX = 3_600_000  # a device's clock, and with it the time in its ids, may be so far ahead of the server's
MEMBERS_CACHED_MAX = 16_384  # conversations whose name was taken apart already: each message asks five times

Durability = Literal["replicated", "fsync", "os", "memory"]
PresenceState = Literal["online", "away", "offline"]

_user = re.compile(USER_PATTERN)
_device = re.compile(DEVICE_PATTERN)
_uuid = re.compile(UUID_PATTERN)


def portable(schema: Any) -> Any:
    """A JSON Schema, or what holds some, with the patterns above as every language reads them."""
    if isinstance(schema, dict):
        return {name: portable(value) for name, value in schema.items()}
    if isinstance(schema, list):
        return [portable(value) for value in schema]
    return schema.removesuffix(r"(?!\n)") if isinstance(schema, str) else schema


def is_user(name: str) -> bool:
    """Whether ``name`` has the form of a user name."""
    return _user.match(name) is not None


def is_device(name: str) -> bool:
    """Whether ``name`` has the form of a device id."""
    return _device.match(name) is not None


def is_message_id(text: str) -> bool:
    """Whether ``text`` is a UUID in lower-case canonical text."""
    return _uuid.match(text) is not None


def born_ms(id: str) -> int:
    """When a UUID of version 7 was made, Unix ms by its maker's clock; 0: one of another version."""
    return int(id[:8] + id[9:13], 16) if id[14] == "7" else 0


def conv_of(one: str, other: str) -> str:
    """The conversation of two users: a function of the pair, so two first messages cannot race."""
    return f"{one}:{other}" if one <= other else f"{other}:{one}"


@lru_cache(MEMBERS_CACHED_MAX)
def members_of(conv: str) -> tuple[str, str] | None:
    """The two users of a conversation (the same one twice for notes to self), or None: not a conversation."""
    one, colon, other = conv.partition(":")
    if colon and is_user(one) and is_user(other) and one <= other:
        return one, other
    return None


def peer_of(conv: str, user: str) -> str | None:
    """The other user of ``conv``, or None when ``user`` is not in it: "not yours" and "no such" look the same."""
    members = members_of(conv)
    if members is None or user not in members:
        return None
    return members[1] if members[0] == user else members[0]


class Draft(Struct, frozen=True, gc=False):
    """A message before its commit. ``ts_ms`` is the server's clock; the store never lets it run backwards."""

    conv: str
    sender: str
    id: str
    body: str
    ts_ms: int


class Message(Struct, omit_defaults=True, frozen=True, gc=False):
    """A committed message. ``hidden``: sent while the recipient blocked its sender.

    ``erased``: its sender was erased, and with it the body, which is empty; it is ``hidden``, too.
    ``first`` above 0: the place of messages that were trimmed, ``first`` … ``seq``; all of them are older than
    ``ts_ms`` or as old, and it has no id, sender and body.
    """

    conv: str
    seq: int
    id: str
    sender: str
    body: str
    ts_ms: int
    hidden: bool = False
    first: int = 0
    erased: bool = False


def trimmed_place(conv: str, first: int, last: int, ts_ms: int) -> Message:
    """What stands in a log for the messages ``first`` … ``last``, which were trimmed."""
    return Message(conv, last, "", "", "", ts_ms, first=first)


def with_trimmed(
    log: list[Message], conv: str, upto: int, ts_ms: int, *, after: int | None, before: int | None, limit: int
) -> list[Message]:
    """A piece of a log (see `MessageStore.read`) with the place of what was trimmed of it, if that belongs there.

    ``log``: the messages that are kept. ``upto``, ``ts_ms``: of the last one that was trimmed.
    """
    if after is not None:
        return [trimmed_place(conv, after + 1, upto, ts_ms), *log[: limit - 1]] if after < upto else log
    last = upto if before is None else min(upto, before - 1)
    if last < 1 or len(log) >= limit or (log and log[0].seq > upto + 1):
        return log
    return [trimmed_place(conv, 1, last, ts_ms), *log]


class Appended(Struct, frozen=True, gc=False):
    """What one draft became. ``duplicate``: it was stored before, and this is its first seq and ts."""

    message: Message
    duplicate: bool = False


class Advance(Struct, frozen=True, gc=False):
    """One device's watermarks to raise. A mark only grows; ``read`` implies ``delivered``."""

    conv: str
    user: str
    device: str
    delivered: int
    read: int = 0


class Marks(Struct, frozen=True, gc=False):
    """A pair of watermarks: everything up to ``delivered`` arrived, everything up to ``read`` was read."""

    delivered: int = 0
    read: int = 0


class Grown(Struct, frozen=True, gc=False):
    """A user's marks after an advance. ``grew``: they did; only then is there a receipt to send.

    ``private``: one of the two blocks the other; the peer is not told.
    """

    conv: str
    user: str
    delivered: int
    read: int
    grew: bool
    private: bool = False


class ConversationView(Struct, frozen=True):
    """One conversation as one user's device sees it.

    ``position``: the last seq that this device is known to hold (its start or its delivered mark).
    ``unread`` is computed: the peer's visible messages above max(own read mark, own last sent seq).
    """

    conv: str
    peer: str
    head: int
    delivered: int
    read: int
    peer_delivered: int
    peer_read: int
    unread: int
    updated_ms: int
    position: int
    last: Message | None = None


class ConversationPage(Struct, frozen=True):
    """Conversations, newest activity first. ``cursor``: there are more; ``since``: the point this page shows."""

    conversations: tuple[ConversationView, ...]
    since: str
    cursor: str | None = None


def parted(views: Sequence[ConversationView], bytes_max: int) -> Iterator[Sequence[ConversationView]]:
    """The views in parts whose last messages have at most ``bytes_max`` bytes of UTF-8 together, or which are one."""
    begin = size = 0
    for at, view in enumerate(views):
        last = 0 if view.last is None else len(view.last.body.encode())
        size += last
        if size > bytes_max and at > begin:
            yield views[begin:at]
            begin, size = at, last
    if views:
        yield views[begin:]


class MarksView(Struct, frozen=True):
    """What ``GET …/marks`` tells: the own devices' marks, and the peer's user-level marks."""

    conv: str
    head: int
    devices: dict[str, Marks]
    peer: Marks


class Account(Struct, frozen=True):
    """A user. ``password_hash`` is an argon2id string, or None: no password login.

    ``shows_last_seen``: others see when this user was here last, and the user sees it of them.
    """

    user: str
    password_hash: str | None
    admin: bool
    disabled: bool
    created_ms: int
    shows_last_seen: bool = True


class Device(Struct, frozen=True):
    """One device of a user and the token bound to it. Times are Unix ms; ``expires_ms`` None: never."""

    user: str
    device: str
    name: str
    created_ms: int
    expires_ms: int | None = None


class Identity(Struct, frozen=True):
    """Who a token speaks for. ``expires_ms`` None: until it is revoked. ``shows_last_seen``: as in `Account`."""

    user: str
    device: str
    expires_ms: int | None = None
    admin: bool = False
    shows_last_seen: bool = True


class Acquaintance(Struct, frozen=True):
    """Somebody whose presence a user may watch. ``last_seen_ms``: Unix ms, None when it is not known.

    ``shows_last_seen``: the other's own choice; the watcher must make the same one to see it.
    """

    shows_last_seen: bool
    last_seen_ms: int | None = None


class Subscription(Struct, frozen=True):
    """Where one device wants its notifications: ``kind`` names the notifier, which alone understands the rest.

    ``endpoint``: a URL. ``keys``: names and texts, as a browser's PushSubscription has them.
    """

    user: str
    device: str
    kind: str
    endpoint: str
    keys: dict[str, str]
    created_ms: int


class Owed(Struct, frozen=True):
    """What a user is to be told about one conversation.

    ``newest``: the peer's newest visible message above max(the user's delivered mark, the pushed mark), or None:
    nothing is owed. ``unread``: computed, as in `ConversationView`. ``badge``: unread in all the user's conversations.
    """

    newest: Message | None
    unread: int
    badge: int


class Pushed(Struct, frozen=True):
    """A user was notified, or need not be, of everything in a conversation up to ``seq``. A mark that only grows."""

    conv: str
    user: str
    seq: int


class Unpushed(Struct, frozen=True):
    """A conversation about which a user is owed a notification, or has one on the screen.

    ``seq``: the peer's newest visible message if it is above the delivered and the pushed mark, else 0: nothing owed.
    ``shown``: the pushed mark if it is above the read mark, else 0: nothing on the screen.
    """

    conv: str
    user: str
    seq: int
    shown: int


class UnpushedPage(Struct, frozen=True):
    """A page of a walk over the whole store. ``cursor``: there may be more; a page may be empty and have one."""

    rows: tuple[Unpushed, ...]
    cursor: str | None = None
