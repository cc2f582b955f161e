"""A device's logs and listings, with a store that answers what the test says."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from chatd import protocol
from chatd.catch_up import CatchUp
from chatd.metrics import Metrics
from chatd.model import ConversationPage, ConversationView, Grown, Marks, MarksView
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


async def told_after(*, waiting: int, listed: int) -> list[int]:
    """What a device hears of bob's mark when this receipt came while a listing with this mark was read."""
    wire = Wire()
    session = Session(LIMITS, hello_s=5.0, now_s=0.0)
    session.step(Event.HELLO)
    session.step(Event.ACCEPTED)

    class Store:
        async def conversations(self, *args: Any, **kwargs: Any) -> ConversationPage:
            assert catch_up.receipt(*of_bob(waiting))
            return ConversationPage((view(peer_delivered=listed),), since="s1")

    services: Any = SimpleNamespace(
        exchange=None,
        settings=SimpleNamespace(limits=LIMITS),
        store=Store(),
        metrics=Metrics(),
        catch_ups=asyncio.Semaphore(1),
    )
    catch_up = CatchUp(services, wire, session)
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
