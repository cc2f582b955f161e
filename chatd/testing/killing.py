"""A server that dies at a named point, or has a planted bug. All of it is put around the server from outside: the
production code knows nothing of it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, get_args

from chatd.app import Server
from chatd.model import Advance, Appended, Draft, Grown, Message, Owed, Pushed, members_of
from chatd.store.base import Committed
from chatd.store.sqlite import SqliteStore

T = TypeVar("T")

Point = Literal[
    "before_commit",  # the rows are written, their transaction is not committed
    "after_commit_before_sent",
    "after_sent_before_fan_out",
    "in_catch_up",  # a page of the log is read and not written to the device
    "in_migration",  # a step of the schema is done, its transaction is not committed
    "before_push_is_made",  # it is due, and the store has not been asked what is owed
    "before_push_is_sent",  # it is known what is owed
    "after_push_before_mark",  # the push service has it, the pushed mark is not stored
    "after_mark",
]
Plant = Literal["ack_before_commit", "no_unique_key", "fan_out_before_commit", "last_mark"]
PUSH_POINTS: tuple[Point, ...] = (
    "after_commit_before_sent",
    "after_sent_before_fan_out",
    "before_push_is_made",
    "before_push_is_sent",
    "after_push_before_mark",
    "after_mark",
)
POINTS: tuple[Point, ...] = tuple(point for point in get_args(Point) if point not in PUSH_POINTS[2:])
PLANTS: tuple[Plant, ...] = get_args(Plant)

EARLY_S = 0.02  # how long a planted early answer is ahead of its commit
LEAVE_S = 0.01  # for `sent` to reach the socket before the process dies


def die() -> None:
    """End this process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Trap:
    """Dies when one point has been passed so many times since it was armed."""

    def __init__(self) -> None:
        self._point: Point | None = None
        self._left = 0

    def arm(self, point: Point, passings: int) -> None:
        """From now on, the ``passings``-th time that ``point`` is passed is the end."""
        self._point, self._left = point, passings

    def passed(self, point: Point) -> bool:
        """Count. True: it is time to die here."""
        if point != self._point:
            return False
        self._left -= 1
        return self._left <= 0

    def here(self, point: Point) -> None:
        """Count, and die if it is time."""
        if self.passed(point):
            die()


class TrappedStore:
    """A `SqliteStore` with a trap in it; everything else passes through."""

    def __init__(self, inner: SqliteStore, trap: Trap, plant: Plant | None) -> None:
        self.inner = inner
        self.fan_out: Callable[[Message], None] = lambda message: None  # set when there is a server
        self._trap = trap
        self._plant = plant
        self._whole_write, self._whole_read = inner.engine.write, inner.engine.read
        self._late: set[asyncio.Future[Any]] = set()  # commits whose result was told before them

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def open(self) -> None:
        """Open, and set the traps and bugs that lie below the contract."""
        await self.inner.open()
        if self._plant == "no_unique_key":
            await self._whole_write(lambda db: db.execute("DROP INDEX IF EXISTS message_id"))
        self.inner.engine.write = self._write  # type: ignore[method-assign]
        if self._plant == "ack_before_commit":
            self.inner.engine.read = self._read  # type: ignore[method-assign]

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`Engine.read` behind what was told: until the process dies, nothing shows that it is not committed."""
        if self._late:
            await asyncio.wait(self._late)
        return await self._whole_read(work)

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`Engine.write`; the trap, and what a planted bug tells too early, lie between the work and its commit."""
        loop = asyncio.get_running_loop()
        early: asyncio.Future[T] = loop.create_future()

        def told(result: T) -> None:
            if self._plant == "ack_before_commit":
                early.set_result(result)
            elif isinstance(result, Committed):
                for one in result.appended:
                    if isinstance(one, Appended) and not one.duplicate:
                        self.fan_out(one.message)

        def watched(db: sqlite3.Connection) -> T:
            result = work(db)
            if self._plant in ("ack_before_commit", "fan_out_before_commit"):
                loop.call_soon_threadsafe(told, result)
                time.sleep(EARLY_S)
            if isinstance(result, Committed) and result.appended:
                self._trap.here("before_commit")
            return result

        writing = asyncio.ensure_future(self._whole_write(watched))
        done, _ = await asyncio.wait([writing, early], return_when=asyncio.FIRST_COMPLETED)
        if early in done and not writing.done():
            self._late.add(writing)
            writing.add_done_callback(self._late.discard)
        return done.pop().result()

    async def commit(self, drafts: Sequence[Draft], advances: Sequence[Advance]) -> Committed:
        """See `MessageStore.commit`."""
        committed = await self.inner.commit(drafts, advances)
        if self._plant == "last_mark" and advances:
            committed = await self._last_marks(committed, advances)
        if drafts:
            self._trap.here("after_commit_before_sent")
        return committed

    async def read(self, conv: str, **span: Any) -> Sequence[Message]:
        """See `MessageStore.read`."""
        page = await self.inner.read(conv, **span)
        if page:
            self._trap.here("in_catch_up")
        return page

    async def owed(self, conv: str, user: str) -> Owed:
        """See `PushStore.owed`."""
        self._trap.here("before_push_is_made")
        owed = await self.inner.owed(conv, user)
        if owed.newest is not None:
            self._trap.here("before_push_is_sent")
        return owed

    async def pushed(self, marks: Sequence[Pushed]) -> None:
        """See `PushStore.pushed`."""
        self._trap.here("after_push_before_mark")
        await self.inner.pushed(marks)
        self._trap.here("after_mark")

    async def _last_marks(self, committed: Committed, advances: Sequence[Advance]) -> Committed:
        """The planted bug: what a device said last is the mark of its user, also when that is less."""

        def work(db: sqlite3.Connection) -> list[Grown]:
            grown = []
            for one in {(a.conv, a.user): a for a in advances}.values():
                pair = members_of(one.conv) or ("", "")
                db.execute(
                    "UPDATE mark SET delivered = :delivered, read = :read WHERE member = :member"
                    " AND conversation = (SELECT key FROM conversation WHERE a = :a AND b = :b)",
                    {
                        "delivered": max(one.delivered, one.read),
                        "read": one.read,
                        "member": 0 if one.user == pair[0] else 1,
                        "a": pair[0],
                        "b": pair[1],
                    },
                )
                grown.append(Grown(one.conv, one.user, max(one.delivered, one.read), one.read, grew=True))
            self.inner.engine.on_rollback()  # what is cached of the marks is wrong now
            return grown

        return Committed(committed.appended, await self.inner.engine.write(work))


def set_traps(server: Server, store: TrappedStore, trap: Trap) -> None:
    """Set the traps that lie above the store, in a server that has started."""
    fan_out = server.delivery.message
    dying = False

    def trapped(result: Appended, origin: object) -> None:
        nonlocal dying
        if not dying and trap.passed("after_sent_before_fan_out"):
            dying = True  # the answers of this tick leave; nobody is told of a message any more
            asyncio.get_running_loop().call_later(LEAVE_S, die)
        if not dying:
            fan_out(result, origin)

    server.delivery.message = trapped  # type: ignore[method-assign]
    store.fan_out = lambda message: fan_out(Appended(message), None)
