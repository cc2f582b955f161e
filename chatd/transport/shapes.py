"""What the HTTP API takes and gives: the bodies and queries of docs/protocol.md §5 that are not already frames.

Times are Unix ms. Unknown fields are ignored, as in frames.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from chatd.accounts import DEVICE_NAME_CHARS_MAX, PASSWORD_CHARS_MAX
from chatd.protocol import ConvId, Cursor, Limit, Mark, MessageId, Seq, UserName
from chatd.stats import Snapshot

PAGE_ITEMS = 50
"""Items of a page when the query has no ``limit``."""

ENDPOINT_CHARS_MAX = 2_048
KEYS_MAX = 8
KeyName = Annotated[str, Meta(max_length=32)]
KeyText = Annotated[str, Meta(max_length=512)]
Password = Annotated[str, Meta(max_length=PASSWORD_CHARS_MAX)]
Secret = Annotated[str, Meta(min_length=1, max_length=256)]


class _Body(Struct, kw_only=True, omit_defaults=True, frozen=True):
    pass


# --- requests --------------------------------------------------------------------------------------------


class Register(_Body, frozen=True):
    """A new account. ``invite``: the code of an invite, where registration is by invite."""

    user: UserName
    password: Password
    invite: Secret | None = None


class Login(_Body, frozen=True):
    """``name``: what the user calls this device. ``user`` is any text: a failed login has one answer."""

    user: Annotated[str, Meta(max_length=256)]
    password: Annotated[str, Meta(max_length=8_192)]
    name: Annotated[str, Meta(max_length=DEVICE_NAME_CHARS_MAX)] = ""


class NewMessage(_Body, frozen=True):
    """A message to a user or into a conversation; ``id`` here or in the Idempotency-Key header."""

    body: str
    id: MessageId | None = None
    to: UserName | None = None
    conv: ConvId | None = None


class ReadUpTo(_Body, frozen=True):
    """The user has read up to here."""

    seq: Seq


class Privacy(_Body, frozen=True):
    """``last_seen``: whether others see when the user was last here, and the user sees it of them."""

    last_seen: bool


class NewSubscription(_Body, frozen=True):
    """Where this device wants its notifications. A browser's ``PushSubscription.toJSON()`` is one, as it stands."""

    endpoint: Annotated[str, Meta(min_length=1, max_length=ENDPOINT_CHARS_MAX)]
    keys: Annotated[dict[KeyName, KeyText], Meta(max_length=KEYS_MAX)] = {}
    kind: Annotated[str, Meta(min_length=1, max_length=32)] = "webpush"


class ConversationsQuery(_Body, frozen=True):
    """A page of conversations; ``cursor`` from the page before."""

    cursor: Cursor | None = None
    limit: Limit = PAGE_ITEMS


class HistoryQuery(_Body, frozen=True):
    """A page of a log: before a seq, after a seq, or its end."""

    before: Seq | None = None
    after: Mark | None = None
    limit: Limit = PAGE_ITEMS


class UsersQuery(_Body, frozen=True):
    """A page of users: those behind ``after`` in order of name."""

    after: Annotated[str, Meta(max_length=64)] = ""
    limit: Limit = PAGE_ITEMS


class Disabled(_Body, frozen=True):
    """Whether a user is locked out."""

    disabled: bool


class NewInvite(_Body, frozen=True):
    """For how long an invite is good."""

    hours: Annotated[int, Meta(ge=1, le=8_760)] = 72


# --- answers ---------------------------------------------------------------------------------------------


class Registered(_Body, frozen=True):
    """The account that was made."""

    user: str


class LoggedIn(_Body, frozen=True):
    """The token of a new device; it is shown once. ``expires``: absent when it is good until revoked."""

    token: str
    user: str
    device: str
    expires: int | None = None


class DeviceRow(_Body, frozen=True):
    """A device of the user. ``current``: the one that asks."""

    device: str
    name: str
    created: int
    expires: int | None = None
    current: bool = False


class Devices(_Body, frozen=True):
    """The user's devices, oldest first."""

    devices: tuple[DeviceRow, ...]


class SentMessage(_Body, frozen=True):
    """The message is durable, and this is its place."""

    id: str
    conv: str
    seq: int
    ts: int


class MarkPair(_Body, frozen=True, omit_defaults=False):
    """Up to where messages were delivered and read; 0: none."""

    delivered: int
    read: int


class ConversationMarks(_Body, frozen=True):
    """The marks of the user's devices, by device, and the peer's. ``head``: the last seq; 0: no message."""

    conv: str
    head: int
    devices: dict[str, MarkPair]
    peer: MarkPair


class UserMarks(_Body, frozen=True):
    """The user's own marks after the request."""

    conv: str
    delivered: int
    read: int


class Blocks(_Body, frozen=True):
    """Whom the user blocks, sorted."""

    blocks: tuple[str, ...]


class Health(_Body, frozen=True):
    """``ok``."""

    status: str


class Version(_Body, frozen=True):
    """The server's version and the protocol that it speaks."""

    name: str
    version: str
    protocol: str


class Push(_Body, frozen=True):
    """The kinds of subscriptions that this server takes, and what a client needs to know for each (``vapid``: …)."""

    kinds: dict[str, dict[str, str]]


class DeviceSubscription(_Body, frozen=True):
    """The subscription of this device; its keys are not told. ``created``: Unix ms."""

    kind: str
    endpoint: str
    created: int


class Account(_Body, frozen=True, omit_defaults=False):
    """Whom the token speaks for. ``admin``: an administrator."""

    user: str
    device: str
    admin: bool


class Stats(_Body, frozen=True):
    """A snapshot of each process of this host, the one that answers first; ``cluster_processes`` tells of more."""

    processes: tuple[Snapshot, ...]


class UserRow(_Body, frozen=True, omit_defaults=False):
    """A user as administrators see it. ``created``: Unix ms. ``connected``: devices with a connection now."""

    user: str
    admin: bool
    disabled: bool
    has_password: bool
    created: int
    connected: int


class Users(_Body, frozen=True):
    """A page of users; fewer than asked for: it is the last one."""

    users: tuple[UserRow, ...]


class Invite(_Body, frozen=True):
    """A code that is good once, until ``expires`` (Unix ms); it is not shown again."""

    invite: str
    expires: int
