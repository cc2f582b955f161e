"""What a store holds, in words of no store: how a history goes from one to another, and how the two are compared.

A reader gives records, the same ones for the same history, whatever it is kept in. All of this is for a store that
nobody else is using: nothing here is a snapshot.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec
from msgspec import Struct

from chatd.model import Account, Device, Marks, Subscription
from chatd.store.base import Counts

PAGE_MESSAGES_MAX = 2_000
PAGE_CONVERSATIONS_MAX = 100
PIECE_MESSAGES_MAX = 1_000  # of one conversation in a page
PAGE_BYTES_MAX = 2 * 1024 * 1024  # of bodies, and a message more in each conversation
CONVERSATIONS_PER_PAGE = 500
USERS_PER_PAGE = 500
_pack = msgspec.msgpack.Encoder().encode


class Entry(NamedTuple):
    """A message. ``member``: 0, the first of the two sent it, or 1. ``id``: the 16 bytes of the UUID.

    ``hidden``: how many messages are, of those kept up to this one, and negative when it is one of them.
    ``erased``: see `Message`; such a one is hidden, too.
    """

    seq: int
    member: int
    id: bytes
    ts_ms: int
    hidden: int
    body: str
    erased: bool = False


class Mark(Struct, frozen=True, array_like=True, order=True):
    """One device in one conversation. ``member``: 0 or 1, whose. ``position``: the last seq it is known to hold."""

    member: int
    device: str
    position: int
    delivered: int
    read: int


class Notes(Struct, frozen=True, array_like=True):
    """All of a conversation but its messages. Pairs are of the first of the two users and the second.

    ``last``: last seqs sent, ``visible``: those that the other may see. ``hidden``: how many messages are. ``ids``: how
    many ids are known. ``told``: each one's marks, maxima over the devices. ``marks``: sorted, one a device.
    ``blocks``: whether each blocks the other. ``frozen``: what is told of each one's marks while somebody blocks.
    ``pushed``: see `PushStore`. ``trimmed``: up to which seq, and the ts_ms of the last message that went.
    """

    conv: str
    head: int = 0
    ts_ms: int = 0
    last: tuple[int, int] = (0, 0)
    visible: tuple[int, int] = (0, 0)
    hidden: int = 0
    ids: int = 0
    told: tuple[Marks, Marks] = (Marks(), Marks())
    marks: tuple[Mark, ...] = ()
    blocks: tuple[bool, bool] = (False, False)
    frozen: tuple[Marks, Marks] | None = None
    pushed: tuple[int, int] = (0, 0)
    trimmed: tuple[int, int] = (0, 0)


class Kept(Struct, frozen=True, array_like=True):
    """An account with what is not the account's own to tell. ``deleted``: the name stays taken."""

    account: Account
    deleted: bool
    last_seen_ms: int | None


class Held(Struct, frozen=True, array_like=True):
    """A device with the hash of its token (32 bytes), or None: a host application's JWT."""

    device: Device
    token_hash: bytes | None


class User(Struct, frozen=True, array_like=True):
    """All of a user. ``kept`` None: there is no account of this name, only what others or a host application made.

    ``devices``, ``subscriptions``, ``enrolled``, ``blocks``: sorted by name. ``convs``: of this user's conversations
    that have a message, the one with the oldest change first.
    """

    name: str
    kept: Kept | None = None
    devices: tuple[Held, ...] = ()
    subscriptions: tuple[Subscription, ...] = ()
    enrolled: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    convs: tuple[str, ...] = ()


class Invite(Struct, frozen=True, array_like=True, order=True):
    """An invite that was not used."""

    hash: bytes
    admin: bool
    expires_ms: int


class Rest(Struct, frozen=True, array_like=True):
    """What belongs to nobody, sorted: invites, and the names and values of `PushStore.keep`."""

    invites: tuple[Invite, ...]
    values: tuple[tuple[str, str], ...]


class Piece(NamedTuple):
    """A request for messages of one conversation: at most ``limit``, those after ``after``."""

    conv: str
    after: int
    limit: int


Found = Literal["nothing", "half", "all"]
"""What a target held of the history: nothing at all, a part, or all of it since an earlier move."""


class Reader(Protocol):
    """Reads all of a store. Errors as in `MessageStore`."""

    async def notes(self, convs: Sequence[str]) -> Sequence[Notes]:
        """All but the messages of each, in the order given; of one that is not there with nothing in it."""

    async def entries(self, pieces: Sequence[Piece]) -> Sequence[Sequence[Entry]]:
        """The messages of each piece, ascending: as many as asked, or as fit in about `PAGE_BYTES_MAX` for all of them,
        but at least one of each if there is one."""

    async def users(self, names: Sequence[str]) -> Sequence[User]:
        """All of each, in the order given; of one that is not there with nothing in it."""

    async def rest(self) -> Rest:
        """What belongs to nobody."""

    async def counts(self) -> Counts:
        """As `MessageStore.counts`."""


class Source(Reader, Protocol):
    """The store that a history leaves."""

    @property
    def incarnation(self) -> str:
        """As `MessageStore.incarnation`."""

    def all_convs(self) -> AsyncGenerator[Sequence[str], None]:
        """Every conversation that has messages or a block, once; at most `CONVERSATIONS_PER_PAGE` at a time."""

    def all_users(self) -> AsyncGenerator[Sequence[str], None]:
        """Every name of which anything is stored, in order; at most `USERS_PER_PAGE` at a time."""

    async def erased(self, convs: Sequence[str]) -> Mapping[str, int]:
        """How many messages of each are erased; without those that have none."""

    async def leave(self) -> None:
        """The history has moved: what is here gets another name, so that nobody takes the two for one."""


class Target(Reader, Protocol):
    """The store that a history comes to. Nobody can use it before `finish`. Every method may be repeated."""

    async def begin(self, incarnation: str) -> Found:
        """Claim an empty store, or one that was claimed for this history: there, all but the messages is removed.

        Raises: StartError – something else is there.
        """

    async def heads(self, convs: Sequence[str]) -> Mapping[str, int]:
        """As `MessageStore.heads`."""

    async def begin_at(self, beginnings: Mapping[str, tuple[int, int, int]]) -> None:
        """Let conversations begin behind what was trimmed (see `Notes`), with so many that are erased.

        One that began elsewhere, or with another number, begins anew.
        """

    async def append(self, messages: Mapping[str, Sequence[Entry]]) -> None:
        """Store messages of some conversations; those that are there already are passed over."""

    async def put_notes(self, notes: Sequence[Notes]) -> None:
        """Store all but the messages, which are there."""

    async def put_users(self, users: Sequence[User]) -> None:
        """Store users."""

    async def put_rest(self, rest: Rest) -> None:
        """Store what belongs to nobody."""

    async def finish(self) -> None:
        """All is there: from now on the store can be used. Raises: Unavailable – it may have forgotten something."""


class Log:
    """How far a conversation has been read, and the checksum of what was."""

    __slots__ = ("after", "checksum", "head")

    def __init__(self, notes: Notes, *, after: int = 0) -> None:
        self.after = max(after, notes.trimmed[0])
        self.head = notes.head
        self.checksum = hashlib.blake2b(_pack(notes), digest_size=16)

    def add(self, entries: Sequence[Entry]) -> None:
        """These came next; none when there are no more."""
        self.after = entries[-1].seq if entries else self.head
        for entry in entries:
            self.checksum.update(_pack(entry))


def page(logs: Mapping[str, Log]) -> list[Piece]:
    """What to ask for next: pieces of the first conversations that are not at their head, a page in all."""
    pieces, room = [], PAGE_MESSAGES_MAX
    for conv, log in logs.items():
        limit = min(log.head - log.after, PIECE_MESSAGES_MAX, room)
        if limit > 0:
            pieces.append(Piece(conv, log.after, limit))
            room -= limit
        if not room or len(pieces) == PAGE_CONVERSATIONS_MAX:
            break
    return pieces


def checksum(record: User | Rest) -> bytes:
    """Of one record: the same for the same content, in any process."""
    return hashlib.blake2b(_pack(record), digest_size=16).digest()
