"""What is true when the server died at each of its named points."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chatd import protocol
from chatd.client.wire import Wire, WireClosed, connect, websocket_url
from chatd.model import conv_of
from chatd.store.sqlite import FILE_NAME
from chatd.testing.harness.process import KillableServer
from chatd.testing.harness.run import make_tokens

CONV = conv_of("alice", "bob")
ID = "01890000-0000-7000-8000-000000000001"
SEND = protocol.Send(id=ID, to="bob", body="are you there?")

_ANY: Any = protocol.SERVER_FRAMES

pytestmark = pytest.mark.slow


class Rig:
    """A killable server, and the tokens of two users with a device each."""

    def __init__(self, directory: Path) -> None:
        self.server = KillableServer(directory)
        self.tokens: dict[tuple[str, str], str] = {}

    async def device(self, user: str) -> Wire:
        """A device that has caught up from nothing."""
        wire = await connect(websocket_url(f"http://127.0.0.1:{self.server.port}", user))
        await tell(wire, protocol.Hello(token=self.tokens[user, "d"]))
        return wire


async def tell(wire: Wire, frame: protocol.ClientFrame) -> None:
    await wire.send(protocol.encode(frame))


async def frames(wire: Wire, until: type[protocol.ServerFrame]) -> list[protocol.ServerFrame]:
    """All frames to the first one of this type."""
    got: list[protocol.ServerFrame] = []
    while not got or not isinstance(got[-1], until):
        data = await wire.receive()
        frame = None if data is None else protocol.decode_server(data)
        if frame is not None:
            got.append(frame)
    return got


async def last_frames(wire: Wire) -> list[protocol.ServerFrame]:
    """All frames to the end of the connection, which comes without a word."""
    got: list[protocol.ServerFrame] = []
    with pytest.raises(WireClosed) as closed:
        while True:
            got += await frames(wire, _ANY)
    assert closed.value.code == 1006
    await wire.close()
    return got


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    rig.tokens = await make_tokens(rig.server.data_dir, ["alice", "bob"], ["d"])
    await rig.server.start()
    yield rig
    await rig.server.kill()
    assert rig.server.faults() == []


async def test_before_commit_nothing_happened(rig: Rig) -> None:
    alice, bob = await rig.device("alice"), await rig.device("bob")
    await frames(alice, protocol.CaughtUp)
    await frames(bob, protocol.CaughtUp)
    await rig.server.arm("before_commit", 1)
    await tell(alice, SEND)

    assert await last_frames(alice) == []
    assert await last_frames(bob) == []
    await rig.server.gone()
    await rig.server.start()
    assert await rig.server.counts() == 0
    assert (await sent_again(rig)).duplicate is False


async def test_after_commit_it_is_there_and_the_repetition_is_told_so(rig: Rig) -> None:
    alice, bob = await rig.device("alice"), await rig.device("bob")
    await frames(alice, protocol.CaughtUp)
    await frames(bob, protocol.CaughtUp)
    await rig.server.arm("after_commit_before_sent", 1)
    await tell(alice, SEND)

    assert await last_frames(alice) == []
    assert await last_frames(bob) == []
    await rig.server.gone()
    await rig.server.start()
    assert await rig.server.counts() == 1
    again = await sent_again(rig)
    assert (again.seq, again.duplicate) == (1, True)
    assert await rig.server.counts() == 1


async def test_after_sent_before_fan_out_the_sender_knows_and_the_recipient_catches_up(rig: Rig) -> None:
    alice, bob = await rig.device("alice"), await rig.device("bob")
    await frames(alice, protocol.CaughtUp)
    await frames(bob, protocol.CaughtUp)
    await rig.server.arm("after_sent_before_fan_out", 1)
    await tell(alice, SEND)

    (sent,) = await last_frames(alice)
    assert isinstance(sent, protocol.Sent)
    assert (sent.id, sent.seq) == (ID, 1)
    assert await last_frames(bob) == []
    await rig.server.gone()
    await rig.server.start()
    bob = await rig.device("bob")
    caught = await frames(bob, protocol.CaughtUp)
    assert [f.messages[0].id for f in caught if isinstance(f, protocol.Messages)] == [ID]
    await bob.close()


async def test_in_catch_up_the_next_one_brings_all(rig: Rig) -> None:
    alice = await rig.device("alice")
    await frames(alice, protocol.CaughtUp)
    await tell(alice, SEND)
    await frames(alice, protocol.Sent)
    await rig.server.arm("in_catch_up", 1)
    bob = await rig.device("bob")

    assert not any(isinstance(f, protocol.Messages | protocol.CaughtUp) for f in await last_frames(bob))
    await last_frames(alice)
    await rig.server.gone()
    await rig.server.start()
    bob = await rig.device("bob")
    assert [len(f.messages) for f in await frames(bob, protocol.CaughtUp) if isinstance(f, protocol.Messages)] == [1]
    await bob.close()


@pytest.mark.parametrize(("step", "applied"), [(1, [1]), (2, [1, 2])])
async def test_in_a_migration_its_step_is_as_if_it_never_began(rig: Rig, step: int, applied: list[int]) -> None:
    alice = await rig.device("alice")
    await frames(alice, protocol.CaughtUp)
    await tell(alice, SEND)
    await frames(alice, protocol.Sent)
    await rig.server.kill()
    await alice.close()

    assert not await rig.server.start(new_migrations=2, die_in_migration=step)
    db = sqlite3.connect(rig.server.data_dir / FILE_NAME)
    try:
        assert [n for (n,) in db.execute("SELECT number FROM migration ORDER BY number")] == applied
        assert db.execute("SELECT body FROM message").fetchall() == [(SEND.body,)]
    finally:
        db.close()
    assert await rig.server.start()
    assert (await sent_again(rig)).duplicate is True


async def sent_again(rig: Rig) -> protocol.Sent:
    """The answer to the same send on a new connection."""
    alice = await rig.device("alice")
    await frames(alice, protocol.CaughtUp)
    await tell(alice, SEND)
    sent = (await frames(alice, protocol.Sent))[-1]
    assert isinstance(sent, protocol.Sent)
    await alice.close()
    return sent
