"""The shipped units under a systemd, installed with the lines of docs/operations.md."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine_rig import Machine, machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent.parent
URL = "http://127.0.0.1:8080"
HOW = ("ActiveState", "Result", "NRestarts", "ExecMainStatus")
ENDED = {"ActiveState": "inactive", "Result": "success", "NRestarts": "0", "ExecMainStatus": "0"}
BACK = "(?s)(?=.*NRestarts=1\n)(?=.*ActiveState=active\n)"
DATA = ("--data-dir", "/var/lib/chatd")
REDIS = """[Service]
Environment=CHATD_STORE_KIND=redis CHATD_CLUSTER_BUS_URL=redis://127.0.0.1:6379/0
"""


def _lines(heading: str) -> str:
    """The lines to be typed below a heading of the document, for somebody who is root already."""
    text = (ROOT / "docs" / "operations.md").read_text("utf-8").partition(heading)[2]
    found = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return re.sub(r"\bsudo ", "", found[1])


@pytest.fixture(scope="module")
def here(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine where it is installed, and serves."""
    with machine(tmp_path_factory.mktemp("machine"), made, "/srv/dist") as running:
        running.run("sh", "-ec", f"cd /srv\n{_lines('**The binary as a service**')}")
        yield running


def _chatd(here: Machine, *args: str, given: str = "") -> str:
    """A command as the document has them: by the service's user, on its directory."""
    return here.run("runuser", "-u", "chatd", "--", "chatd", *args, *DATA, given=given)


def _pid(here: Machine, unit: str) -> str:
    return here.shows(unit, "MainPID")["MainPID"]


def test_it_is_active_when_it_serves_and_has_told_the_first_administrator_s_link(here: Machine) -> None:
    assert here.run("chatd", "health", "--url", URL) == "ready\n"
    here.until("/join#", "journalctl", "-u", "chatd", "-o", "cat", "-n", "20")
    assert "ok    port: 127.0.0.1:8080: this server" in _chatd(here, "doctor")
    assert here.run("systemctl", "is-enabled", "chatd", "chatd-cluster", code=None) == "enabled\ndisabled\n"


def test_it_can_do_nothing_to_the_machine(here: Machine) -> None:
    status = dict(re.findall(r"^(\w+):\s+(\S+)", here.run("cat", f"/proc/{_pid(here, 'chatd')}/status"), re.MULTILINE))
    assert status["Uid"] == here.run("id", "-u", "chatd").strip() != "0"
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_two_people_talk_and_it_comes_back_after_kill_9(here: Machine) -> None:
    for user in ("alice", "bob"):
        _chatd(here, "user", "add", user, "--password-stdin", given=f"the secret of {user}\n")
    before = _pid(here, "chatd")
    tail = here.command("chatd", "tail", f"bob@{URL}", "--password-stdin")
    with subprocess.Popen(tail, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as bob:
        assert bob.stdin is not None
        assert bob.stdout is not None
        try:
            bob.stdin.write("the secret of bob\n")
            bob.stdin.flush()
            wait = ("--password-stdin", "--wait", "delivered")
            here.run("chatd", "send", *wait, f"alice@{URL}", "bob", "one", given="the secret of alice\n")
            here.run("kill", "-9", before)
            here.until(BACK, *_show("chatd"))
            here.run("chatd", "send", "--wait", "delivered", f"alice@{URL}", "bob", "two")
            said = "".join(bob.stdout.readline() for _ in range(2))
        finally:
            bob.terminate()
    assert re.findall("alice: (.*)", said) == ["one", "two"]
    assert _pid(here, "chatd") != before


def _show(unit: str) -> list[str]:
    return ["systemctl", "show", "-p", "ActiveState", "-p", "NRestarts", unit]


def test_what_is_stopped_or_drained_stays_so(here: Machine) -> None:
    for end in (("systemctl", "stop", "chatd"), ("runuser", "-u", "chatd", "--", "chatd", "drain", *DATA)):
        here.run("systemctl", "restart", "chatd")
        here.run(*end)
        here.until("inactive", "systemctl", "is-active", "chatd")
        assert here.shows("chatd", *HOW) == ENDED


def test_a_wrong_setting_is_told_by_the_start_and_not_tried_again(here: Machine) -> None:
    here.run("systemctl", "stop", "chatd")
    here.run("sh", "-ec", "echo wrong=1 >/var/lib/chatd/chatd.toml && chown chatd: /var/lib/chatd/chatd.toml")
    try:
        assert "failed" in here.run("systemctl", "start", "chatd", code=1)
        told = {"ActiveState": "failed", "Result": "exit-code", "NRestarts": "0", "ExecMainStatus": "78"}
        assert here.shows("chatd", *HOW) == told
        here.until(r"unknown section \[wrong\]", "journalctl", "-u", "chatd", "-o", "cat")
    finally:
        here.run("rm", "/var/lib/chatd/chatd.toml")


def test_it_is_tried_until_what_it_needs_is_there(here: Machine) -> None:
    here.run("sh", "-ec", "systemctl stop chatd; cd /var/lib/chatd; mv chatd.db away; echo none >chatd.db")
    here.run("systemctl", "start", "--no-block", "chatd")
    here.until(r"NRestarts=([6-9]|\d\d)", *_show("chatd"))
    here.run("mv", "/var/lib/chatd/away", "/var/lib/chatd/chatd.db")
    here.until("ActiveState=active", *_show("chatd"))


def test_a_cluster_is_active_when_its_redis_is_there_and_leaves_nothing_behind(here: Machine) -> None:
    here.run("mkdir", "-p", "/run/systemd/system/chatd-cluster.service.d")
    here.run("tee", "/run/systemd/system/chatd-cluster.service.d/redis.conf", given=REDIS)
    here.run("systemctl", "daemon-reload")
    here.run("systemctl", "start", "--no-block", "chatd-cluster")
    here.until("Redis cannot be reached", "journalctl", "-u", "chatd-cluster", "-o", "cat")
    assert here.run("systemctl", "is-active", "chatd", "chatd-cluster", code=None) == "inactive\nactivating\n"
    here.run("systemctl", "start", "redis-server", "chatd-cluster")
    assert here.run("chatd", "health", "--url", URL) == "ready\n"
    supervisor, workers = _pid(here, "chatd-cluster"), _workers(here)
    here.run("systemctl", "reload", "chatd-cluster")
    here.until(r"(worker_restarted[^\0]*){2}", "journalctl", "-u", "chatd-cluster", "-o", "cat")
    assert _pid(here, "chatd-cluster") == supervisor
    assert not workers & _workers(here)
    here.run("kill", "-9", supervisor)
    here.until(BACK, *_show("chatd-cluster"))
    here.run("systemctl", "stop", "chatd-cluster")
    assert here.shows("chatd-cluster", "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    assert _workers(here) == set()


def _workers(here: Machine) -> set[str]:
    return set(here.run("pgrep", "--full", "/opt/chatd/chatd serve", code=None).split())


def test_the_lines_to_uninstall_it_leave_nothing(here: Machine) -> None:
    here.run("sh", "-ec", _lines("To **uninstall**:"))
    left = ("/opt/chatd", "/var/lib/chatd", "/usr/local/bin/chatd", "/etc/systemd/system/chatd.service")
    assert "No such file" in here.run("ls", "-d", *left, code=2)
    here.run("id", "chatd", code=1)
