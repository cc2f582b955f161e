"""Who is who: accounts, devices and their tokens, invites, blocks.

Every secret is stored as a hash. A token speaks for one device of one user until it expires or the device is revoked;
whatever ends it also tells `Accounts.on_revoked`, so that open sockets end with it. Tokens with two dots are JSON Web
Tokens of a host application, if its keys are configured: then the host vouches for its users, and their accounts and
devices appear at first sight. Such a token is good until its own ``exp``; to lock its user out sooner, disable them.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from chatd import protocol
from chatd.errors import BadFrame, Forbidden, NotFound, Unauthenticated
from chatd.jwt_keys import Claims, JwtKeys
from chatd.model import Account, Device, Identity, is_user
from chatd.passwords import Passwords
from chatd.settings import AccountSettings
from chatd.store.base import Erased, Store

CLOSE_REVOKED = 4401
CLOSE_DISABLED = 4403
KNOWN_USERS_CACHED_MAX = 50_000
PASSWORD_CHARS_MAX = 1_024
DEVICE_NAME_CHARS_MAX = 64
TOKEN_CHARS_MAX = 8_192
ACCOUNTS_PAGE_MAX = 1_000
FIRST_INVITE_HOURS = 24
DAY_MS = 86_400_000
HOUR_MS = 3_600_000

OnRevoked: TypeAlias = Callable[[str, str | None, int], None]
"""Called with (user, device or None for all of them, close code) after the store has forgotten them."""


class UserInfo(Struct, frozen=True):
    """An account as an administrator may see it. ``created_ms``: Unix ms."""

    user: str
    admin: bool
    disabled: bool
    has_password: bool
    created_ms: int


class Accounts:
    """The accounts of one store. Errors of the store pass through every method.

    ``now_ms``: the wall clock. ``loopback``: the server listens on a loopback address only, which makes ``auto``
    registration open. ``on_revoked``, ``on_enabled``, ``on_blocked`` (user, peer) and ``on_shows_last_seen``
    (user, on) may be replaced by whoever has to know.
    """

    def __init__(
        self,
        store: Store,
        settings: AccountSettings,
        *,
        now_ms: Callable[[], int],
        loopback: bool,
        passwords: Passwords,
        jwt: JwtKeys | None = None,
        on_revoked: OnRevoked = lambda user, device, code: None,
        new_token: Callable[[], str] = protocol.new_token,
        new_device: Callable[[], str] = lambda: secrets.token_hex(8),
        known_users_cached_max: int = KNOWN_USERS_CACHED_MAX,
    ) -> None:
        self.on_revoked = on_revoked
        self.on_enabled: Callable[[str], None] = lambda user: None
        self.on_blocked: Callable[[str, str], None] = lambda user, peer: None
        self.on_shows_last_seen: Callable[[str, bool], None] = lambda user, on: None
        self.registration: Literal["open", "invite", "closed"] = (
            settings.registration if settings.registration != "auto" else "open" if loopback else "invite"
        )
        self._store = store
        self._settings = settings
        self._now_ms = now_ms
        self._passwords = passwords
        self._jwt = jwt
        self._new_token = new_token
        self._new_device = new_device
        self._known: dict[str, None] = {}
        self._known_max = known_users_cached_max
        # Held from a check of an account or its devices to the write that rests on it.
        self._changing = asyncio.Lock()

    # --- users -------------------------------------------------------------------------------------------

    async def register(self, user: str, password: str, invite: str | None = None) -> None:
        """Create an account, as anybody may who is let in. An invite that is given must be good.

        Raises: Forbidden – registration is not open to this, or the name is taken. BadFrame – a name or password
            without the right form. Overloaded.
        """
        if self.registration == "closed":
            raise Forbidden("registration is closed")
        if self.registration == "invite" and not invite:
            raise Forbidden("registration is by invite")
        account = await self._new_account(user, password, admin=False)
        if invite:
            added = await self._store.redeem_invite(_digest(invite), account, self._now_ms())
            if added is None:
                raise Forbidden("this invite is unknown, used or expired")
        else:
            added = await self._store.add_account(account)
        if not added:
            raise Forbidden("this name is taken")
        self._remember(user)

    async def login(self, user: str, password: str, name: str = "") -> tuple[str, Identity]:
        """Make a device of the user, called ``name``, and the token bound to it.

        Raises: Unauthenticated – the same after the same work, whatever was wrong. Forbidden – the user has as many
            devices as one may have. Overloaded.
        """
        account = await self._store.account(user) if is_user(user) else None
        stored = account.password_hash if account else None
        matches = len(password) <= PASSWORD_CHARS_MAX
        matches = await self._passwords.verify(password[:PASSWORD_CHARS_MAX], stored) and matches
        if account is None or account.disabled or stored is None or not matches:
            raise Unauthenticated("wrong user name or password")
        fresh = await self._passwords.hash(password) if self._passwords.outdated(stored) else None
        async with self._changing:
            # The password may have been changed while this one was checked; then it opens nothing any more.
            account = await self._store.account(user)
            if account is None or account.disabled or account.password_hash != stored:
                raise Unauthenticated("wrong user name or password")
            if fresh is not None:
                await self._store.set_password(user, fresh)
            return await self._issue(account, name, self._settings.token_days)

    async def known(self, user: str) -> bool:
        """Whether messages can be written to this user."""
        cached = self.known_cached(user)
        if cached is not None:
            return cached
        if await self._store.account(user) is None:
            return False
        self._remember(user)
        return True

    def known_cached(self, user: str) -> bool | None:
        """What `known` would say, if that can be told without asking the store; else None.

        A user that another process deleted may be known here until it falls out of the cache: a message to nobody.
        """
        if user in self._known:
            return True
        if not is_user(user):
            return False
        return True if self._jwt is not None else None

    # --- tokens and devices ------------------------------------------------------------------------------

    async def authenticate(self, token: str) -> Identity:
        """Who this token speaks for. Raises: Unauthenticated – wrong, expired or revoked. Forbidden – disabled."""
        if not token.isascii() or len(token) > TOKEN_CHARS_MAX:
            raise Unauthenticated("this token is not valid")
        if self._jwt is not None and token.count(".") == 2:
            return await self._admit(self._jwt.verify(token, self._now_ms()))
        found = await self._store.identity(_digest(token))
        if found is None:
            raise Unauthenticated("this token is not valid")
        device, account = found
        if device.expires_ms is not None and device.expires_ms <= self._now_ms():
            raise Unauthenticated("this token has expired")
        if account.disabled:
            raise Forbidden("this account is disabled")
        self._remember(account.user)
        return Identity(account.user, device.device, device.expires_ms, account.admin, account.shows_last_seen)

    async def logout(self, identity: Identity) -> None:
        """End the device that is calling."""
        await self.revoke(identity.user, identity.device)

    async def devices(self, user: str) -> Sequence[Device]:
        """The user's devices, oldest first."""
        return await self._store.devices(user)

    async def revoke(self, user: str, device: str) -> None:
        """End a device and its token. Raises: NotFound."""
        if not await self._store.remove_device(user, device):
            raise NotFound("no such device")
        self.on_revoked(user, device, CLOSE_REVOKED)

    # --- blocks ------------------------------------------------------------------------------------------

    async def block(self, user: str, peer: str) -> None:
        """From now on nothing of ``peer`` reaches ``user``. Raises: NotFound; Forbidden – oneself."""
        if user == peer:
            raise Forbidden("nobody can block oneself")
        if not await self.known(peer):
            raise NotFound("no such user")
        await self._store.block(user, peer, on=True)
        self.on_blocked(user, peer)

    async def unblock(self, user: str, peer: str) -> None:
        """Take a block back; none there is fine. Raises: NotFound – no user can have this name."""
        if not is_user(peer):
            raise NotFound("no such user")
        await self._store.block(user, peer, on=False)

    async def blocks(self, user: str) -> Sequence[str]:
        """Whom the user blocks, sorted."""
        return await self._store.blocks(user)

    # --- privacy -----------------------------------------------------------------------------------------

    async def shows_last_seen(self, user: str) -> bool:
        """Whether others see when this user was last here, and this user sees it of them. Raises: NotFound."""
        account = await self._store.account(user)
        if account is None:
            raise NotFound("no such user")
        return account.shows_last_seen

    async def set_shows_last_seen(self, user: str, on: bool) -> None:
        """Show it and see it, or neither. Raises: NotFound."""
        if not await self._store.set_shows_last_seen(user, on):
            raise NotFound("no such user")
        self.on_shows_last_seen(user, on)

    # --- administration ----------------------------------------------------------------------------------

    async def add_user(self, user: str, password: str | None = None, admin: bool = False) -> None:
        """Create an account; without a password it has only issued tokens. Raises: Forbidden – taken; BadFrame."""
        if not await self._store.add_account(await self._new_account(user, password, admin=admin)):
            raise Forbidden("this name is taken")
        self._remember(user)

    async def list_users(self, after: str = "", limit: int = ACCOUNTS_PAGE_MAX) -> list[UserInfo]:
        """Users in order of name, those after ``after``, at most ``limit`` ≤ 1,000."""
        page = await self._store.accounts(after=after, limit=max(1, min(limit, ACCOUNTS_PAGE_MAX)))
        return [UserInfo(a.user, a.admin, a.disabled, a.password_hash is not None, a.created_ms) for a in page]

    async def set_password(self, user: str, password: str) -> None:
        """Replace the password, and end every device: who knew the old one is out. Raises: NotFound; BadFrame."""
        self._check_password(password)
        password_hash = await self._passwords.hash(password)
        async with self._changing:
            if not await self._store.set_password(user, password_hash):
                raise NotFound("no such user")
            for device in await self._store.devices(user):
                await self._store.remove_device(user, device.device)
        self.on_revoked(user, None, CLOSE_REVOKED)

    async def disable(self, user: str) -> None:
        """Lock a user out; devices and tokens are kept and worthless meanwhile. Raises: NotFound."""
        if not await self._store.set_disabled(user, True):
            raise NotFound("no such user")
        self.on_revoked(user, None, CLOSE_DISABLED)

    async def enable(self, user: str) -> None:
        """Let a disabled user in again. Raises: NotFound."""
        if not await self._store.set_disabled(user, False):
            raise NotFound("no such user")
        self.on_enabled(user)

    async def promote(self, user: str) -> None:
        """Make a user an administrator, from its next request on. Raises: NotFound."""
        if not await self._store.set_admin(user, True):
            raise NotFound("no such user")

    async def demote(self, user: str) -> None:
        """Make an administrator a user like others, from its next request on. Raises: NotFound."""
        if not await self._store.set_admin(user, False):
            raise NotFound("no such user")

    async def delete_user(self, user: str) -> None:
        """Delete a user with its devices and tokens; the name stays taken, the messages stay. Raises: NotFound."""
        async with self._changing:
            if not await self._store.delete_account(user):
                raise NotFound("no such user")
        self._known.pop(user, None)
        self.on_revoked(user, None, CLOSE_REVOKED)

    async def erase_user(self, user: str, cursor: str | None = None) -> Erased:
        """Delete a user and take the bodies of all that it wrote, for ever: a step, and ``cursor`` is where to go on.

        What its devices had under way when the first step ended them may be stored after that: walk again until a walk
        finds nothing. Raises: NotFound – there never was such a user.
        """
        async with self._changing:
            step = await self._store.erase(user, cursor=cursor)
        if step is None:
            raise NotFound("no such user, and there never was")
        if cursor is None:
            self._known.pop(user, None)
            self.on_revoked(user, None, CLOSE_REVOKED)
        return step

    async def issue_token(self, user: str, name: str = "", days: int | None = None) -> str:
        """A token of a new device without a password, for a program. ``days`` 0: until revoked; None: as a login.

        Raises: NotFound; Forbidden – disabled, or too many devices.
        """
        async with self._changing:
            account = await self._store.account(user)
            if account is None:
                raise NotFound("no such user")
            if account.disabled:
                raise Forbidden("this account is disabled")
            token, _ = await self._issue(account, name, self._settings.token_days if days is None else days)
            return token

    async def tokens(self, user: str) -> Sequence[Device]:
        """The devices that the user's tokens are bound to, oldest first. Raises: NotFound."""
        if await self._store.account(user) is None:
            raise NotFound("no such user")
        return await self._store.devices(user)

    async def create_invite(self, admin: bool = False, hours: int = 72) -> str:
        """A code that lets one person register, as an administrator if ``admin``, within so many hours (≥ 1).

        Raises: Forbidden – registration is closed. BadFrame – no such number of hours.
        """
        if self.registration == "closed":
            raise Forbidden("registration is closed: accounts are made with `chatd user add`")
        if not 1 <= hours <= 8_760:
            raise BadFrame("an invite is good for 1 to 8,760 hours")
        code = self._new_token()
        await self._store.add_invite(_digest(code), admin=admin, expires_ms=self._now_ms() + hours * HOUR_MS)
        return code

    async def first_admin_invite(self) -> str | None:
        """An invite for the first administrator, good for a day; None: there are accounts, or none may register."""
        if self.registration == "closed" or await self._store.accounts(limit=1):
            return None
        return await self.create_invite(admin=True, hours=FIRST_INVITE_HOURS)

    # --- inside ------------------------------------------------------------------------------------------

    def _remember(self, user: str) -> None:
        if user not in self._known:
            if len(self._known) >= self._known_max:
                del self._known[next(iter(self._known))]
            self._known[user] = None

    def _check_password(self, password: str) -> None:
        shortest = self._settings.password_chars_min
        if not shortest <= len(password) <= PASSWORD_CHARS_MAX:
            raise BadFrame(f"a password has {shortest} to {PASSWORD_CHARS_MAX} characters")

    async def _new_account(self, user: str, password: str | None, *, admin: bool) -> Account:
        if not is_user(user):
            raise BadFrame("a user name has 1 to 64 of a-z 0-9 . _ - and begins with a letter or digit")
        password_hash = None
        if password is not None:
            self._check_password(password)
            password_hash = await self._passwords.hash(password)
        return Account(user, password_hash, admin, False, self._now_ms())

    async def _issue(self, account: Account, name: str, days: int) -> tuple[str, Identity]:
        if not 0 <= days <= 36_500:
            raise BadFrame("a token lives 0 (until revoked) to 36,500 days")
        now_ms = self._now_ms()
        expires_ms = now_ms + days * DAY_MS if days else None
        name = name[:DEVICE_NAME_CHARS_MAX]
        token, device = self._new_token(), self._new_device()
        await self._add_device(Device(account.user, device, name, now_ms, expires_ms), _digest(token))
        self._remember(account.user)
        return token, Identity(account.user, device, expires_ms, account.admin, account.shows_last_seen)

    async def _admit(self, claims: Claims) -> Identity:
        account = await self._store.account(claims.user)
        if account is None:
            fresh = Account(claims.user, None, False, False, self._now_ms())
            added = await self._store.add_account(fresh)
            # Not added: another connection of this user was first, or the user was deleted here.
            account = fresh if added else await self._store.account(claims.user)
        if account is None or account.disabled:
            raise Forbidden("this account is disabled")
        if await self._store.device(claims.user, claims.device) is None:
            async with self._changing:
                await self._add_device(Device(claims.user, claims.device, "JWT", self._now_ms()), None)
        return Identity(claims.user, claims.device, claims.expires_ms, account.admin, account.shows_last_seen)

    async def _add_device(self, device: Device, token_hash: bytes | None) -> None:
        """Store a new device, unless the user has as many as one may have; expired ones make room."""
        devices = await self._store.devices(device.user)
        if len(devices) >= self._settings.devices_per_user_max:
            gone = [d for d in devices if d.expires_ms is not None and d.expires_ms <= device.created_ms]
            if not gone:
                raise Forbidden("this user has too many devices: log one out first")
            for old in gone:
                await self._store.remove_device(old.user, old.device)
        await self._store.put_device(device, token_hash)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
