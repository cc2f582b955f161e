"""Presence and typing over real sockets: who hears, who never does, and what a client makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, TypeAlias

import aiohttp
import pytest

from chatd import protocol
from chatd.client import Client, Event, PresenceEvent, TypingEvent
from chatd.model import conv_of
from chatd.testing.server import ChatServer
from chatd.testing.speaker import Speaker

FAST = {"presence.interval_s": 0.05, "presence.grace_s": 0.1}
USERS = ["alice", "bob", "carol", "dave"]


_speakers: list[Speaker] = []


@pytest.fixture(autouse=True)
async def _close_speakers() -> AsyncIterator[None]:
    yield
    while _speakers:
        await _speakers.pop().close()


@pytest.fixture(params=["memory", "sqlite"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[ChatServer]:
    async with ChatServer(store=request.param, users=USERS, settings=FAST) as server:
        yield server


async def speaker(server: ChatServer, user: str, device: str = "test") -> Speaker:
    one = await Speaker.connect(server.url, await server.token(user, device))
    _speakers.append(one)
    await one.until(protocol.CaughtUp)
    return one


async def write(server: ChatServer, sender: str, to: str) -> None:
    """A first message, so that the two share a conversation."""
    client = await speaker(server, sender, "writer")
    await client.ask(protocol.Send(id=protocol.new_message_id(), to=to, body="hi"), protocol.Sent)
    await client.close()


async def http(server: ChatServer, method: str, path: str, user: str, body: object = None) -> int:
    headers = {"Authorization": f"Bearer {await server.token(user)}"}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, server.url + path, headers=headers, json=body) as answer,
    ):
        return answer.status


async def state_of(one: Speaker, user: str, state: str) -> protocol.Whereabouts:
    """Wait until this device is told that ``user`` is so."""
    while True:
        _, frame = await one.until(protocol.Presence)
        for states in frame.states:
            if (states.user, states.state) == (user, state):
                return states


async def watch(one: Speaker, *users: str) -> dict[str, str]:
    answer = await one.ask(protocol.Watch(users=users, ref="w"), protocol.Presence)
    return {states.user: states.state for states in answer.states}


async def test_a_watcher_hears_of_each_change(server: ChatServer) -> None:
    await write(server, "alice", "bob")
    alice = await speaker(server, "alice")
    assert await watch(alice, "bob", "carol", "nobody") == {"bob": "offline"}  # strangers look like nobody
    bob = await speaker(server, "bob")
    await state_of(alice, "bob", "online")
    await bob.ask(protocol.Status(state="away"), protocol.Ok)
    await state_of(alice, "bob", "away")
    tablet = await speaker(server, "bob", "tablet")
    await state_of(alice, "bob", "online")
    await tablet.close()
    await state_of(alice, "bob", "away")
    await bob.close()
    gone = await state_of(alice, "bob", "offline")
    assert gone.last_seen is not None
    again = await speaker(server, "alice", "laptop")
    answer = await again.ask(protocol.Watch(users=("bob",)), protocol.Presence)
    assert answer.states == (protocol.Whereabouts(user="bob", state="offline", last_seen=gone.last_seen),)


async def test_last_seen_is_shown_by_those_who_show_it_to_those_who_show_it(server: ChatServer) -> None:
    await write(server, "alice", "bob")
    alice, carol = await speaker(server, "alice"), await speaker(server, "carol")
    await write(server, "carol", "bob")
    bob = await speaker(server, "bob")
    for one in (alice, carol):
        assert await watch(one, "bob") == {"bob": "online"}
    assert await http(server, "PUT", "/v1/privacy", "carol", {"last_seen": False}) == 204
    await bob.close()
    assert (await state_of(alice, "bob", "offline")).last_seen is not None
    assert (await state_of(carol, "bob", "offline")).last_seen is None
    assert await http(server, "PUT", "/v1/privacy", "bob", {"last_seen": False}) == 204
    assert (await state_of(alice, "bob", "offline")).last_seen is None
    bob = await speaker(server, "bob")
    await state_of(alice, "bob", "online")
    await bob.close()
    assert (await state_of(alice, "bob", "offline")).last_seen is None


async def test_last_seen_outlives_the_server(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("data")
    async with ChatServer(store=directory, users=USERS, settings=FAST) as server:
        await write(server, "alice", "bob")
        bob = await speaker(server, "bob")
        pong = await bob.ask(protocol.Ping(), protocol.Pong)
    async with ChatServer(store=directory, users=USERS, settings=FAST) as server:
        alice = await speaker(server, "alice")
        answer = await alice.ask(protocol.Watch(users=("bob",)), protocol.Presence)
        assert answer.states[0].last_seen is not None
        assert answer.states[0].last_seen >= pong.now


async def test_an_inactive_device_hears_nothing_and_then_what_it_missed(server: ChatServer) -> None:
    await write(server, "alice", "bob")
    alice, witness, bob = (
        await speaker(server, "alice"),
        await speaker(server, "alice", "2"),
        await speaker(server, "bob"),
    )
    for one in (alice, witness):
        await watch(one, "bob")
    await alice.ask(protocol.Status(state="away", inactive=True), protocol.Ok)
    await bob.ask(protocol.Status(state="away"), protocol.Ok)
    await state_of(witness, "bob", "away")
    await bob.tell(protocol.Typing(conv="alice:bob", on=True))
    await witness.until(protocol.PeerTyping)
    await alice.tell(protocol.Ping())
    before, _ = await alice.until(protocol.Pong)
    assert before == []
    await alice.ask(protocol.Status(state="online"), protocol.Ok)
    await state_of(alice, "bob", "away")


async def test_typing_reaches_the_peer_s_devices_and_nobody_else(server: ChatServer) -> None:
    await write(server, "alice", "bob")
    alice, other = await speaker(server, "alice"), await speaker(server, "alice", "2")
    bob, tablet, carol = await speaker(server, "bob"), await speaker(server, "bob", "2"), await speaker(server, "carol")
    await alice.tell(protocol.Typing(conv="alice:bob", on=True))
    for one in (bob, tablet):
        _, frame = await one.until(protocol.PeerTyping)
        assert frame == protocol.PeerTyping(conv="alice:bob", user="alice", on=True)
    for one in (alice, other, carol):
        await one.tell(protocol.Ping())
        before, _ = await one.until(protocol.Pong)
        assert before == []
    error = await carol.ask(protocol.Typing(conv="alice:bob", on=True, ref=1), protocol.Error)
    assert (error.code, error.ref) == ("not_found", 1)


# --- the matrix: nobody hears of somebody whom they may not watch ------------------------------------------

Relation: TypeAlias = Literal["stranger", "blocks", "blocked", "unsubscribed"]
Verb: TypeAlias = Callable[[ChatServer, Speaker, str], Awaitable[None]]


async def _told(server: ChatServer, one: Speaker, frame: protocol.ClientFrame) -> None:
    await one.tell(frame)
    await one.tell(protocol.Ping(ref="done"))
    while (await one.until(protocol.Pong))[1].ref != "done":
        pass


def _frame(make: Callable[[str], protocol.ClientFrame]) -> Verb:
    async def verb(server: ChatServer, one: Speaker, other: str) -> None:
        await _told(server, one, make(other))

    return verb


async def _come_and_go(server: ChatServer, one: Speaker, other: str) -> None:
    extra = await speaker(server, "bob" if other == "alice" else "alice", "extra")
    await extra.close()


CONV = conv_of("alice", "bob")
VERBS: dict[str, Verb] = {
    "watch": _frame(lambda other: protocol.Watch(users=(other, "dave"))),
    "unwatch": _frame(lambda other: protocol.Unwatch(users=(other,))),
    "status": _frame(lambda other: protocol.Status(state="away")),
    "inactive": _frame(lambda other: protocol.Status(state="away", inactive=True)),
    "active again": _frame(lambda other: protocol.Status(state="online")),
    "typing": _frame(lambda other: protocol.Typing(conv=CONV, on=True)),
    "send": _frame(lambda other: protocol.Send(id=protocol.new_message_id(), to="dave", body="x")),
    "ack": _frame(lambda other: protocol.Ack(conv=CONV, seq=1)),
    "read": _frame(lambda other: protocol.Read(conv=CONV, seq=1)),
    "history": _frame(lambda other: protocol.History(conv=CONV, limit=5)),
    "conversations": _frame(lambda other: protocol.Conversations(limit=5)),
    "ping": _frame(lambda other: protocol.Ping()),
    "auth": _frame(lambda other: protocol.Auth(token="not mine")),
    "come and go": _come_and_go,
}


def test_the_matrix_has_every_frame_of_a_client() -> None:
    tags = {str(kind.__struct_config__.tag) for kind in protocol.CLIENT_FRAMES}
    assert tags - {"hello"} <= VERBS.keys()


@pytest.mark.parametrize("relation", ["stranger", "blocks", "blocked", "unsubscribed"])
async def test_who_may_not_watch_hears_nothing_whatever_either_does(server: ChatServer, relation: Relation) -> None:
    """Alice must never hear of bob. Dave may watch both and is the witness that there was something to hear."""
    for user in ("alice", "bob"):
        await write(server, user, "dave")
    if relation != "stranger":
        await write(server, "alice", "bob")
    alice, bob, dave = [await speaker(server, user) for user in ("alice", "bob", "dave")]
    if relation == "unsubscribed":
        assert await watch(alice, "bob") == {"bob": "online"}
        await alice.ask(protocol.Unwatch(users=("bob",)), protocol.Ok)
    elif relation != "stranger":
        assert await watch(alice, "bob") == {"bob": "online"}  # the block ends what was allowed
        blocker, peer = ("alice", "bob") if relation == "blocks" else ("bob", "alice")
        assert await http(server, "PUT", f"/v1/blocks/{peer}", blocker) == 204
    await alice.tell(protocol.Ping(ref="begin"))
    while (await alice.until(protocol.Pong))[1].ref != "begin":
        pass
    heard: list[protocol.ServerFrame] = []
    collecting = asyncio.create_task(_collect(alice, heard))
    try:
        await watch(dave, "alice", "bob")
        for name, verb in VERBS.items():
            if not (relation == "unsubscribed" and name == "typing"):  # typing needs no watch
                await verb(server, bob, "alice")
            if not (relation == "unsubscribed" and name == "watch"):
                await alice.tell(_as_alice(name))
            states: tuple[Literal["away"], Literal["online"]] = ("away", "online")
            for state in states:  # and a change that dave hears of passes by alice
                await bob.tell(protocol.Status(state=state))
                await state_of(dave, "bob", state)
        await alice.tell(protocol.Ping(ref="end"))
        await collecting
    finally:
        collecting.cancel()
    named = [s.user for f in heard if isinstance(f, protocol.Presence) for s in f.states]
    assert "bob" not in named
    assert [f for f in heard if isinstance(f, protocol.PeerTyping)] == []
    if relation != "unsubscribed":
        assert "dave" in named  # what may be watched was told


def _as_alice(name: str) -> protocol.ClientFrame:
    """The same verb from alice's side, as a frame."""
    frames: dict[str, protocol.ClientFrame] = {
        "watch": protocol.Watch(users=("bob", "dave")),
        "typing": protocol.Typing(conv=CONV, on=True),
        "history": protocol.History(conv=CONV, limit=5),
        "read": protocol.Read(conv=CONV, seq=1),
    }
    return frames.get(name, protocol.Ping())


async def _collect(one: Speaker, heard: list[protocol.ServerFrame]) -> None:
    while not (isinstance(frame := await one.next(), protocol.Pong) and frame.ref == "end"):
        heard.append(frame)


# --- the client --------------------------------------------------------------------------------------------


async def until(client: Client, wanted: Event) -> None:
    async for event in client.events():
        if event == wanted:
            return


async def test_the_client_watches_over_reconnects_and_from_the_first_message_on(server: ChatServer) -> None:
    alice, bob = await server.client("alice"), await server.client("bob")
    alice.watch("bob")  # a stranger still
    await (await bob.send("alice", "hi")).sent()
    await until(alice, PresenceEvent("bob", "online"))
    server.cut("alice")
    bob.status("away")
    await until(alice, PresenceEvent("bob", "away"))
    bob.typing(CONV)
    await until(alice, TypingEvent(CONV, "bob", on=True))
    assert (alice.badge, alice.unread(CONV)) == (1, 1)
    await alice.mark_read(CONV, 1)
    while alice.badge > 0:
        await alice.marks_grew(CONV)
    await (await bob.send("alice", "and again")).sent()
    await until(alice, TypingEvent(CONV, "bob", on=False))
    assert (alice.badge, alice.unread(CONV)) == (1, 1)
