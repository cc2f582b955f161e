"""``chatd status`` and ``chatd drain``: on one server, on a cluster, and where nobody is there."""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cli_rig import Place

from chatd import admin
from chatd.cli.common import Failed, load_settings
from chatd.cli.looking import Look, must_be_there
from chatd.cli.report import WIDTH, report
from chatd.errors import NoServer, StartError
from chatd.stats import Buckets, ClusterSnapshot, Hot, SlowDevice, Snapshot, Worker
from chatd.testing.redis_server import RedisServer

BOUNDS = (0.001, 0.01, 0.1, 1.0)


def _one(second: float, **more: object) -> Snapshot:
    done = second * 40
    fields = {
        "name": "",
        "pid": 77,
        "version": "1.2.3",
        "up_s": 1_000.0 + second,
        "ready": True,
        "store": "sqlite",
        "durability": "fsync",
        "incarnation": "65c41e64",
        "connections": 1_204,
        "users": 812,
        "rss_bytes": 220_200_960,
        "open_files": 1_300,
        "open_files_max": 50_256,
        "counters": {"messages_committed": done, "messages_live": 2 * done, "receipts_sent": done, "frames_refused": 3},
        "gauges": {"queue_drafts": 3.0, "catch_ups": 2.0, "push_pending": 14.0, "push_lag_seconds": 61.0},
        "histograms": {"commit_seconds": Buckets(BOUNDS, (done, done, 0, 0, 0))},
        "hot": (Hot("dm:alice:bob", 840), Hot("dm:carol:dave", 12)),
        "slow": (SlowDevice(user="eve", device="f00d", unacked=256, behind=True, owed_bytes=65_536, full_s=12.2),),
    }
    return Snapshot(**{**fields, **more})  # type: ignore[arg-type]


def test_the_report_of_one_server() -> None:
    assert report(Look((_one(0),)), Look((_one(2),))) == [
        "chatd 1.2.3 is ready, up 16 min 42 s",
        "",
        "store         sqlite, a commit survives: fsync; incarnation 65c41e64",
        "connections   1,204 of 812 users",
        "process       210 MiB of memory, 1,300 of 50,256 files open",
        "messages      40.0/s committed, 80.0/s to who is connected, 0/s to who catches up",
        "receipts      40.0/s; presence 0/s",
        "waiting       3 for a commit, 2 devices catch up, 14 pushes (oldest 1 min 1 s)",
        "",
        "                      now: half   99 of 100   since start: half   99 of 100",
        "commit                  1.00 ms     9.82 ms             1.00 ms     9.82 ms",
        "",
        "hot           messages of the last minute: dm:alice:bob 840, dm:carol:dave 12",
        "",
        "slow devices  eve f00d: 256 unacknowledged and more to come, 64.0 KiB not taken, full for 12 s",
        "",
        "since start   3 frames refused",
    ]


def test_the_report_of_a_cluster_has_the_sum_and_each_process() -> None:
    cluster = ClusterSnapshot(
        pid=9,
        version="1.2.3",
        up_s=5_000.0,
        workers=(
            Worker(name="worker-0", state="ready", pid=77, starts=1),
            Worker(name="worker-1", state="away", pid=78, starts=4),
            Worker(name="worker-2", state="drained", starts=1),
        ),
        nodes=2,
        nodes_ready=1,
    )
    hung = Snapshot(name="worker-1", why="the server did not answer within 5 s")
    quiet = {"hot": (), "slow": (), "name": "worker-0"}
    before = Look((_one(0, **quiet), hung), cluster)
    lines = report(before, Look((_one(2, **quiet), hung), cluster))
    assert lines[0] == "chatd 1.2.3 is NOT READY, up 1 h 23 min: worker-1: the server did not answer within 5 s"
    assert lines[-5:] == [
        "process                  state      pid  starts  connections  messages/s    memory",
        "worker-0                 ready       77       1        1,204        40.0   210 MiB",
        "worker-1                  away       78       4   the server did not answer within 5 s",
        "worker-2               drained                1",
        "1 of 2 nodes on other hosts can be reached",
    ]
    assert all(len(line) <= WIDTH for line in lines)


def test_of_who_is_silent_no_figures_are_made_up() -> None:
    silent = Look((Snapshot(name="admin", why="the server at admin.sock did not answer within 5 s"),))
    assert report(silent, silent) == ["chatd is NOT READY: the server at admin.sock did not answer within 5 s", ""]


@pytest.mark.parametrize(
    ("ready", "draining", "said"), [(True, False, "is ready"), (False, True, "is draining"), (False, False, "is NOT")]
)
def test_the_first_line_says_how_it_is(ready: bool, draining: bool, said: str) -> None:
    one = _one(0, ready=ready, draining=draining, why="" if ready else "because")
    assert said in report(Look((one,)), Look((one,)))[0]


async def test_of_a_running_server_people_and_programs_are_told(place: Place) -> None:
    async with place.serving() as server:
        told = await place.run("status", "--over", "0.5")
        assert (told.code, told.err) == (0, "")
        assert told.out.startswith("chatd ")
        assert " is ready, up " in told.out
        assert told.out.count("\n") <= 24
        lines = (await place.run("status", "--json")).out.splitlines()
        assert len(lines) == 1
        one = json.loads(lines[0])
        assert (one["kind"], one["pid"], one["ready"], one["store"]) == ("server", server.process.pid, True, "sqlite")


async def test_where_no_server_runs_one_line_says_so(place: Place) -> None:
    for args in (("status",), ("status", "--json"), ("drain",)):
        told = await place.run(*args)
        assert (told.code, told.out) == (4, "")
        assert told.err == (
            f"chatd: no server runs on {place.data}: start one with `chatd serve`, "
            "or name another directory with --data-dir\n"
        )
    place.data.mkdir()
    admin._bound(place.data / admin.SOCKET_NAME).close()  # as kill -9 leaves it
    assert (await place.run("status")).code == 4


async def test_a_server_that_hangs_is_not_ready_and_told_as_such(place: Place) -> None:
    async with place.serving() as server:
        server.process.send_signal(signal.SIGSTOP)
        told = await place.run("status", "--json")
        server.process.send_signal(signal.SIGCONT)
    assert told.code == 1
    assert json.loads(told.out)["why"].endswith("did not answer within 5 s")


async def test_drain_ends_it_in_order_and_waits_for_that(place: Place) -> None:
    async with place.serving() as server:
        token = (await place.run("user", "add", "bob", "--no-password"), await place.run("token", "issue", "bob"))[1]
        tail = await place.start("tail", f"bob@{server.url}", "--token", token.out.strip())
        async with tail:
            await _connected(place, 1)
            told = await place.run("drain")
            assert (told.code, told.out) == (0, f"process {server.process.pid}: ended.\n")
            assert await server.end() == 0
            assert '"event":"drain_asked_for"' in server.said
    assert (await place.run("status")).code == 4


async def _until(place: Place, holds: Callable[[list[Any]], bool]) -> None:
    """Wait until this holds of what `chatd status --json` says."""
    while not holds([json.loads(line) for line in (await place.run("status", "--json")).out.splitlines()]):
        continue


async def _connected(place: Place, count: int) -> None:
    await _until(place, lambda said: bool(said[0]["connections"] == count))


async def test_while_it_drains_it_is_not_ready(place: Place) -> None:
    place.env["CHATD_TIMING_DRAIN_S"] = "60"
    async with place.serving() as server:
        token = (await place.run("user", "add", "bob", "--no-password"), await place.run("token", "issue", "bob"))[1]
        async with await place.start("tail", f"bob@{server.url}", "--token", token.out.strip()) as tail:
            await _connected(place, 1)
            tail.process.send_signal(signal.SIGSTOP)  # it will not answer the close
            told = await place.run("drain", "--no-wait")
            assert (told.code, told.out) == (0, f"process {server.process.pid}: draining.\n")
            told = await place.run("status", "--json")
            assert told.code == 1
            one = json.loads(told.out)
            assert (one["ready"], one["draining"], one["why"]) == (False, True, "it is ending")
            assert (await place.run("drain", "--no-wait")).code == 0, "once more does nothing"
            assert " is draining, " in (await place.run("status", "--over", "0.5")).out
            tail.process.kill()
            assert await server.end() == 0


async def test_who_may_not_look_is_told_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.data.mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may always
    with pytest.raises(Failed, match="belongs to another user: run this as the one that the server has"):
        must_be_there(Look(), place.data)
    with pytest.raises(NoServer):
        must_be_there(Look(), place.data / "absent")


def test_a_directory_that_is_closed_to_this_user_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def stat(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))  # root may always

    monkeypatch.setattr("pathlib.Path.stat", stat)
    with pytest.raises(StartError, match=r"^data directory /srv/x: Permission denied: run this as the user that"):
        load_settings(None, "/srv/x")


async def test_an_unknown_worker_is_named(place: Place) -> None:
    async with place.serving() as server:
        told = await place.run("drain", "worker-7")
        assert (told.code, told.out) == (1, "")
        assert told.err == f"chatd: no worker-7 runs there: there are process {server.process.pid}\n"


async def test_a_cluster_tells_the_sum_and_each_and_gives_one_worker_away(
    place: Place, chatd_redis: RedisServer
) -> None:
    url = chatd_redis.url
    place.env |= {"CHATD_STORE_KIND": "redis", "CHATD_STORE_REDIS_URL": url, "CHATD_CLUSTER_BUS_URL": url}
    place.env |= {"CHATD_STORE_REDIS_PREFIX": f"{place.directory.name}:"}
    async with await place.start("cluster", "--workers", "2", "--port", "0") as running:
        served = (await running.until(r"serves on (http://\S+) with 2 workers"))[1]
        assert _sockets(place.data) == ["admin-worker-0.sock", "admin-worker-1.sock", "admin.sock"]
        told = await place.run("status", "--over", "0.5")
        assert told.code == 0, told
        assert " is ready, up " in told.out
        rows = [line.split()[:2] for line in told.out.splitlines() if line.startswith("worker-")]
        assert rows == [["worker-0", "ready"], ["worker-1", "ready"]]
        lines = [json.loads(line) for line in (await place.run("status", "--json")).out.splitlines()]
        assert [(one["kind"], one.get("name")) for one in lines] == [
            ("cluster", None),
            ("server", "worker-0"),
            ("server", "worker-1"),
        ]
        assert await _stats(place, served) == {"worker-0", "worker-1"}
        told = await place.run("drain", "worker-1")
        assert (told.code, told.out[:22]) == (0, "worker-1 has ended. SI")
        cluster = json.loads((await place.run("status", "--json")).out.splitlines()[0])
        assert [worker["state"] for worker in cluster["workers"]] == ["ready", "drained"]
        refused = await place.run("drain", "worker-0")
        assert refused.code == 1
        assert "no other worker is ready to take the users of worker-0" in refused.err
        assert "there is no worker-9" in (await place.run("drain", "worker-9")).err
        running.process.send_signal(signal.SIGHUP)
        await _until(place, _all_replaced)
        told = await place.run("drain")
        assert (told.code, told.out) == (0, "the cluster: ended.\n")
        assert await running.end() == 0
    assert _sockets(place.data) == []


async def _stats(place: Place, url: str) -> set[str]:
    """The processes that an administrator is told of over HTTP, whichever of them answers."""
    assert (await place.run("user", "add", "root", "--admin", "--no-password")).code == 0
    token = (await place.run("token", "issue", "root")).out.strip()
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/admin/stats", headers=headers) as answer:
        assert answer.status == 200
        return {one["name"] for one in (await answer.json())["processes"]}


def _sockets(data: Path) -> list[str]:
    return [path.name for path in admin.sockets(data)]


def _all_replaced(said: list[Any]) -> bool:
    return [(one["state"], one["starts"]) for one in said[0]["workers"]] == [("ready", 2)] * 2
