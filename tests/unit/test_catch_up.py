"""A device's logs and listings, with a store that answers what the test says."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from chatd import protocol
from chatd.catch_up import PAGE_BYTES_MAX, CatchUp
from chatd.metrics import Metrics
from chatd.model import ConversationPage, ConversationView, Grown, Marks, MarksView, Message, parted
from chatd.session import Event, Session
from chatd.settings import LimitSettings

LIMITS = LimitSettings()


def view(*, peer_delivered: int) -> ConversationView:
    return ConversationView(
        conv="alice:bob",
        peer="bob",
        head=9,
        delivered=9,
        read=0,
        peer_delivered=peer_delivered,
        peer_read=0,
        unread=0,
        updated_ms=1,
        position=9,
    )


class Wire:
    def __init__(self) -> None:
        self.frames: list[protocol.ServerFrame | None] = []

    def write(self, payload: bytes) -> None:
        self.frames.append(protocol.decode_server(payload))

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(f"closed: {code} {reason}")

    def hold(self, on: bool) -> None:
        raise AssertionError("not from here")


def of_bob(delivered: int) -> tuple[Grown, bytes]:
    grown = Grown("alice:bob", "bob", delivered, 0, grew=True)
    return grown, protocol.encode(protocol.Receipt(conv="alice:bob", user="bob", delivered=delivered, read=0))


def told(wire: Wire) -> list[int]:
    """Bob's delivered mark in each frame that tells it."""
    marks = []
    for frame in wire.frames:
        if isinstance(frame, protocol.ConversationList):
            marks += [row.peer_delivered for row in frame.conversations]
        elif isinstance(frame, protocol.Receipt):
            marks.append(frame.delivered)
    return marks


def opened(wire: Wire, store: Any) -> CatchUp:
    """The logs of a device whose token was just accepted."""
    session = Session(LIMITS, hello_s=5.0, now_s=0.0)
    session.step(Event.HELLO)
    session.step(Event.ACCEPTED)
    services: Any = SimpleNamespace(
        exchange=None,
        settings=SimpleNamespace(limits=LIMITS),
        store=store,
        metrics=Metrics(),
        catch_ups=asyncio.Semaphore(1),
    )
    return CatchUp(services, wire, session)


async def told_after(*, waiting: int, listed: int) -> list[int]:
    """What a device hears of bob's mark when this receipt came while a listing with this mark was read."""
    wire = Wire()

    class Store:
        async def conversations(self, *args: Any, **kwargs: Any) -> ConversationPage:
            assert catch_up.receipt(*of_bob(waiting))
            return ConversationPage((view(peer_delivered=listed),), since="s1")

    catch_up = opened(wire, Store())
    await catch_up.open("alice", "d", None)
    assert isinstance(wire.frames[-1], protocol.CaughtUp | protocol.Receipt)
    return told(wire)


async def test_a_receipt_that_is_older_than_the_listing_does_not_take_its_mark_back() -> None:
    assert await told_after(waiting=5, listed=7) == [7]
    assert await told_after(waiting=7, listed=7) == [7]


async def test_a_receipt_that_is_newer_than_the_listing_comes_after_it() -> None:
    assert await told_after(waiting=7, listed=5) == [5, 7]


async def test_a_late_hint_of_another_process_takes_no_mark_back_that_was_told_elsewhere() -> None:
    wire = Wire()
    session = Session(LIMITS, hello_s=5.0, now_s=0.0)
    session.step(Event.HELLO)
    session.step(Event.ACCEPTED)
    asked = []

    class Store:
        async def conversations(self, *args: Any, **kwargs: Any) -> ConversationPage:
            return ConversationPage((), since="s1")  # nothing since the device was told of 7, by another process

        async def marks(self, conv: str, user: str) -> MarksView:
            asked.append((conv, user))
            return MarksView(conv, 9, devices={}, peer=Marks(delivered=7, read=0))

    services: Any = SimpleNamespace(
        exchange=object(),
        settings=SimpleNamespace(limits=LIMITS),
        store=Store(),
        metrics=Metrics(),
        catch_ups=asyncio.Semaphore(1),
    )
    catch_up = CatchUp(services, wire, session)
    await catch_up.open("alice", "d", "s0")
    assert catch_up.receipt(*of_bob(5))
    assert catch_up.receipt(*of_bob(6))
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
    assert told(wire) == [7]
    assert catch_up.receipt(*of_bob(6))
    assert catch_up.receipt(*of_bob(8))
    assert told(wire) == [7, 8]
    assert asked == [("alice:bob", "alice")]


async def test_a_listing_that_ends_while_a_mark_is_asked_for_is_not_taken_back() -> None:
    wire = Wire()
    session = Session(LIMITS, hello_s=5.0, now_s=0.0)
    session.step(Event.HELLO)
    session.step(Event.ACCEPTED)
    asked, answered = asyncio.Event(), asyncio.Event()

    class Store:
        pages = iter([(), (view(peer_delivered=7),)])

        async def conversations(self, *args: Any, **kwargs: Any) -> ConversationPage:
            return ConversationPage(next(self.pages), since="s1")

        async def marks(self, conv: str, user: str) -> MarksView:
            asked.set()
            await answered.wait()
            return MarksView(conv, 9, devices={}, peer=Marks(delivered=6, read=0))  # read before the listing was

    services: Any = SimpleNamespace(
        exchange=object(),
        settings=SimpleNamespace(limits=LIMITS),
        store=Store(),
        metrics=Metrics(),
        catch_ups=asyncio.Semaphore(1),
    )
    catch_up = CatchUp(services, wire, session)
    await catch_up.open("alice", "d", "s0")
    assert catch_up.receipt(*of_bob(5))
    await asked.wait()
    await catch_up.conversations(protocol.Conversations(limit=10))
    answered.set()
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
    assert told(wire) == [7]


def with_last(body: str) -> ConversationView:
    return replace(view(peer_delivered=0), last=Message("alice:bob", 9, "", "bob", body, 1))


class Listed:
    """A store with this many conversations whose last messages are large; a cursor is how many were told."""

    def __init__(self, count: int) -> None:
        self.views = [with_last("\x01" * 10_000)] * count

    async def conversations(self, *args: Any, cursor: str | None, limit: int, **kwargs: Any) -> ConversationPage:
        begin = int(cursor or 0)
        end = begin + limit
        more = str(end) if end < len(self.views) else None
        return ConversationPage(tuple(self.views[begin:end]), since="s1", cursor=more)


async def test_a_listing_is_told_in_frames_that_every_client_takes() -> None:
    wire = Wire()
    catch_up = opened(wire, Listed(200))
    await catch_up.open("alice", "d", None)
    listings = [frame for frame in wire.frames if isinstance(frame, protocol.ConversationList)]
    assert sum(len(frame.conversations) for frame in listings) == 200
    assert max(len(protocol.encode(frame)) for frame in listings) < 6 * PAGE_BYTES_MAX + 200 * 1_000
    assert isinstance(wire.frames[-1], protocol.CaughtUp)


async def test_a_page_of_the_listing_with_too_many_bytes_has_fewer_rows_and_the_cursor_goes_on_behind_them() -> None:
    wire = Wire()
    catch_up = opened(wire, Listed(10))
    await catch_up.open("alice", "d", None)
    del wire.frames[:]
    told, cursor = 0, None
    while told < 10:
        await catch_up.conversations(protocol.Conversations(limit=200, cursor=cursor))
        frame = wire.frames.pop()
        assert isinstance(frame, protocol.ConversationList)
        told += len(frame.conversations)
        assert len(frame.conversations) in (4, 2)
        cursor = frame.cursor
    assert (told, cursor) == (10, None)


@pytest.mark.parametrize(
    ("bytes_", "parts"),
    [([], []), ([5], [1]), ([9, 9], [1, 1]), ([2, 3, 1], [2, 1]), ([0, 0, 0], [3]), ([1, 9, 1, 4], [1, 1, 2])],
)
def test_views_are_parted_by_the_bytes_of_their_last_messages(bytes_: list[int], parts: list[int]) -> None:
    views = [with_last("x" * count) for count in bytes_]
    assert [len(part) for part in parted(views, 5)] == parts
    assert [one for part in parted(views, 5) for one in part] == views
