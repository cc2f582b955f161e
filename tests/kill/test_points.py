"""What is true when the server died at each of its named points."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatd import protocol
from chatd.store.sqlite import FILE_NAME, schema
from chatd.testing.harness.process import KillableServer
from chatd.testing.harness.tokens import make_tokens
from chatd.testing.speaker import Speaker

ID = "01890000-0000-7000-8000-000000000001"
SEND = protocol.Send(id=ID, to="bob", body="are you there?")

pytestmark = pytest.mark.slow


class Rig:
    """A killable server, and the tokens of two users with a device each."""

    def __init__(self, directory: Path) -> None:
        self.server = KillableServer(directory)
        self.tokens: dict[tuple[str, str], str] = {}

    async def device(self, user: str) -> Speaker:
        """A device that begins with nothing."""
        return await Speaker.connect(f"http://127.0.0.1:{self.server.port}", self.tokens[user, "d"])

    async def both(self) -> tuple[Speaker, Speaker]:
        """Alice and bob, caught up."""
        alice, bob = await self.device("alice"), await self.device("bob")
        await alice.until(protocol.CaughtUp)
        await bob.until(protocol.CaughtUp)
        return alice, bob


NOTHING: tuple[list[protocol.ServerFrame], int] = ([], 1006)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    rig.tokens = await make_tokens(rig.server.data_dir, ["alice", "bob"], ["d"])
    await rig.server.start()
    yield rig
    await rig.server.kill()
    assert rig.server.faults() == []


async def test_before_commit_nothing_happened(rig: Rig) -> None:
    alice, bob = await rig.both()
    await rig.server.arm("before_commit", 1)
    await alice.tell(SEND)

    assert await alice.rest() == NOTHING
    assert await bob.rest() == NOTHING
    await rig.server.gone()
    await rig.server.start()
    assert await rig.server.counts() == 0
    assert (await sent_again(rig)).duplicate is False


async def test_after_commit_it_is_there_and_the_repetition_is_told_so(rig: Rig) -> None:
    alice, bob = await rig.both()
    await rig.server.arm("after_commit_before_sent", 1)
    await alice.tell(SEND)

    assert await alice.rest() == NOTHING
    assert await bob.rest() == NOTHING
    await rig.server.gone()
    await rig.server.start()
    assert await rig.server.counts() == 1
    again = await sent_again(rig)
    assert (again.seq, again.duplicate) == (1, True)
    assert await rig.server.counts() == 1


async def test_after_sent_before_fan_out_the_sender_knows_and_the_recipient_catches_up(rig: Rig) -> None:
    alice, bob = await rig.both()
    await rig.server.arm("after_sent_before_fan_out", 1)
    await alice.tell(SEND)

    ((sent,), _) = await alice.rest()
    assert isinstance(sent, protocol.Sent)
    assert (sent.id, sent.seq) == (ID, 1)
    assert await bob.rest() == NOTHING
    await rig.server.gone()
    await rig.server.start()
    bob = await rig.device("bob")
    caught, _ = await bob.until(protocol.CaughtUp)
    assert [f.messages[0].id for f in caught if isinstance(f, protocol.Messages)] == [ID]
    await bob.close()


async def test_in_catch_up_the_next_one_brings_all(rig: Rig) -> None:
    alice = await rig.device("alice")
    await alice.until(protocol.CaughtUp)
    await alice.ask(SEND, protocol.Sent)
    await rig.server.arm("in_catch_up", 1)
    bob = await rig.device("bob")

    assert not any(isinstance(f, protocol.Messages | protocol.CaughtUp) for f in (await bob.rest())[0])
    await alice.rest()
    await rig.server.gone()
    await rig.server.start()
    bob = await rig.device("bob")
    caught, _ = await bob.until(protocol.CaughtUp)
    assert [len(f.messages) for f in caught if isinstance(f, protocol.Messages)] == [1]
    await bob.close()


@pytest.mark.parametrize("step", [1, 2])
async def test_in_a_migration_its_step_is_as_if_it_never_began(rig: Rig, step: int) -> None:
    alice = await rig.device("alice")
    await alice.until(protocol.CaughtUp)
    await alice.ask(SEND, protocol.Sent)
    await rig.server.kill()
    await alice.close()

    assert not await rig.server.start(new_migrations=2, die_in_migration=step)
    db = sqlite3.connect(rig.server.data_dir / FILE_NAME)
    try:
        applied = [n for (n,) in db.execute("SELECT number FROM migration ORDER BY number")]
        assert applied == list(range(1, len(schema.migrations()) + step))
        assert db.execute("SELECT body FROM message").fetchall() == [(SEND.body,)]
    finally:
        db.close()
    assert await rig.server.start()
    assert (await sent_again(rig)).duplicate is True


async def sent_again(rig: Rig) -> protocol.Sent:
    """The answer to the same send on a new connection."""
    alice = await rig.device("alice")
    await alice.until(protocol.CaughtUp)
    sent = await alice.ask(SEND, protocol.Sent)
    await alice.close()
    return sent
