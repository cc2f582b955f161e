"""One connected device's logs: what it gets at once, and how it gets what it lacks.

A live message goes out if the cursor says so. Otherwise its log is read from the store, page by page, while the window
is open and the socket drains; nothing is ever queued for a device. Receipts are marks, so one a user is enough.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

import structlog
from msgspec.structs import replace

from chatd import protocol
from chatd.cursor import UNKNOWN, Cursor
from chatd.errors import BadFrame, NotFound, OutcomeUnknown, Refusal, StoreBroken
from chatd.model import PAGE_ITEMS_MAX, ConversationPage, ConversationView, Grown, Message, parted, peer_of
from chatd.services import Services, Wire
from chatd.session import Event, Session, State

PAGE_MESSAGES_MAX = 256
PAGE_BYTES_MAX = 49_152
OWED_RECEIPTS_MAX = 1_000
FLOORS_MAX = 1_000
RETRY_READ_S = 0.5

log = structlog.get_logger("chatd.catch_up")


class CatchUp:
    """The cursor of a connection and the task that moves it while the device is behind."""

    __slots__ = (
        "_device",
        "_floors",
        "_learning",
        "_listings",
        "_owed",
        "_reconciling",
        "_services",
        "_session",
        "_since",
        "_task",
        "_unsure",
        "_user",
        "_wire",
        "cursor",
    )

    def __init__(self, services: Services, wire: Wire, session: Session) -> None:
        self._services = services
        self._wire = wire
        self._session = session
        self._user = ""
        self._device = ""
        self.cursor = Cursor(services.settings.limits.window_messages_max)
        self._since: str | None = None  # set when the listing is out: what caught_up will say
        self._listings = 1  # being read or to come: receipts wait, not to overtake their older marks
        self._owed: dict[tuple[str, str], Grown] | None = None
        # With other processes, whose hints may be late: (conv, user) → delivered, read that no receipt may take back.
        self._floors: OrderedDict[tuple[str, str], tuple[int, int]] | None = (
            None if services.exchange is None else OrderedDict()
        )
        self._unsure: dict[tuple[str, str], Grown] = {}  # receipts whose floor is asked for
        self._learning: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._reconciling: asyncio.Task[None] | None = None

    # --- what happens ---------------------------------------------------------------------------------

    def live(self, message: Message, payload: bytes) -> None:
        """A committed message and its frame."""
        if self.cursor.offer(message.conv, message.seq):
            self._services.metrics.messages_live += 1
            self._wire.write(payload)
        elif self.cursor.behind:
            self.read_on()

    def receipt(self, grown: Grown, payload: bytes) -> bool:
        """A user's marks and their frame. False: this device lets too many of them wait."""
        key = (grown.conv, grown.user)
        if self.cursor.congested or self._listings:
            if self._owed is None:
                self._owed = {}
            owed = self._owed.get(key, grown)
            self._owed[key] = _larger(grown, owed.delivered, owed.read)
            return len(self._owed) <= OWED_RECEIPTS_MAX
        if self._floors is not None:
            floor = self._floors.get(key)
            if floor is None:
                return self._learn_floor(grown)
            raised = _larger(grown, *floor)
            if (raised.delivered, raised.read) == floor:
                return True
            self._keep_floor(*key, raised.delivered, raised.read)
            if raised is not grown:
                payload = protocol.encode(_receipt(raised))
        self._wire.write(payload)
        return True

    def congested(self, on: bool) -> None:
        """The socket owes its client too much, or has drained."""
        self.cursor.congested = on
        if not on:
            self._pay_receipts()
            self.read_on()

    def stop(self) -> None:
        """The connection ends."""
        for task in (self._task, self._reconciling, self._learning):
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    # --- the beginning --------------------------------------------------------------------------------

    async def open(self, user: str, device: str, since: str | None) -> None:
        """List what changed since, newest first, place the cursors, and begin to read. Raises: Refusal."""
        self._user, self._device = user, device
        try:
            self._since = await self._list(since)
        finally:
            self._listings -= 1
        self._pay_receipts()
        self.read_on()

    async def _list(self, since: str | None) -> str | None:
        """Write the rows of what changed. Returns: what to ask for next time."""
        cursor: str | None = None
        first: str | None = None
        while self._session.state is not State.CLOSED:
            page = await self._page(since=since, cursor=cursor, limit=PAGE_ITEMS_MAX)
            first = first or page.since
            for view in page.conversations:
                if self.cursor.knows(view.conv) or view.position < view.head:
                    self.cursor.start(view.conv, view.position, view.head)
                if view.unread and view.delivered < view.head:
                    self._services.metrics.latencies.lacks(view.conv, self._user, view.delivered, view.head)
            for part in parted(page.conversations, PAGE_BYTES_MAX):
                self._write_listing(part)
            cursor = page.cursor
            if cursor is None:
                break
        return first or since

    def reconcile(self) -> None:
        """Look for what changed since the last listing: hints from other processes may have been lost."""
        if self._session.state is State.LIVE and self._reconciling is None and not self._listings:
            self._reconciling = asyncio.get_running_loop().create_task(self._reconcile())

    async def _reconcile(self) -> None:
        self._listings += 1
        try:
            async with self._services.catch_ups:
                self._services.metrics.reconciled += 1
                self._since = await self._list(self._since)
        except (Refusal, OutcomeUnknown) as exc:  # the next turn comes
            self._services.metrics.store_failed(exc)
            log.warning("reconcile_waits", user=self._user, device=self._device, error=str(exc))
        except StoreBroken as exc:
            self._services.metrics.store_failed(exc)
            self._services.on_broken(exc)
        finally:
            self._listings -= 1
            self._reconciling = None
        self._pay_receipts()
        self.read_on()

    async def conversations(self, frame: protocol.Conversations) -> None:
        """Answer one page of the listing. Raises: Refusal."""
        self._listings += 1
        try:
            page = await self._page(since=None, cursor=frame.cursor, limit=frame.limit)
            fits = len(next(parted(page.conversations, PAGE_BYTES_MAX), ()))
            if fits < len(page.conversations):  # read again: only so its cursor stands where the answer ends
                page = await self._page(since=None, cursor=frame.cursor, limit=fits)
            self._write_listing(page.conversations, page.cursor, frame.ref)
        finally:
            self._listings -= 1
        self._pay_receipts()

    async def history(self, frame: protocol.History) -> None:
        """Answer one page of a log. Raises: Refusal."""
        if peer_of(frame.conv, self._user) is None:
            raise NotFound("no such conversation")
        if frame.before is not None and frame.after is not None:
            raise BadFrame("give `before` or `after`, not both")
        page = await self._services.store.read(
            frame.conv,
            after=frame.after,
            before=frame.before,
            limit=frame.limit + 1 if frame.limit < PAGE_ITEMS_MAX else frame.limit,
            bytes_max=PAGE_BYTES_MAX,
        )
        log_ = list(page)
        more = len(log_) > frame.limit
        if more:
            log_ = log_[: frame.limit] if frame.after is not None else log_[-frame.limit :]
        elif log_:
            more = (
                (log_[0].first or log_[0].seq) > 1
                if frame.after is None
                else (await self._services.store.heads([frame.conv]))[frame.conv] > log_[-1].seq
            )
        self._write(protocol.messages(frame.conv, log_, self._user, more=more, ref=frame.ref))

    async def _page(self, *, since: str | None, cursor: str | None, limit: int) -> ConversationPage:
        return await self._services.store.conversations(
            self._user, self._device, since=since, cursor=cursor, limit=limit
        )

    def _write_listing(
        self, views: Sequence[ConversationView], cursor: str | None = None, ref: protocol.Ref | None = None
    ) -> None:
        """Write rows. A receipt that waits and says no more than its row is dropped: it would take a mark back."""
        rows = tuple(protocol.conversation_row(v, self._user) for v in views)
        if self._floors is not None:
            for row in reversed(rows):  # the newest is forgotten last
                self._keep_floor(row.conv, self._user, row.delivered, row.read)
                self._keep_floor(row.conv, row.peer, row.peer_delivered, row.peer_read)
        self._write(protocol.ConversationList(conversations=rows, cursor=cursor, ref=ref))
        owed = self._owed
        if not owed:
            return
        for row in rows:
            for user, delivered, read in (
                (self._user, row.delivered, row.read),
                (row.peer, row.peer_delivered, row.peer_read),
            ):
                waits = owed.get((row.conv, user))
                if waits is not None and waits.delivered <= delivered and waits.read <= read:
                    del owed[row.conv, user]

    def _keep_floor(self, conv: str, user: str, delivered: int, read: int) -> None:
        """The device is told these marks: a hint of another process may be older, and must not take them back."""
        if self._floors is not None:
            self._floors[conv, user] = (delivered, read)
            self._floors.move_to_end((conv, user))
            if len(self._floors) > FLOORS_MAX:
                self._floors.popitem(last=False)

    def _learn_floor(self, grown: Grown) -> bool:
        """What this device was told elsewhere is not known here: the store says how far the marks are by now."""
        self._unsure[grown.conv, grown.user] = grown
        if self._learning is None and self._session.state is not State.CLOSED:
            self._learning = asyncio.get_running_loop().create_task(self._learn_floors())
        return len(self._unsure) <= OWED_RECEIPTS_MAX

    async def _learn_floors(self) -> None:
        try:
            while self._unsure and self._session.state is not State.CLOSED:
                conv, user = next(iter(self._unsure))
                view = await self._services.store.marks(conv, self._user)
                hint = self._unsure.pop((conv, user))
                marks = list(view.devices.values()) if user == self._user else [view.peer]
                known = _larger(hint, max(m.delivered for m in marks), max(m.read for m in marks)) if marks else hint
                if self._floors is not None and (conv, user) not in self._floors:  # else a listing told it
                    self._keep_floor(conv, user, 0, 0)
                self.receipt(known, protocol.encode(_receipt(known)))
        except (Refusal, OutcomeUnknown) as exc:  # they are maxima: the next receipt or listing tells them
            self._services.metrics.store_failed(exc)
            log.warning("receipts_wait", user=self._user, device=self._device, error=str(exc))
        except StoreBroken as exc:
            self._services.metrics.store_failed(exc)
            self._services.on_broken(exc)
        finally:
            self._learning = None

    # --- the log --------------------------------------------------------------------------------------

    def read_on(self) -> None:
        """Read what is missing if there is room, or say that nothing is. Not before `open`: the places are unknown."""
        if self._task is None and self._user and self._session.state in (State.CATCHING_UP, State.LIVE):
            if self.cursor.next() is not None:
                self._task = asyncio.get_running_loop().create_task(self._read_all())
            else:
                self._maybe_caught_up()

    async def _read_all(self) -> None:
        live = self._session.state is State.LIVE
        try:
            async with self._services.catch_ups:
                self._services.metrics.catch_ups += 1
                try:
                    await self._read_pages()
                finally:
                    self._services.metrics.catch_ups -= 1
            self._services.metrics.gaps_repaired += live
        except Refusal as exc:
            self._services.metrics.store_failed(exc)
            log.warning("catch_up_waits", user=self._user, device=self._device, error=exc.message)
            self.cursor.postpone()  # it may be this one log
            asyncio.get_running_loop().call_later(RETRY_READ_S, self.read_on)
            return
        except StoreBroken as exc:
            self._services.metrics.store_failed(exc)
            self._services.on_broken(exc)
            return
        finally:
            self._task = None
        if self._session.state is not State.CLOSED:
            self.read_on()

    async def _read_pages(self) -> None:
        while self._session.state is not State.CLOSED and (step := self.cursor.next()) is not None:
            await self._read(*step)

    async def _read(self, conv: str, after: int) -> None:
        store = self._services.store
        if after == UNKNOWN:
            self.cursor.start(conv, await store.position(conv, self._user, self._device))
            return
        limit = min(self.cursor.room, PAGE_MESSAGES_MAX)
        page = await store.read(conv, after=after, limit=limit, bytes_max=PAGE_BYTES_MAX)
        if self._session.state is State.CLOSED:
            return
        if page:
            self._write(protocol.messages(conv, page, self._user))
            self._services.metrics.messages_read += len(page)
            self._services.metrics.latencies.late(self._user, page)
        self.cursor.took(conv, page[-1].seq if page else after)

    def _maybe_caught_up(self) -> None:
        if self._session.state is State.CATCHING_UP and self._since is not None and not self.cursor.behind:
            self._session.step(Event.CAUGHT_UP)
            self._write(protocol.CaughtUp(since=self._since))

    def _pay_receipts(self) -> None:
        """Write the receipts that had to wait: for the socket, or behind a listing that was read before them."""
        if self._owed is None or self._listings or self.cursor.congested:
            return
        owed, self._owed = self._owed, None
        for grown in owed.values():
            self.receipt(grown, protocol.encode(_receipt(grown)))

    def _write(self, frame: protocol.ServerFrame) -> None:
        self._wire.write(protocol.encode(frame))


def _receipt(grown: Grown) -> protocol.Receipt:
    return protocol.Receipt(conv=grown.conv, user=grown.user, delivered=grown.delivered, read=grown.read)


def _larger(grown: Grown, delivered: int, read: int) -> Grown:
    """These marks, and none of them less than the other ones."""
    if grown.delivered >= delivered and grown.read >= read:
        return grown
    return replace(grown, delivered=max(grown.delivered, delivered), read=max(grown.read, read))
