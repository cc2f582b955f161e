"""What a real server logs of friends and foes: no secret, no forged line, and each foe by its address."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from misdeeds import SPOOFED, Canaries, Story, tell

from chatd.security import EVENTS

ROOT = Path(__file__).parent.parent.parent
FAIL2BAN = ROOT / "config" / "fail2ban"
PLAIN_START = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[(\w+) *\] (\S+)")


@pytest.fixture(scope="module", params=["json", "console"])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Story:
    return asyncio.run(tell(tmp_path_factory.mktemp("server"), request.param))


def lines_of(story: Story) -> list[str]:
    """The log, without what the server says to its operator at the start."""
    return [line for line in story.printed.splitlines() if line.startswith("{") or PLAIN_START.match(line)]


@pytest.mark.slow
def test_no_token_password_or_body_is_printed(story: Story) -> None:
    printed = re.sub(r"/join#\S+|--invite \S+", "", story.printed)
    assert story.canaries.found_in(printed) == {}
    assert len(story.canaries.all) > 25


@pytest.mark.slow
def test_what_failed_is_there_with_its_traceback_and_ids(story: Story) -> None:
    for event in ("request_failed", "receive_failed", "frame_failed", "fan_out_failed", "token_refused"):
        assert event in story.printed
    assert story.printed.count("RuntimeError: a fault that nobody foresaw") == 2
    if story.printed.startswith("{"):
        rows = [json.loads(line) for line in lines_of(story)]
        (failed,) = [row for row in rows if row["event"] == "frame_failed"]
        joined = [row for row in rows if row["event"] == "connected" and row["connection"] == failed["connection"]]
        assert [row["user"] for row in joined] == [failed["user"]] == ["alice"]
        (request,) = [row for row in rows if row["event"] == "request_failed"]
        assert any(row["event"] == "request" and row["request"] == request["request"] for row in rows)


@pytest.mark.slow
def test_each_foe_is_named_by_its_event_and_nobody_else_is(story: Story) -> None:
    blamed: dict[str, set[str]] = {}
    for line in lines_of(story):
        if found := re.search(r'(\w+)(?:","address":"|\s+address=)([\d.]+)', line):
            blamed.setdefault(found[1], set()).add(found[2])
    assert len(story.foes) > 5
    for address, event in story.foes.items():
        assert address in blamed[event], event
    hostile = {name for name, event in EVENTS.items() if event.hostile} - {"rate_limited"}
    assert not story.friends & set().union(*(blamed.get(name, set()) for name in hostile))
    assert {"logged_in", "registered", "device_revoked"} <= blamed.keys()
    assert not any(SPOOFED in found for found in blamed.values())
    told = {line for line in EVENTS if any(line in row for row in lines_of(story))}
    assert {"admin_create_invite", "admin_set_password", "admin_issue_token", "admin_disable"} <= told


@pytest.mark.slow
def test_no_text_of_a_client_ends_a_line_or_reaches_a_terminal(story: Story) -> None:
    assert "\x1b" not in story.printed
    assert "\u202e" not in story.printed
    for line in lines_of(story):
        if line.startswith("{"):
            row: dict[str, Any] = json.loads(line)
            assert list(row)[:3] == ["timestamp", "level", "event"]


def _fail2ban_regex(log: Path) -> str:
    command = ["fail2ban-regex", "--print-all-matched", str(log), str(FAIL2BAN / "filter.d" / "chatd.conf")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("front", ["", "Nov 24 20:59:09 host chatd[12]: "])
def test_fail2ban_finds_the_foes_and_nobody_else(story: Story, front: str, tmp_path: Path) -> None:
    log = tmp_path / "chatd.log"
    log.write_text("".join(f"{front}{line}\n" for line in story.printed.splitlines()))
    said = _fail2ban_regex(log)
    matched = said[said.index("Matched line(s)") :].splitlines()
    found = {re.search(r"address(?:\":\"|=)([\d.]+)", line)[1] for line in matched if "address" in line}  # type: ignore[index]
    banned = {"login_failed", "register_refused", "token_refused", "protocol_broken", "head_refused"}
    # Who was slowed down had guessed before that.
    assert found == {address for address, event in story.foes.items() if event in {*banned, "rate_limited"}}


@pytest.mark.slow
def test_fail2ban_takes_filter_and_jail(tmp_path: Path) -> None:
    shutil.copytree("/etc/fail2ban", tmp_path / "f2b")
    for part in ("filter.d", "jail.d"):
        shutil.copy(FAIL2BAN / part / "chatd.conf", tmp_path / "f2b" / part)
    (tmp_path / "f2b" / "jail.local").write_text("[sshd]\nenabled = false\n")
    said = subprocess.run(
        ["fail2ban-client", "-c", str(tmp_path / "f2b"), "-d"], check=True, capture_output=True, text=True
    ).stdout
    assert "['add', 'chatd', 'systemd']" in said
    assert "_SYSTEMD_UNIT=chatd.service" in said
    assert "['set', 'chatd', 'maxretry', 10]" in said


def test_a_canary_that_sings_is_heard_in_any_guise() -> None:
    canaries = Canaries()
    secret = canaries.grow("password")
    assert canaries.found_in("nothing") == {}
    for text in (f"x{secret}y", secret.encode().hex(), json.dumps({"a": secret})):
        assert canaries.found_in(text).keys() == {"password"}
