"""Between this process and the others: what happens here is told to them, and what they tell is done here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import structlog

from chatd.delivery import Delivery, Recipient
from chatd.errors import StartError, Unavailable
from chatd.metrics import Metrics
from chatd.model import Advance, Appended, Grown, members_of, peer_of
from chatd.presence.service import Presence
from chatd.push.service import Push
from chatd.routing import bus as wire
from chatd.routing.bus import (
    EVERYBODY,
    AnyHint,
    BlockedHint,
    Bus,
    EndHint,
    Letter,
    LossHint,
    MarksHint,
    MessageHint,
    PresenceHint,
    PrivacyHint,
    ReplacedHint,
    TypingHint,
)
from chatd.routing.others import OtherProcesses
from chatd.routing.turns import Turns
from chatd.tracing import Tracer

log = structlog.get_logger("chatd.exchange")


class Exchange:
    """A `FanOut` of the sequencer, and the ear of this process.

    ``process`` names it, ``incarnation`` the history that it knows: in another one a seq may name another body, so its
    messages and marks are for nobody here. Every session is reconciled with the store within ``spread_s`` after a gap
    of this end of the bus, and within ``reconcile_s`` after a sign that hints of others were lost: a process is gone,
    or says that it dropped some, or what it says is not understood. Without a sign each has its turn in ``calm_s``.
    """

    def __init__(
        self,
        bus: Bus,
        delivery: Delivery,
        presence: Presence,
        push: Push,
        others: OtherProcesses,
        metrics: Metrics,
        *,
        process: str,
        incarnation: str = "",
        reconcile_s: float,
        calm_s: float,
        spread_s: float,
        random: Callable[[], float],
        tracer: Tracer | None = None,
    ) -> None:
        self._bus = bus
        self._delivery = delivery
        self._presence = presence
        self._push = push
        self._others = others
        self._metrics = metrics
        self._process = process
        self._incarnation = incarnation
        self._turns = Turns(reconcile_s=reconcile_s, calm_s=calm_s)
        self._dropped = 0
        self._untold = False
        others.on_gone = self._turns.doubt
        self._spread_s = spread_s
        self._random = random
        self._tracer = tracer
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._gap_timers: set[asyncio.TimerHandle] = set()

    async def open(self) -> None:
        """Connect to the bus. Raises: StartError."""
        await self._bus.open(self._heard, self._gap)
        try:
            await self._bus.listen(EVERYBODY)
        except Unavailable as exc:
            raise StartError(f"cluster.bus_url: {exc.message}") from exc
        await self._others.open()
        self._arm()

    async def open_to_tell(self) -> None:
        """Connect only to tell the others, as somebody who administers does. Raises: StartError."""
        await self._bus.open(self._heard, self._gap)

    async def close(self) -> None:
        """Let go of the bus."""
        if self._timer is not None:
            self._timer.cancel()
        for timer in self._gap_timers:
            timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._others.close()
        await self._bus.close()

    @property
    def chosen(self) -> bool:
        """See `OtherProcesses`."""
        return self._others.chosen

    @property
    def processes(self) -> int:
        """See `OtherProcesses`."""
        return self._others.processes

    # --- devices ----------------------------------------------------------------------------------------

    async def joined(self, user: str, device: str, since_us: int) -> None:
        """A device has come, and is about to read the store: from now on nothing may be missed.

        ``since_us``: when it said hello, in Unix µs; its connections to other processes that are older than that end.
        Raises: Unavailable – the bus is not there.
        """
        await self._bus.listen(user)
        self._publish(user, ReplacedHint(device, since_us))

    def left(self, user: str) -> None:
        """A device went."""
        if not self._delivery.has(user):
            self._bus.forget(user)

    # --- what happens here ------------------------------------------------------------------------------

    def message(self, result: Appended, origin: object) -> None:
        """See `FanOut`. Whether somebody has the recipient is also what the push waits for."""
        message = result.message
        traceparent = "" if self._tracer is None else self._tracer.traceparent
        letter = wire.encode(Letter(self._process, MessageHint(message, traceparent), self._incarnation))
        recipient = peer_of(message.conv, message.sender)
        for user in dict.fromkeys(members_of(message.conv) or ()):
            if user != recipient or user == message.sender or self._delivery.has(user):
                self._bus.publish(user, letter)
            else:
                self._bus.publish(user, letter, lambda count: self._push.received(message, count))

    def receipt(self, grown: Grown, advances: Sequence[Advance]) -> None:
        """See `FanOut`."""
        know = tuple(a.device for a in advances if a.read >= grown.read and max(a.delivered, a.read) >= grown.delivered)
        letter = wire.encode(Letter(self._process, MarksHint(grown, know), self._incarnation))
        for user in dict.fromkeys(members_of(grown.conv) or ()):
            if not grown.private or user == grown.user:
                self._bus.publish(user, letter)

    def typing(self, peer: str, conv: str, user: str, on: bool) -> None:
        """``user`` writes to ``peer``."""
        self._publish(peer, TypingHint(conv, user, on))

    def ended(self, user: str, device: str | None, code: int) -> None:
        """Connections are to close, here and everywhere."""
        self._delivery.end(user, device, code)
        self._publish(user, EndHint(device, code))

    def blocked(self, user: str, peer: str) -> None:
        """One blocks the other."""
        self._presence.blocked(user, peer)
        self._publish(user, BlockedHint(peer))
        self._publish(peer, BlockedHint(user))

    def shows_last_seen(self, user: str, on: bool) -> None:
        """A user shows when it was last seen, or not."""
        self._presence.shows_last_seen(user, on)
        self._publish(user, PrivacyHint(on))

    def _publish(self, user: str, hint: AnyHint) -> None:
        self._bus.publish(user, wire.encode(Letter(self._process, hint, self._incarnation)))

    # --- what others tell -------------------------------------------------------------------------------

    def _heard(self, user: str, data: bytes) -> None:
        try:
            letter = wire.decode(data)
        except msgspec.DecodeError as exc:  # a process of another version: the store is read in time
            log.warning("hint_not_understood", error=str(exc)[:200])
            self._doubt()
            return
        if letter.process == self._process:
            return
        self._metrics.hints_heard += 1
        if letter.incarnation != self._incarnation and isinstance(letter.hint, (MessageHint, MarksHint)):
            return
        match letter.hint:
            case MessageHint(message=message, traceparent=traceparent):
                if traceparent and self._tracer is not None:
                    self._tracer.heard(user, message, traceparent)
                self._delivery.message_to(user, message)
            case MarksHint(grown=grown, know=know):
                self._delivery.receipt_to(user, grown, frozenset(know))
                self._push.marks_grew(grown, frozenset(know))
            case TypingHint(conv=conv, user=writer, on=on):
                self._presence.typed(user, conv, writer, on=on)
            case EndHint(device=device, code=code):
                self._delivery.end(user, device, code)
            case ReplacedHint(device=replaced, at_us=at_us):
                self._delivery.replaced(user, replaced, at_us)
            case BlockedHint(peer=peer):
                self._presence.blocked(user, peer)
            case PrivacyHint(shows_last_seen=on):
                self._presence.shows_last_seen(user, on)
            case PresenceHint(state=state, last_seen_ms=last_seen_ms):
                self._presence.elsewhere(user.removeprefix("?"), letter.process, state, last_seen_ms)
            case LossHint():
                self._metrics.bus_gaps += 1
                self._doubt()

    # --- what may have been missed ----------------------------------------------------------------------

    def _doubt(self) -> None:
        self._turns.doubt()
        self._others.doubt()

    def _gap(self) -> None:
        """Hints were lost: every session reads what it lacks, not all at once."""
        self._metrics.bus_gaps += 1
        self._turns.doubt()  # the others may have spoken to nobody for a little longer
        self._others.renew()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._others.again())
        for one in list(self._delivery.connected()):
            self._later(one, self._random() * self._spread_s)

    def _later(self, one: Recipient, delay_s: float) -> None:
        def due() -> None:
            self._gap_timers.discard(timer)
            one.reconcile()

        timer = asyncio.get_running_loop().call_later(delay_s, due)
        self._gap_timers.add(timer)

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(1.0, self._tick)

    def _tick(self) -> None:
        """Each second those are looked after whose turn it is, and others are told what this process could not tell."""
        self._arm()
        dropped = self._bus.dropped
        if dropped != self._dropped:
            self._dropped, self._untold = dropped, True
        if self._untold:  # again and again until the bus takes it
            letter = wire.encode(Letter(self._process, LossHint(), self._incarnation))
            self._bus.publish(EVERYBODY, letter, self._loss_told)
        self._turns.tick()
        for one in list(self._delivery.connected()):
            if self._turns.due(id(one) >> 6):
                one.reconcile()

    def _loss_told(self, listened: int) -> None:
        self._untold = False
