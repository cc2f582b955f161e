"""The verbs of administration, over the socket of a running server and straight on a store: one table, one result."""

from __future__ import annotations

import asyncio
import re
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from chatd import admin
from chatd.accounts import Accounts
from chatd.app import Server
from chatd.errors import BadFrame, Forbidden, NotFound, Refusal, StartError, Unavailable, Unsupported
from chatd.passwords import Passwords
from chatd.settings import Settings
from chatd.store.memory import MemoryStore

T0 = 1_700_000_000_000
Run = Callable[..., Awaitable[Any]]


@pytest.fixture
async def administered() -> AsyncIterator[admin.Administered]:
    passwords = Passwords(time_cost=1, memory_kib=8)
    server = Server(Settings(), store=MemoryStore(), passwords=passwords, now_ms=lambda: T0)
    await server.open()
    yield server.administered
    await server.stop()
    passwords.close()


@pytest.fixture
def accounts(administered: admin.Administered) -> Accounts:
    return administered.accounts


@pytest.fixture(params=["direct", "socket"])
async def run(request: pytest.FixtureRequest, administered: admin.Administered, tmp_path: Path) -> AsyncIterator[Run]:
    """Runs a verb with arguments by name, in both ways."""
    if request.param == "direct":
        yield lambda verb, **args: admin.run(administered, verb, args)
        return
    path = tmp_path / admin.SOCKET_NAME
    async with admin.serving(administered, path):
        yield lambda verb, **args: admin.call(path, verb, args)


async def test_the_life_of_a_user(run: Run, accounts: Accounts) -> None:
    assert await run("add_user", user="alice", password="correct horse", admin=True) is None
    assert await run("add_user", user="robot") is None
    token = await run("issue_token", user="robot", name="job", days=1)
    identity = await accounts.authenticate(token)
    assert await run("tokens", user="robot") == [
        {
            "user": "robot",
            "device": identity.device,
            "name": "job",
            "created_ms": T0,
            "expires_ms": T0 + 86_400_000,
        }
    ]
    assert await run("revoke", user="robot", device=identity.device) is None
    assert await run("tokens", user="robot") == []
    assert await run("set_password", user="robot", password="battery staple") is None
    assert await run("disable", user="robot") is None
    assert await run("list_users") == [
        {"user": "alice", "admin": True, "disabled": False, "has_password": True, "created_ms": T0},
        {"user": "robot", "admin": False, "disabled": True, "has_password": True, "created_ms": T0},
    ]
    assert await run("enable", user="robot") is None
    assert await run("delete_user", user="robot") is None
    assert [u["user"] for u in await run("list_users", after="alice")] == []
    invite = await run("create_invite", admin=False, hours=1)
    await accounts.register("bob", "correct horse", invite)
    assert await accounts.known("bob")


@pytest.mark.parametrize(
    ("verb", "args", "kind", "message"),
    [
        ("explode", {}, Unsupported, "unknown verb 'explode'"),
        ("login", {"user": "alice", "password": "x"}, Unsupported, "unknown verb"),
        ("add_user", {}, BadFrame, "add_user: Object missing required field `user`"),
        ("add_user", {"user": "bob", "shoe": 43}, BadFrame, "shoe"),
        ("add_user", {"user": 7}, BadFrame, "Expected `str`, got `int`"),
        ("add_user", {"user": "alice"}, Forbidden, "this name is taken"),
        ("disable", {"user": "nobody"}, NotFound, "no such user"),
    ],
)
async def test_a_refusal_arrives_as_itself(
    run: Run, verb: str, args: dict[str, Any], kind: type[Refusal], message: str
) -> None:
    await run("add_user", user="alice")
    with pytest.raises(kind) as refused:
        await run(verb, **args)
    assert type(refused.value) is kind
    assert message in refused.value.message


async def test_the_socket_is_the_owner_s_alone_and_goes_with_the_server(
    administered: admin.Administered, tmp_path: Path
) -> None:
    path = tmp_path / admin.SOCKET_NAME
    async with admin.serving(administered, path):
        mode = (await asyncio.to_thread(path.stat)).st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
    assert not await asyncio.to_thread(path.exists)
    with pytest.raises(Unavailable, match="no server answers"):
        await admin.call(path, "list_users", {})


async def test_a_socket_left_by_a_killed_server_is_replaced(administered: admin.Administered, tmp_path: Path) -> None:
    path = tmp_path / admin.SOCKET_NAME
    admin._bound(path).close()
    assert await asyncio.to_thread(path.is_socket)
    with pytest.raises(Unavailable):
        await admin.call(path, "list_users", {})
    async with admin.serving(administered, path):
        assert await admin.call(path, "list_users", {}) == []


async def test_a_verb_of_a_running_server_needs_one(run: Run) -> None:
    with pytest.raises(Unavailable, match="status: no server runs here"):
        await run("status")


async def test_processes_that_share_a_directory_have_a_socket_each_and_a_stale_one_is_replaced(
    administered: admin.Administered, tmp_path: Path
) -> None:
    directory = tmp_path / "made"
    async with admin.serving_beside(administered, directory, "admin-worker-0") as first:
        async with admin.serving_beside(administered, directory, "admin-worker-0") as second:
            assert first.name == "admin-worker-0.sock"
            assert re.fullmatch(r"admin-worker-0-[0-9a-f]{6}\.sock", second.name)
            assert await admin.ask(directory, "list_users", {}, timeout_s=5.0) == {first.name: [], second.name: []}
            assert await admin.ask(directory, "list_users", {}, timeout_s=5.0, but=first) == {second.name: []}
        assert admin.sockets(directory) == [first]
    assert admin.sockets(directory) == []
    admin._bound(directory / "admin.sock").close()  # as kill -9 leaves it
    assert await admin.ask(directory, "list_users", {}, timeout_s=5.0) == {}
    async with admin.serving_beside(administered, directory, "admin") as path:
        assert path.name == "admin.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_one_that_does_not_answer_is_told_from_one_that_is_not_there(
    administered: admin.Administered, tmp_path: Path
) -> None:
    hangs = admin._bound(tmp_path / "admin-hangs.sock")
    hangs.listen()
    with hangs:
        async with admin.serving_beside(administered, tmp_path, "admin"):
            answers = await admin.ask(tmp_path, "list_users", {}, timeout_s=0.2)
    assert answers["admin.sock"] == []
    assert isinstance(answers["admin-hangs.sock"], admin.Silent)
    assert "did not answer within 0.2 s" in str(answers["admin-hangs.sock"])


async def test_another_user_s_socket_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*args: object, **kwargs: object) -> None:  # root is never refused
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_connection", refused, raising=False)
    with pytest.raises(Forbidden, match="belongs to another user"):
        await admin.call(tmp_path / "admin.sock", "status", {})


async def test_a_directory_that_cannot_be_made_says_so(administered: admin.Administered, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="Not a directory"):
        async with admin.serving_beside(administered, tmp_path / "file" / "data", "admin"):
            pytest.fail("it cannot serve there")


async def test_a_body_that_is_no_call_is_refused(administered: admin.Administered, tmp_path: Path) -> None:
    path = tmp_path / admin.SOCKET_NAME
    connector = aiohttp.UnixConnector(str(path))
    async with admin.serving(administered, path), aiohttp.ClientSession(connector=connector) as session:
        for body in (b"", b"[]", b'{"verb": 1}', b"\xff"):
            async with session.post("http://chatd/call", data=body) as response:
                assert response.status == 400
                assert (await response.json())["code"] == "bad_frame"


async def test_a_path_that_no_socket_can_have_says_so(administered: admin.Administered, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="longer than the 103 bytes"):
        async with admin.serving(administered, tmp_path / ("x" * 120)):
            pytest.fail("it cannot serve there")
    with pytest.raises(StartError, match="No such file"):
        async with admin.serving(administered, tmp_path / "absent" / "s"):
            pytest.fail("it cannot serve there")
