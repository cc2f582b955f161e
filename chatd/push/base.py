"""What a notifier promises. Push services, webhooks and packages of others' own stand behind this one contract.

A package brings a notifier with an entry point in the group ``chatd.notifiers``: its name is the subscription's
``kind``, its value a `Factory`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from chatd.model import Subscription
from chatd.settings import PushSettings
from chatd.store.base import PushStore


class Notification(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="message"):
    """What a device is told; its JSON is the payload of every notifier.

    ``key``: the same for a notification that is sent again, so that a device shows it once. ``tag``: the same for all
    of one conversation, so that a newer one takes the place of the one on the screen; at most 32 URL-safe characters.
    ``count``: unread messages of the conversation; ``seq``, ``ts`` (Unix ms) and ``body`` (if the setting says so, and
    cut to what a push service takes) are the newest one's. ``badge``: unread messages in all. ``to``: whom it is for.
    """

    key: str
    tag: str
    to: str
    conv: str
    sender: str
    count: int
    seq: int
    ts: int
    badge: int
    body: str | None = None


class Clear(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="clear"):
    """The user has read up to ``seq`` elsewhere: what is on the screen for ``tag`` is to go, the badge to change."""

    key: str
    tag: str
    to: str
    conv: str
    seq: int
    badge: int


class Test(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="test"):
    """Sent by an administrator, to see that it arrives."""

    key: str
    tag: str
    to: str
    text: str


Payload: TypeAlias = Notification | Clear | Test


class Outcome(Struct, frozen=True):
    """What came of it. ``reason``: one line for people.

    ``delivered``: the service took it. ``gone``: the subscription is dead and to be removed. ``later``: try again,
    not before ``retry_after_s`` if that is given. ``refused``: this one never, the next one perhaps.
    """

    result: Literal["delivered", "gone", "later", "refused"]
    reason: str = ""
    retry_after_s: float | None = None


class Notifier(Protocol):
    """One way to reach devices. Any number of sends may be under way at once.

    ``every_user``: it needs no subscription: it gets each notification once a user, with ``subscription`` None.
    ``public``: what a client needs to know to subscribe (name → text), told by ``GET /v1/push``.
    """

    every_user: bool
    public: dict[str, str]

    def check(self, endpoint: str, keys: dict[str, str]) -> None:
        """Whether a subscription has its form. Raises: BadFrame – one line that says what is wrong."""

    async def send(self, payload: Payload, subscription: Subscription | None, ttl_s: int) -> Outcome:
        """Send it; the service may keep it for ``ttl_s``. Nobody limits the time it takes but the caller, who cancels
        it; whatever it raises counts as ``later``."""

    async def close(self) -> None:
        """Let go of everything."""


class MissingExtra(Exception):
    """A notifier cannot be had for want of a package; the message names the extra to install."""


class Context(Struct, frozen=True):
    """What a notifier is made with. ``now_ms``: Unix time."""

    settings: PushSettings
    store: PushStore
    now_ms: Callable[[], int]


class Factory(Protocol):
    """Makes a notifier. Returns None: it is not configured. Raises: MissingExtra; ConfigError."""

    async def __call__(self, context: Context) -> Notifier | None: ...
