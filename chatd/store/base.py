"""What a store promises. Everything above it may rely on this prose and on nothing else.

The store is the authority: it alone gives seqs, checks ids and decides what a mark is. Any number of tasks (and, for
stores that many processes share, processes) may call it at the same time; it serialises what must be. The suite in
``chatd.store.conformance`` holds every store to this text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from chatd.errors import IdReuse
from chatd.model import (
    Account,
    Acquaintance,
    Advance,
    Appended,
    ConversationPage,
    Device,
    Draft,
    Durability,
    Grown,
    MarksView,
    Message,
    Owed,
    Pushed,
    Subscription,
    UnpushedPage,
)

ID_EXPIRED = "this id is as old as messages that are not kept any more: it may name one of them"


class Committed(Struct, frozen=True, gc=False):
    """What one commit did: a result a draft, and a result a distinct (conv, user) among the advances."""

    appended: Sequence[Appended | IdReuse]
    grown: Sequence[Grown]


class Counts(Struct, frozen=True):
    """Totals, for reconciliation with what clients counted: ``messages`` with those that were trimmed."""

    users: int
    conversations: int
    messages: int


class Trimmed(Struct, frozen=True):
    """One step of a walk that trims. ``messages``: how many went; ``cursor``: there may be more to look at."""

    messages: int
    cursor: str | None = None


class Erased(Struct, frozen=True):
    """One step of erasing a user. ``messages``: whose bodies went; ``cursor``: there may be more to look at.

    ``left``: after the last step what may still hold bodies and is not in the store's reach, a line each.
    """

    messages: int
    cursor: str | None = None
    left: tuple[str, ...] = ()


class MessageStore(Protocol):
    """Logs, marks and blocks.

    Errors of every method: Unavailable – the engine said no (disk full, gone, busy); nothing was stored, and the
    same call may be repeated. StoreBroken – the disk cannot be trusted; end the process. A method that writes may
    also raise OutcomeUnknown – it may or may not be stored; repeating it is safe, and `find` tells.
    """

    @property
    def durability(self) -> Durability:
        """What a returned commit survives: ``fsync`` a power cut, ``os`` a crash of the process, ``memory`` nothing.

        ``replicated``: the loss of the machine that took it, for others have it too.
        """

    @property
    def incarnation(self) -> str:
        """Names this history, ≤ 64 ASCII characters. Another one: seqs seen before may name other bodies."""

    async def open(self) -> None:
        """Make ready: lock, check, migrate. Raises: StartError – one line that names the thing and the way out."""

    async def close(self) -> None:
        """Let go of everything. Calls under way are finished first; later ones raise Unavailable."""

    async def commit(self, drafts: Sequence[Draft], advances: Sequence[Advance]) -> Committed:
        """Store drafts as the next messages of their conversations, and raise marks: all of it or none.

        Drafts of one conversation get consecutive seqs in the order given. A draft whose (conv, sender, id) is already
        stored, or stands earlier in the same call, is not stored again: its first seq and ts come back with
        ``duplicate``. The same id with another body is answered with an IdReuse *value* in its place, and the other
        drafts are stored; so is the id of an erased message. ``ts_ms`` of a message is the draft's, or the last one's
        in its conversation if that is later. A draft to a user who blocks its sender at the moment of the commit is
        stored ``hidden``.
        Of trimmed messages the ids are not known any more. A draft of a conversation that was trimmed, whose id is a
        UUID of version 7, not known, and not more than ID_AHEAD_MS_MAX younger than the last message trimmed, may be
        a repeat of one of them: it is answered with an IdReuse value, too.

        Marks are maxima: ``delivered`` becomes max(stored, given, read), ``read`` max(stored, given), both at most the
        conversation's head after the drafts of this call. An advance in a conversation without messages does nothing.

        Shapes: ``appended`` has a result a draft, same order. ``grown`` has one entry for each distinct (conv, user) of
        the advances, in order of first appearance, with the user-level marks (maximum over the user's devices) after
        the call; ``grew`` when either is more than before; ``private`` when either user of the pair blocks the other.
        Either sequence may be empty. At most 10,000 of each.
        """

    async def find(self, conv: str, sender: str, id: str) -> Message | None:
        """The message that (conv, sender, id) names, or None: it is not stored, and no earlier write can still be.

        None also for one that was trimmed; of one that was erased its place.
        """

    async def read(
        self,
        conv: str,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        bytes_max: int = 262_144,
    ) -> Sequence[Message]:
        """A piece of a log, always ascending and without a gap.

        ``after``: the first messages with seq > after. ``before``: the last ones with seq < before. Neither: the end
        of the log. At most one is given. At most ``limit`` messages and about ``bytes_max`` bytes of bodies (the end
        nearest to the anchor is kept), but at least one if there is one. An unknown conversation is empty.
        What was trimmed of the piece is one message with ``first``, which counts as one: after ``after`` it begins
        there, else at 1.
        """

    async def heads(self, convs: Sequence[str]) -> dict[str, int]:
        """The last seq of each of these conversations; 0 where there is none. At most 1,000."""

    async def conversations(
        self,
        user: str,
        device: str,
        *,
        since: str | None = None,
        cursor: str | None = None,
        limit: int,
    ) -> ConversationPage:
        """A page of the user's conversations that have a message, newest change first, as this device sees them.

        ``since``: only those with a message or a mark committed after the page that gave this ``since`` was made.
        ``cursor``: the page after the one that gave it. Following cursors gives every conversation that did not change
        meanwhile exactly once; one that did may be missed, and then it has changed after this page's ``since``.
        A ``since`` or ``cursor`` that this store did not make counts as absent.
        While one of the two blocks the other, the peer's marks stay what they were when the block began. Hidden,
        erased and trimmed messages are not in ``unread``; ``last`` may be one of them, or its place.
        """

    async def position(self, conv: str, user: str, device: str) -> int:
        """The last seq that this device is known to hold: max(its start, its delivered mark); 0 if never told."""

    async def marks(self, conv: str, user: str) -> MarksView:
        """The marks of the user's devices, and the peer's user-level marks (frozen while either blocks the other)."""

    async def enroll(
        self, user: str, device: str, *, initial_history: int, newest_max: int, again: bool = False
    ) -> None:
        """Give a new device its starting positions; an enrolled one keeps its own unless ``again``.

        The ``newest_max`` conversations with the newest activity start at max(0, head - initial_history), the others
        at their head. A conversation that begins later starts at 0. Marks are not touched; after ``again`` the
        positions are these starts, even where a delivered mark is higher.
        """

    async def trim(self, *, older_than_ms: int, cursor: str | None = None, limit: int) -> Trimmed:
        """Delete messages with a ``ts_ms`` below ``older_than_ms``: a step of a walk over the whole store.

        Of each conversation the oldest messages go, never one before an older one. Heads, seqs, marks and positions
        stay, and no listing changes its order for it. A step looks at about ``limit`` conversations (≤ 1,000) and
        deletes at most 1,000 messages of each; one that has more is where the cursor goes on. Several walks at the same
        time do no harm, nor does one that ends half-way. What is owed or unread is no trimmed message.
        """

    async def block(self, user: str, peer: str, *, on: bool) -> None:
        """Block or unblock ``peer`` for ``user``; in force for every commit that starts after this returns."""

    async def blocks(self, user: str) -> Sequence[str]:
        """Whom ``user`` blocks, sorted."""

    async def probe(self) -> None:
        """Read and write something small. Returns: the store can be used now."""

    async def counts(self) -> Counts:
        """Totals over the whole store."""


class AccountStore(Protocol):
    """Accounts, devices with their tokens, invites. Only hashes of secrets are stored. Errors as in MessageStore."""

    async def add_account(self, account: Account) -> bool:
        """Create a user. False: the name is taken, also by a deleted user (whose messages still bear it)."""

    async def account(self, user: str) -> Account | None:
        """A user that exists and was not deleted, or None."""

    async def accounts(self, *, after: str = "", limit: int) -> Sequence[Account]:
        """Users in order of name, those after ``after``."""

    async def set_password(self, user: str, password_hash: str) -> bool:
        """Replace the password hash. False: no such user."""

    async def set_disabled(self, user: str, disabled: bool) -> bool:
        """Disable or enable a user; tokens are kept and are worthless while disabled. False: no such user."""

    async def set_admin(self, user: str, admin: bool) -> bool:
        """Make a user an administrator, or no longer one. False: no such user."""

    async def delete_account(self, user: str) -> bool:
        """Delete a user, its devices and tokens; its name stays taken and its messages stay. False: no such user."""

    async def erase(self, user: str, *, cursor: str | None = None) -> Erased | None:
        """Delete a user with all that it wrote: a step of a walk over its conversations. None: there never was one.

        The first step (without ``cursor``) does what `delete_account` does, if that was not done before, and takes back
        the user's blocks. Each step takes the bodies of about 1,000 messages at most: they are ``erased`` from then on.
        Heads, seqs, times and marks stay, and no listing changes its order for it. After the last step the bodies are
        in no file of the store. Several walks at the same time do no harm, nor does one that ends half-way: the next
        one begins again. What the user's devices commit meanwhile is for another walk.
        """

    async def put_device(self, device: Device, token_hash: bytes | None) -> None:
        """Create a device bound to a token (32 bytes of hash), or replace the token of an existing one.

        ``token_hash`` None: a device of a host application's JWT; an existing device is left as it is.
        """

    async def identity(self, token_hash: bytes) -> tuple[Device, Account] | None:
        """The device bound to this token and its user, or None: no such token. Expiry is the caller's to judge."""

    async def device(self, user: str, device: str) -> Device | None:
        """One device, or None: it never was or is revoked."""

    async def devices(self, user: str) -> Sequence[Device]:
        """The user's devices, oldest first."""

    async def remove_device(self, user: str, device: str) -> bool:
        """Revoke a device and its token; its marks stay. False: no such device."""

    async def add_invite(self, invite_hash: bytes, *, admin: bool, expires_ms: int) -> None:
        """Store a one-time invite; ``admin``: who uses it becomes an admin."""

    async def redeem_invite(self, invite_hash: bytes, account: Account, now_ms: int) -> bool | None:
        """Use up an invite and create the account, in one step; the account is an admin if the invite says so.

        None: no such invite, used, or expired. False: the name is taken, and the invite is still good.
        """


class PresenceStore(Protocol):
    """Who may watch whom, and when somebody was here last. Errors as in MessageStore."""

    async def acquainted(self, user: str, others: Sequence[str]) -> dict[str, Acquaintance]:
        """Those of ``others`` (≤ 1,000) whom ``user`` may watch, in the order given.

        They share a conversation with at least one message, neither blocks the other, and their account is there and
        not deleted. The user itself is one of them if it is asked for and has notes to self.
        """

    async def seen(self, times_ms: Mapping[str, int]) -> None:
        """Note when users were here last, Unix ms: maxima. A user without an account is left out. At most 10,000."""

    async def set_shows_last_seen(self, user: str, on: bool) -> bool:
        """Let others see when this user was here last, or not. False: no such user."""


class PushStore(Protocol):
    """Subscriptions, and what is owed to whom. Errors as in MessageStore.

    There is no queue that could lose an entry: what is owed follows from the log and the marks. A notification is owed
    to ``user`` in ``conv`` when the peer's newest visible message is above both the user's delivered mark (no device
    took it) and the user's pushed mark (none told of it), while neither of the two blocks the other. So a crash
    between the commit of a message and its push loses nothing, and an acknowledgement needs no second write.
    """

    async def put_subscription(self, subscription: Subscription) -> bool:
        """Set the one subscription of a device, in place of an older one. False: no such device."""

    async def remove_subscription(self, user: str, device: str, endpoint: str | None = None) -> bool:
        """Remove it, or only if it still has this ``endpoint``. False: there was none. It also goes with its device."""

    async def subscriptions(self, user: str, now_ms: int) -> Sequence[Subscription]:
        """The user's subscriptions by device; not of devices that expired; none of a disabled or deleted account."""

    async def owed(self, conv: str, user: str) -> Owed:
        """What ``user`` is to be told about ``conv`` now. Nothing is owed in notes to self."""

    async def badge(self, user: str) -> int:
        """The user's unread messages over all conversations; hidden ones and blocked peers' later ones not counted."""

    async def pushed(self, marks: Sequence[Pushed]) -> None:
        """Raise pushed marks: maxima, at most the head; without messages it does nothing. At most 10,000."""

    async def unpushed(
        self, *, cursor: str | None = None, limit: int, newer_than_ms: int, every_user: bool
    ) -> UnpushedPage:
        """Walk over the whole store: about ``limit`` conversations a page (≤ 10,000).

        Rows are those where a notification is owed for a conversation whose last message is not older than
        ``newer_than_ms``, or where one is shown. ``every_user``: also users without any subscription. A conversation
        that changes during the walk may or may not be in it; any other one is, exactly once.
        """

    async def keep(self, name: str, value: str) -> str:
        """Keep a value (≤ 4,096 characters) under a name for ever, unless one is there. Returns: what is kept."""


class Store(MessageStore, AccountStore, PresenceStore, PushStore, Protocol):
    """A whole store."""
