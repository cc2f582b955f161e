"""``chatd serve``: what a self-hoster meets first, and how a server begins and ends."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sqlite3
import stat

import aiohttp
import pytest
from cli_rig import WAIT_S, Place


async def test_it_tells_where_it_is_and_answers_there(place: Place) -> None:
    async with place.serving() as server:
        assert f"data          {place.data}\n" in server.said
        assert "registration  open" in server.said
        assert f"chat alice@{server.url} --to bob\n" in server.said
        assert f"chat bob@{server.url} --to alice\n" in server.said
        async with aiohttp.ClientSession() as session, session.get(f"{server.url}/readyz") as response:
            assert response.status == 200
    assert stat.S_IMODE(place.data.stat().st_mode) == 0o700


async def test_a_second_server_on_the_same_data_names_the_first(place: Place) -> None:
    async with place.serving() as server:
        second = await place.run("serve", "--port", "0")
        assert second.code == 3
        assert f"in use by process {server.process.pid}" in second.err
        assert second.err.count("\n") == 1
        assert second.out == ""


async def test_a_busy_port_is_told(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed = await place.run("serve", "--port", str(port))
    assert failed.code == 3
    assert f"cannot listen on 127.0.0.1:{port}" in failed.err
    assert "--port" in failed.err
    assert [line for line in failed.err.splitlines() if not line.startswith("{")] == [failed.err.splitlines()[-1]]


async def test_a_file_that_is_no_database_is_told(place: Place) -> None:
    place.data.mkdir()
    (place.data / "chatd.db").write_bytes(b"certainly no database, and long enough to look like one" * 100)
    failed = await place.run("serve", "--port", "0")
    assert failed.code == 3
    assert "chatd: data/chatd.db: " in failed.err
    assert failed.err.count("\n") == 1


async def test_sigterm_ends_it_with_0_and_what_was_sent_is_there_afterwards(place: Place) -> None:
    async with place.serving() as server:
        assert (await place.run("user", "add", "bob", "--no-password")).code == 0
        sent = await place.run(
            "send", f"alice@{server.url}", "bob", "still there?", "--register", "--password-stdin", given="alicealice\n"
        )
        assert (sent.code, sent.out) == (0, "✓ bob 1\n")
        assert await server.end(signal.SIGTERM) == 0
    with sqlite3.connect(place.data / "chatd.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    async with place.serving() as server:
        token = (await place.run("token", "issue", "bob")).out.strip()
        async with await place.start("tail", f"bob@{server.url}", "--token", token) as tail:
            await tail.until(r"\d\d:\d\d alice: still there\?\n")


async def test_ctrl_c_ends_it_with_0(place: Place) -> None:
    async with place.serving() as server:
        assert await server.end(signal.SIGINT) == 0
        assert "Traceback" not in server.said


async def test_a_second_signal_does_not_wait_for_the_clients(place: Place) -> None:
    async with place.serving() as server:
        host, port = server.url.removeprefix("http://").split(":")
        url = f"{server.url}/v1/ws"
        async with aiohttp.ClientSession() as session, session.ws_connect(url, protocols=("chatd.v1",)):
            # This client reads nothing, so it never answers the close, and the drain would wait for it.
            server.process.send_signal(signal.SIGTERM)
            await _refused(host, int(port))
            assert await server.end(signal.SIGTERM) == 1


async def _refused(host: str, port: int) -> None:
    """Wait until the server listens no more: it is draining."""
    while True:
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) != 0:
                return


async def test_the_first_administrator_comes_in_by_the_link_and_the_next_by_an_invite(place: Place) -> None:
    place.env["CHATD_ACCOUNTS_REGISTRATION"] = "invite"
    async with place.serving() as server:
        link = re.search(rf"{server.url}/join#(\S+)\n", server.said)
        assert link is not None
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{server.url}/join") as page:
                assert page.status == 200
            root = {"user": "root", "password": "rootrootroot", "invite": link[1]}
            async with session.post(f"{server.url}/v1/register", json=root) as answer:
                assert answer.status == 201
            async with session.post(f"{server.url}/v1/register", json={**root, "user": "late"}) as answer:
                assert answer.status == 403
        users = await place.run("user", "list")
        assert re.fullmatch(r"root  \S+  admin\n", users.out)
        invite = await place.run("user", "invite", "--hours", "1")
        assert f"/join#{invite.out.strip()}" in invite.err
        alice = ("send", f"alice@{server.url}", "root", "hello", "--password-stdin")
        refused = await place.run(*alice, "--register", given="alicealice\n")
        assert refused.code == 1
        assert "registration is by invite" in refused.err
        sent = await place.run(*alice, "--invite", invite.out.strip(), given="alicealice\n")
        assert (sent.code, sent.out) == (0, "✓ root 1\n")
    async with place.serving() as server:
        assert "/join" not in server.said


async def test_where_registration_is_closed_the_first_administrator_is_made_by_hand(place: Place) -> None:
    place.env["CHATD_ACCOUNTS_REGISTRATION"] = "closed"
    async with place.serving() as server:
        assert "user add NAME --admin" in server.said
        assert "/join" not in server.said
        assert (await place.run("user", "add", "root", "--admin", "--password-stdin", given="rootroot\n")).code == 0


async def test_a_log_line_is_json_where_nobody_sits(place: Place) -> None:
    async with place.serving() as server:
        assert await server.end(signal.SIGTERM) == 0
    assert re.search(r'^\{.*"event":"store_opened".*\}$', server.said, re.MULTILINE)


@pytest.mark.parametrize("abstract", [False, True])
async def test_systemd_is_told_once_when_it_serves(place: Place, abstract: bool) -> None:
    path = str(place.directory / "notify")
    place.env["NOTIFY_SOCKET"] = f"@{path}" if abstract else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{path}" if abstract else path)
        systemd.settimeout(WAIT_S)
        async with await place.start("serve", "--port", "0") as server:
            assert await asyncio.to_thread(systemd.recv, 100) == b"READY=1"
            url = (await server.until(r"serves on (https?://\S+)\n"))[1]
            assert (await place.run("health", "--url", url)).out == "ready\n"
            assert await server.end(signal.SIGTERM) == 0
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(100)


async def test_that_nobody_can_be_told_ends_nothing(place: Place) -> None:
    place.env["NOTIFY_SOCKET"] = str(place.directory / "none")
    async with place.serving() as server:
        await server.until("not_notified")
        assert (await place.run("health", "--url", server.url)).out == "ready\n"
