"""What a server elsewhere can do to a store: be gone, be slow, be new, be full, take no writes, answer too late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from redis_backend import redis_settings

from chatd.errors import ConfigError, OutcomeUnknown, StartError, StoreBroken, Unavailable
from chatd.model import Advance, Appended, Marks
from chatd.store.conformance.kit import draft, fill, seqs, upto, uuid
from chatd.store.redis import RedisStore
from chatd.store.redis.node import Command
from chatd.testing.proxy import Proxy
from chatd.testing.redis_server import Appendfsync, RedisServer

CONV = "alice:bob"


@asynccontextmanager
async def opened(
    url: str, *, timeout_s: float = 5.0, prefix: str | None = None, connections_max: int = 16
) -> AsyncIterator[RedisStore]:
    values = {"redis_timeout_s": timeout_s, "redis_connections_max": connections_max}
    store = RedisStore(redis_settings(url, prefix, **values))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def admin(store: RedisStore, *command: str) -> None:
    """Tell the server something, past the store."""
    await store.engine.run([command], write=False)


async def until(holds: Callable[[], bool]) -> None:
    """Let the other tasks run until it does."""
    while not holds():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0)


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A server that one test may break."""
    with RedisServer(appendfsync="always") as server:
        yield server


# --- an outcome that is not known ------------------------------------------------------------------------


class Held:
    """Keeps the next commit of a store from being sent, as a network may, and sends it on another day."""

    def __init__(self, store: RedisStore) -> None:
        self._store, self._one = store, store.engine.one
        self.command: Command = ()
        store.engine.one = self._take  # type: ignore[method-assign]

    async def _take(self, command: Command, *, write: bool) -> object:
        self.command = command
        self._store.engine.one = self._one  # type: ignore[method-assign]
        raise OutcomeUnknown("no answer (a test's fault)")

    async def arrive(self) -> object:
        return await self._one(self.command, write=True)


async def test_a_commit_that_arrives_after_find_has_looked_for_it_does_not_land(chatd_redis: RedisServer) -> None:
    async with opened(chatd_redis.url) as store:
        await fill(store, 1)
        held = Held(store)
        drafts = [draft(2), draft(3, conv="alice:carol")]
        with pytest.raises(OutcomeUnknown):
            await store.commit(drafts, [Advance(CONV, "bob", "phone", 1)])
        assert await store.find(CONV, "alice", uuid(2)) is None
        assert await held.arrive() == b"fenced"
        assert await store.heads([CONV, "alice:carol"]) == {CONV: 1, "alice:carol": 0}
        assert (await store.marks(CONV, "alice")).peer == Marks()
        again = (await store.commit(drafts, [])).appended
        assert [isinstance(one, Appended) and one.duplicate for one in again] == [False, False]
        assert await held.arrive() == b"fenced"
        assert seqs(await store.read(CONV, limit=9)) == [1, 2]


async def test_a_commit_that_arrives_before_find_looks_for_it_is_found(chatd_redis: RedisServer) -> None:
    async with opened(chatd_redis.url) as store:
        held = Held(store)
        with pytest.raises(OutcomeUnknown):
            await store.commit([draft(1)], [])
        await held.arrive()
        found = await store.find(CONV, "alice", uuid(1))
        assert found is not None
        assert found.seq == 1


async def test_a_fence_holds_for_its_writer_alone(chatd_redis: RedisServer) -> None:
    async with opened(chatd_redis.url) as one, opened(chatd_redis.url, prefix=one.engine.prefix) as other:
        for store in (one, other):
            held = Held(store)
            with pytest.raises(OutcomeUnknown):
                await store.commit([draft(1)], [])
        assert await one.find(CONV, "alice", uuid(1)) is None
        await held.arrive()  # the other's: nobody has said of it that it is not stored
        found = await other.find(CONV, "alice", uuid(1))
        assert found is not None
        assert found.seq == 1
        await fill(one, 3, first=2)
        await fill(other, 3, first=5)
        assert seqs(await one.read(CONV, limit=9)) == upto(1, 7)


async def test_a_commit_that_nobody_waits_for_any_more_is_fenced_too(own: RedisServer) -> None:
    async with opened(own.url) as store:
        await fill(store, 1)
        own.pause()
        before = store.engine.round_trips
        task = asyncio.create_task(store.commit([draft(2)], []))
        await until(lambda: store.engine.round_trips > before)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert store._astray == store._epoch
        own.resume()
        landed = await store.find(CONV, "alice", uuid(2)) is not None
        for _ in range(20):
            await store.probe()
        assert (await store.heads([CONV]))[CONV] == 1 + landed


async def test_a_server_that_stops_to_answer_leaves_the_outcome_open(own: RedisServer) -> None:
    async with opened(own.url, timeout_s=0.2) as store:
        await fill(store, 1)
        own.pause()
        with pytest.raises(OutcomeUnknown, match="does not answer in time"):
            await store.commit([draft(2)], [])
        for ask in (store.heads([CONV]), store.find(CONV, "alice", uuid(2)), store.probe()):
            with pytest.raises(Unavailable, match="does not answer in time"):
                await ask
        with pytest.raises(StartError, match="does not answer in time"):
            await RedisStore(redis_settings(own.url, redis_timeout_s=0.2)).open()
        own.resume()
        landed = await store.find(CONV, "alice", uuid(2)) is not None
        await store.commit([draft(2)], [])
        assert seqs(await store.read(CONV, limit=9)) == [1, 2]
        assert isinstance(landed, bool)


async def test_a_connection_that_is_cut_leaves_the_outcome_open(chatd_redis: RedisServer) -> None:
    async with (
        Proxy("127.0.0.1", chatd_redis.port) as proxy,
        opened(f"redis://127.0.0.1:{proxy.port}/0") as store,
        opened(chatd_redis.url, prefix=store.engine.prefix) as beside,
    ):
        await fill(store, 1)
        proxy.stall("to_client")
        task = asyncio.create_task(store.commit([draft(2)], []))
        while (await beside.heads([CONV]))[CONV] == 1:
            assert not task.done()
        proxy.cut()
        with pytest.raises(OutcomeUnknown):
            await task
        proxy.resume("to_client")
        found = await store.find(CONV, "alice", uuid(2))
        assert found is not None
        assert found.seq == 2


# --- a server that says no ---------------------------------------------------------------------------------


async def test_a_server_that_is_gone_stores_nothing_and_may_come_back(own: RedisServer) -> None:
    async with opened(own.url) as store:
        await fill(store, 1)
        own.kill()
        with pytest.raises(Unavailable):  # it is told by the connection that was open
            await store.heads([CONV])
        with pytest.raises(Unavailable, match="Redis cannot be reached") as caught:
            await store.commit([draft(2)], [])
        assert caught.value.retry_after_ms is not None
        with pytest.raises(Unavailable):
            await store.find(CONV, "alice", uuid(1))
        await asyncio.to_thread(own.start)  # a new one: it knows no scripts, and nobody's connections
        await fill(store, 1, first=2)
        assert seqs(await store.read(CONV, limit=9)) == [1, 2]


async def test_what_was_answered_under_always_survives_the_end_of_the_server(own: RedisServer) -> None:
    async with opened(own.url) as store:
        assert store.durability == "fsync"
        answered = 0
        for round_number in range(5):
            task = asyncio.create_task(_write(store, round_number))
            sent = store.engine.round_trips + 20
            await until(lambda sent=sent: store.engine.round_trips >= sent)  # type: ignore[misc]
            own.kill()
            answered += await task
            await asyncio.to_thread(own.start)
        log = [message for at in range(0, 1_000, 200) for message in await store.read(CONV, after=at, limit=200)]
        assert seqs(log) == upto(1, len(log))
        assert len({message.id for message in log}) == len(log) >= answered > 20


async def _write(store: RedisStore, round_number: int) -> int:
    """Write until the server is gone. How many were answered."""
    for count in range(10_000):
        try:
            await fill(store, 1, first=round_number * 10_000 + count)
        except (Unavailable, OutcomeUnknown):
            return count
    raise AssertionError("the server lives for ever")


async def test_a_full_server_stores_nothing(own: RedisServer) -> None:
    async with opened(own.url) as store:
        await fill(store, 1)
        await admin(store, "CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(Unavailable, match="maxmemory"):
            await store.commit([draft(2)], [])
        assert seqs(await store.read(CONV, limit=9)) == [1]
        await admin(store, "CONFIG", "SET", "maxmemory", "0")
        await fill(store, 1, first=2)


async def test_a_server_that_forgot_its_scripts_is_given_them_again(own: RedisServer) -> None:
    async with opened(own.url) as store:
        await fill(store, 1)
        await admin(store, "SCRIPT", "FLUSH")
        await asyncio.gather(*(fill(store, 1, first=n) for n in range(2, 12)))
        assert seqs(await store.read(CONV, limit=20)) == upto(1, 11)


async def test_calls_wait_for_a_connection(chatd_redis: RedisServer) -> None:
    store = RedisStore(redis_settings(chatd_redis.url, redis_connections_max=1))
    await store.open()
    await asyncio.gather(*(fill(store, 1, first=n) for n in range(1, 51)))
    assert seqs(await store.read(CONV, limit=60)) == upto(1, 50)
    await store.close()


# --- opening -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("appendfsync", "want"), [(None, "memory"), ("no", "os"), ("everysec", "os")])
async def test_durability_is_what_the_server_is_set_to(appendfsync: None, want: str) -> None:
    with RedisServer(appendfsync=appendfsync) as server:
        async with opened(server.url) as store:
            assert store.durability == want


@pytest.mark.parametrize(
    ("options", "values", "line"),
    [
        ({"maxmemory": "10mb", "maxmemory-policy": "allkeys-lru"}, {}, "set it to noeviction"),
        ({}, {"redis_durability": "fsync"}, "set them to yes and always"),
        ({"rename-command": 'CONFIG ""'}, {}, "say in store.redis_durability"),
        ({"requirepass": "secret"}, {}, "store.redis_url: Redis"),
    ],
)
async def test_a_server_that_will_not_do_is_refused_with_the_way_out(
    options: dict[str, str], values: dict[str, str], line: str
) -> None:
    with RedisServer(options=options) as server:
        with pytest.raises(StartError, match=line) as caught:
            await RedisStore(redis_settings(server.url, **values)).open()
        assert "\n" not in str(caught.value)


async def test_a_server_that_tells_nothing_is_what_the_settings_say() -> None:
    with RedisServer(options={"rename-command": 'CONFIG ""'}) as server:
        store = RedisStore(redis_settings(server.url, redis_durability="os"))
        await store.open()
        assert store.durability == "os"
        await store.close()


async def test_nobody_listens() -> None:
    store = RedisStore(redis_settings("redis://127.0.0.1:1/0"))
    with pytest.raises(StartError, match="Redis cannot be reached"):
        await store.open()
    with pytest.raises(Unavailable, match="closed"):
        await store.probe()


async def test_an_emptied_server_has_another_incarnation(own: RedisServer) -> None:
    async with opened(own.url, prefix="x:") as store:
        before = store.incarnation
    async with opened(own.url, prefix="x:") as store:
        assert store.incarnation == before
        await admin(store, "FLUSHALL")
    async with opened(own.url, prefix="x:") as store:
        assert store.incarnation != before


@pytest.mark.parametrize("appendfsync", [None, "everysec"])
async def test_a_server_that_may_have_forgotten_begins_another_history(appendfsync: Appendfsync | None) -> None:
    with RedisServer(appendfsync=appendfsync) as server:
        async with opened(server.url, prefix="x:") as one, opened(server.url, prefix="x:") as other:
            assert one.incarnation == other.incarnation
            await fill(one, 1)
            await other.probe()
            server.kill()
            for store in (one, other):
                with pytest.raises(Unavailable):
                    await store.heads([CONV])
            await asyncio.to_thread(server.start)
            for store in (one, other, one):
                with pytest.raises(StoreBroken, match="new name"):
                    await store.commit([draft(2)], [])
            before = one.incarnation
        async with opened(server.url, prefix="x:") as again, opened(server.url, prefix="x:") as beside:
            assert before != again.incarnation == beside.incarnation
            assert await again.find(CONV, "alice", uuid(2)) is None
            await fill(again, 1, first=2)


async def test_a_server_that_is_started_and_silent_is_unavailable(own: RedisServer) -> None:
    async with opened(own.url, prefix="x:", timeout_s=0.2) as store:
        await fill(store, 1)
        own.kill()
        await asyncio.to_thread(own.start)
        own.pause()
        with pytest.raises(Unavailable):
            await store.heads([CONV])
        own.resume()
        assert await store.heads([CONV]) == {CONV: 1}


async def test_a_server_that_keeps_its_word_goes_on_with_its_history(own: RedisServer) -> None:
    async with opened(own.url, prefix="x:", connections_max=1) as store:
        await fill(store, 1)
        own.stop()
        await asyncio.to_thread(own.start)
        await fill(store, 1, first=2)
        async with opened(own.url, prefix="x:") as beside:
            assert beside.incarnation == store.incarnation


async def test_data_of_another_version_are_left_alone(chatd_redis: RedisServer) -> None:
    async with opened(chatd_redis.url) as store:
        await admin(store, "HSET", store.engine.key("=life", "life"), "format", "9")
        with pytest.raises(StartError, match="are of format 9"):
            await RedisStore(redis_settings(chatd_redis.url, store.engine.prefix)).open()


@pytest.mark.parametrize(
    "url", ["127.0.0.1:6379", "http://127.0.0.1/", "redis://127.0.0.1:port/0", "redis://127.0.0.1/0?x=1"]
)
def test_a_url_that_is_none_is_said_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.redis_url: "):
        RedisStore(redis_settings(url))
