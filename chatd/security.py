"""Security events: log lines of a stable form, for people and for programs that act on them (fail2ban).

A line has the name of the event, then ``address`` (as far as trusted proxies vouch for it; ``local``: none known) and
``user`` (empty: not known), then what else it knows. Never a token, a password or a body.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, Protocol

import structlog
from msgspec import Struct

from chatd.limits import Buckets, TokenBucket
from chatd.model import is_user

LINES_PER_S, LINES_BURST = 100.0, 1_000
ADDRESS_LINES_PER_S, ADDRESS_LINES_BURST = 0.5, 20
ADDRESSES_MAX = 10_000
TEXT_CHARS_MAX = 200

log = structlog.get_logger("chatd.security")


class Event(Struct, frozen=True):
    """One event. ``hostile``: logged as a warning, counts against its address.

    ``of_all``: it is no address's doing, so all addresses together cause as many lines as one.
    """

    name: str
    hostile: bool
    meaning: str
    of_all: bool = False


EVENTS: dict[str, Event] = {
    event.name: event
    for event in (
        Event("login_failed", True, "A wrong user name or password, or a disabled account; which is not told."),
        Event("register_refused", True, "A registration that is not let in: `reason` says why (an invite guessed, …)."),
        Event("token_refused", True, "A token that is wrong, expired or revoked, or of a disabled account (`reason`)."),
        Event("origin_refused", True, "A page of another site tried: its `origin` is not in server.origins."),
        Event("rate_limited", True, "Over a rate; `what`: logins, requests, connections, frames or messages."),
        Event("head_refused", True, "A request head that is none, or was not ended in time or in bounds (`status`)."),
        Event("protocol_broken", True, "What no client sends: the connection ended with `code` and `reason`."),
        Event("logged_in", False, "A new device and its token."),
        Event("registered", False, "A new account."),
        Event("device_revoked", False, "A user ended a device of its own, or logged out."),
        Event(
            "turned_away",
            False,
            "Too many wait for their turn; the address is that of one of them.",
            of_all=True,
        ),
        Event("admin_add_user", False, "The administration made an account."),
        Event("admin_set_password", False, "It set a password, which ended all devices."),
        Event("admin_promote", False, "It made a user an administrator."),
        Event("admin_demote", False, "It made an administrator a user like others."),
        Event("admin_disable", False, "It locked a user out."),
        Event("admin_enable", False, "It let a user in again."),
        Event("admin_delete_user", False, "It deleted a user."),
        Event("admin_erase_user", False, "It erased a user with all that it wrote."),
        Event("admin_export_account", False, "It exported what is kept of a user."),
        Event("admin_issue_token", False, "It made a token."),
        Event("admin_revoke", False, "It revoked a device."),
        Event("admin_create_invite", False, "It made an invite."),
    )
}

Kind = Literal["logins", "requests", "connections", "frames", "messages"]


class Tell(Protocol):
    """`SecurityLog.tell`, for who needs no more of it."""

    def __call__(self, event: str, *, address: str, user: str = "", **more: str | int) -> None:
        """Log an event of `EVENTS`."""


class SecurityLog:
    """Writes the events, so many at most: whoever can cause lines could fill the disk with them.

    Of one event and address ADDRESS_LINES_BURST at once and ADDRESS_LINES_PER_S, of all LINES_BURST and LINES_PER_S;
    beyond, a line is dropped, and the next one says how many were (``dropped``). ``now_s`` is monotonic.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._all = TokenBucket(LINES_PER_S, LINES_BURST)
        self._each = Buckets(ADDRESS_LINES_PER_S, ADDRESS_LINES_BURST, ADDRESSES_MAX)
        self._dropped = 0

    def tell(self, event: str, *, address: str, user: str = "", **more: str | int) -> None:
        """Log an event of `EVENTS`. What is no user name is not logged as one."""
        kind = EVENTS[event]
        now_s = self._now_s()
        if self._each.take(event if kind.of_all else f"{event} {address}", now_s) or self._all.take(now_s):
            self._dropped += 1
            return
        fields = {name: value[:TEXT_CHARS_MAX] if isinstance(value, str) else value for name, value in more.items()}
        if self._dropped:
            fields["dropped"], self._dropped = self._dropped, 0
        write = log.warning if kind.hostile else log.info
        write(event, address=address, user=user if is_user(user) else "", **fields)
