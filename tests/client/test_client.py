"""The client over a real socket, against a server that each test scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from fake_server import FakeServer, Peer

from chatd.client import (
    Client,
    ConnectedEvent,
    DisconnectedEvent,
    Event,
    MessageEvent,
    ReceiptEvent,
    ResetEvent,
    Sent,
    StartError,
    Stopped,
)
from chatd.client.client import CLOSE_FLUSH_S
from chatd.errors import BadFrame, Forbidden, NotFound, Overloaded, TooLarge, Unavailable
from chatd.model import Marks

CONV = "alice:bob"
PATIENCE_S = 10.0


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer() as running:
        yield running


def lowest() -> float:
    return 0.0


def client_of(server: FakeServer, *, store: Path | None = None, events_messages_max: int = 1_024) -> Client:
    return Client(
        server.url,
        token="t",
        user="alice",
        store=store,
        events_messages_max=events_messages_max,
        random=lowest,
    )


async def messages(client: Client, count: int) -> list[int]:
    """The seqs of the next ``count`` messages."""
    found: list[int] = []
    async with asyncio.timeout(PATIENCE_S):
        async for event in client.events():
            if isinstance(event, MessageEvent):
                found.append(event.seq)
                if len(found) == count:
                    return found
    raise AssertionError(f"the events ended after {found}")


async def event_of(client: Client, kind: type[Event]) -> Event:
    async with asyncio.timeout(PATIENCE_S):
        async for event in client.events():
            if isinstance(event, kind):
                return event
    raise AssertionError(f"the events ended without {kind.__name__}")


async def store_of(peer: Peer, seq: int, *, conv: str = CONV) -> str:
    """Take the next send and say that it is stored. Returns: its id."""
    frame = await peer.expect("send")
    await peer.send("sent", id=frame["id"], conv=conv, seq=seq, ts=seq)
    return str(frame["id"])


async def test_hello_says_who_and_the_url_says_where(server: FakeServer) -> None:
    async with client_of(server) as client:
        peer = await server.peer()
        assert peer.path == "/v1/ws?user=alice"
        hello = await peer.welcome()
        assert hello == {"type": "hello", "token": "t", "agent": "chatd-python"}
        assert await event_of(client, ConnectedEvent) == ConnectedEvent("alice", "d1", "s1", "memory")


async def test_a_handle_follows_its_message_by_cumulative_marks(server: FakeServer) -> None:
    async with client_of(server) as client:
        first, second = await client.send("bob", "one"), await client.send("bob", "two")
        peer = await server.peer()
        await peer.welcome()
        assert await store_of(peer, 1) == first.id
        assert await store_of(peer, 2) == second.id
        async with asyncio.timeout(PATIENCE_S):
            assert await first.sent() == Sent(CONV, 1, 1)
            assert await second.sent() == Sent(CONV, 2, 2)
            waits = [asyncio.create_task(wait) for wait in (first.delivered(), second.delivered(), second.read())]
            await peer.send("receipt", conv=CONV, user="bob", delivered=2, read=1)
            await asyncio.gather(*waits[:2])
            assert not waits[2].done()
            await first.read()
            await peer.send("receipt", conv=CONV, user="bob", delivered=2, read=2)
            assert await waits[2] == Sent(CONV, 2, 2)
        assert client.marks(CONV).peer == Marks(2, 2)


async def test_own_and_other_messages_come_once_and_are_acknowledged(server: FakeServer) -> None:
    async with client_of(server) as client:
        peer = await server.peer()
        await peer.welcome()
        await peer.messages(1, 1)
        await peer.messages(1, 2)
        assert await messages(client, 2) == [1, 2]
        await client.send("bob", "three")
        await peer.expect("ack")
        while (frame := await peer.receive())["type"] != "send":
            assert frame["type"] == "ack"
        await peer.send("sent", id=frame["id"], conv=CONV, seq=3, ts=3)
        assert await messages(client, 1) == [3]
        assert await peer.expect("ack") == {"type": "ack", "conv": CONV, "seq": 3}


async def test_acknowledgements_of_one_burst_are_one(server: FakeServer) -> None:
    async with client_of(server) as client:
        peer = await server.peer()
        await peer.welcome()
        await peer.messages(1, 1)
        assert await messages(client, 1) == [1]
        assert (await peer.expect("ack"))["seq"] == 1
        await peer.messages(2, 200)
        assert await messages(client, 199) == list(range(2, 201))
        assert (await peer.expect("ack"))["seq"] == 200


async def test_what_was_not_answered_is_sent_again_with_its_id_and_in_order(server: FakeServer) -> None:
    async with client_of(server) as client:
        handles = [await client.send("bob", body) for body in ("one", "two", "three")]
        peer = await server.peer()
        await peer.welcome()
        await store_of(peer, 1)
        assert (await peer.expect("send"))["n"] == 2
        await handles[0].sent()
        peer.cut()
        again = await server.peer()
        hello = await again.welcome()
        assert hello["incarnation"] == "i1"
        frames = [await again.expect("send") for _ in range(2)]
        assert [(frame["n"], frame["id"]) for frame in frames] == [(1, handles[1].id), (2, handles[2].id)]
        await again.send("sent", id=handles[1].id, conv=CONV, seq=2, ts=0, duplicate=True)
        async with asyncio.timeout(PATIENCE_S):
            assert (await handles[1].sent()).seq == 2


async def test_a_restart_sends_what_was_pending_with_the_same_ids(server: FakeServer, tmp_path: Path) -> None:
    store = tmp_path / "client.db"
    async with client_of(server, store=store) as client:
        peer = await server.peer()
        await peer.welcome()
        handles = [await client.send("bob", body) for body in ("one", "two")]
        await store_of(peer, 1)
        await handles[0].sent()
        await peer.expect("send")
    with pytest.raises(Stopped):
        await handles[1].sent()
    async with Client(server.url, store=store, random=lowest) as client:
        assert [handle.id for handle in client.unsent] == [handles[1].id]
        peer = await server.peer()
        assert peer.path == "/v1/ws?user=alice"
        assert (await peer.welcome())["token"] == "t"
        assert await store_of(peer, 2) == handles[1].id
        async with asyncio.timeout(PATIENCE_S):
            assert await client.unsent[0].sent() == Sent(CONV, 2, 2)
    assert (store.stat().st_mode & 0o777) == 0o600


async def test_a_restart_goes_on_after_what_was_dealt_with(server: FakeServer, tmp_path: Path) -> None:
    store = tmp_path / "client.db"
    async with client_of(server, store=store) as client:
        peer = await server.peer()
        await peer.welcome()
        await peer.send("receipt", conv=CONV, user="bob", delivered=4, read=2)
        await event_of(client, ReceiptEvent)
        await peer.messages(1, 5)
        assert await messages(client, 3) == [1, 2, 3]
    async with client_of(server, store=store) as client:
        peer = await server.peer()
        assert client.marks(CONV).peer == Marks(4, 2)
        hello = await peer.welcome()
        assert hello["watermarks"] == {CONV: 3}
        assert hello["incarnation"] == "i1"
        await peer.messages(3, 5)
        assert await messages(client, 2) == [4, 5]


async def test_an_application_that_fails_gets_its_last_message_again(server: FakeServer, tmp_path: Path) -> None:
    store = tmp_path / "client.db"

    async def fails_on_the_third() -> None:
        async with client_of(server, store=store) as client:
            peer = await server.peer()
            await peer.welcome()
            await peer.messages(1, 5)
            assert await messages(client, 3) == [1, 2, 3]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails_on_the_third()
    async with client_of(server, store=store) as client:
        peer = await server.peer()
        assert (await peer.welcome())["watermarks"] == {CONV: 2}
        await peer.messages(3, 3)
        assert await messages(client, 1) == [3]


async def test_a_gap_is_fetched(server: FakeServer) -> None:
    async with client_of(server) as client:
        peer = await server.peer()
        await peer.welcome()
        await peer.messages(1, 1)
        await peer.messages(4, 4)
        fetch = await peer.expect("history")
        assert (fetch["conv"], fetch["after"]) == (CONV, 1)
        await peer.messages(2, 4, ref=fetch["ref"])
        assert await messages(client, 4) == [1, 2, 3, 4]


async def test_a_slow_application_is_not_acknowledged_and_loses_nothing(server: FakeServer) -> None:
    async with client_of(server, events_messages_max=10) as client:
        peer = await server.peer()
        await peer.welcome()
        for seq in range(1, 51):
            await peer.messages(seq, seq)
        handle = await client.send("carol", "still answered")
        assert await store_of(peer, 1, conv="alice:carol") == handle.id  # and no ack came before it
        async with asyncio.timeout(PATIENCE_S):
            await handle.sent()
        logs = {
            CONV: [{"seq": s, "ts": s, "id": f"id{s}", "from": "bob", "body": f"body {s}"} for s in range(1, 51)],
            "alice:carol": [{"seq": 1, "ts": 1, "id": handle.id, "from": "alice", "body": "still answered"}],
        }
        reading = asyncio.create_task(messages(client, 51))
        held: dict[str, int] = {}
        while held != {CONV: 50, "alice:carol": 1}:
            frame = await peer.receive()
            conv = frame["conv"]
            if frame["type"] == "history":
                page = logs[conv][frame["after"] :][: frame["limit"]]
                await peer.send("messages", conv=conv, messages=page, ref=frame["ref"])
            else:
                held[conv] = frame["seq"]
        assert sorted(await reading) == sorted([1, *range(1, 51)])


async def test_a_temporary_refusal_is_tried_again_and_the_next_one_waits(server: FakeServer) -> None:
    async with client_of(server) as client:
        peer = await server.peer()
        await peer.welcome()
        first, second = await client.send("bob", "one"), await client.send("bob", "two")
        await peer.expect("send")
        await peer.expect("send")
        refusal = {"message": "m", "temporary": True}
        await peer.send("error", code="overloaded", id=first.id, retry_after_ms=20, **refusal)
        await peer.send("error", code="out_of_order", id=second.id, **refusal)
        assert await store_of(peer, 1) == first.id
        assert await store_of(peer, 2) == second.id
        async with asyncio.timeout(PATIENCE_S):
            assert (await second.sent()).seq == 2


async def test_a_permanent_refusal_is_raised_by_every_wait(server: FakeServer) -> None:
    async with client_of(server) as client:
        handle = await client.send("nobody", "hello?")
        peer = await server.peer()
        await peer.welcome()
        await peer.expect("send")
        await peer.send("error", code="not_found", message="no such user", temporary=False, id=handle.id)
        async with asyncio.timeout(PATIENCE_S):
            for wait in (handle.sent, handle.delivered, handle.read):
                with pytest.raises(NotFound, match="no such user"):
                    await wait()
        assert client.unsent == ()


async def test_goaway_is_followed_to_the_next_connection(server: FakeServer) -> None:
    async with client_of(server) as client:
        peer = await server.peer()
        await peer.welcome()
        await peer.send("goaway", reason="restart", reconnect_ms=60_000)
        again = await server.peer()  # at once: the random part is none of it
        await peer.gone()
        await again.welcome()
        handle = await client.send("bob", "on the new one")
        assert await store_of(again, 1) == handle.id


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013, 4408, 4429])
async def test_a_close_code_that_means_later_leads_to_a_new_connection(server: FakeServer, code: int) -> None:
    async with client_of(server) as client:
        peer = await server.peer()
        await peer.welcome()
        await peer.close(code, "later")
        again = await server.peer()
        await again.welcome()
        event = await event_of(client, DisconnectedEvent)
        assert event == DisconnectedEvent("later", 0.0)


@pytest.mark.parametrize(("code", "why"), [(4401, "revoked"), (4403, "disabled"), (4409, "the same device")])
async def test_a_close_code_that_means_never_ends_the_client(server: FakeServer, code: int, why: str) -> None:
    async with client_of(server) as client:
        handle = await client.send("bob", "one")
        peer = await server.peer()
        await peer.welcome()
        await peer.close(code)
        with pytest.raises(Stopped, match=why) as caught:
            await event_of(client, ResetEvent)
        assert caught.value.code == code
        with pytest.raises(Stopped):
            await handle.sent()
        with pytest.raises(Stopped):
            await client.send("bob", "two")


async def test_the_place_that_a_lost_connection_of_ours_took_is_taken_back_once(server: FakeServer) -> None:
    async with client_of(server) as client:
        peer = await server.peer()
        await peer.welcome()
        await event_of(client, ConnectedEvent)
        await peer.close(1012)
        for _ in range(2):  # after the first 4409 it comes back, after the second it does not
            peer = await server.peer()
            await peer.expect("hello")
            await peer.close(4409)
        with pytest.raises(Stopped, match="the same device"):
            await event_of(client, ConnectedEvent)


async def test_a_refused_hello_ends_the_client_with_the_servers_words(server: FakeServer) -> None:
    async with client_of(server) as client:
        peer = await server.peer()
        await peer.expect("hello")
        await peer.send("error", code="unauthenticated", message="the token has expired", temporary=False)
        await peer.close(4401)
        with pytest.raises(Stopped, match="the token has expired"):
            await event_of(client, ConnectedEvent)


async def test_a_token_of_another_user_is_noticed(server: FakeServer) -> None:
    async with client_of(server) as client:
        peer = await server.peer()
        await peer.welcome(user="mallory")
        with pytest.raises(Stopped, match="mallory"):
            await event_of(client, ResetEvent)


async def test_a_server_that_falls_silent_is_left(server: FakeServer) -> None:
    async with client_of(server) as client:
        peer = await server.peer()
        await peer.welcome(heartbeat_s=0.1)
        again = await server.peer()
        await again.welcome()
        event = await event_of(client, DisconnectedEvent)
        assert isinstance(event, DisconnectedEvent)
        assert event.reason.startswith("the server was silent")


async def test_pings_are_answered_and_count_as_a_sign_of_life() -> None:
    async with FakeServer(ping_interval=0.05) as server, client_of(server) as client:
        peer = await server.peer()
        await peer.welcome(heartbeat_s=0.5)
        for _ in range(30):  # pings only, for more than the client's patience
            await peer._socket.ping()
            async with asyncio.timeout(PATIENCE_S):
                await (await peer._socket.ping())
        handle = await client.send("bob", "the same connection")
        assert await store_of(peer, 1) == handle.id


async def test_another_history_begins_anew(server: FakeServer, tmp_path: Path) -> None:
    store = tmp_path / "client.db"
    async with client_of(server, store=store) as client:
        peer = await server.peer()
        await peer.welcome()
        await peer.messages(1, 3)
        assert await messages(client, 3) == [1, 2, 3]
        assert (await peer.expect("ack"))["seq"] == 3
        peer.cut()
        again = await server.peer()
        assert (await again.welcome(incarnation="i2", reset=True))["watermarks"] == {CONV: 3}
        await again.messages(1, 2)
        assert await event_of(client, ResetEvent) == ResetEvent("i2")
        assert await messages(client, 2) == [1, 2]
    async with client_of(server, store=store):
        hello = await (await server.peer()).welcome(incarnation="i2")
        assert (hello["incarnation"], hello["watermarks"]) == ("i2", {CONV: 2})


async def test_history_and_conversations(server: FakeServer) -> None:
    async with client_of(server) as client:
        peer = await server.peer()
        await peer.welcome()
        page = asyncio.create_task(client.history(CONV, before=9, limit=2))
        frame = await peer.expect("history")
        assert (frame["conv"], frame["before"], frame["limit"]) == (CONV, 9, 2)
        await peer.messages(7, 8, ref=frame["ref"], more=True)
        assert [entry.seq for entry in (await page).entries] == [7, 8]
        assert (await page).more
        listing = asyncio.create_task(client.conversations(limit=1))
        frame = await peer.expect("conversations")
        await peer.send("conversations", conversations=[], cursor="next", ref=frame["ref"])
        assert (await listing).cursor == "next"
        refused = asyncio.create_task(client.history("bob:carol"))
        frame = await peer.expect("history")
        await peer.send("error", code="forbidden", message="no", temporary=False, ref=frame["ref"])
        with pytest.raises(Forbidden):
            await refused
        lost = asyncio.create_task(client.history(CONV))
        await peer.expect("history")
        peer.cut()
        with pytest.raises(Unavailable, match="connection was lost"):
            await lost


async def test_a_mark_is_said_again_until_it_is_confirmed(server: FakeServer) -> None:
    async with client_of(server) as client:
        peer = await server.peer()
        await peer.welcome()
        await client.mark_read(CONV, 7)
        assert (await peer.expect("read"))["seq"] == 7
        peer.cut()
        again = await server.peer()
        await again.welcome()
        frame = await again.expect("read")
        assert (frame["conv"], frame["seq"]) == (CONV, 7)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("", BadFrame),
        ("a\0b", BadFrame),
        ("\ud800", BadFrame),
        ("é" * 8_193, TooLarge),
        ("\u0001" * 16_000, TooLarge),
    ],
)
async def test_a_body_that_cannot_be_sent_is_refused_at_once(
    server: FakeServer, body: str, error: type[Exception]
) -> None:
    async with client_of(server) as client:
        with pytest.raises(error):
            await client.send("bob", body)
        assert client.unsent == ()


async def test_a_full_outbox_refuses(server: FakeServer) -> None:
    async with Client(server.url, token="t", outbox_messages_max=1) as client:
        await client.send("bob", "one")
        with pytest.raises(Overloaded):
            await client.send("bob", "two")


async def test_the_events_end_when_the_client_is_closed(server: FakeServer) -> None:
    client = client_of(server)
    await client.start()
    await (await server.peer()).welcome()
    await event_of(client, ConnectedEvent)
    waiting = asyncio.create_task(event_of(client, ResetEvent))
    async with asyncio.timeout(PATIENCE_S + CLOSE_FLUSH_S):
        await client.close()
        with pytest.raises(AssertionError, match="ended without"):
            await waiting
    with pytest.raises(Stopped):
        await client.send("bob", "too late")


async def test_a_server_that_is_not_there_is_tried_again() -> None:
    async with FakeServer() as gone:
        url = gone.url
    async with Client(url, token="t", random=lowest) as client:
        event = await event_of(client, DisconnectedEvent)
        assert isinstance(event, DisconnectedEvent)
        assert url.removeprefix("http") in event.reason


async def test_what_cannot_start_says_why(server: FakeServer, tmp_path: Path) -> None:
    with pytest.raises(BadFrame, match="not a server's URL"):
        Client("localhost:8080", token="t")
    with pytest.raises(StartError, match="no token"):
        await Client(server.url).start()
    store = tmp_path / "client.db"
    async with client_of(server, store=store):
        with pytest.raises(StartError, match="another client uses it"):
            await client_of(server, store=store).start()
    with pytest.raises(StartError, match="belongs to alice"):
        await Client(server.url, user="bob", token="t", store=store).start()
    (tmp_path / "text").write_text("this is no database, and it is long enough to be seen as none" * 20)
    with pytest.raises(StartError, match="not a database"):
        await Client(server.url, token="t", store=tmp_path / "text").start()
