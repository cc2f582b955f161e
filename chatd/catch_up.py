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
from chatd.model import PAGE_ITEMS_MAX, ConversationPage, ConversationView, Grown, Message, peer_of
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
        "_listing",
        "_owed",
        "_reconciling",
        "_services",
        "_session",
        "_since",
        "_task",
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
        self._listing = True  # a listing is being read or to come: receipts wait, not to overtake its older marks
        self._owed: dict[tuple[str, str], Grown] | None = None
        self._floors: OrderedDict[tuple[str, str], tuple[int, int]] | None = None  # (conv, user) → delivered, read
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
        if self._floors:
            raised = self._above_floor(grown)
            if raised is None:
                return True
            if raised is not grown:
                grown, payload = raised, protocol.encode(_receipt(raised))
        if not self.cursor.congested and not self._listing:
            self._wire.write(payload)
            return True
        if self._owed is None:
            self._owed = {}
        self._owed[grown.conv, grown.user] = grown
        return len(self._owed) <= OWED_RECEIPTS_MAX

    def congested(self, on: bool) -> None:
        """The socket owes its client too much, or has drained."""
        self.cursor.congested = on
        if not on:
            self._pay_receipts()
            self.read_on()

    def stop(self) -> None:
        """The connection ends."""
        for task in (self._task, self._reconciling):
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    # --- the beginning --------------------------------------------------------------------------------

    async def open(self, user: str, device: str, since: str | None) -> None:
        """List what changed since, newest first, place the cursors, and begin to read. Raises: Refusal."""
        self._user, self._device = user, device
        self._listing = True
        cursor: str | None = None
        first: str | None = None
        while self._session.state is not State.CLOSED:
            page = await self._page(since=since, cursor=cursor, limit=PAGE_ITEMS_MAX)
            first = first or page.since
            for view in page.conversations:
                if self.cursor.knows(view.conv) or view.position < view.head:
                    self.cursor.start(view.conv, view.position, view.head)
            if page.conversations:
                self._write_listing(page.conversations)
            cursor = page.cursor
            if cursor is None:
                break
        self._since = first or since
        self._listing = False
        self._pay_receipts()
        self.read_on()

    def reconcile(self) -> None:
        """Look for what changed since the last listing: hints from other processes may have been lost."""
        if self._session.state is State.LIVE and self._reconciling is None and not self._listing:
            self._reconciling = asyncio.get_running_loop().create_task(self._reconcile())

    async def _reconcile(self) -> None:
        try:
            async with self._services.catch_ups:
                self._services.metrics.reconciled += 1
                await self.open(self._user, self._device, self._since)
        except (Refusal, OutcomeUnknown) as exc:  # the next turn comes
            log.warning("reconcile_waits", user=self._user, device=self._device, error=str(exc))
        except StoreBroken as exc:
            self._services.on_broken(exc)
        finally:
            self._listing = False
            self._reconciling = None
        self._pay_receipts()

    async def conversations(self, frame: protocol.Conversations) -> None:
        """Answer one page of the listing. Raises: Refusal."""
        self._listing = True
        try:
            page = await self._page(since=None, cursor=frame.cursor, limit=frame.limit)
            self._write_listing(page.conversations, page.cursor, frame.ref)
        finally:
            self._listing = False
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
            more = log_[0].seq > 1 if frame.after is None else await self._head(frame.conv) > log_[-1].seq
        self._write(protocol.messages(frame.conv, log_, self._user, more=more, ref=frame.ref))

    async def _head(self, conv: str) -> int:
        return (await self._services.store.heads([conv]))[conv]

    async def _page(self, *, since: str | None, cursor: str | None, limit: int) -> ConversationPage:
        return await self._services.store.conversations(
            self._user, self._device, since=since, cursor=cursor, limit=limit
        )

    def _write_listing(
        self, views: Sequence[ConversationView], cursor: str | None = None, ref: protocol.Ref | None = None
    ) -> None:
        """Write rows. A receipt that waits and says no more than its row is dropped: it would take a mark back."""
        rows = tuple(protocol.conversation_row(v, self._user) for v in views)
        if self._services.exchange is not None:
            self._keep_floors(rows)
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

    def _keep_floors(self, rows: Sequence[protocol.ConversationRow]) -> None:
        """A hint of another process may be older than these rows: it must not take their marks back."""
        if self._floors is None:
            self._floors = OrderedDict()
        for row in rows:
            self._floors[row.conv, self._user] = (row.delivered, row.read)
            self._floors[row.conv, row.peer] = (row.peer_delivered, row.peer_read)
        while len(self._floors) > FLOORS_MAX:
            self._floors.popitem(last=False)

    def _above_floor(self, grown: Grown) -> Grown | None:
        """These marks, but none of them less than a listing told; None: they say no more than it."""
        key = (grown.conv, grown.user)
        floor = self._floors.get(key) if self._floors else None
        if floor is None or self._floors is None:
            return grown
        new = (max(floor[0], grown.delivered), max(floor[1], grown.read))
        if new == floor:
            return None
        self._floors[key] = new
        return grown if new == (grown.delivered, grown.read) else replace(grown, delivered=new[0], read=new[1])

    # --- the log --------------------------------------------------------------------------------------

    def read_on(self) -> None:
        """Read what is missing if there is room, or say that nothing is. Not before `open`: the places are unknown."""
        if self._task is None and self._user and self._session.state in (State.CATCHING_UP, State.LIVE):
            if self.cursor.next() is not None:
                self._task = asyncio.get_running_loop().create_task(self._read_all())
            else:
                self._maybe_caught_up()

    async def _read_all(self) -> None:
        try:
            async with self._services.catch_ups:
                self._services.metrics.catch_ups += 1
                try:
                    await self._read_pages()
                finally:
                    self._services.metrics.catch_ups -= 1
        except Refusal as exc:
            log.warning("catch_up_waits", user=self._user, device=self._device, error=exc.message)
            asyncio.get_running_loop().call_later(RETRY_READ_S, self.read_on)
            return
        except StoreBroken as exc:
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
        self.cursor.took(conv, page[-1].seq if page else after)

    def _maybe_caught_up(self) -> None:
        if self._session.state is State.CATCHING_UP and self._since is not None and not self.cursor.behind:
            self._session.step(Event.CAUGHT_UP)
            self._write(protocol.CaughtUp(since=self._since))

    def _pay_receipts(self) -> None:
        """Write the receipts that had to wait: for the socket, or behind a listing that was read before them."""
        if self._owed is None or self._listing or self.cursor.congested:
            return
        owed, self._owed = self._owed, None
        for grown in owed.values():
            self._write(_receipt(grown))

    def _write(self, frame: protocol.ServerFrame) -> None:
        self._wire.write(protocol.encode(frame))


def _receipt(grown: Grown) -> protocol.Receipt:
    return protocol.Receipt(conv=grown.conv, user=grown.user, delivered=grown.delivered, read=grown.read)
