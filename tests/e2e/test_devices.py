"""Two users with two devices each: one log, one set of marks, whatever the network does and however long one is off."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

import pytest

from chatd import protocol
from chatd.client import CaughtUpEvent, Client, MessageEvent
from chatd.model import Draft, Marks, conv_of
from chatd.testing.harness.raw import RawDevice
from chatd.testing.history import Recorder, check
from chatd.testing.server import ChatServer
from chatd.testing.speaker import Speaker

CONV = conv_of("alice", "bob")
PATIENCE_S = 30.0
OFF_FOR = 10_000


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for it."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not in {PATIENCE_S} s: {what}"
        await asyncio.sleep(0.01)


async def settled_marks(server: ChatServer) -> list[Marks]:
    """What alice and bob see of each other once the last acks, which came over other sockets, are stored."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        marks = [(await server.store.marks(CONV, user)).peer for user in ("alice", "bob")]
        if all(m.delivered == 200 for m in marks) or time.monotonic() > deadline_s:
            return marks
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_two_users_with_two_devices_under_cuts(store: Literal["memory", "sqlite"]) -> None:
    def found(kind: str, where: str) -> None:
        raise AssertionError(f"{kind}: {where}")

    recorder = Recorder("test")
    dice = random.Random(5)
    settings = {"limits.window_messages_max": 16, "limits.initial_history": 0}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(ChatServer(store=store, users=["alice", "bob"], settings=settings))
        devices: list[RawDevice] = []
        for user in ("alice", "bob"):
            for name in ("one", "two"):
                token = await server.token(user, name)
                devices.append(RawDevice(server.url, token, recorder.device(user, name), random.Random(name), found))
        for device in devices:
            device.start()
            stack.push_async_callback(device.stop)
        for n in range(50):
            for device in devices:
                await device.send(CONV, f"{n} of {device.name}")
            if n % 10 == 5:
                await until(lambda: all(d.caught_up for d in devices), "every device is connected")
                assert server.cut(dice.choice(("alice", "bob"))) == 2
            await asyncio.sleep(0)
        await until(lambda: all(not d.pending for d in devices), "every send is answered")
        for device in devices:
            device.lazy(False)
        await until(lambda: all(d.held.get(CONV) == 200 for d in devices), "every device holds all 200")
        for device in devices:
            await device.acknowledge()
            record = recorder.device(*device.name.split("/"))
            record.settled()
        reader = await Speaker.connect(server.url, await server.token("bob", "reader"))
        await reader.until(protocol.CaughtUp)
        ok = await reader.ask(protocol.Read(conv=CONV, seq=200, ref=1), protocol.Ok)
        assert ok.ref == 1
        log = await reader.ask(protocol.History(conv=CONV, after=0, limit=200), protocol.Messages)
        recorder.device("bob", "reader").marked(CONV, 200, read=True)
        recorder.final(CONV, server.store.incarnation, log.messages)
        recorder.counted("store", (await server.store.counts()).messages)
        marks = await settled_marks(server)
        await reader.close()
    report = check(recorder.events)
    assert report.clean, str(report)
    assert report.counts["ok"] == report.counts["final"] == 200
    assert sum(d.connects for d in devices) >= len(devices) + 10
    assert [m.delivered for m in marks] == [200, 200]
    assert marks[0].read == 200  # of bob, for alice


async def read_log(client: Client, seqs: list[tuple[int, str, bool]], enough: asyncio.Event, total: int) -> int:
    """Take events until ``total`` messages and `caught_up`. Returns: how many messages came before `caught_up`."""
    before = -1
    async for event in client.events():
        if isinstance(event, MessageEvent):
            seqs.append((event.seq, event.body, event.mine))
        elif isinstance(event, CaughtUpEvent):
            before = len(seqs)
        if len(seqs) >= 1_000:
            enough.set()
        if before >= 0 and len(seqs) == total:
            return before
    raise AssertionError(f"the events ended after {len(seqs)} messages")


async def test_a_device_off_for_10_000_messages_catches_up_under_live_traffic(tmp_path: Path) -> None:
    live = 200
    async with ChatServer(store="sqlite", users=["alice", "bob"]) as server:
        bob, laptop = await server.client("bob"), await server.client("alice", "laptop")
        phone_file = tmp_path / "phone"
        seen: list[tuple[int, str, bool]] = []
        async with Client(server.url, token=await server.token("alice", "phone"), store=phone_file) as phone:
            await (await bob.send("alice", "before")).sent()
            async for event in phone.events():
                if isinstance(event, MessageEvent):
                    seen.append((event.seq, event.body, event.mine))
                    break
        assert seen == [(1, "before", False)]

        for first in range(0, OFF_FOR, 500):
            drafts = [
                Draft(CONV, ("bob", "alice")[n % 2], protocol.new_message_id(), f"off {n}", n)
                for n in range(first, first + 500)
            ]
            await server.store.commit(drafts, [])
        own = await laptop.send("bob", "from the laptop")
        assert (await own.sent()).seq == OFF_FOR + 2

        async with Client(server.url, token=await server.token("alice", "phone"), store=phone_file) as phone:
            enough = asyncio.Event()
            total = 1 + OFF_FOR + 1 + live
            reading = asyncio.create_task(read_log(phone, seen, enough, total))
            async with asyncio.timeout(PATIENCE_S):
                await enough.wait()
                assert len(seen) < OFF_FOR  # it is in the middle of it
                handles = [await bob.send("alice", f"live {n}") for n in range(live)]
                for handle in handles:
                    await handle.sent()
                assert await reading >= OFF_FOR + 2
                await handles[-1].delivered()
        assert [seq for seq, _, _ in seen] == list(range(1, total + 1))
        assert seen[OFF_FOR + 1] == (OFF_FOR + 2, "from the laptop", True)
        assert [mine for _, body, mine in seen if body.startswith("off ")] == [False, True] * (OFF_FOR // 2)


async def test_another_incarnation_resets_the_device_and_keeps_its_outbox(tmp_path: Path) -> None:
    async with (
        ChatServer(users=["alice", "bob"]) as server,
        Client(server.url, token=await server.token("alice"), store=tmp_path / "alice") as alice,
    ):
        for n in range(3):
            assert (await (await alice.send("bob", f"old {n}")).sent()).seq == n + 1
        async for event in alice.events():
            if isinstance(event, MessageEvent) and event.seq == 3:
                break
    unsent = Client("http://127.0.0.1:9", token="none yet", store=tmp_path / "alice")
    async with unsent:
        written = await unsent.send("bob", "written while nothing was there")

    async with ChatServer(users=["alice", "bob"]) as server:  # an empty store: another incarnation
        bob = await server.client("bob")
        await (await bob.send("alice", "new")).sent()
        kinds: list[str] = []
        log: list[tuple[int, str]] = []
        async with Client(server.url, token=await server.token("alice"), store=tmp_path / "alice") as alice:
            assert [handle.id for handle in alice.unsent] == [written.id]
            async with asyncio.timeout(PATIENCE_S):
                async for event in alice.events():
                    kinds.append(type(event).__name__)
                    if isinstance(event, MessageEvent):
                        log.append((event.seq, event.body))
                    if len(log) == 2:
                        break
            assert not alice.unsent
        assert kinds.index("ResetEvent") < kinds.index("MessageEvent")
        assert log == [(1, "new"), (2, "written while nothing was there")]


async def listened(server: ChatServer, user: str, **hello: Any) -> tuple[Speaker, list[int]]:
    """A device that came again, and what it lacked."""
    speaker = await Speaker.connect(server.url, await server.token(user), **hello)
    frames, _ = await speaker.until(protocol.CaughtUp)
    assert not any(isinstance(frame, protocol.Welcome) and frame.reset for frame in frames)
    return speaker, [e.seq for f in frames if isinstance(f, protocol.Messages) for e in f.messages]


async def test_where_a_device_goes_on() -> None:
    """Where its watermark says, also below what it acknowledged; without one, where it acknowledged last."""
    settings = {"limits.window_messages_max": 2}
    async with ChatServer(users=["alice", "bob"], settings=settings) as server:
        alice, _ = await listened(server, "alice")
        bob, _ = await listened(server, "bob")
        for body in "12345":
            await alice.ask(protocol.Send(id=protocol.new_message_id(), to="bob", body=body), protocol.Sent)
        await alice.close()
        assert (await server.store.marks(CONV, "alice")).devices == {}, "a sent moves no mark"
        alice, lacked = await listened(server, "alice", watermarks={CONV: 3, "carol:dave": 9})
        assert lacked == [4, 5]
        await alice.close()

        # Two are in flight to bob; he says that he holds more than there is, and is believed up to the head.
        await bob.ask(protocol.Ack(conv=CONV, seq=9, ref="a"), protocol.Ok)
        await bob.close()
        assert (await server.store.marks(CONV, "alice")).peer == Marks(5, 0)
        for watermarks, lacks in ({}, []), ({CONV: 3}, [4, 5]), ({CONV: 5}, []):
            bob, lacked = await listened(server, "bob", watermarks=watermarks)
            assert lacked == lacks
            await bob.close()


async def test_a_watermark_above_the_head_is_reset_too() -> None:
    async with ChatServer(users=["alice", "bob"]) as server:
        alice = await Speaker.connect(server.url, await server.token("alice"))
        await alice.until(protocol.CaughtUp)
        await alice.ask(protocol.Send(id=protocol.new_message_id(), to="bob", body="one"), protocol.Sent)
        await alice.close()
        alice = await Speaker.connect(
            server.url, await server.token("alice"), incarnation=server.store.incarnation, watermarks={CONV: 7}
        )
        _, welcome = await alice.until(protocol.Welcome)
        assert welcome.reset is True
        frames, _ = await alice.until(protocol.CaughtUp)
        assert [[e.seq for e in f.messages] for f in frames if isinstance(f, protocol.Messages)] == [[1]]
        await alice.close()
