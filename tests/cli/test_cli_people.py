"""``chatd export`` and ``chatd erase``, with a server and without."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import resource
import stat
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cli_rig import Place

from chatd import protocol
from chatd.client import Client
from chatd.client.events import GoneEvent
from chatd.newfile import new_file
from chatd.settings import StoreSettings
from chatd.store.conformance.kit import draft, fill, say
from chatd.store.redis import RedisStore
from chatd.store.sqlite import SqliteStore
from chatd.testing.redis_server import RedisServer

SECRET = "a text that nobody else wrote"


async def _made(place: Place) -> dict[str, str]:
    """alice, bob and carol, with tokens; alice and bob talked."""
    assert (await place.run("init")).code == 0
    for user in ("alice", "bob", "carol"):
        assert (await place.run("user", "add", user, "--no-password")).code == 0
    store = SqliteStore(place.data, StoreSettings())
    await store.open()
    await say(store, draft(1, body=SECRET), draft(2, sender="bob", body="mine"), draft(3, body=f"{SECRET} again"))
    await fill(store, 700, first=10, conv="alice:carol", sender="carol")
    await store.block("alice", "carol", on=True)
    await store.close()
    return {user: (await place.run("token", "issue", user)).out.strip() for user in ("alice", "bob")}


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def _exported(place: Place) -> None:
    done = await place.run("export", "alice")
    assert done.code == 0, done.err
    lines = _lines(done.out)
    kinds = [line["type"] for line in lines]
    assert kinds[:3] == ["account", "device", "block"]
    assert lines[-1] == {"type": "end", "conversations": 2, "messages": 703}
    assert kinds.count("message") == 703
    assert "password_hash" not in lines[0]
    talk = [line for line in lines if line.get("conv") == "alice:bob"]
    assert [line["type"] for line in talk] == ["conversation", "message", "message", "message"]
    assert [(one["seq"], one["from"], one["body"]) for one in talk[1:]] == [
        (1, "alice", SECRET),
        (2, "bob", "mine"),
        (3, "alice", f"{SECRET} again"),
    ]
    assert talk[0]["head"] == 3


async def _to_a_file(place: Place) -> None:
    done = await place.run("export", "alice", "alice.jsonl")
    assert (done.code, done.out) == (0, "")
    path = place.directory / "alice.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(_lines(path.read_text("utf-8"))) == 703 + 2 + 4
    again = await place.run("export", "alice", "alice.jsonl")
    assert (again.code, again.err) == (
        3,
        "chatd: alice.jsonl is there already and stays as it is; name another file\n",
    )
    nobody = await place.run("export", "nobody", "nobody.jsonl")
    assert (nobody.code, nobody.err) == (1, "chatd: no such user\n")
    assert not list(place.directory.glob("nobody*"))


def _bytes_of(place: Place) -> bytes:
    return b"".join(path.read_bytes() for path in place.data.iterdir() if path.is_file())


async def _erased(place: Place) -> None:
    assert SECRET.encode() in _bytes_of(place)
    unsure = await place.run("erase", "alice")
    assert unsure.code == 1
    assert "--yes" in unsure.err
    done = await place.run("erase", "alice", "--yes")
    assert (done.code, done.out, done.err) == (0, "alice is erased, with the text of 2 messages.\n", "")
    assert SECRET.encode() not in _bytes_of(place)
    again = await place.run("erase", "alice", "--yes")
    assert (again.code, again.out) == (0, "alice is erased, with the text of 0 messages.\n")
    taken = await place.run("user", "add", "alice", "--no-password")
    assert (taken.code, taken.err) == (1, "chatd: this name is taken\n")
    nobody = await place.run("erase", "nobody", "--yes")
    assert (nobody.code, nobody.err) == (1, "chatd: no such user, and there never was\n")
    assert (await place.run("export", "alice")).code == 1


async def test_while_no_server_runs(place: Place) -> None:
    await _made(place)
    await _exported(place)
    await _to_a_file(place)
    await _erased(place)


async def test_while_the_server_runs(place: Place) -> None:
    tokens = await _made(place)
    async with place.serving() as server:
        await _exported(place)
        async with await place.start("chat", f"alice@{server.url}", "--token", tokens["alice"]) as chat:
            await chat.until("connected as alice")
            await _erased(place)
            assert await chat.end() == 1
        assert "revoked" in chat.said.splitlines()[-1]
        headers = {"Authorization": f"Bearer {tokens['bob']}"}
        async with aiohttp.ClientSession(headers=headers) as http:
            async with http.get(f"{server.url}/v1/conversations/alice:bob/messages") as answer:
                page = protocol.decode_server(await answer.read())
            assert isinstance(page, protocol.Messages)
            assert [(e.seq, e.gone, e.body) for e in page.messages] == [
                (1, "deleted", None),
                (2, None, "mine"),
                (3, "deleted", None),
            ]
            draft_ = {"id": protocol.new_message_id(), "to": "alice", "body": "are you there?"}
            async with http.post(f"{server.url}/v1/messages", json=draft_) as answer:
                assert answer.status == 404


def test_a_full_disk_names_the_file_and_nothing_stays(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # EFBIG, which a write meets as it does ENOSPC
    try:
        with pytest.raises(OSError, match=r"x\.part") as told, new_file(tmp_path / "x") as (out, _):
            out.write(b"x" * 1_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


async def test_a_full_disk_behind_standard_output_is_one_line(place: Place) -> None:
    await _made(place)
    for verb in (("export", "alice"), ("user", "list")):
        full = os.open("/dev/full", os.O_WRONLY)
        process = await asyncio.create_subprocess_exec(
            *place.program, *verb, cwd=place.directory, env=place.env, stdout=full, stderr=asyncio.subprocess.PIPE
        )
        os.close(full)
        told = (await process.communicate())[1].decode()
        assert (process.returncode, told) == (1, "chatd: No space left on device\n")


async def test_with_redis(place: Place, chatd_redis: RedisServer) -> None:
    """The command opens the store itself; where it writes its files anew, it says so."""
    assert (await place.run("init")).code == 0
    place.env |= {"CHATD_STORE_KIND": "redis", "CHATD_STORE_REDIS_URL": chatd_redis.url}
    place.env |= {"CHATD_STORE_REDIS_PREFIX": "people:"}
    for user in ("alice", "bob"):
        assert (await place.run("user", "add", user, "--no-password")).code == 0
    store = RedisStore(StoreSettings(kind="redis", redis_url=chatd_redis.url, redis_prefix="people:"))
    await store.open()
    await say(store, draft(1, body=SECRET), draft(2, sender="bob", body="mine"))
    await store.close()
    lines = _lines((await place.run("export", "alice")).out)
    assert [line.get("body") for line in lines if line["type"] == "message"] == [SECRET, "mine"]
    done = await place.run("erase", "alice", "--yes")
    assert (done.code, done.out) == (0, "alice is erased, with the text of 1 messages.\n")
    assert re.fullmatch(r"Redis (writes its \S.* anew, and has|did not write its files anew)[^\n]*\n", done.err), (
        done.err
    )
    assert (await place.run("export", "alice")).err == "chatd: no such user\n"
    lines = _lines((await place.run("export", "bob")).out)
    assert [(line["seq"], line.get("gone")) for line in lines if line["type"] == "message"] == [
        (1, "deleted"),
        (2, None),
    ]


async def test_a_device_that_lacks_them_goes_on_behind_the_places(place: Place) -> None:
    tokens = await _made(place)
    assert (await place.run("erase", "alice", "--yes")).code == 0
    async with place.serving() as server, Client(server.url, token=tokens["bob"], user="bob") as client:
        gone = []
        async with asyncio.timeout(20):
            async for event in client.events():
                if isinstance(event, GoneEvent):
                    gone.append((event.seq, event.gone))
                if len(gone) == 2:
                    break
        assert gone == [(1, "deleted"), (3, "deleted")]
