"""One connected device: it performs what its session decides, with the services. No sockets: it knows "write" and
"close", and the transport knows the rest.

Frames are performed in the order they came. One that has to wait (the hello, an unknown recipient, a page of history)
holds back the ones behind it, and the socket is not read meanwhile.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TypeAlias

import structlog

from chatd import protocol
from chatd.catch_up import CatchUp
from chatd.errors import (
    Forbidden,
    InternalError,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Refusal,
    StoreBroken,
    Unauthenticated,
    Unavailable,
)
from chatd.model import (
    Advance,
    Appended,
    Draft,
    Grown,
    Identity,
    Message,
    conv_of,
    peer_of,
)
from chatd.presence.service import Watcher
from chatd.sending import make_draft
from chatd.services import Services, Wire
from chatd.session import Answer, Close, Event, Session, State, error_frame

NEWEST_CONVERSATIONS = 100
BROKEN = frozenset({1002, 1003, 1007, 1009, 4400})
TOO_FAST = 4429

Work: TypeAlias = Callable[[], Coroutine[None, None, None]]

log = structlog.get_logger("chatd.connection")


class Connection:
    """One device's connection, from its hello to its end. ``address``: the client's, for the log."""

    __slots__ = (
        "_address",
        "_busy",
        "_inbox",
        "_leave",
        "_logs",
        "_services",
        "_welcomed",
        "_wire",
        "_work",
        "device",
        "id",
        "session",
        "since_us",
        "user",
        "watcher",
    )

    def __init__(self, services: Services, wire: Wire, address: str = "local") -> None:
        settings = services.settings
        self._services = services
        self._wire = wire
        self._address = address
        self.id = secrets.token_hex(8)  # in its log lines, and in its welcome
        self.session = Session(settings.limits, hello_s=settings.timing.hello_s, now_s=services.now_s())
        self._logs = CatchUp(services, wire, self.session)
        self.user = ""
        self.device = ""
        self.since_us = 0
        self._welcomed = False
        self._leave: protocol.Goaway | None = None
        self._busy = False
        self._inbox: deque[bytes] | None = None  # frames that came in one read with one that waits
        self._work: asyncio.Task[None] | None = None
        self.watcher: Watcher | None = None  # of the presence service

    # --- from the transport ---------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """One text frame."""
        self._services.metrics.frames_received += 1
        if self._busy:
            if self._inbox is None:
                self._inbox = deque()
            self._inbox.append(data)  # bounded by what one read of the socket can hold: it is not read meanwhile
            return
        effect = self.session.receive(data, self._services.now_s())
        kind = type(effect)
        if kind is protocol.Send:
            self._send(effect)  # type: ignore[arg-type]
        elif kind is protocol.Ack:
            self._advance(effect, effect.seq, 0)  # type: ignore[union-attr, arg-type]
        elif kind is protocol.Read:
            self._advance(effect, effect.seq, effect.seq)  # type: ignore[union-attr, arg-type]
        elif isinstance(effect, Answer):
            self._services.metrics.frames_refused += 1
            self._write(effect.frame)
            if isinstance(effect.frame, protocol.Error) and effect.frame.code == RateLimited.code:
                self._tell("rate_limited", what="frames")
        elif isinstance(effect, Close):
            self._close(effect)
        elif isinstance(effect, protocol.Ping):
            self._write(protocol.Pong(now=self._services.now_ms(), ref=effect.ref))
        elif isinstance(effect, protocol.Hello):
            self._wait(partial(self._hello, effect), effect)
        elif isinstance(effect, protocol.Auth):
            self._wait(partial(self._auth, effect), effect)
        elif isinstance(effect, protocol.History):
            self._wait(partial(self._logs.history, effect), effect)
        elif isinstance(effect, protocol.Conversations):
            self._wait(partial(self._logs.conversations, effect), effect)
        elif isinstance(effect, protocol.Watch):
            self._wait(partial(self._watch, effect), effect)
        else:
            self._hinted(effect)

    def congested(self, on: bool) -> None:
        """The socket owes its client too much, or has drained."""
        self._logs.congested(on)
        self._services.presence.congested(self)

    def lost(self) -> None:
        """The socket is gone. What was submitted is committed all the same."""
        self._debug("disconnected")
        self._closed()

    def tick(self, now_s: float) -> None:
        """Called about once a second: deadlines."""
        deadline_s = self.session.deadline_s
        if deadline_s is not None and now_s >= deadline_s:
            self._close(self.session.expired())

    # --- from delivery and the sequencer --------------------------------------------------------------

    def live(self, message: Message, payload: bytes) -> None:
        """See `Recipient`."""
        self._logs.live(message, payload)

    def receipt(self, grown: Grown, payload: bytes) -> None:
        """See `Recipient`."""
        if not self._logs.receipt(grown, payload):
            self._close(Close(4408, "not reading"))

    @property
    def full(self) -> bool:
        """See `Listener`."""
        return self._logs.cursor.congested

    @property
    def owes(self) -> tuple[int, bool]:
        """Messages that the device has not acknowledged, and whether there are more that it was not sent."""
        cursor = self._logs.cursor
        return cursor.in_flight, cursor.behind

    def hint(self, payload: bytes) -> None:
        """See `Listener`."""
        if self._welcomed and not self.full and self.session.state is not State.CLOSED:
            self._wire.write(payload)

    def reconcile(self) -> None:
        """See `Recipient`."""
        self._logs.reconcile()

    def end(self, code: int, reason: str) -> None:
        """See `Recipient`."""
        self._close(Close(code, reason))

    def answer(self, frame: protocol.ServerFrame) -> None:
        """Write a frame."""
        self._write(frame)

    def goaway(self, reason: str, reconnect_ms: int) -> None:
        """Ask the client to come back elsewhere; not before it was made welcome."""
        frame = protocol.Goaway(reason=reason, reconnect_ms=reconnect_ms)
        if self._welcomed:
            self._write(frame)
        else:
            self._leave = frame

    def appended(self, draft: Draft, result: Appended, ref: object) -> None:
        """See `Origin`."""
        self.session.settled(draft.conv, draft.id)
        message = result.message
        moved = not result.duplicate and self._logs.cursor.own(message.conv, message.seq)
        self._write(
            protocol.Sent(
                id=message.id,
                conv=message.conv,
                seq=message.seq,
                ts=message.ts_ms,
                duplicate=not moved,
                ref=ref,  # type: ignore[arg-type]
            )
        )
        if not moved:
            self._logs.read_on()
        if not self._logs.cursor.trim():
            self._close(Close(1013, "too many conversations on one connection"))

    def refused(self, draft: Draft, refusal: Refusal, ref: object) -> None:
        """See `Origin`."""
        self._hold(draft.conv, draft.id, refusal)
        self._services.metrics.frames_refused += 1
        self._write(error_frame(refusal, ref=ref, id=draft.id, conv=draft.conv))  # type: ignore[arg-type]

    # --- performing -----------------------------------------------------------------------------------

    def _send(self, frame: protocol.Send) -> None:
        services = self._services
        received_s = 0.0 if services.tracer is None else services.now_s()
        try:
            draft = make_draft(
                user=self.user,
                to=frame.to,
                conv=frame.conv,
                id=frame.id,
                body=frame.body,
                body_bytes_max=services.settings.limits.body_bytes_max,
                now_ms=services.now_ms(),
            )
        except Refusal as exc:
            self._refuse_send(frame, frame.conv, exc)
            return
        peer = peer_of(draft.conv, self.user)
        if peer is not None and not services.accounts.known_cached(peer):
            self._wait(partial(self._send_to_stranger, frame, draft, peer, received_s), frame)
            return
        self._submit(frame, draft, received_s)

    def _submit(self, frame: protocol.Send, draft: Draft, received_s: float) -> None:
        tracer = self._services.tracer
        trace = None if tracer is None else tracer.begin(draft, received_s, connection=self.id)
        try:
            self._services.sequencer.submit(draft, self, frame.ref, trace)
        except Refusal as exc:
            self._refuse_send(frame, draft.conv, exc)

    async def _send_to_stranger(self, frame: protocol.Send, draft: Draft, peer: str, received_s: float) -> None:
        if not await self._services.accounts.known(peer):
            raise NotFound(f"there is no user {peer}")
        self._submit(frame, draft, received_s)

    def _refuse_send(self, frame: protocol.Send, conv: str | None, refusal: Refusal) -> None:
        if conv is not None:
            self._hold(conv, frame.id, refusal)
        self._services.metrics.messages_refused += 1
        self._services.metrics.frames_refused += 1
        self._write(error_frame(refusal, ref=frame.ref, id=frame.id, conv=conv))

    def _hold(self, conv: str, message_id: str, refusal: Refusal) -> None:
        if refusal.temporary:
            self.session.hold(conv, message_id)
        else:
            self.session.settled(conv, message_id)

    def _advance(self, frame: protocol.Ack | protocol.Read, delivered: int, read: int) -> None:
        conv = frame.conv
        if peer_of(conv, self.user) is None:
            self._services.metrics.frames_refused += 1
            self._write(error_frame(NotFound("no such conversation"), ref=frame.ref, conv=conv))
            return
        done = None if frame.ref is None else _Told(self, frame.ref, conv)
        self._services.sequencer.advance(Advance(conv, self.user, self.device, delivered, read), done)
        if self._logs.cursor.ack(conv, delivered):
            self._logs.read_on()

    async def _hello(self, frame: protocol.Hello) -> None:
        """When thousands say it at once, only some are answered at a time: who is inside needs the store as well."""
        async with self._services.catch_ups:
            if not self._is_gone():
                await self._greeted(frame)

    async def _greeted(self, frame: protocol.Hello) -> None:
        services = self._services
        try:
            identity = await services.accounts.authenticate(frame.token)
            if self._is_gone():
                return
            self.user, self.device = identity.user, identity.device
            self.since_us = services.now_us()
            services.delivery.add(self)
            if services.exchange is not None:
                await services.exchange.joined(self.user, self.device, self.since_us)
            # Once more: a token that was revoked before the line above found no connection to close.
            identity = await services.accounts.authenticate(frame.token)
        except (Unauthenticated, Forbidden) as exc:
            self._tell("token_refused", reason=exc.message)
            code = 4403 if isinstance(exc, Forbidden) else 4401
            self._close(Close(code, exc.message[:100], error_frame(exc, ref=frame.ref)))
            return
        except Refusal as exc:
            services.metrics.store_failed(exc)
            self._close(Close(1013, exc.message[:100], error_frame(exc, ref=frame.ref)))
            return
        if self._is_gone():
            return
        self.session.accepted(self.user, self._take_send, self._token_deadline_s(identity))
        services.presence.connected(self, shows_last_seen=identity.shows_last_seen)
        try:
            await self._open(frame)
        except Refusal as exc:
            services.metrics.store_failed(exc)
            self._close(Close(1013, exc.message[:100], error_frame(exc, ref=frame.ref)))

    def _is_gone(self) -> bool:
        """Whether it was closed while something waited."""
        return self.session.state is State.CLOSED

    def _take_send(self, now_s: float) -> float:
        return self._services.sends.take(self.user, now_s)

    def _token_deadline_s(self, identity: Identity) -> float | None:
        if identity.expires_ms is None:
            return None
        return self._services.now_s() + (identity.expires_ms - self._services.now_ms()) / 1000

    async def _open(self, frame: protocol.Hello) -> None:
        """Say welcome, list what changed, and place the cursors; the log itself is read by `_catch_up`."""
        services, limits = self._services, self._services.settings.limits
        store = services.store
        watermarks = {c: s for c, s in (frame.watermarks or {}).items() if peer_of(c, self.user) is not None}
        heads = await store.heads(list(watermarks)) if watermarks else {}
        reset = frame.incarnation not in (None, store.incarnation) or any(
            seq > heads[conv] for conv, seq in watermarks.items()
        )
        self._count_hello(frame, reset=reset)
        if reset:
            watermarks = {}
        await store.enroll(
            self.user,
            self.device,
            initial_history=limits.initial_history,
            newest_max=NEWEST_CONVERSATIONS,
            again=reset,
        )
        for conv, seq in watermarks.items():
            self._logs.cursor.start(conv, seq, heads[conv])
            services.sequencer.advance(Advance(conv, self.user, self.device, seq))
        self._write(
            protocol.Welcome(
                user=self.user,
                device=self.device,
                session=self.id,
                now=services.now_ms(),
                incarnation=store.incarnation,
                reset=reset,
                heartbeat_s=services.settings.timing.heartbeat_s,
                durability=store.durability,
                limits=protocol.Limits(
                    frame_bytes_max=limits.frame_bytes_max,
                    body_bytes_max=limits.body_bytes_max,
                    window=limits.window_messages_max,
                    initial_history=limits.initial_history,
                ),
                ref=frame.ref,
            )
        )
        self._welcomed = True
        self._debug("connected", device=self.device, address=self._address)
        if self._leave is not None:
            self._write(self._leave)
        await self._logs.open(self.user, self.device, None if reset else frame.since)

    def _count_hello(self, frame: protocol.Hello, *, reset: bool) -> None:
        metrics = self._services.metrics
        if frame.incarnation is None and not frame.watermarks:
            return
        metrics.reconnects += 1
        if reset:
            metrics.resets += 1
        elif frame.watermarks or frame.since is not None:
            metrics.resumes += 1

    async def _auth(self, frame: protocol.Auth) -> None:
        try:
            identity = await self._services.accounts.authenticate(frame.token)
            if (identity.user, identity.device) != (self.user, self.device):
                raise Forbidden("this token is another user's or device's")
        except (Unauthenticated, Forbidden) as exc:
            self._tell("token_refused", reason=exc.message)
            raise
        self.session.renewed(self._token_deadline_s(identity))
        self._write(protocol.Ok(ref=frame.ref))

    # --- presence and typing ---------------------------------------------------------------------------

    def _hinted(self, frame: protocol.ClientFrame) -> None:
        presence = self._services.presence
        if isinstance(frame, protocol.Typing):
            peer = peer_of(frame.conv, self.user)
            if peer is None:
                self._failed(frame, NotFound("no such conversation"))
            elif not presence.typing(self, frame.conv, on=frame.on):
                self._wait(partial(self._typing_to_stranger, frame, peer), frame)
        elif isinstance(frame, protocol.Status):
            presence.status(self, away=frame.state == "away", inactive=frame.inactive)
            self._write(protocol.Ok(ref=frame.ref))
        elif isinstance(frame, protocol.Unwatch):
            presence.unwatch(self, frame.users)
            self._write(protocol.Ok(ref=frame.ref))

    async def _watch(self, frame: protocol.Watch) -> None:
        states = await self._services.presence.watch(self, frame.users)
        self._write(protocol.Presence(states=states.states, ref=frame.ref))

    async def _typing_to_stranger(self, frame: protocol.Typing, peer: str) -> None:
        presence = self._services.presence
        if await presence.introduce(self.user, peer):
            presence.typing(self, frame.conv, on=frame.on)

    # --- plumbing -------------------------------------------------------------------------------------

    def _write(self, frame: protocol.ServerFrame) -> None:
        self._wire.write(protocol.encode(frame))

    def _wait(self, work: Work, frame: protocol.ClientFrame) -> None:
        """Do something that takes time; frames behind it wait, and the socket is not read.

        It is called in the task: one that is cancelled before its first step leaves no coroutine behind.
        """
        self._busy = True
        self._wire.hold(True)
        self._work = asyncio.get_running_loop().create_task(self._perform(work, frame))

    async def _perform(self, work: Work, frame: protocol.ClientFrame) -> None:
        try:
            await work()
        except Refusal as exc:
            self._services.metrics.store_failed(exc)
            self._failed(frame, exc)
        except OutcomeUnknown as exc:
            self._services.metrics.store_failed(exc)
            self._failed(frame, Unavailable(f"the store did not answer: {exc}"))
        except StoreBroken as exc:
            self._services.metrics.store_failed(exc)
            self._services.on_broken(exc)
            self._failed(frame, InternalError("the store failed; the server restarts"))
        except Exception as exc:
            log.exception("frame_failed", connection=self.id, user=self.user, device=self.device, exc_info=exc)
            self._failed(frame, InternalError("the server failed; it was logged"))
        self._work = None
        self._busy = False
        while self._inbox and not self._busy and self.session.state is not State.CLOSED:
            self.receive(self._inbox.popleft())
        if not self._busy:
            self._inbox = None
            self._wire.hold(False)

    def _failed(self, frame: protocol.ClientFrame, refusal: Refusal) -> None:
        if self.session.state is State.CLOSED:
            return
        if isinstance(frame, protocol.Hello):
            self._close(Close(1011, refusal.message, error_frame(refusal, ref=frame.ref)))
        elif isinstance(frame, protocol.Send):
            conv = frame.conv if frame.to is None else conv_of(self.user, frame.to)
            self._refuse_send(frame, conv, refusal)
        else:
            self._services.metrics.frames_refused += 1
            self._write(error_frame(refusal, ref=frame.ref, conv=getattr(frame, "conv", None)))

    def _close(self, effect: Close) -> None:
        if self.session.state is State.CLOSED:
            return
        if effect.frame is not None:
            self._write(effect.frame)
        if effect.code in BROKEN:
            self._tell("protocol_broken", code=effect.code, reason=effect.reason)
        elif effect.code == TOO_FAST:
            self._tell("rate_limited", what="frames")
        self._debug("closing", code=effect.code, reason=effect.reason)
        self._closed()
        self._wire.close(effect.code, effect.reason)

    def _debug(self, event: str, **more: str | int) -> None:
        if self._services.settings.server.log_level == "debug":  # a host that configured no log would print it
            log.debug(event, connection=self.id, user=self.user, **more)

    def _tell(self, event: str, **more: str | int) -> None:
        self._services.security.tell(event, address=self._address, user=self.user, connection=self.id, **more)

    def _closed(self) -> None:
        if self.session.user and self.session.state is not State.CLOSED:
            self._services.presence.lost(self)
        self.session.step(Event.CLOSE)
        self._services.delivery.remove(self)
        if self.user and self._services.exchange is not None:
            self._services.exchange.left(self.user)
        self._logs.stop()
        if self._work is not None and self._work is not asyncio.current_task():
            self._work.cancel()
        self._inbox = None


class _Told:
    """Answers a mark that has a ref."""

    __slots__ = ("_connection", "_conv", "_ref")

    def __init__(self, connection: Connection, ref: protocol.Ref, conv: str) -> None:
        self._connection, self._ref, self._conv = connection, ref, conv

    def __call__(self, result: Grown | Refusal) -> None:
        if self._connection.session.state is State.CLOSED:
            return
        if isinstance(result, Refusal):
            self._connection.answer(error_frame(result, ref=self._ref, conv=self._conv))
        else:
            self._connection.answer(protocol.Ok(ref=self._ref))
