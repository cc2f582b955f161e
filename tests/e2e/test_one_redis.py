"""Two servers on one Redis: neither owns a conversation, and its log is one all the same."""

from __future__ import annotations

import asyncio
import random

import pytest

from chatd.client import MessageEvent
from chatd.model import Appended, Draft, Message
from chatd.protocol import new_message_id
from chatd.store.redis import RedisStore
from chatd.testing.redis_server import RedisServer
from chatd.testing.server import ChatServer

CONV = "alice:bob"
EACH = 2_000


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"store.redis_prefix": f"{request.node.name}:"}


def drafts_of(sender: str) -> list[Draft]:
    return [Draft(CONV, sender, new_message_id(), f"{sender} {n}", 1_000) for n in range(EACH)]


async def send_all(servers: list[ChatServer], drafts: list[Draft], dice: random.Random) -> list[Appended]:
    """Send through both, up to fifty at once; every third is sent twice, mostly to the other server, in any order."""
    bound = asyncio.Semaphore(50)

    async def send(server: ChatServer, draft: Draft) -> Appended:
        async with bound:
            return await server.server.sequencer.send(draft)

    calls = [send(dice.choice(servers), draft) for draft in drafts]
    calls += [send(dice.choice(servers), draft) for draft in dice.sample(drafts, EACH // 3)]
    return await asyncio.gather(*calls)


async def test_two_servers_write_one_conversation_from_both_sides(
    chatd_redis: RedisServer, settings: dict[str, str]
) -> None:
    async with (
        ChatServer(chatd_redis.url, users=["alice", "bob"], settings=settings) as one,
        ChatServer(chatd_redis.url, settings=settings) as other,
    ):
        assert isinstance(one.store.inner, RedisStore)
        drafts = {sender: drafts_of(sender) for sender in ("alice", "bob")}
        dice = random.Random(4)
        answers = await asyncio.gather(*(send_all([one, other], mine, dice) for mine in drafts.values()))
        log: list[Message] = []
        while page := await other.store.read(CONV, after=len(log), limit=200):
            log += page
    assert [message.seq for message in log] == list(range(1, 2 * EACH + 1))
    assert {message.id for message in log} == {draft.id for mine in drafts.values() for draft in mine}
    said = [answer for some in answers for answer in some]
    assert {answer.message for answer in said} == set(log), "every answer is the log's own message"
    assert sum(answer.duplicate for answer in said) == len(said) - len(log)


async def test_a_device_goes_on_at_the_other_server(chatd_redis: RedisServer, settings: dict[str, str]) -> None:
    async with ChatServer(chatd_redis.url, users=["alice", "bob"], settings=settings) as one:
        async with ChatServer(chatd_redis.url, settings=settings) as other:
            alice = await other.client("alice")
            for n in range(20):
                handle = await alice.send("bob", f"body {n}")
                await handle.sent()
        bob = await one.client("bob")
        bodies = []
        async for event in bob.events():
            if isinstance(event, MessageEvent):
                bodies.append(event.body)
            if len(bodies) == 20:
                break
        assert bodies == [f"body {n}" for n in range(20)]
