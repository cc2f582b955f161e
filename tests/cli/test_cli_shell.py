"""The command line in a shell: what TAB completes, the manual page, ``chatd health``."""

from __future__ import annotations

import asyncio
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_rig import Place, Running

from chatd.testing.ports import free_port

ROOT = Path(__file__).parent.parent.parent
CALLED_CHATD = "import sys; sys.argv[0] = 'chatd'; from chatd.cli import main; main()"


@pytest.fixture
def installed(place: Place) -> Place:
    """A place where `chatd` is on the PATH."""
    program = place.directory / "bin" / "chatd"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{CALLED_CHATD}" "$@"\n')
    program.chmod(0o755)
    place.env |= {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PS1": "> ",
        "TERM": "dumb",
    }
    return place


async def _bash(place: Place) -> Running:
    """A bash that somebody types into."""
    path = shutil.which("bash")
    assert path is not None, "no bash: install it (Debian: apt-get install bash)"
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(path, "--norc", "--noprofile", "-i"),
            cwd=place.directory,
            env=place.env,
            preexec_fn=lambda: os.login_tty(theirs),
        )
    finally:
        os.close(theirs)
    return Running(process, ours)


async def test_tab_completes_verbs_options_and_choices_in_bash(installed: Place) -> None:
    async with await _bash(installed) as bash:
        await bash.type("source <(chatd completion bash); complete -p chatd")
        await bash.until(r"-F _chatd_completion chatd\r?\n")
        for typed, completed in (("chatd migr", "chatd migrate-store "), ("chatd user ad", "chatd user add ")):
            await bash.keys(f"{typed}\t")
            await bash.until(completed)
            await bash.keys("\x15")  # ^U: the line is empty again
        await bash.keys("chatd serve --allow-cl\t")
        await bash.until("chatd serve --allow-cleartext ")
        await bash.keys("\x15chatd completion z\t")
        await bash.until("chatd completion zsh ")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
async def test_the_other_shells_have_a_script_too(shell: str, place: Place) -> None:
    printed = await place.run("completion", shell)
    assert (printed.code, printed.err) == (0, "")
    assert f"_CHATD_COMPLETE={shell}_complete" in printed.out


async def test_a_shell_that_is_not_known_is_wrong_usage(place: Place) -> None:
    refused = await place.run("completion", "tcsh")
    assert refused.code == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in refused.err


def test_the_manual_page_is_clean_and_has_every_verb() -> None:
    groff = shutil.which("groff")
    assert groff is not None, "no groff: install it (Debian: apt-get install groff)"
    page = ROOT / "docs" / "chatd.1"
    shown = subprocess.run(
        [groff, "-man", "-ww", "-Tutf8", "-P-cbou", page], capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stderr == ""
    lines = [line.strip() for line in shown.stdout.splitlines()]
    told = (ROOT / "docs" / "operations.md").read_text("utf-8").partition("\n## Commands\n")[2]
    verbs = [line.split("`")[1] for line in told.splitlines() if line.startswith("| `chatd ")]
    assert len(verbs) > 20
    assert [verb for verb in verbs if not any(line == verb or line.startswith(f"{verb} ") for line in lines)] == []


async def test_health_tells_a_server_that_serves_from_one_that_does_not(place: Place) -> None:
    async with place.serving("--port", str(free_port())) as server:
        port = server.url.rpartition(":")[2]
        place.env["CHATD_SERVER_PORT"] = port
        good = await place.run("health")
        assert (good.code, good.out, good.err) == (0, "ready\n", "")
        assert (await place.run("health", "--url", server.url)).code == 0
        wrong = await place.run("health", "--url", f"{server.url}/nowhere")
        assert wrong.code == 1
        assert wrong.err.endswith("/nowhere: not ready: it answers 404\n")
    gone = await place.run("health")
    assert gone.code == 1
    assert gone.err.startswith(f"chatd: http://127.0.0.1:{port}: no answer: ")
    assert gone.err.count("\n") == 1
    place.env["CHATD_SERVER_PORT"] = "0"
    unknown = await place.run("health")
    assert unknown.code == 1
    assert "name the server with --url" in unknown.err
    assert (await place.run("health", "--url", "chat.example")).code == 2
