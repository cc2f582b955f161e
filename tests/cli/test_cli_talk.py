"""Two people talk: ``chatd chat`` in terminals and over pipes, ``send``, ``tail``."""

from __future__ import annotations

import json
import re
import signal

from cli_rig import Place

from chatd.client import Client


async def test_the_readme_two_terminals_and_nothing_else(place: Place) -> None:
    async with place.serving() as server:
        alice = await place.start_in_terminal("chat", f"alice@{server.url}", "--to", "bob")
        bob = await place.start_in_terminal("chat", f"bob@{server.url}", "--to", "alice")
        async with alice, bob:
            for one, name in ((alice, "alice"), (bob, "bob")):
                await one.until(f"Password of {name}: ")
                await one.type(f"the secret of {name}")
                await one.until(f"To create {name}, type it once more")
                await one.type(f"the secret of {name}")
                await one.until(f"connected as {name}")
            assert "the secret" not in alice.said
            await alice.type("hi bob")
            await bob.until(r"\d\d:\d\d alice: hi bob\r\n")
            await alice.until('✓ bob: "hi bob"')
            await alice.until('✓✓ read bob: "hi bob"')
            await bob.type("hi yourself")
            await alice.until(r"\d\d:\d\d bob: hi yourself\r\n")
            await bob.type("/quit")
            assert await bob.end() == 0
            await alice.type("\x04")  # ^D, the end of the input
            assert await alice.end() == 0
        again = await place.start_in_terminal("chat", f"alice@{server.url}")
        async with again:
            await again.until("connected as alice")
            assert "Password" not in again.said
            assert await again.end(signal.SIGINT) == 130
            assert "Traceback" not in again.said


async def test_ticks_over_pipes_and_the_commands(place: Place) -> None:
    async with place.serving() as server:
        place.env["CHATD_PASSWORD"] = "a common password"
        bob_url = f"bob@{server.url}"
        assert (await place.run("chat", bob_url, "--register", given="/help\n")).code == 0
        async with await place.start("chat", f"alice@{server.url}", "--register") as alice:
            await alice.until("connected as alice")
            await alice.type("to nobody")
            await alice.until("✗ to whom")
            await alice.type("/to bob")
            await alice.until("you write to bob")
            await alice.type("one")
            await alice.until('✓ bob: "one"')
            async with await place.start("tail", bob_url, "--json") as tail:
                assert json.loads((await tail.until(r"\{.*\}\n"))[0])["body"] == "one"
                await alice.until('✓✓ bob: "one"')
                assert await tail.end(signal.SIGINT) == 130
            await alice.type("//slash \x1b[2Jclear")
            await alice.until("✓ bob: ")
            async with await place.start("chat", bob_url) as bob:
                await bob.until(r"alice: /slash \\x1b\[2Jclear\n")  # no escape reaches the terminal
                await bob.until("you write to alice")  # who writes first is answered
                await bob.until("alice is online")
                await alice.until("✓✓ read bob: ")
                await bob.type("two")
                await alice.until("bob: two")
                await bob.type("/history 2")
                await bob.until(r"alice: /slash.*\n.*bob → alice: two\n")
                await bob.type("/list")
                await bob.until('alice  0 unread  "two"')
                await bob.until("0 unread in all")
                await bob.type("/dance")
                await bob.until("/dance is no command")
                bob.end_input()
                assert await bob.end() == 0
            await alice.type("/to stranger")
            await alice.type("anybody?")
            await alice.until('✗ stranger: "anybody\\?" was not sent: there is no user stranger')
            alice.end_input()
            assert await alice.end() == 0


async def test_a_peer_who_types_and_leaves_is_seen_to(place: Place) -> None:
    place.env |= {
        "CHATD_PASSWORD": "a common password",
        "CHATD_PRESENCE_GRACE_S": "0",
        "CHATD_PRESENCE_INTERVAL_S": "0.1",
    }
    async with place.serving() as server:
        assert (await place.run("chat", f"alice@{server.url}", "--register")).code == 0
        async with (
            await Client.login(server.url, "bob", "a common password", register=True) as bob,
            await place.start("chat", f"alice@{server.url}", "--to", "bob") as alice,
        ):
            await alice.until("connected as alice")
            sent = await (await bob.send("alice", "hi")).sent()
            # Both, in either order: a message that came after the word of his typing would end it.
            await alice.until(r"bob is online(.|\n)*bob: hi|bob: hi(.|\n)*bob is online")
            bob.typing(sent.conv)
            await alice.until("bob is typing …")
            bob.status("away")
            await alice.until("bob is away")
            await bob.close()
            await alice.until(r"bob is offline, last seen \d\d:\d\d")


async def test_what_is_written_while_the_server_is_away_is_kept_and_arrives(place: Place) -> None:
    async with place.serving() as server:
        place.env["CHATD_PASSWORD"] = "a common password"
        for name in ("alice", "bob"):
            assert (await place.run("chat", f"{name}@{server.url}", "--register")).code == 0
        port = server.url.rpartition(":")[2]
        async with await place.start("chat", f"alice@{server.url}", "--to", "bob") as alice:
            await alice.until("connected as alice")
            assert await server.end(signal.SIGTERM) == 0
            await alice.until("not connected: .*; trying again, what you write is kept")
            await alice.type("into the void")
            await alice.type("/list")  # answered after the message was taken
            await alice.until("✗ no answer")
            assert await alice.end(signal.SIGKILL) == -signal.SIGKILL
    late = await place.run("send", f"alice@{server.url}", "bob", "second", "--timeout", "0.5")
    assert late.code == 1
    assert "not sent after 0.5 s; it is kept" in late.err
    async with place.serving("--port", port) as server:
        async with await place.start("chat", f"alice@{server.url}") as alice:
            await alice.until("2 messages of last time still unsent")
            await alice.until("alice → bob: into the void")
            await alice.until("alice → bob: second")
        async with await place.start("tail", f"bob@{server.url}") as tail:
            await tail.until(r"alice: into the void\n.*alice: second\n")


async def test_send_waits_for_what_it_is_asked_to(place: Place) -> None:
    async with place.serving() as server:
        place.env["CHATD_PASSWORD"] = "a common password"
        assert (await place.run("chat", f"bob@{server.url}", "--register")).code == 0
        alice = f"alice@{server.url}"
        late = await place.run(
            "send", alice, "bob", "-", "--register", "--wait", "delivered", "--timeout", "1", given="a\nb\n"
        )
        assert late.code == 1
        assert late.err.endswith("chatd: sent, not yet delivered after 1 s\n")
        async with await place.start("chat", f"bob@{server.url}") as bob:
            await bob.until(r"alice: a\\nb\n")
            read = await place.run("send", alice, "bob", "second", "--wait", "read")
            assert (read.code, read.out) == (0, "✓✓ read bob 2\n")
        refused = await place.run("send", alice, "nobody", "third")
        assert (refused.code, refused.err) == (1, "chatd: there is no user nobody\n")


async def test_who_is_not_let_in_is_told_in_one_line(place: Place) -> None:
    async with place.serving() as server:
        alice = f"alice@{server.url}"
        new = ("chat", alice, "--password-stdin", "--register")
        assert (await place.run(*new, given="alicealice\n")).code == 0
        other = ("--state", "other.db", "--password-stdin")
        wrong = await place.run("chat", alice, *other, given="not that one\n")
        assert (wrong.code, wrong.err.count("\n")) == (1, 1)
        assert "wrong user name or password; --register creates alice" in wrong.err
        taken = await place.run("chat", alice, *other, "--register", given="not that one\n")
        assert taken.code == 1
        assert "this name is taken; if it is yours, the password is wrong" in taken.err
        bad_token = await place.run("tail", alice, "--state", "other.db", "--token", "x" * 43)
        assert (bad_token.code, bad_token.err.count("\n")) == (1, 1)
        assert "start again to log in" in bad_token.err
        # The bad token is forgotten: the next start asks again.
        asked = await place.run("tail", alice, "--state", "other.db")
        assert asked.code == 1
        assert "no terminal to ask for a password" in asked.err
        async with await place.start("chat", alice) as chat:
            await chat.until("connected as alice")
            second = await place.run("send", alice, "alice", "note")
            assert second.code == 3
            assert re.search(r"another client uses it; .*--state FILE\n$", second.err)


async def test_what_cannot_be_meant_is_a_usage_error(place: Place) -> None:
    for target in ("alice", "alice@example.org", "@http://127.0.0.1:1", "Alice@http://127.0.0.1:1", "alice@ftp://x"):
        failed = await place.run("chat", target)
        assert failed.code == 2
        assert "USER@URL" in failed.err
    unreachable = await place.run("send", "alice@http://127.0.0.1:1", "bob", "x", "--password-stdin", given="p\n")
    assert unreachable.code == 1
    assert unreachable.err.startswith("chatd: http://127.0.0.1:1: ")
    assert "is the server running there?" in unreachable.err
