"""One device's side of the protocol: what may come when, and how fast. Pure: time is an argument.

`Session.receive` takes a frame's bytes and answers with what is to be done: the client frame itself (perform it), an
`Answer` (write it) or a `Close`. It never waits and never buffers.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from msgspec import Struct

from chatd import protocol
from chatd.errors import OutOfOrder, RateLimited, Refusal
from chatd.limits import TokenBucket
from chatd.model import conv_of
from chatd.settings import LimitSettings

HELD_MESSAGES_MAX = 1_000


class State(enum.Enum):
    """Where a connection is. Source: docs/protocol.md, "States"."""

    NEW = "new"
    AUTHENTICATING = "authenticating"
    CATCHING_UP = "catching_up"
    LIVE = "live"
    CLOSED = "closed"


class Event(enum.Enum):
    """What moves it."""

    HELLO = "hello"
    ACCEPTED = "accepted"
    CAUGHT_UP = "caught_up"
    CLOSE = "close"


NEXT: dict[tuple[State, Event], State] = {
    (State.NEW, Event.HELLO): State.AUTHENTICATING,
    (State.NEW, Event.CLOSE): State.CLOSED,
    (State.AUTHENTICATING, Event.ACCEPTED): State.CATCHING_UP,
    (State.AUTHENTICATING, Event.CLOSE): State.CLOSED,
    (State.CATCHING_UP, Event.CAUGHT_UP): State.LIVE,
    (State.CATCHING_UP, Event.CLOSE): State.CLOSED,
    (State.LIVE, Event.CLOSE): State.CLOSED,
    (State.CLOSED, Event.CLOSE): State.CLOSED,
}


class Answer(Struct, frozen=True, gc=False):
    """Write this frame."""

    frame: protocol.ServerFrame


class Close(Struct, frozen=True, gc=False):
    """End the connection with this code, after ``frame`` if there is one."""

    code: int
    reason: str
    frame: protocol.ServerFrame | None = None


class IllegalTransition(Exception):
    """An event that this state does not know: a bug of the caller."""


def error_frame(
    refusal: Refusal, *, ref: protocol.Ref | None = None, id: str | None = None, conv: str | None = None
) -> protocol.Error:
    """A refusal as it goes to the client."""
    return protocol.Error(
        code=refusal.code,
        message=refusal.message,
        temporary=refusal.temporary,
        retry_after_ms=refusal.retry_after_ms,
        ref=ref,
        id=id,
        conv=conv,
    )


class Session:
    """State, order of sends, and rates of one connection."""

    __slots__ = (
        "_bytes",
        "_frames",
        "_held",
        "_held_messages",
        "_limits",
        "_n",
        "_refusals",
        "_take_send",
        "deadline_s",
        "state",
        "user",
    )

    def __init__(self, limits: LimitSettings, *, hello_s: float, now_s: float) -> None:
        self._limits = limits
        self.state = State.NEW
        self.deadline_s: float | None = now_s + hello_s  # monotonic: when `expired` must be called
        self.user = ""
        self._take_send: Callable[[float], float] | None = None  # of the user's bucket, shared by its connections
        self._frames = TokenBucket(limits.frames_per_s, limits.frames_burst)
        self._bytes = TokenBucket(limits.bytes_per_s, limits.bytes_burst)
        self._refusals = 0
        self._n = 0
        # Conversation → what was refused for now, in order → whether it was repeated and is under way.
        self._held: dict[str, dict[str, bool]] = {}
        self._held_messages = 0

    def step(self, event: Event) -> None:
        """Move. Raises: IllegalTransition – the table has no such pair."""
        try:
            self.state = NEXT[self.state, event]
        except KeyError:
            raise IllegalTransition(f"{event} in {self.state}") from None

    def accepted(self, user: str, take_send: Callable[[float], float], deadline_s: float | None) -> None:
        """The hello was good.

        ``take_send`` takes from the user's rate of sends; ``deadline_s``: monotonic time at which the token ends.
        """
        self.step(Event.ACCEPTED)
        self.user = user
        self._take_send = take_send
        self.deadline_s = deadline_s

    def renewed(self, deadline_s: float | None) -> None:
        """The token was renewed."""
        self.deadline_s = deadline_s

    def expired(self) -> Close:
        """The deadline has passed: no hello in time, or the token ended."""
        if self.state in (State.NEW, State.AUTHENTICATING):
            return Close(4408, "no hello in time")
        return Close(4401, "the token has expired")

    def receive(self, data: bytes, now_s: float) -> protocol.ClientFrame | Answer | Close:
        """Judge one text frame."""
        late = self._frames.take(now_s) or self._bytes.take(now_s, len(data))
        try:
            frame = protocol.decode_client(data)
        except protocol.ProtocolBroken as exc:
            return Close(4400, str(exc))
        except protocol.FrameRefused as exc:
            if self.state is State.NEW:
                return Close(4400, "the first frame must be a hello", exc.error)
            return self._limited(exc.error) if late else Answer(exc.error)
        if type(frame) is protocol.Hello:
            if self.state is not State.NEW:
                return Close(4400, "a second hello")
            self.step(Event.HELLO)
            return frame
        if self.state is State.NEW:
            return Close(4400, "the first frame must be a hello")
        if type(frame) is protocol.Send:
            return self._send(frame, late, now_s)
        if late:
            refusal = RateLimited("too many frames or bytes on this connection", retry_after_ms=_ms(late))
            return self._limited(error_frame(refusal, ref=frame.ref, conv=getattr(frame, "conv", None)))
        self._refusals = 0
        return frame

    def _send(self, frame: protocol.Send, late: float, now_s: float) -> protocol.Send | Answer | Close:
        conv = frame.conv if frame.conv is not None or frame.to is None else conv_of(self.user, frame.to)
        if frame.n is not None:
            if frame.n != self._n + 1:
                return self._out_of_order(frame, conv, f"send number {frame.n} came, {self._n + 1} was expected")
            self._n = frame.n
        held = self._held.get(conv or "")
        if held is not None and (awaited := _awaited(held)) not in (None, frame.id) and not held.get(frame.id):
            return self._out_of_order(frame, conv, f"{awaited} was refused before it: send that again first")
        wait_s = late or (self._take_send(now_s) if self._take_send is not None else 0.0)
        if wait_s:
            refusal = RateLimited("too many messages", retry_after_ms=_ms(wait_s))
            if conv is not None:
                self.hold(conv, frame.id)
            return self._limited(error_frame(refusal, ref=frame.ref, id=frame.id, conv=conv))
        self._refusals = 0
        if held is not None and frame.id in held:
            held[frame.id] = True
        return frame

    def hold(self, conv: str, message_id: str) -> None:
        """A send was refused for now: what is refused after it, and what is new, waits until it was repeated."""
        held = self._held.setdefault(conv, {})
        if message_id not in held:
            self._held_messages += 1
        held[message_id] = False  # in its old place

    def settled(self, conv: str, message_id: str) -> None:
        """A send was answered for good: nothing waits for it."""
        held = self._held.get(conv)
        if held is not None and held.pop(message_id, None) is not None:
            self._held_messages -= 1
            if not held:
                del self._held[conv]

    def _out_of_order(self, frame: protocol.Send, conv: str | None, why: str) -> Answer | Close:
        error = error_frame(OutOfOrder(why), ref=frame.ref, id=frame.id, conv=conv)
        if conv is not None and conv in self._held:
            self.hold(conv, frame.id)
            if self._held_messages >= HELD_MESSAGES_MAX:
                return Close(4429, "too many refused messages wait", error)
        return Answer(error)

    def _limited(self, error: protocol.Error) -> Answer | Close:
        self._refusals += 1
        if self._refusals > self._limits.refusals_max or self._held_messages >= HELD_MESSAGES_MAX:
            return Close(4429, "too fast", error)
        return Answer(error)


def _awaited(held: dict[str, bool]) -> str | None:
    """What must come next: the first that is not under way. None: all are, anything may follow."""
    return next((id_ for id_, under_way in held.items() if not under_way), None)


def _ms(wait_s: float) -> int:
    return int(wait_s * 1000) + 1
