"""What processes tell each other: hints. A bus may lose, repeat, reorder and delay them; nothing rests on one.

A channel is a user: whoever has a device of that user listens on it; on a second one listens who watches them. The
store has the truth, and what a lost hint hides is found by reading it (`chatd.catch_up.CatchUp.reconcile`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec
from msgspec import Struct

from chatd.model import Grown, Message, PresenceState

EVERYBODY = "!"
"""The channel on which every process listens. No user has such a name."""
NOTE_S = 86_400
"""A board may forget a note that was not repeated for so long."""


class Hint(Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Something that happened in another process."""


class MessageHint(Hint, frozen=True, tag="message"):
    """A message was committed. ``traceparent``: of its trace, "" for most."""

    message: Message
    traceparent: str = ""


class MarksHint(Hint, frozen=True, tag="marks"):
    """A user's marks grew; ``know``: the devices whose own acknowledgement that was."""

    grown: Grown
    know: tuple[str, ...]


class TypingHint(Hint, frozen=True, tag="typing"):
    """``user`` writes to the one whose channel this is."""

    conv: str
    user: str
    on: bool


class EndHint(Hint, frozen=True, tag="end"):
    """Connections of the channel's user are to close; ``device`` None: all of them."""

    device: str | None
    code: int


class ReplacedHint(Hint, frozen=True, tag="replaced"):
    """A device of the channel's user connected somewhere at ``at_us`` (Unix time): its older connections end (4409)."""

    device: str
    at_us: int


class BlockedHint(Hint, frozen=True, tag="blocked"):
    """The channel's user and ``peer``: one blocks the other."""

    peer: str


class PrivacyHint(Hint, frozen=True, tag="privacy"):
    """The channel's user shows when it was last seen, or not."""

    shows_last_seen: bool


class PresenceHint(Hint, frozen=True, tag="presence"):
    """How the user of a `watch_channel` is in the process that says so; ``last_seen_ms`` of somebody who shows it."""

    state: PresenceState
    last_seen_ms: int | None = None


class LossHint(Hint, frozen=True, tag="loss"):
    """For `EVERYBODY`: hints of the process that says so were dropped before they reached the bus."""


AnyHint: TypeAlias = (
    MessageHint | MarksHint | TypingHint | EndHint | ReplacedHint | BlockedHint | PrivacyHint | PresenceHint | LossHint
)


def watch_channel(user: str) -> str:
    """The channel on which it is told how a user is there. No user has such a name."""
    return f"?{user}"


class Letter(Struct, frozen=True, array_like=True, gc=False):
    """A hint on its way. ``process``: who sent it, which does not want it back; ``incarnation``: of its store."""

    process: str
    hint: AnyHint
    incarnation: str = ""


encode: Callable[[Letter], bytes] = msgspec.msgpack.Encoder().encode
decode: Callable[[bytes], Letter] = msgspec.msgpack.Decoder(Letter).decode

OnHint: TypeAlias = Callable[[str, bytes], None]
"""Called with (user, letter) from the loop."""
OnReceivers: TypeAlias = Callable[[int], None]
"""Called with the number of processes that listened, if the bus gets to know it."""


class Bus(Protocol):
    """One process's end of the bus. `publish` never waits and never raises."""

    async def open(self, on_hint: OnHint, on_gap: Callable[[], None]) -> None:
        """Connect. ``on_gap`` is called whenever hints may have been lost. Raises: StartError."""

    async def close(self) -> None:
        """Let go."""

    @property
    def dropped(self) -> int:
        """How many hints this end has dropped so far, or sent in vain."""

    def publish(self, user: str, letter: bytes, on_receivers: OnReceivers | None = None) -> None:
        """Tell everybody who listens on this user's channel. At its bound the bus drops it."""

    async def listen(self, user: str) -> None:
        """Hear what is published for this user after this returns. Raises: Unavailable – not connected."""

    def forget(self, user: str) -> None:
        """No longer."""


class Board(Protocol):
    """Where processes note how their users are there, each on a lease: what a dead one noted ends with it.

    Errors: Unavailable.
    """

    async def open(self, process: str, lease_s: float) -> None:
        """Take a lease for this process; it is renewed by `alive`. Raises: StartError."""

    async def close(self) -> None:
        """Give it back, with all that was noted."""

    async def alive(self) -> set[str]:
        """Renew the lease. Returns: the processes that live."""

    async def note(self, states: Mapping[str, PresenceState]) -> None:
        """How these users of this process are there, for NOTE_S; ``offline`` takes the note away. At most 10,000."""

    async def look(self, users: Sequence[str]) -> dict[str, dict[str, PresenceState]]:
        """What living processes noted: user → process → state. At most 1,000."""
