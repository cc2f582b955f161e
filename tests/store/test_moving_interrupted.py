"""A move that broke off goes on, and nothing is lost, doubled or left over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis
from moving_kit import opened
from moving_rig import Dies, Short, arriving, die_after, history, moved, redis_store, refused, same_future
from redis_backend import redis_settings

from chatd.errors import Unavailable
from chatd.migration import move
from chatd.store.conformance.kit import fill
from chatd.store.sqlite.leaving import SqliteSource
from chatd.testing.redis_server import RedisServer


async def test_interrupted_before_each_round_trip_and_used_in_between(tmp_path: Path, chatd_redis: RedisServer) -> None:
    """The server was even started again each time, and things came and went."""
    past, store = await history(tmp_path, 11)
    name, settings = store.incarnation, redis_settings(chatd_redis.url)
    trips, done = 0, None
    while done is None:
        async with arriving(settings) as target:
            die_after(target, trips)
            try:
                done = await move(SqliteSource(store), target)
            except Dies:
                if trips > 1:  # it was claimed
                    await refused(settings)
                trips += 1
                await past.grow(store, 6)
    assert not done.differences
    assert trips > 10
    async with redis_store(settings) as other:
        assert other.incarnation == name
        await same_future(past, store, other)
    await store.close()


async def test_what_a_run_wrote_the_next_one_does_not_write_again(tmp_path: Path, chatd_redis: RedisServer) -> None:
    store, settings = await opened(tmp_path), redis_settings(chatd_redis.url)
    await fill(store, 3_000)
    async with arriving(settings) as target:
        with pytest.raises(Dies):
            await move(SqliteSource(store), Short(target, batches=1))
    done = await moved(store, settings)
    assert done.copied == 2_000
    assert not done.differences
    await store.close()


async def test_ended_between_the_last_two_steps(tmp_path: Path, chatd_redis: RedisServer) -> None:
    store, settings = await opened(tmp_path), redis_settings(chatd_redis.url)
    await fill(store, 5)
    name = store.incarnation

    class Stays(SqliteSource):
        async def leave(self) -> None:
            raise Dies

    async with arriving(settings) as target:
        with pytest.raises(Dies):
            await move(Stays(store), target)
    again = await moved(store, settings)
    assert again.before
    assert again.copied == 0
    assert not again.differences
    async with redis_store(settings) as other:
        assert other.incarnation == name
        await fill(other, 1, first=9)
    await store.close()
    store = await opened(tmp_path)
    assert store.incarnation != name, "what is left behind is another history"
    await store.close()


async def test_both_were_used_after_the_move(tmp_path: Path, chatd_redis: RedisServer) -> None:
    store, settings = await opened(tmp_path), redis_settings(chatd_redis.url)
    await fill(store, 5)

    class Stays(SqliteSource):
        async def leave(self) -> None:
            """The process ended before."""

    async with arriving(settings) as target:
        await move(Stays(store), target)
    await fill(store, 1, first=7)
    again = await moved(store, settings)
    assert again.before
    assert again.differences == (
        "messages: 6 in the source, 5 in the target",
        "conversation alice:bob differs",
    )
    await store.close()


async def test_redis_that_was_started_again_meanwhile(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await fill(store, 5)
    with RedisServer(appendfsync="always") as server:
        settings = redis_settings(server.url)

        class Restarted(SqliteSource):
            async def rest(self) -> Any:
                server.stop()
                server.start()
                return await super().rest()

        async with arriving(settings) as target:
            done = None
            with pytest.raises(Exception, match="Redis"):
                done = await move(Restarted(store), target)
            assert done is None
        assert not (await moved(store, settings)).differences
    await store.close()


async def test_a_redis_that_is_full_is_told_and_with_room_it_goes_on(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    for first in range(1, 20_001, 10_000):
        await fill(store, 10_000, first=first)
    with RedisServer(options={"maxmemory": "3mb", "maxmemory-policy": "noeviction"}) as server:
        settings = redis_settings(server.url)
        with pytest.raises(Unavailable, match="maxmemory"):
            await moved(store, settings)
        with redis.Redis(port=server.port) as client:
            client.config_set("maxmemory", 0)
        done = await moved(store, settings)
        assert not done.differences
        assert 0 < done.copied < 20_000
    await store.close()
