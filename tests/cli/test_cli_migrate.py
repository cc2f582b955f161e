"""``chatd migrate-store`` as an operator has it: a real process, a real Redis, killed and run again."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import redis
from cli_rig import Place

from chatd.settings import StoreSettings
from chatd.store.conformance.kit import fill
from chatd.store.sqlite import SqliteStore
from chatd.testing.redis_server import RedisServer

MESSAGES = 30_000
BATCH = 1_000


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A Redis that one test has for itself."""
    with RedisServer(appendfsync="everysec") as server:
        yield server


async def filled(place: Place, messages: int) -> str:
    """A data directory with so many messages of alice and bob; its incarnation."""
    store = SqliteStore(place.data, StoreSettings(synchronous="normal"))
    await store.open()
    for first in range(1, messages + 1, BATCH):
        await fill(store, min(BATCH, messages + 1 - first), first=first)
    await store.close()
    return store.incarnation


async def test_a_server_goes_on_in_redis(place: Place, own: RedisServer) -> None:
    assert (await place.run("init")).code == 0
    added = await place.run("user", "add", "alice", "--password-stdin", given="correct horse\n")
    assert added.code == 0, added.err
    await filled(place, 10)
    done = await place.run("migrate-store", f"sqlite:{place.data}", own.url)
    assert done.code == 0
    assert done.err.splitlines() == [
        "copying: 0 of 10 messages",
        "copying: 10 of 10 messages",
        "comparing: 0 of 10 messages",
        "comparing: 10 of 10 messages",
    ]
    assert done.out.startswith(
        "Moved and equal on both sides: 1 users, 1 conversations, 10 messages (10 of them now) in "
    )
    assert done.out.endswith(" s. Durability of the target: os.\n")
    place.env |= {"CHATD_STORE_KIND": "redis", "CHATD_STORE_REDIS_URL": own.url}
    listed = await place.run("user", "list", "--data-dir", str(place.data))
    assert listed.out.startswith("alice "), listed.err


async def test_the_url_may_be_that_of_the_settings_and_the_path_that_of_the_file(
    place: Place, own: RedisServer
) -> None:
    await filled(place, 1)
    place.env |= {"CHATD_STORE_REDIS_URL": own.url, "CHATD_STORE_REDIS_PREFIX": "mine:"}
    done = await place.run("migrate-store", f"sqlite:{place.data}/chatd.db")
    assert done.code == 0, done.err
    with redis.Redis(port=own.port) as client:
        assert all(key.startswith(b"mine:") for key in client.scan_iter())


async def test_killed_in_the_middle_and_run_again(place: Place, own: RedisServer) -> None:
    incarnation = await filled(place, MESSAGES)
    log, life = "chatd:{alice:bob}:log", "chatd:{=life}:life"
    running = await place.start("migrate-store", f"sqlite:{place.data}", own.url)
    with redis.Redis(port=own.port, decode_responses=True, protocol=2) as client:
        async with running:
            await running.until("copying: 0 of")
            while client.xlen(log) == 0:
                assert running.process.returncode is None
            assert await running.end(signal.SIGKILL) == -signal.SIGKILL
        assert client.xlen(log) > 0
        assert client.hgetall(life) == {"format": "moving", "incarnation": incarnation}
        refused = await place.run("serve", "--port", "0", "--data-dir", str(place.data), config(place, own))
        assert refused.code == 3
        assert "half of a history is there: run `chatd migrate-store` to its end" in refused.err
        again = await place.run("migrate-store", f"sqlite:{place.data}", own.url)
        assert again.code == 0, again.err
        assert f" {MESSAGES} messages (" in again.out
        assert f"({MESSAGES} of them now)" not in again.out
        assert (client.xlen(log), client.hlen("chatd:{alice:bob}:ids")) == (MESSAGES, MESSAGES)
        assert client.hgetall(life) == {"format": "1", "incarnation": incarnation}


def config(place: Place, own: RedisServer) -> str:
    """The option that names a file with the target as the store."""
    path = place.directory / "redis.toml"
    path.write_text(f'[store]\nkind = "redis"\nredis_url = "{own.url}"\n')
    return f"--config={path}"


async def test_a_source_in_use_is_refused(place: Place, own: RedisServer) -> None:
    async with place.serving("--data-dir", str(place.data)) as server:
        refused = await place.run("migrate-store", f"sqlite:{place.data}", own.url)
        assert refused.code == 3
        assert refused.err == f"chatd: {place.data} is in use by process {server.process.pid}: stop it first\n"
    with redis.Redis(port=own.port) as client:
        assert client.dbsize() == 0


async def test_a_server_that_uses_the_target_is_left_alone(place: Place, own: RedisServer) -> None:
    await filled(place, 1)
    async with place.serving("--data-dir", str(place.data), config(place, own)):
        refused = await place.run("migrate-store", f"sqlite:{place.data}", own.url)
        assert refused.code == 3
        assert refused.err == (
            "chatd: the target is not empty: chatd has been using it; remove all keys that begin with 'chatd:', "
            "or take another store.redis_prefix\n"
        )


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("redis://127.0.0.1:1/0",), 2, "the source is sqlite:PATH"),
        (("sqlite:nowhere", "redis://127.0.0.1:1/0"), 3, "no chatd.db in nowhere"),
        (("sqlite:data", "redis://127.0.0.1:1/0"), 3, "chatd: the target: Redis cannot be reached"),
        (("sqlite:data", "http://127.0.0.1/"), 78, "chatd: store.redis_url: "),
    ],
)
async def test_what_cannot_be_is_said_in_one_line(args: tuple[str, ...], code: int, said: str, place: Place) -> None:
    await filled(place, 1)
    done = await place.run("migrate-store", *args)
    assert done.code == code
    assert said in done.err


async def test_redis_that_goes_away_ends_it_with_what_to_do(place: Place, own: RedisServer) -> None:
    await filled(place, MESSAGES)
    running = await place.start("migrate-store", f"sqlite:{place.data}", own.url)
    async with running:
        await running.until("copying: 0 of")
        own.kill()
        assert await running.end() == 1
    assert "run the same command again, and it goes on where it was" in running.said
    own.start()
    again = await place.run("migrate-store", f"sqlite:{place.data}", own.url)
    assert again.code == 0, again.err
