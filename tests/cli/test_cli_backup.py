"""``chatd backup`` and ``chatd restore`` as an operator has them, with a server that runs and one that was killed."""

from __future__ import annotations

import signal
import stat

from cli_rig import Place


async def _made(place: Place) -> None:
    assert (await place.run("init")).code == 0
    for user in ("alice", "bob"):
        assert (await place.run("user", "add", user, "--no-password")).code == 0


async def test_backup_while_it_runs_kill_and_serve_the_copy(place: Place) -> None:
    await _made(place)
    alice, bob = [(await place.run("token", "issue", user)).out.strip() for user in ("alice", "bob")]
    async with place.serving() as server:
        told = await place.run("send", f"alice@{server.url}", "bob", "kept", "--token", alice)
        assert told.code == 0, told.err
        made = await place.run("backup", "copy")
        assert made.code == 0, made.err
        assert made.out.startswith("copy: 2 users, 1 conversations, 1 messages. Put it back with ")
        again = await place.run("backup", "copy")
        assert again.code == 3
        assert again.err == "chatd: copy is there already and stays as it is; name another file\n"
        assert await server.end(signal.SIGKILL) == -signal.SIGKILL
    assert stat.S_IMODE((place.directory / "copy").stat().st_mode) == 0o600
    back = await place.run("restore", "copy", "--data-dir", "elsewhere", "--verify")
    assert back.code == 0, back.err
    elsewhere = place.directory / "elsewhere"
    assert back.out.splitlines()[0] == (
        f"{elsewhere}: 2 users, 1 conversations, 1 messages; "
        "checksum, counts, indexes and messages are right, and the history has a new name."
    )
    assert f'data_dir = "{elsewhere}"' in (elsewhere / "chatd.toml").read_text()
    async with (
        place.serving("--data-dir", "elsewhere") as server,
        await place.start("tail", f"bob@{server.url}", "--token", bob) as tail,
    ):
        await tail.until("kept")
    twice = await place.run("restore", "copy", "--data-dir", "elsewhere")
    assert twice.code == 3
    assert f"{elsewhere} is not empty" in twice.err


async def test_what_cannot_be_is_said_in_one_line(place: Place) -> None:
    failed = await place.run("backup", "copy")
    assert (failed.code, failed.err) == (
        3,
        "chatd: no chatd.db in data: name the data directory of the server with --data-dir\n",
    )
    place.env |= {"CHATD_STORE_KIND": "redis"}
    failed = await place.run("backup", "copy")
    assert failed.code == 1
    assert failed.err.startswith("chatd: store.kind is redis: its messages are Redis' to back up")
    missing = await place.run("restore", "copy")
    assert (missing.code, missing.err) == (1, "chatd: copy: No such file or directory\n")
    (place.directory / "text").write_text("no backup")
    wrong = await place.run("restore", "text")
    assert (wrong.code, wrong.err) == (3, "chatd: text is no backup, or its end is missing: take another one\n")
    assert not place.data.exists()


async def test_a_pipe_and_a_name_with_spaces(place: Place) -> None:
    await _made(place)
    failed = await place.run("backup", "-")
    assert failed.code == 1
    assert failed.err.endswith("a pipe has none: name a file\n")
    done = await place.run("backup", "a copy")
    assert "restore 'a copy' --data-dir DIR`" in done.out
    assert "serve --data-dir '" in (await place.run("restore", "a copy", "--data-dir", "an other")).out
    assert not (place.directory / "-").exists()


async def test_a_place_that_cannot_be_written_is_said_in_one_line(place: Place) -> None:
    await _made(place)
    failed = await place.run("backup", "no/such/place")
    assert (failed.code, failed.err) == (1, "chatd: no/such/place.part: No such file or directory\n")
