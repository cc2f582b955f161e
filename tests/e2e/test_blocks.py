"""Who is blocked sees no difference; who blocks gets nothing but the places in the log."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from chatd import protocol
from chatd.model import Marks, conv_of
from chatd.testing.server import ChatServer
from chatd.testing.speaker import Speaker

CONV = conv_of("alice", "bob")


@pytest.fixture(params=["memory", "sqlite"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[ChatServer]:
    async with ChatServer(store=request.param, users=["alice", "bob", "carol"]) as server:
        yield server


async def speaker(server: ChatServer, user: str) -> Speaker:
    one = await Speaker.connect(server.url, await server.token(user))
    await one.until(protocol.CaughtUp)
    return one


def send(to: str, body: str) -> protocol.Send:
    return protocol.Send(id=protocol.new_message_id(), to=to, body=body)


async def block(server: ChatServer, method: str) -> int:
    """Bob blocks alice (PUT), or takes it back (DELETE)."""
    headers = {"Authorization": f"Bearer {await server.token('bob')}"}
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, f"{server.url}/v1/blocks/alice", headers=headers) as answer,
    ):
        return answer.status


async def since_ping(one: Speaker) -> list[protocol.ServerFrame]:
    """All that the server sent to this device before its answer to a ping."""
    await one.tell(protocol.Ping(ref="all"))
    frames, _ = await one.until(protocol.Pong)
    return frames


async def test_a_block_from_end_to_end(server: ChatServer) -> None:
    alice, bob, carol = [await speaker(server, user) for user in ("alice", "bob", "carol")]
    assert (await alice.ask(send("bob", "seen"), protocol.Sent)).seq == 1
    await bob.until(protocol.Messages)
    await bob.tell(protocol.Read(conv=CONV, seq=1))
    _, receipt = await alice.until(protocol.Receipt)
    assert (receipt.user, receipt.delivered, receipt.read) == ("bob", 1, 1)

    assert await block(server, "PUT") == 204
    sent = await alice.ask(send("bob", "not seen"), protocol.Sent)
    assert sent.seq == 2
    await carol.ask(send("bob", "from carol"), protocol.Sent)
    frames, from_carol = await bob.until(protocol.Messages)
    while from_carol.conv == CONV:
        assert [(e.seq, e.id, e.sender, e.body, e.gone) for e in from_carol.messages] == [
            (2, None, None, None, "hidden")
        ]
        more, from_carol = await bob.until(protocol.Messages)
        frames += more
    assert from_carol.messages[0].body == "from carol"
    assert not any(isinstance(f, protocol.Receipt) and f.user == "alice" for f in frames)

    await bob.ask(protocol.Read(conv=CONV, seq=2, ref="held"), protocol.Ok)  # bob's device holds the place
    assert not any(isinstance(f, protocol.Receipt) and f.user == "bob" for f in await since_ping(alice))
    assert (await server.store.marks(CONV, "alice")).peer == Marks(1, 1)
    await alice.close()
    alice = await Speaker.connect(server.url, await server.token("alice"))
    frames, _ = await alice.until(protocol.CaughtUp)
    rows = [row for f in frames if isinstance(f, protocol.ConversationList) for row in f.conversations]
    assert [(row.head, row.peer_delivered, row.peer_read) for row in rows] == [(2, 1, 1)]
    told = [e for f in frames if isinstance(f, protocol.Messages) for e in f.messages]
    assert all(e.body is not None for e in told)  # to its sender the message is whole

    assert await block(server, "DELETE") == 204
    assert (await alice.ask(send("bob", "seen again"), protocol.Sent)).seq == 3
    _, again = await bob.until(protocol.Messages)
    assert [(e.seq, e.body) for e in again.messages] == [(3, "seen again")]
    await bob.tell(protocol.Ack(conv=CONV, seq=3))
    _, receipt = await alice.until(protocol.Receipt)
    assert (receipt.user, receipt.delivered, receipt.read) == ("bob", 3, 2)
    page = await bob.ask(protocol.History(conv=CONV, limit=10), protocol.Messages)
    assert [e.body for e in page.messages] == ["seen", None, "seen again"]  # what was hidden stays so
    for one in (alice, bob, carol):
        await one.close()
