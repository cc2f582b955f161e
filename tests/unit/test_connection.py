"""A connection without a socket: what it writes and when, and what it makes of a store that fails."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import patch

import pytest

from chatd import configuration
from chatd.app import Server
from chatd.connection import Connection
from chatd.errors import OutcomeUnknown, StoreBroken, Unavailable
from chatd.model import Advance, Draft, Grown, conv_of
from chatd.passwords import Passwords
from chatd.store.base import Store
from chatd.store.memory import MemoryStore
from chatd.testing.faults import FaultyStore

CONV = "alice:bob"
PATIENCE_S = 10.0


def uuid(number: int) -> str:
    return f"01890a5d-ac96-774b-bcce-{number:012x}"


class Device:
    """The wire of one connection: it notes what is written. ``frames``, ``closed``: code, ``held``: not read now."""

    def __init__(self, server: Server) -> None:
        self.frames: list[dict[str, Any]] = []
        self.closed: int | None = None
        self.held = False
        self.changed = asyncio.Event()
        self.connection = Connection(server.sockets.services, self)

    def write(self, payload: bytes) -> None:
        assert self.closed is None
        self.frames.append(json.loads(payload))
        self.changed.set()

    def close(self, code: int, reason: str) -> None:
        assert self.closed is None
        assert reason
        self.closed = code
        self.changed.set()

    def hold(self, on: bool) -> None:
        self.held = on
        self.changed.set()

    def send(self, kind: str, **fields: Any) -> None:
        self.connection.receive(json.dumps({"type": kind, **fields}).encode())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def next(self, kind: str) -> dict[str, Any]:
        """The oldest frame of this type; it and those before it are taken away."""
        await self.until(lambda: any(frame["type"] == kind for frame in self.frames))
        while (frame := self.frames.pop(0))["type"] != kind:
            pass
        return frame

    def seqs(self) -> list[int]:
        return [entry["seq"] for frame in self.frames if frame["type"] == "messages" for entry in frame["messages"]]


class Gate:
    """``reached``: a call has come; ``opened``: the calls go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()


class Rig:
    """A server that does not listen, over a memory store that can fail."""

    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.store = FaultyStore(cast(Store, self.memory))
        self.broken: list[StoreBroken] = []
        overrides = {"store.kind": "memory", "limits.initial_history": 3, "limits.commit_interval_ms": 0}
        self.server = Server(
            configuration.load(env={}, overrides=overrides),
            store=cast(Store, self.store),
            passwords=Passwords(time_cost=1, memory_kib=64, parallelism=1),
            on_broken=self._broke,
        )
        self.broke = asyncio.Event()
        self.sent = 0

    def _broke(self, exc: StoreBroken) -> None:
        self.broken.append(exc)
        self.broke.set()

    async def token(self, user: str, device: str) -> str:
        return await self.server.accounts.issue_token(user, device)

    async def device(self, user: str, name: str = "x", **hello: Any) -> Device:
        """A caught-up device; its first frames are taken away."""
        device = Device(self.server)
        device.send("hello", token=await self.token(user, name), **hello)
        await device.next("caught_up")
        return device

    async def say(self, sender: str, to: str, count: int = 1) -> None:
        """Commit messages as HTTP would."""
        for _ in range(count):
            self.sent += 1
            await self.server.sequencer.send(Draft(conv_of(sender, to), sender, uuid(self.sent), "x", 1))

    @contextmanager
    def gate(self, method: str, error: Exception | None = None) -> Iterator[Gate]:
        """Calls of this method of the store wait until the gate opens; with ``error`` they raise it at once."""
        original, gate = getattr(self.memory, method), Gate()

        async def waits(*args: Any, **kwargs: Any) -> Any:
            gate.reached.set()
            if error is not None:
                raise error
            await gate.opened.wait()
            return await original(*args, **kwargs)

        with patch.object(self.memory, method, waits):
            yield gate
            gate.opened.set()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    one = Rig()
    await one.server.start(listen=False)
    for user in ("alice", "bob", "carol"):
        await one.server.accounts.add_user(user)
    yield one
    one.store.resume()
    await one.server.stop()


@pytest.mark.parametrize("method", ["enroll", "heads"])
async def test_nothing_leaves_before_the_welcome(rig: Rig, method: str) -> None:
    """What is committed while a hello is under way comes after it, from the device's own place."""
    await rig.say("alice", "bob", 10)
    bob = Device(rig.server)
    token = await rig.token("bob", "new")
    with rig.gate(method) as gate:
        bob.send("hello", token=token, watermarks={CONV: 6} if method == "heads" else {})
        await gate.reached.wait()
        assert bob.connection in list(rig.server.delivery.connected("bob"))
        await rig.say("alice", "bob", 2)
        other = await rig.server.sequencer.mark(advance("alice", 12))
        assert other.grew
        assert bob.frames == []
        gate.opened.set()
        await bob.until(lambda: any(frame["type"] == "caught_up" for frame in bob.frames))
    assert bob.frames[0]["type"] == "welcome"
    assert bob.seqs() == (list(range(7, 13)) if method == "heads" else list(range(10, 13)))


def advance(user: str, delivered: int) -> Advance:
    return Advance(CONV, user, "elsewhere", delivered)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Unavailable("gone", retry_after_ms=10), 1013, "unavailable"),
        (OutcomeUnknown("no answer"), 1011, "unavailable"),
        (StoreBroken("the disk failed"), 1011, "internal"),
    ],
)
async def test_a_store_that_fails_in_the_hello(rig: Rig, error: Exception, code: int, said: str) -> None:
    bob = Device(rig.server)
    token = await rig.token("bob", "new")
    with rig.gate("enroll", error):
        bob.send("hello", token=token, ref=5)
        await bob.until(lambda: bob.closed is not None)
    assert bob.closed == code
    assert (bob.frames[0]["code"], bob.frames[0]["temporary"], bob.frames[0]["ref"]) == (said, True, 5)
    assert list(rig.server.delivery.connected()) == []
    assert len(rig.broken) == isinstance(error, StoreBroken)


async def test_a_store_that_breaks_in_the_catch_up_is_told(rig: Rig) -> None:
    await rig.say("alice", "bob", 5)
    bob = Device(rig.server)
    token = await rig.token("bob", "new")
    with rig.gate("read", StoreBroken("the disk failed")):
        bob.send("hello", token=token)
        async with asyncio.timeout(PATIENCE_S):
            await rig.broke.wait()
    assert bob.seqs() == []


async def test_a_catch_up_that_the_store_refuses_is_tried_again(rig: Rig) -> None:
    await rig.say("alice", "bob", 5)
    bob = Device(rig.server)
    with patch("chatd.catch_up.RETRY_READ_S", 0.01):
        with rig.gate("read", Unavailable("gone")):
            bob.send("hello", token=await rig.token("bob", "new"))
            await bob.next("conversations")
        await bob.until(lambda: bool(bob.frames) and bob.frames[-1]["type"] == "caught_up")
    assert bob.seqs() == [3, 4, 5]


async def test_a_connection_that_ends_at_once_leaves_nothing_behind(rig: Rig) -> None:
    bob = Device(rig.server)
    bob.send("hello", token="x")
    bob.connection.lost()
    await asyncio.sleep(0)
    gc.collect()  # a coroutine that was never awaited would warn now, and warnings are errors
    assert bob.frames == []
    assert [t for t in asyncio.all_tasks() if "_perform" in repr(t.get_coro())] == []


async def test_frames_behind_one_that_waits_are_performed_after_it(rig: Rig) -> None:
    bob = await rig.device("bob")
    with rig.gate("read") as gate:
        bob.send("history", conv=CONV, limit=5, ref=1)
        assert bob.held
        bob.send("ping", ref=2)
        bob.send("send", id=uuid(1), to="alice", body="x", ref=3)
        assert bob.frames == []
        gate.opened.set()
        await bob.until(lambda: len(bob.frames) == 3)
    assert [frame["ref"] for frame in bob.frames] == [1, 2, 3]
    assert not bob.held


async def test_after_a_refusal_by_the_store_the_conversation_waits_for_it(rig: Rig) -> None:
    bob = await rig.device("bob")
    await rig.server.accounts.known("alice")
    rig.store.fail_next("gone")
    bob.send("send", id=uuid(1), to="alice", body="one")
    error = await bob.next("error")
    assert (error["code"], error["temporary"], error["id"]) == ("unavailable", True, uuid(1))
    bob.send("send", id=uuid(2), to="alice", body="two")
    assert (await bob.next("error"))["code"] == "out_of_order"
    bob.send("send", id=uuid(1), to="alice", body="one")
    bob.send("send", id=uuid(2), to="alice", body="two")
    assert [(await bob.next("sent"))["seq"], (await bob.next("sent"))["seq"]] == [1, 2]


async def test_an_own_message_behind_a_gap_comes_as_messages(rig: Rig) -> None:
    bob = await rig.device("bob")
    with rig.gate("read") as gate:
        bob.connection.congested(True)
        await rig.say("alice", "bob", 2)
        bob.connection.congested(False)  # behind: it reads the log, which takes its time
        bob.send("send", id=uuid(50), to="alice", body="own")
        sent = await bob.next("sent")
        assert (sent["seq"], sent["duplicate"]) == (3, True)
        assert bob.seqs() == []
        gate.opened.set()
        await bob.until(lambda: len(bob.seqs()) == 3)
    assert bob.seqs() == [1, 2, 3]


async def test_a_strangers_name_is_not_found_and_other_sends_go_on(rig: Rig) -> None:
    bob = await rig.device("bob")
    bob.send("send", id=uuid(1), to="nobody", body="x", ref=1)
    bob.send("send", id=uuid(2), to="alice", body="x", ref=2)
    assert (await bob.next("error"))["code"] == "not_found"
    assert (await bob.next("sent"))["ref"] == 2


async def test_who_is_not_in_a_conversation_cannot_see_that_it_exists(rig: Rig) -> None:
    await rig.say("alice", "bob")
    carol = await rig.device("carol")
    for conv in (CONV, "alice:zoe"):
        carol.send("history", conv=conv, limit=5)
        carol.send("ack", conv=conv, seq=1)
        carol.send("read", conv=conv, seq=1)
        carol.send("send", id=uuid(9), conv=conv, body="x")
        answers = [await carol.next("error") for _ in range(4)]
        assert {(a["code"], a["message"]) for a in answers} == {("not_found", "no such conversation")}


async def test_receipts_of_a_device_that_does_not_read_are_kept_as_maxima_and_bounded(rig: Rig) -> None:
    alice = await rig.device("alice")
    await rig.say("alice", "bob", 3)
    await alice.until(lambda: len(alice.seqs()) == 3)
    alice.frames.clear()
    alice.connection.congested(True)
    for delivered in (1, 2, 3):
        await rig.server.sequencer.mark(advance("bob", delivered))
    assert alice.frames == []
    alice.connection.congested(False)
    assert [f["delivered"] for f in alice.frames] == [3]
    alice.connection.congested(True)
    for i in range(1_001):
        assert alice.closed is None
        alice.connection.receipt(Grown(f"alice:u{i}", f"u{i}", 1, 0, grew=True), b"")
    assert alice.closed == 4408


async def test_a_mark_with_a_ref_is_answered_when_it_is_stored(rig: Rig) -> None:
    await rig.say("alice", "bob")
    bob = await rig.device("bob")
    bob.send("read", conv=CONV, seq=1, ref="r")
    assert (await bob.next("ok"))["ref"] == "r"
    rig.store.fail_next("gone")
    bob.send("ack", conv=CONV, seq=1, ref="s")
    error = await bob.next("error")
    assert (error["code"], error["ref"]) == ("unavailable", "s")


async def test_nobody_is_sent_away_or_told_who_types_before_they_were_made_welcome(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, works = Gate(), rig.memory.enroll

    async def slow(*args: Any, **kwargs: Any) -> None:
        gate.reached.set()
        await gate.opened.wait()
        await works(*args, **kwargs)

    monkeypatch.setattr(rig.memory, "enroll", slow)
    device = Device(rig.server)
    device.send("hello", token=await rig.token("alice", "y"))
    await gate.reached.wait()
    device.connection.goaway("your place is another process", 1_000)
    device.connection.hint(b'{"type":"typing","conv":"alice:bob","user":"bob","on":true}')
    assert device.frames == []
    gate.opened.set()
    await device.until(lambda: len(device.frames) >= 2)
    assert [frame["type"] for frame in device.frames[:2]] == ["welcome", "goaway"]
    device.connection.lost()
