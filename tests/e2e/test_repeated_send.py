"""A send has a name: repeated wherever and whenever, it is the same message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatd import protocol
from chatd.testing.harness.process import KillableServer
from chatd.testing.harness.tokens import make_tokens
from chatd.testing.speaker import Speaker

FIRST = protocol.Send(id="01890000-0000-7000-8000-000000000001", to="bob", body="body 1")
SECOND = protocol.Send(id="01890000-0000-7000-8000-000000000002", to="bob", body="body 2")
OTHER_BODY = protocol.Send(id=SECOND.id, to="bob", body="another body")

pytestmark = pytest.mark.slow


class Rig:
    def __init__(self, directory: Path) -> None:
        self.server = KillableServer(directory)
        self.tokens: dict[tuple[str, str], str] = {}

    async def alice(self) -> Speaker:
        speaker = await Speaker.connect(f"http://127.0.0.1:{self.server.port}", self.tokens["alice", "d"])
        await speaker.until(protocol.CaughtUp)
        return speaker


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    rig.tokens = await make_tokens(rig.server.data_dir, ["alice", "bob"], ["d"])
    await rig.server.start()
    yield rig
    await rig.server.kill()
    assert rig.server.faults() == []


async def the_same_again(alice: Speaker, first: protocol.Sent) -> None:
    """The send, its repetition and another body under its id are answered as they must be."""
    again = await alice.ask(SECOND, protocol.Sent)
    assert again.duplicate is True
    assert (again.conv, again.seq, again.ts) == (first.conv, first.seq, first.ts)
    error = await alice.ask(OTHER_BODY, protocol.Error)
    assert (error.code, error.temporary, error.id) == ("id_reuse", False, SECOND.id)


async def test_the_same_send_is_the_same_message_for_ever(rig: Rig) -> None:
    alice = await rig.alice()
    assert (await alice.ask(FIRST, protocol.Sent)).seq == 1
    sent = await alice.ask(SECOND, protocol.Sent)
    assert (sent.seq, sent.duplicate) == (2, False)
    await the_same_again(alice, sent)
    await alice.close()

    alice = await rig.alice()  # reconnected
    await the_same_again(alice, sent)
    await rig.server.stop()
    await alice.close()

    await rig.server.start()  # restarted
    alice = await rig.alice()
    await the_same_again(alice, sent)
    await rig.server.kill()
    await alice.close()

    await rig.server.start()  # killed and started
    alice = await rig.alice()
    await the_same_again(alice, sent)
    history = await alice.ask(protocol.History(conv=sent.conv, limit=10), protocol.Messages)
    assert [(e.seq, e.body) for e in history.messages] == [(1, "body 1"), (2, "body 2")]
    assert await rig.server.counts() == 2
    await alice.close()
