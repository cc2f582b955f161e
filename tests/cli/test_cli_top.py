"""``chatd top``: the screen from literal looks, and in a real terminal."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import termios

import pytest
from cli_rig import Place, Running

from chatd.cli.looking import Look, read
from chatd.cli.screen import HEIGHT_MIN, painted, screen, unpainted
from chatd.stats import Buckets, ClusterSnapshot, History, Hot, SlowDevice, Snapshot, Worker

BOUNDS = (0.001, 0.01, 0.1, 1.0)


def _one(second: int, **more: object) -> Snapshot:
    """A process that commits ``second`` messages in that second."""
    done = second * (second + 1) // 2
    fields = {
        "name": "",
        "pid": 77,
        "version": "1.2.3",
        "up_s": 1_000.0 + second,
        "ready": True,
        "store": "sqlite",
        "durability": "fsync",
        "connections": 1_204,
        "users": 812,
        "rss_bytes": 220_200_960,
        "counters": {"messages_committed": done, "messages_live": 2 * done, "process_cpu_seconds": second * 0.25},
        "gauges": {"queue_drafts": 3.0, "catch_ups": 2.0, "push_pending": 14.0},
        "histograms": {
            "commit_seconds": Buckets(BOUNDS, (done, done, 0, 0, 0)),
            "sent_seconds": Buckets(BOUNDS, (0, done, 0, 0, second)),
            "zeal_seconds": Buckets(BOUNDS, (0, 0, 0, 0, 0)),
        },
        "hot": (Hot("dm:alice:bob", 840), Hot("dm:carol:dave", 12)),
        "slow": (
            SlowDevice(user="eve", device="f00d", unacked=256, behind=True, owed_bytes=65_536, full_s=12.2),
            SlowDevice(user="bob", device="beef", unacked=4),
        ),
    }
    return Snapshot(**{**fields, **more})  # type: ignore[arg-type]


def _history(looks: list[list[Snapshot]]) -> History:
    history = History()
    for servers in looks:
        history.add(servers)
    return history


def _drawn(look: Look, history: History, width: int = 80, height: int = 24, silent_s: float = 0.0) -> list[str]:
    return [line.text for line in screen(look, history, width=width, height=height, silent_s=silent_s)]


def test_the_whole_screen_of_one_process() -> None:
    looks = [[_one(second)] for second in range(9)]
    drawn = _drawn(Look(tuple(looks[-1])), _history(looks))
    assert drawn == [
        "chatd 1.2.3  ready  up 16 min 48 s",
        "1,204 connections of 812 users  210 MiB  CPU 25 %  3 wait for a commit  2 catch…",
        "",
        "messages/s                8.00                                          ▁▂▃▄▅▆▇█",
        "delivered/s               16.0                                          ▁▂▃▄▅▆▇█",
        "receipts/s                   0                                          ▁▁▁▁▁▁▁▁",
        "presence/s                   0                                          ▁▁▁▁▁▁▁▁",
        "new connections/s            0                                          ▁▁▁▁▁▁▁▁",
        "refused/s                    0                                          ▁▁▁▁▁▁▁▁",
        "",
        "                          half  99 of 100  (sparkline: 99 of 100)",
        "send → sent            6.06 ms    >1.00 s                               ████████",
        "commit                 1.00 ms    9.82 ms                               ████████",
        "zeal_seconds                 –          –",
        "",
        "hot conversations: messages of the last minute",
        "       840  dm:alice:bob",
        "        12  dm:carol:dave",
        "",
        "slow devices",
        "  eve f00d: 256+ unacknowledged, 64.0 KiB not taken, full for 12 s",
        "  bob beef: 4 unacknowledged, 0 B not taken",
    ]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 8), (200, 60), (20, 3), (81, 15), (100, 1)])
def test_it_fits_whatever_the_size_is(width: int, height: int) -> None:
    looks = [
        [
            _one(
                second,
                name=f"worker-{n}",
                hot=tuple(Hot(f"dm:a-rather-long-name-{i}:another-long-name-{i}", 100 - i) for i in range(20)),
                slow=tuple(SlowDevice(user=f"user-{i}", device="d", unacked=i) for i in range(10)),
            )
            for n in range(6)
        ]
        for second in range(300)
    ]
    drawn = _drawn(Look(tuple(looks[-1])), _history(looks), width, height)
    assert 1 <= len(drawn) <= height
    assert all(len(line) <= max(width, 40) for line in drawn)
    if height >= HEIGHT_MIN:
        assert any("█" in line for line in drawn)


def test_lists_share_the_room_and_the_longest_is_cut() -> None:
    hot = tuple(Hot(f"a:b{i}", 100 - i) for i in range(20))
    looks = [[_one(second, hot=hot)] for second in range(3)]
    drawn = _drawn(Look(tuple(looks[-1])), _history(looks), height=30)
    assert len(drawn) == 30
    assert [line for line in drawn[14:] if not line.startswith("  ")] == [
        "",
        "hot conversations: messages of the last minute",
        "",
        "slow devices",
    ]
    assert drawn[-2:] == [
        "  eve f00d: 256+ unacknowledged, 64.0 KiB not taken, full for 12 s",
        "  bob beef: 4 unacknowledged, 0 B not taken",
    ]


def test_of_many_processes_each_is_shown_and_the_sum() -> None:
    servers = [
        _one(5, name="worker-0", pid=1),
        _one(5, name="worker-1", pid=2, ready=False, why="the store does not answer"),
    ]
    workers = (
        Worker(name="worker-0", state="ready", pid=1, starts=1),
        Worker(name="worker-1", state="ready", pid=2, starts=2),
        Worker(name="worker-2", state="drained", starts=1),
    )
    drawn = _drawn(Look(tuple(servers), ClusterSnapshot(pid=9, workers=workers)), History(), 100, 40)
    assert drawn[0].startswith("chatd 1.2.3  NOT READY  up 16 min 45 s  2 processes  worker-1: the store")
    assert drawn[1].startswith("2,408 connections of 1,624 users")
    at = drawn.index("processes")
    assert [re.split(r"\s{2,}", line.strip()) for line in drawn[at + 1 : at + 4]] == [
        ["worker-0", "ready", "1,204 connections", "210 MiB"],
        ["worker-1", "ready", "1,204 connections", "210 MiB"],
        ["worker-2", "drained"],
    ]
    assert "      1,680  dm:alice:bob" in drawn or "     1,680  dm:alice:bob" in drawn


def test_a_server_that_is_gone_leaves_its_last_look_there() -> None:
    drawn = _drawn(Look((_one(5),)), History(), silent_s=65.0)
    assert drawn[0] == "chatd  NOBODY ANSWERS for 1 min 5 s; this is how it was. q ends."
    assert "dm:alice:bob" in "".join(drawn)


def test_what_another_process_says_cannot_move_the_cursor() -> None:
    evil = "\x1b]0;owned\x07\r\n" * 3
    one = _one(5, why=evil, version=evil, hot=(Hot(evil, 1),), slow=(SlowDevice(user=evil, device=evil, unacked=1),))
    drawn = "".join(_drawn(Look((one,)), History(), 200, 60))
    assert drawn.isprintable()
    assert "owned" in drawn


def test_colour_is_a_matter_of_the_paint() -> None:
    lines = screen(Look((_one(5, ready=False),)), History(), width=80, height=24)
    assert painted(lines[0]).startswith("\x1b[1;31mchatd 1.2.3  NOT READY")
    assert "\x1b" not in "".join(map(unpainted, lines))


def test_a_look_keeps_who_was_silent_and_skips_what_it_does_not_know() -> None:
    found = read(
        {
            "admin.sock": {"kind": "cluster", "pid": 1, "workers": []},
            "admin-worker-0.sock": {"kind": "server", "name": "worker-0", "pid": 2, "ready": True},
            "admin-worker-1.sock": TimeoutError("did not answer within 5 s"),
            "admin-later.sock": {"kind": "invented later"},
        }
    )
    assert found.cluster is not None
    assert [(one.name, one.ready, one.why) for one in found.servers] == [
        ("admin-worker-1", False, "did not answer within 5 s"),
        ("worker-0", True, ""),
    ]
    assert found.sockets == {"worker-0": "admin-worker-0.sock", "admin-worker-1": "admin-worker-1.sock"}
    assert not found.ready
    assert read({}).is_empty


# --- in a terminal ----------------------------------------------------------------------------------------


END = r"\x1b\[\?2026l"


def _resize(running: Running, width: int, height: int) -> None:
    assert running._terminal_fd is not None
    fcntl.ioctl(running._terminal_fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def _frame(said: str) -> list[str]:
    """The lines of the last whole frame, without what steers the terminal."""
    frame = said.rpartition("\x1b[?2026l")[0].rpartition("\x1b[H")[2].removesuffix("\r\n\x1b[J")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).split("\r\n")


async def test_it_draws_follows_the_size_and_ends_at_q(place: Place) -> None:
    async with place.serving() as server, await place.start_in_terminal("top", "--every", "0.5") as top:
        await top.until(r"\x1b\[\?1049h")
        _resize(top, 80, 24)
        await top.until(r"ready")
        sent = ("send", f"alice@{server.url}", "alice", "a note", "--register", "--password-stdin")
        assert (await place.run(*sent, given="alicealice\n")).code == 0
        await top.until(r"dm:alice:alice|messages/s +[1-9]")
        await top.until(END)
        lines = _frame(top.said)
        assert lines[0].startswith("chatd ")
        assert len(lines) <= 24
        assert all(len(line) <= 80 for line in lines)
        _resize(top, 120, 9)
        await top.until(END)
        await top.until(END)
        assert len(_frame(top.said)) == 9
        assert top._terminal_fd is not None
        os.write(top._terminal_fd, b"q")
        assert await top.end() == 0
        assert top.said.endswith("\x1b[?25h\x1b[?1049l")


async def test_ctrl_c_ends_it_too_and_gives_the_terminal_back(place: Place) -> None:
    async with place.serving(), await place.start_in_terminal("top") as top:
        assert top._terminal_fd is not None
        before = termios.tcgetattr(top._terminal_fd)
        await top.until(END)
        assert termios.tcgetattr(top._terminal_fd)[3] != before[3], "it reads keys one by one"
        os.write(top._terminal_fd, b"\x03")
        assert await top.end() in (0, 130)
        assert top.said.endswith("\x1b[?25h\x1b[?1049l")
        assert termios.tcgetattr(top._terminal_fd)[3] == before[3]


async def test_without_colour_there_is_none(place: Place) -> None:
    place.env["NO_COLOR"] = "1"
    async with place.serving(), await place.start_in_terminal("top") as top:
        await top.until(END)
        assert not re.search(r"\x1b\[[0-9;]*m", top.said)
        assert await top.end(signal.SIGTERM) == 0


async def test_a_server_that_ends_meanwhile_is_told_and_waited_for(place: Place) -> None:
    async with place.serving() as server, await place.start_in_terminal("top", "--every", "0.5") as top:
        await top.until(r"ready")
        assert await server.end(signal.SIGTERM) == 0
        await top.until(r"NOBODY ANSWERS")
        async with place.serving():
            await top.until(r"chatd \S+  ready")
        assert await top.end(signal.SIGTERM) == 0


async def test_it_needs_a_terminal_and_a_server(place: Place) -> None:
    piped = await place.run("top")
    assert (piped.code, piped.out) == (1, "")
    assert piped.err.startswith("chatd: top needs a terminal; `chatd status`")
    async with await place.start_in_terminal("top") as top:
        assert await top.end() == 4
        assert "no server runs on" in top.said
