"""``chatd user`` and ``chatd token``, with a server and without: the same verbs, the same words."""

from __future__ import annotations

import json
import re
import time

import pytest
from cli_rig import Place


async def _life_of_a_user(place: Place) -> None:
    add = await place.run("user", "add", "alice", "--admin", "--password-stdin", given="alicealice\n")
    assert (add.code, add.out) == (0, "alice is there.\n")
    again = await place.run("user", "add", "alice", "--no-password")
    assert (again.code, again.err) == (1, "chatd: this name is taken\n")
    assert (await place.run("user", "add", "robot", "--no-password")).code == 0
    users = json.loads((await place.run("user", "list", "--json")).out)
    assert [(u["user"], u["admin"], u["has_password"]) for u in users] == [
        ("alice", True, True),
        ("robot", False, False),
    ]

    for verb, admin in (("promote", True), ("demote", False)):
        assert (await place.run("user", verb, "robot")).code == 0
        users = json.loads((await place.run("user", "list", "--json")).out)
        assert [u["admin"] for u in users] == [True, admin]
    missing = await place.run("user", "promote", "nobody")
    assert (missing.code, missing.err) == (1, "chatd: no such user\n")

    issued = await place.run("token", "issue", "robot", "--name", "job", "--days", "1")
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}\n", issued.out)
    (device,) = json.loads((await place.run("token", "list", "robot", "--json")).out)
    assert device["name"] == "job"
    assert re.fullmatch(
        rf"{device['device']}  \S+Z  until \S+Z  job\n", (await place.run("token", "list", "robot")).out
    )
    assert (await place.run("token", "revoke", "robot", device["device"])).code == 0
    twice = await place.run("token", "revoke", "robot", device["device"])
    assert (twice.code, twice.err) == (1, "chatd: no such device\n")

    assert (await place.run("user", "passwd", "alice", "--password-stdin", given="another one\n")).code == 0
    assert (await place.run("user", "disable", "alice")).code == 0
    assert re.search(r"alice .* admin, disabled\n", (await place.run("user", "list")).out)
    assert (await place.run("user", "enable", "alice")).code == 0
    unsure = await place.run("user", "delete", "alice")
    assert unsure.code == 1
    assert "--yes" in unsure.err
    assert (await place.run("user", "delete", "alice", "--yes")).code == 0
    assert "alice" not in (await place.run("user", "list")).out


async def test_while_no_server_runs(place: Place) -> None:
    assert (await place.run("init")).code == 0
    await _life_of_a_user(place)


async def test_while_the_server_runs(place: Place) -> None:
    async with place.serving():
        await _life_of_a_user(place)


async def test_without_a_data_directory_nothing_is_made_up(place: Place) -> None:
    failed = await place.run("user", "list")
    assert failed.code == 1
    assert "no data directory data" in failed.err
    assert not place.data.exists()


async def test_without_a_terminal_a_password_is_not_waited_for(place: Place) -> None:
    assert (await place.run("init")).code == 0
    failed = await place.run("user", "add", "alice")
    assert failed.code == 1
    assert "--password-stdin" in failed.err
    short = await place.run("user", "add", "alice", "--password-stdin", given="short\n")
    assert (short.code, short.err) == (1, "chatd: a password has 8 to 1024 characters\n")


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (("token", "revoke", "bob"), 1, "revoked"),
        (("user", "disable"), 1, "disabled"),
    ],
    ids=["revoke", "disable"],
)
async def test_an_open_socket_ends_within_5_s(place: Place, command: tuple[str, ...], code: int, told: str) -> None:
    async with place.serving() as server:
        assert (await place.run("user", "add", "bob", "--no-password")).code == 0
        token = (await place.run("token", "issue", "bob")).out.strip()
        (device,) = json.loads((await place.run("token", "list", "bob", "--json")).out)
        async with await place.start("chat", f"bob@{server.url}", "--token", token) as chat:
            await chat.until("connected as bob")
            last = device["device"] if command[0] == "token" else "bob"
            assert (await place.run(*command, last)).code == 0
            since_s = time.monotonic()
            assert await chat.end() == code
            assert time.monotonic() - since_s < 5
        assert told in chat.said.splitlines()[-1]
        assert "Traceback" not in chat.said
