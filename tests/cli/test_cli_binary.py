"""The binary of ``make binary``, alone in an empty directory and with nothing in its environment."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import signal
import tarfile
from pathlib import Path
from urllib.request import urlopen

import pytest
from cli_rig import Place, Running

from chatd.testing.redis_server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent.parent
BYTES_MAX = 20_000_000
PATIENCE_S = 30.0


@pytest.fixture(params=["file", "folder"])
def place(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Place:
    """A directory with the binary in it, in either form; the environment is that of ``env -i``."""
    if request.param == "file":
        shutil.copy(made / "chatd", tmp_path)
        program = "./chatd"
    else:
        archive = next(made.glob("chatd-*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(tmp_path, filter="data")
        program = f"{archive.name.removesuffix('.tar.gz')}/chatd"
    place = Place(tmp_path, [program])
    place.env = {}
    return place


async def _chat(place: Place, user: str, url: str, *args: str) -> Running:
    """A terminal in which a new user has just registered."""
    chat = await place.start_in_terminal("chat", f"{user}@{url}", "--state", f"{user}.db", *args)
    await chat.until(f"Password of {user}: ")
    await chat.type(f"the secret of {user}")
    await chat.until(f"To create {user}, type it once more")
    await chat.type(f"the secret of {user}")
    await chat.until(f"connected as {user}")
    return chat


async def _talk(place: Place, url: str) -> None:
    """Alice and bob, each in a terminal, say hi."""
    async with (
        await _chat(place, "alice", url, "--to", "bob") as alice,
        await _chat(place, "bob", url, "--to", "alice") as bob,
    ):
        await alice.type("hi bob")
        await bob.until(r"\d\d:\d\d alice: hi bob\r\n")
        await alice.until('✓✓ read bob: "hi bob"')
        await bob.type("hi yourself")
        await alice.until(r"\d\d:\d\d bob: hi yourself\r\n")
        await alice.type("/quit")
        assert await alice.end() == 0
        assert await bob.end(signal.SIGINT) == 130
        assert "Traceback" not in alice.said + bob.said


def _processes(place: Place) -> set[int]:
    """Whatever runs from this directory."""
    found = set()
    for one in Path("/proc").iterdir():
        try:
            if one.name.isdigit() and Path(os.readlink(one / "exe")).is_relative_to(place.directory):
                found.add(int(one.name))
        except OSError:  # it has just ended, or is somebody else's
            continue
    return found


def _borrowed(place: Place, made: Path) -> set[str]:
    """What its processes have of this machine though the binary brings it along: other machines may lack it."""
    with tarfile.open(next(made.glob("chatd-*.tar.gz"))) as tar:
        brought = {Path(name).name for name in tar.getnames() if ".so" in name}
    maps = "".join(Path(f"/proc/{pid}/maps").read_text("utf-8") for pid in _processes(place))
    mapped = {Path(path) for path in re.findall(r" (/\S+)$", maps, re.MULTILINE)}
    assert any(path.name in brought for path in mapped)
    return {str(path) for path in mapped if path.name in brought and not path.is_relative_to(place.directory)}


async def _until_none(place: Place) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while _processes(place):  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.02)


async def test_two_people_talk_and_a_browser_gets_the_page(place: Place) -> None:
    async with place.serving() as server:
        page = await asyncio.to_thread(_get, server.url)
        assets = re.findall('"(assets/[^"]+)"', page)
        assert len(assets) > 10
        for path in assets:
            assert await asyncio.to_thread(_get, f"{server.url}/{path}"), path
        assert (await place.run("health", "--url", server.url)).out == "ready\n"
        await _talk(place, server.url)
    assert (place.directory / "data" / "chatd.db").exists()
    await _until_none(place)


def _get(url: str) -> str:
    with urlopen(url) as answer:
        text: str = answer.read().decode("utf-8", "replace")
    return text


async def test_what_it_prints_to_be_typed_next_is_itself(place: Place) -> None:
    async with place.serving() as server:
        assert re.search(rf"^  {re.escape(place.program[0])} chat alice@http", server.said, re.MULTILINE)


async def test_it_has_its_notifiers_and_versions(place: Place) -> None:
    assert (await place.run("init")).code == 0
    keys = await place.run("push", "keys")
    assert keys.code == 0, keys.err
    assert re.search(r"\b[\w-]{87}\b", keys.out), keys.out
    version = await place.run("version")
    assert re.search(r"^event loop: uvloop \d", version.out, re.MULTILINE)


async def test_it_measures_itself(place: Place) -> None:
    """`chatd bench` starts the binary once more, and ends it."""
    measured = await place.run("bench", "--only", "start", "--runs", "1", "--dir", str(place.directory))
    assert measured.code == 0, measured.err
    assert re.search(r"^start_ms +[\d.]+$", measured.out, re.MULTILINE), measured.out
    await _until_none(place)


async def test_two_workers_on_a_redis_and_two_people(place: Place, made: Path) -> None:
    with RedisServer(appendfsync="always") as redis:
        place.env = {
            "TMPDIR": str(place.directory),
            "CHATD_STORE_KIND": "redis",
            "CHATD_STORE_REDIS_URL": redis.url,
            "CHATD_CLUSTER_BUS_URL": redis.url,
            "CHATD_ACCOUNTS_REGISTRATION": "open",
        }
        async with await place.start("cluster", "--workers", "2", "--port", "0") as cluster:
            url = (await cluster.until(r"serves on (http://\S+) with 2 workers"))[1]
            assert (await place.run("health", "--url", url)).out == "ready\n"
            assert _borrowed(place, made) == set()
            await _talk(place, url)
            assert await cluster.end(signal.SIGTERM) == 0, cluster.said
        await _until_none(place)
        async with await place.start("cluster", "--workers", "2", "--port", "0") as cluster:
            await cluster.until("serves on http")
            assert len(_processes(place)) >= 3
            cluster.process.kill()
            await _until_none(place)


async def test_kill_9_leaves_no_process_and_nothing_unpacked(place: Place) -> None:
    unpacked = place.directory / "unpacked"
    unpacked.mkdir()
    place.env = {"TMPDIR": str(unpacked)}
    async with place.serving() as server:
        server.process.kill()
        assert await server.end() == -signal.SIGKILL
        await _until_none(place)
    assert list(unpacked.iterdir()) == []


async def test_one_ctrl_c_in_a_terminal_is_one(place: Place) -> None:
    for _ in range(4):  # the terminal signals both processes of the one-file form, in either order
        async with await place.start_in_terminal("serve", "--port", "0") as server:
            await server.until(r"\^C ends it")
            await server.keys("\x03")
            assert await server.end() == 0, server.said
            assert "Traceback" not in server.said


async def test_a_signal_to_the_process_that_was_started_reaches_it(place: Place) -> None:
    async with await place.start("serve", "--port", "0") as server:
        await server.until(r"\^C ends it")
        assert await server.end(signal.SIGINT) == 0, server.said
    async with place.serving() as server:
        tail = await place.start("tail", f"alice@{server.url}", "--state", "alice.db", "--password-stdin")
        async with tail:
            await tail.type("no user has this password")
            assert await tail.end() == 1
        chat = await _chat(place, "alice", server.url)
        async with chat:
            assert await chat.end(signal.SIGTERM) in (-signal.SIGTERM, 128 + signal.SIGTERM)
    await _until_none(place)


def test_sizes_digests_and_what_an_installation_needs(made: Path) -> None:
    sums = [line.split("  ") for line in (made / "SHA256SUMS").read_text("ascii").splitlines()]
    assert len(sums) == 3
    for digest, name in sums:
        content = (made / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        assert len(content) <= BYTES_MAX
    with tarfile.open(next(made.glob("chatd-*.tar.gz"))) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"chatd", "chatd.1", "chatd.service", "chatd-cluster.service", "chatd.cdx.json", "LICENSE"} <= names
    assert [name for name in names if "libstdc++" in name] == []


def test_the_bill_of_materials_has_what_is_inside_in_the_locked_versions(made: Path) -> None:
    bill = json.loads((made / "chatd.cdx.json").read_text("utf-8"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    purls = {one["purl"] for one in bill["components"] if "purl" in one}
    locks = "".join((ROOT / f"requirements{name}.lock").read_text("utf-8") for name in ("", "-binary"))
    locked = {f"pkg:pypi/{name}@{version}" for name, version in re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", locks, re.M)}
    assert {purl for purl in purls if purl.startswith("pkg:pypi/")} <= locked
    told = {purl.partition("@")[0] for purl in purls}
    for name in ("pypi/aiohttp", "pypi/cryptography", "pypi/redis", "pypi/uvloop", "npm/preact", "generic/openssl"):
        assert f"pkg:{name}" in told
    references = [one["bom-ref"] for one in [bill["metadata"]["component"], *bill["components"]]]
    assert len(set(references)) == len(references)
    for dependency in bill["dependencies"]:
        assert {dependency["ref"], *dependency["dependsOn"]} <= set(references)
