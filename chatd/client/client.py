"""The client: keeps one device connected, and gives its application sends that last and messages that come once."""

from __future__ import annotations

import asyncio
import contextlib
import random as _random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from chatd import protocol
from chatd.client import wire as network
from chatd.client.connection import Connection
from chatd.client.core import Answered, Core, Effect, Grew, Replied
from chatd.client.events import ConversationMarks, Event, HistoryPage, LogEvent, PresenceEvent, Stopped, log_event
from chatd.client.handle import Handle
from chatd.client.outqueue import Pending
from chatd.client.storage import Storage
from chatd.client.wire import Connect, WireClosed
from chatd.errors import BadFrame, Refusal, StartError, TooLarge, Unavailable
from chatd.model import CONV_CHARS_MAX, WATCHES_MAX, is_user
from chatd.protocol import ConversationList, Messages, new_message_id

_T = TypeVar("_T")

CLOSE_FLUSH_S = 1.0
REPLACED = 4409
LATE_HELLO_S_MAX = 10.0
"""So long after a loss, at the latest, the server reads what the lost connection had still said."""
BODY_BYTES_MAX = 16_384  # until a server has told its own
FRAME_BYTES_MAX = 65_536


class Client:
    """One device of one user. Use it as ``async with``, or call `start` and `close`.

    ``url``: the server, as http://host:port. ``token``: of this device, from `login` or the host application; None:
    the one in the store. ``store``: a file for what must outlive the process (unsent messages, positions, token);
    None: memory. ``outbox_messages_max``: unanswered sends; then `send` raises Overloaded.
    ``events_messages_max``: messages that wait in memory for the application; then they are left on the server,
    unacknowledged, and fetched when the application has caught up: a slow application slows only its own device.

    Within a process each message comes once. What holds over a crash stands in `chatd.client.storage`.
    ``connect``, ``clock`` (monotonic seconds) and ``random`` (floats in [0, 1)) are there for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        user: str | None = None,
        store: str | Path | None = None,
        outbox_messages_max: int = 10_000,
        events_messages_max: int = 1_024,
        connect: Connect = network.connect,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        network.websocket_url(url, user)  # a wrong URL is told here and not at the first connection
        self._url = url
        self._token = token
        self._expected_user = user
        self._storage = Storage(None if store is None else Path(store))
        self._connect = connect
        self._clock = clock
        self._core = Core(random, outbox_messages_max=outbox_messages_max, events_messages_max=events_messages_max)
        self._handles: dict[str, Handle] = {}
        self._calls: dict[protocol.Ref, asyncio.Future[Messages | ConversationList]] = {}
        self._mark_waits: dict[str, set[asyncio.Future[None]]] = {}
        self._sending = asyncio.Lock()
        self._online = asyncio.Event()
        self._arrived = asyncio.Event()
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._connection: Connection | None = None
        self._stopped: BaseException | None = None
        self._closed = False

    @classmethod
    async def login(
        cls,
        url: str,
        user: str,
        password: str,
        *,
        device_name: str | None = None,
        register: bool = False,
        invite: str | None = None,
        store: str | Path | None = None,
        **options: Any,
    ) -> Client:
        """A client, not yet started, for a new device; or for the device of ``store`` if that has a token already.

        Raises: Refusal – the server's answer (Unauthenticated, Forbidden …); Unavailable – no answer;
        StartError – the store cannot be used.
        """
        storage = Storage(None if store is None else Path(store))
        await storage.open()
        try:
            if not (await storage.identity()).get("token"):
                made = await network.login(
                    url, user, password, device_name=device_name, register=register, invite=invite
                )
                await storage.remember(token=made.token, user=made.user)
                options["token"] = made.token
        finally:
            await storage.close()
        return cls(url, user=user, store=store, **options)

    async def __aenter__(self) -> Client:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is None:
            self._core.done()  # the application leaves in peace: it is done with the event that it holds
        await self._end()

    async def start(self) -> None:
        """Open the store and begin to connect, in the background.

        Raises: StartError – the store cannot be used, belongs to another user, or no token is given.
        """
        await self._storage.open()
        try:
            await self._load()
        except BaseException:
            await self._storage.close()
            raise
        for work in (self._keep_connected(), self._keep_saved()):
            task = asyncio.create_task(work)
            task.add_done_callback(self._task_ended)
            self._tasks.append(task)

    async def _load(self) -> None:
        core = self._core
        known = await self._storage.identity()
        stored_user = known.get("user")
        if self._expected_user and stored_user and stored_user != self._expected_user:
            raise StartError(f"the client store belongs to {stored_user}, not to {self._expected_user}")
        core.user = self._expected_user or stored_user
        core.incarnation, core.since = known.get("incarnation"), known.get("since")
        self._token = self._token or known.get("token")
        if not self._token:
            raise StartError("no token: give one, or log in with Client.login")
        await self._storage.remember(token=self._token, user=core.user)
        for saved in await self._storage.conversations():
            core.load(saved)
        for entry in await self._storage.outbox():
            self._queue(entry)

    async def close(self) -> None:
        """Say goodbye and stop. Everything handed to the application counts as dealt with."""
        self._core.done()
        await self._end()

    async def _end(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(TimeoutError):  # acknowledgements first, but not at any price
                async with asyncio.timeout(CLOSE_FLUSH_S):
                    self._connection.wake()
                    await self._connection.idle.wait()
        self._closed = True
        self._stop(Stopped(1000, "closed by the application"))
        if self._tasks:
            await asyncio.wait(self._tasks)
        try:
            await self._save()
        finally:
            await self._storage.close()

    # --- the application's side ---

    @property
    def user(self) -> str | None:
        """The user whose device this is, as far as it is known before the first connection."""
        return self._core.user

    @property
    def unsent(self) -> tuple[Handle, ...]:
        """The sends without a final answer, in order; after a restart also those of the run before."""
        return tuple(self._handles.values())

    async def send(self, to: str, body: str, *, id: str | None = None) -> Handle:
        """Put a message into the outbox: it is stored when this returns, and sent as soon as that is possible.

        ``to``: a user, or a conversation as an event named it. ``body``: 1 … 16,384 bytes of UTF-8 (or what the
        server allows), no U+0000. ``id``: a UUID of the caller's own. A cancelled call may still send.
        Raises: BadFrame, TooLarge – the message cannot be sent. Overloaded – the outbox is full. Unavailable – the
        store failed; it was not sent. Stopped – the client has ended.
        """
        self.check()
        named = {"to": to} if is_user(to) else {"conv": to}
        async with self._sending:  # stored and queued in one order
            entry = self._core.outbox.make(id or new_message_id(), body, **named)
            self._validate(entry)
            try:
                await self._storage.add(entry)
            except asyncio.CancelledError:
                self._queue(entry)  # it may be stored: better sent now than by surprise after a restart
                raise
            return self._queue(entry)

    def _queue(self, entry: Pending) -> Handle:
        handle = self._handles[entry.id] = Handle(self, entry.id)
        self._core.outbox.add(entry)
        self._wake()
        return handle

    def _validate(self, entry: Pending) -> None:
        limits = self._core.limits
        if entry.conv is not None and not (entry.conv.isascii() and 0 < len(entry.conv) <= CONV_CHARS_MAX):
            raise BadFrame(f"neither a user nor a conversation: {entry.conv!r}")
        if entry.id in self._handles:
            raise BadFrame(f"{entry.id} is in the outbox already")
        if not entry.body or "\0" in entry.body:
            raise BadFrame("a body has at least one character and no U+0000")
        try:
            size = len(entry.body.encode())
        except UnicodeEncodeError as exc:
            raise BadFrame("a body has no lone surrogate") from exc
        if size > (limits.body_bytes_max if limits else BODY_BYTES_MAX):
            raise TooLarge(f"a body of {size} bytes")
        if len(protocol.encode(entry.frame(2**53 - 1))) > (limits.frame_bytes_max if limits else FRAME_BYTES_MAX):
            raise TooLarge("the message does not fit a frame")

    async def events(self) -> AsyncIterator[Event]:
        """The events, each once, in order; for one consumer at a time. It ends after `close`.

        A message is acknowledged when it is handed over, and stored as dealt with when the next event is asked for.
        Raises: Stopped – the server does not want this device back (4401, 4403, 4409 …). Unavailable – the store
        failed.
        """
        while True:
            event = self._core.take()
            if event is not None:
                if isinstance(event, LogEvent):
                    self._perform([Grew(event.conv)])  # this device's own mark
                self._wake()
                self._changed.set()
                yield event
                continue
            if self._closed:
                return
            self.check()
            self._changed.set()
            self._arrived.clear()
            await self._arrived.wait()

    async def mark_read(self, conv: str, seq: int) -> None:
        """The user has read up to ``seq``: told to the server now or after the next connection."""
        self.check()
        self._core.read(conv, seq)
        self._wake()
        self._changed.set()

    def marks(self, conv: str) -> ConversationMarks:
        """The latest known marks of this user, this device's acknowledgements included, and of the peer."""
        return self._core.marks(conv)

    @property
    def badge(self) -> int:
        """Unread messages in all conversations, as far as this device has been told of them."""
        return self._core.badge

    def unread(self, conv: str) -> int:
        """Unread messages of one conversation."""
        return self._core.unread(conv).count

    def watch(self, *users: str) -> None:
        """Be told who of these is there, as `PresenceEvent`, over reconnects. Those who may not be watched stay silent.

        Raises: TooLarge – more than 1,000 in all.
        """
        self.check()
        if not self._core.hints.watch(users):
            raise TooLarge(f"more than {WATCHES_MAX} watched users")
        self._wake()

    def unwatch(self, *users: str) -> None:
        """Watch these no longer."""
        self.check()
        self._core.hints.unwatch(users)
        self._wake()

    def presence(self, user: str) -> PresenceEvent | None:
        """What is known of a watched user now; None: nothing, as without a connection."""
        return self._core.hints.presence(user)

    def status(self, state: Literal["online", "away"], *, inactive: bool = False) -> None:
        """How this device is there. ``inactive``: nobody looks at it; it is spared presence and typing."""
        self.check()
        self._core.hints.status(protocol.Status(state=state, inactive=inactive))
        self._wake()

    def typing(self, conv: str, on: bool = True) -> None:
        """The user writes, or no longer does: call it as often as keys are pressed; told at most once in 3 s."""
        self.check()
        self._core.hints.typing(conv, on=on, now_s=self._clock())
        self._wake()

    async def history(
        self,
        conv: str,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int = 50,
        timeout: float = 30.0,
    ) -> HistoryPage:
        """A page of a log, before or after a seq, or its end: it moves no position and makes no event.

        Shapes: 1 <= limit <= 200. Units: ``timeout`` in seconds, waiting for a connection included.
        Raises: Refusal – the server's; Unavailable – no answer in time, or the connection was lost.
        """

        def frame(ref: int) -> protocol.History:
            return protocol.History(conv=conv, before=before, after=after, limit=limit, ref=ref)

        answer = await self._call(frame, timeout)
        if not isinstance(answer, Messages):
            raise BadFrame("the server answered history with something else")
        me = self._core.user or ""
        return HistoryPage(tuple(log_event(conv, entry, me) for entry in answer.messages), answer.more)

    async def conversations(
        self, *, cursor: str | None = None, limit: int = 50, timeout: float = 30.0
    ) -> ConversationList:
        """A page of the user's conversations, newest activity first; its ``cursor`` leads to the next one.

        Shapes, units and errors as in `history`.
        """

        def frame(ref: int) -> protocol.Conversations:
            return protocol.Conversations(cursor=cursor, limit=limit, ref=ref)

        answer = await self._call(frame, timeout)
        if not isinstance(answer, ConversationList):
            raise BadFrame("the server answered conversations with something else")
        return answer

    async def _call(
        self, frame: Callable[[int], protocol.History | protocol.Conversations], timeout: float
    ) -> Messages | ConversationList:
        self.check()
        ref: int | None = None
        try:
            async with asyncio.timeout(timeout):
                await self._online.wait()
                self.check()
                ref = self._core.request(frame)
                future = self._calls[ref] = asyncio.get_running_loop().create_future()
                self._wake()
                answer: Messages | ConversationList = await future
                return answer
        except TimeoutError as exc:
            raise Unavailable(f"no answer in {timeout} s") from exc
        finally:
            if ref is not None:
                self._calls.pop(ref, None)

    def check(self) -> None:
        """Raises: Stopped – the client has ended, and why; Unavailable – its store failed."""
        if self._stopped is not None:
            raise self._stopped

    async def marks_grew(self, conv: str) -> None:
        """Wait until the marks of a conversation may have grown: look again. Raises: Stopped."""
        self.check()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._mark_waits.setdefault(conv, set()).add(future)
        try:
            await future
        finally:
            waits = self._mark_waits.get(conv, set())
            waits.discard(future)
            if not waits:
                self._mark_waits.pop(conv, None)
        self.check()

    # --- the connection's side ---

    def _wake(self) -> None:
        if self._connection is not None:
            self._connection.wake()

    async def _keep_connected(self) -> None:
        late_until_s = float("-inf")
        while True:
            try:
                await self._connect_once()
            except WireClosed as closed:
                # The hello of a connection that was given up may be read after that of the next one, whose place it
                # takes; so the first 4409 after a loss need not mean that somebody else is this device.
                late = closed.code == REPLACED and self._clock() < late_until_s
                if closed.final and not late:
                    raise Stopped(closed.code, closed.reason) from closed
                late_until_s = float("-inf") if late else self._clock() + LATE_HELLO_S_MAX
                retry_s = self._core.disconnected(closed.reason, self._clock(), closed.retry_after_ms)
                self._arrived.set()
                await asyncio.sleep(retry_s)

    async def _connect_once(self) -> None:
        """Connect and stay. Raises: WireClosed – always, in the end."""
        wire = await self._connect(network.websocket_url(self._url, self._core.user))
        connection = Connection(wire, self._core, self._clock, self._perform)
        try:
            welcome = await connection.open(self._token or "")
            if self._core.user not in (None, welcome.user):
                raise Stopped(4401, f"the token is of {welcome.user}, not of {self._core.user}")
            self._perform(self._core.welcomed(welcome))
            if welcome.reset:
                await self._storage.reset(welcome.incarnation)
            await self._storage.remember(user=welcome.user, incarnation=welcome.incarnation)
            self._connection = connection
            self._online.set()
            await connection.run()
        finally:
            self._connection = None
            self._online.clear()
            for future in self._calls.values():
                if not future.done():
                    future.set_exception(Unavailable("the connection was lost"))
            await wire.close()

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Answered():
                    handle = self._handles.pop(effect.id, None)
                    if handle is not None:
                        handle.settle(effect.outcome)
                case Grew():
                    for grown in self._mark_waits.pop(effect.conv, set()):
                        _resolve(grown, None)
                case Replied():
                    call = self._calls.get(effect.ref)
                    if call is not None:
                        _resolve(call, effect.answer)
        self._arrived.set()
        self._changed.set()

    # --- the store and the end ---

    async def _keep_saved(self) -> None:
        while not self._closed:
            await self._changed.wait()
            self._changed.clear()
            await self._save()

    async def _save(self) -> None:
        unsaved = self._core.unsaved()
        if unsaved is not None:
            await self._storage.save(unsaved)
            self._core.stored(unsaved)
            self._wake()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._stop(exc)

    def _stop(self, exc: BaseException) -> None:
        """End: whoever waits is told why."""
        if self._stopped is None:
            self._stopped = exc
        for task in self._tasks[:1]:  # the connection; the store finishes what it does
            task.cancel()
        self._changed.set()
        self._online.set()
        self._arrived.set()
        for handle in self._handles.values():
            handle.settle(None)
        for waits in self._mark_waits.values():
            for grown in waits:
                _resolve(grown, None)
        for call in self._calls.values():
            _resolve(call, Unavailable("the client has ended"))


def _resolve(future: asyncio.Future[_T], result: _T | Refusal) -> None:
    if future.done():
        return
    if isinstance(result, Refusal):
        future.set_exception(result)
    else:
        future.set_result(result)
