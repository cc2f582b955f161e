"""What `chatd doctor` says of a machine, a directory and a clock that are not as they should be."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis as redis_py

from chatd import configuration, doctor, settings
from chatd.doctor import Finding, files, machine
from chatd.doctor.finding import size
from chatd.store.sqlite import SqliteStore
from chatd.testing.certificates import write_pair
from chatd.testing.redis_server import RedisServer


def states(found: list[Finding], check: str) -> list[tuple[str, str]]:
    return [(one.state, one.found) for one in found if one.check == check]


def settings_of(directory: Path, **more: object) -> settings.Settings:
    overrides = {"server.data_dir": str(directory), "server.port": 0, "limits.connections_max": 16}
    return configuration.load(env={}, overrides={**overrides, **{k.replace("__", "."): v for k, v in more.items()}})


async def made(directory: Path) -> None:
    store = SqliteStore(directory, settings_of(directory).store)
    await store.open()
    await store.close()


async def test_a_server_that_is_as_it_should_be(tmp_path: Path) -> None:
    await made(tmp_path / "data")
    found = await asyncio.to_thread(doctor.examine, settings_of(tmp_path / "data"), full=True)
    assert {one.state for one in found} == {"ok"}, found
    assert [one.check for one in found] == [
        "configuration",
        "data directory",
        "server",
        "disk",
        "write-ahead log",
        "database",
        "clock",
        "port",
        "open files",
    ]
    assert not any(one.way_out for one in found)


def test_nothing_is_made_where_nothing_is(tmp_path: Path) -> None:
    found = doctor.examine(settings_of(tmp_path / "data"))
    assert [one.check for one in found if one.state == "fail"] == ["data directory"]
    assert not (tmp_path / "data").exists()
    (tmp_path / "data").mkdir(mode=0o700)
    found = doctor.examine(settings_of(tmp_path / "data"))
    assert states(found, "database") == [("ok", "there is none yet; the first start makes it")]
    assert os.listdir(tmp_path / "data") == []


async def test_whose_the_files_are_and_who_may_read_them(tmp_path: Path) -> None:
    await made(tmp_path / "data")
    me = os.geteuid()
    (found, *_) = files.examine(tmp_path / "data", uid=54_321)
    assert (found.state, found.found.endswith(", and this is 54321")) == ("fail", True)
    assert f"chown -R 54321 {tmp_path}/data" in found.way_out
    (tmp_path / "data").chmod(0o755)
    (tmp_path / "data" / "chatd.db").chmod(0o644)
    assert [(one.state, one.way_out) for one in files.examine(tmp_path / "data", uid=me)] == [
        ("warn", f"chmod 700 {tmp_path}/data"),
        ("warn", f"chmod 600 {tmp_path}/data/chatd.db"),
        ("ok", ""),
    ]


async def test_a_directory_in_use_is_looked_at_all_the_same(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, settings_of(tmp_path).store)
    await store.open()
    found = await asyncio.to_thread(doctor.examine, settings_of(tmp_path))
    assert states(found, "server") == [("ok", f"process {os.getpid()} serves it")]
    told = {one.check: one.found for one in files.examine(tmp_path, {5, 17})}
    assert told["server"] == "processes 5, 17 serve it"
    assert states(found, "database")[0][0] == "ok"
    await store.commit([], [])
    await store.close()


@pytest.mark.parametrize(
    ("free", "state"), [(machine.FREE_BYTES_FAIL - 1, "fail"), (4 * 10**9, "warn"), (6 * 10**9, "ok")]
)
def test_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    usage = SimpleNamespace(total=10**11, used=10**11 - free, free=free)
    monkeypatch.setattr("chatd.doctor.machine.shutil.disk_usage", lambda _: usage)
    assert next(iter(machine.disk(tmp_path))).state == state


def test_a_clock_that_cannot_be_right() -> None:
    now_s = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
    assert [one.state for one in machine.clock(int(now_s * 1000), now_s)] == ["ok"]
    assert [one.state for one in machine.clock(int(now_s * 1000) + 61_000, now_s)] == ["warn"]
    assert [one.state for one in machine.clock(0, 1_000_000.0)] == ["fail"]


def _hidden(path: object) -> str:
    raise PermissionError(13, f"{path}")


def test_a_port_that_is_taken_and_by_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        found = machine.port("127.0.0.1", number)
        assert (found.state, f"process {os.getpid()} (" in found.found) == ("fail", True), "whatever it is called"
        assert machine.port("127.0.0.1", number, {os.getpid()}).state == "ok"
        monkeypatch.setattr("chatd.doctor.machine.os.readlink", _hidden)  # as of a unit with PrivateUsers=
        assert machine.port("127.0.0.1", number, {os.getpid()}).found.endswith(": this server's user listens there")
        assert machine.port("127.0.0.1", number).found.endswith(": a process of another user listens there")
        monkeypatch.setattr("chatd.doctor.machine.os.geteuid", lambda: 54_321)
        assert machine.port("127.0.0.1", number, {os.getpid()}).state == "fail"
        monkeypatch.undo()
        assert machine.port("::", number).state == "ok", "the server listens there for IPv6 alone"
        elsewhere = settings_of(Path("none"), server__metrics_listen=f"127.0.0.1:{number}")
        assert [one.way_out for one in machine.ports(elsewhere)] == ["", "stop it, or set server.metrics_listen"]
    assert machine.port("127.0.0.1", number).state == "ok"
    assert machine.port("192.0.2.1", number).state == "fail"
    assert machine.port("no.such.host.invalid", number).way_out == "set server.host to an address of this machine"


def test_open_files_that_are_too_few() -> None:
    assert [one.state for one in machine.open_files(10**9)] in (["warn"], ["ok"])
    assert [one.state for one in machine.open_files(1)] == ["ok"]


def test_the_limit_of_the_process_that_serves_is_told(tmp_path: Path) -> None:
    with subprocess.Popen(["sh", "-c", "ulimit -n 64; echo; read x"], stdin=-1, stdout=-1) as served:
        assert served.stdout is not None
        served.stdout.readline()
        (found,) = machine.open_files(1_000, served.pid)
        served.communicate()
    assert (found.state, found.found.split(",")[0]) == ("warn", "64")


def test_a_pair_that_a_start_would_refuse(tmp_path: Path) -> None:
    one, other = write_pair(tmp_path, "one", days=90), write_pair(tmp_path, "other")
    other.key.chmod(0o644)
    tls = {"server__tls_certificate": str(one.certificate), "server__tls_key": str(other.key)}
    found = doctor.examine(settings_of(tmp_path / "data", **tls))
    assert found[0].state == "fail"
    assert "is not the key of the certificate" in found[0].found
    assert [(one.state, one.way_out) for one in found if one.check == "certificate"] == [
        ("ok", ""),
        ("warn", f"chmod 600 {other.key}"),
    ]
    found = doctor.examine(settings_of(tmp_path / "data", server__host="0.0.0.0"))
    assert found[0].found.startswith("server.host: other machines reach 0.0.0.0")


def test_a_disk_for_reading_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = SimpleNamespace(f_flag=os.ST_RDONLY, f_files=0, f_favail=0)
    usage = SimpleNamespace(total=10**11, used=0, free=10**11)
    monkeypatch.setattr("chatd.doctor.machine.shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr("chatd.doctor.machine.os.statvfs", lambda _: about)
    assert "fail" in [one.state for one in machine.disk(tmp_path)]


def test_a_certificate_that_ends(tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    begins = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(begins).not_valid_after(begins + timedelta(days=90))
    path = tmp_path / "cert.pem"
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    for days, state in ((10, "ok"), (80, "warn"), (91, "fail")):
        assert [one.state for one in machine.certificate(str(path), begins + timedelta(days=days))] == [state]
    path.write_text("none")
    assert [one.state for one in machine.certificate(str(path))] == ["fail"]


async def test_settings_that_a_start_would_refuse(tmp_path: Path) -> None:
    await made(tmp_path / "data")
    found = await asyncio.to_thread(
        doctor.examine, settings_of(tmp_path / "data", server__trusted_proxies=["nonsense"])
    )
    assert found[0].state == "fail"
    assert "trusted_proxies" in found[0].found
    found = await asyncio.to_thread(doctor.examine, settings_of(tmp_path / "data", store__synchronous="normal"))
    assert (found[0].state, found[0].way_out) == ("warn", 'set store.synchronous = "full"')


def redis_settings(url: str, **more: object) -> settings.Settings:
    return settings_of(Path("none"), store__kind="redis", store__redis_url=url, **more)


def test_redis_as_it_should_be_and_not(chatd_redis: RedisServer) -> None:
    with redis_py.Redis(port=chatd_redis.port) as client:
        before = client.dbsize()  # others have used it before
        found = [one for one in doctor.examine(redis_settings(chatd_redis.url)) if one.check == "redis"]
        assert "fail" not in {one.state for one in found}
        assert client.dbsize() == before, "nothing was written"
        client.hset("half:{=life}:life", "format", "moving")
        client.config_set("appendfsync", "everysec")
        try:
            found = doctor.examine(redis_settings(chatd_redis.url, store__redis_prefix="half:"))
        finally:
            client.config_set("appendfsync", "always")
            client.delete("half:{=life}:life")
    told = {one.state: one for one in found if one.check == "redis"}
    assert told["fail"].way_out == "run `chatd migrate-store` to its end"
    assert "a power cut may take the last second" in told["warn"].found


def test_a_redis_that_is_away() -> None:
    found = doctor.examine(redis_settings("redis://127.0.0.1:1/0"))
    assert [one.state for one in found if one.check == "redis"] == ["fail"]


def test_sizes_are_for_people() -> None:
    assert [size(n) for n in (10, 2048, 5 * 1024**3, 3 * 1024**4)] == ["10 bytes", "2.0 KiB", "5.0 GiB", "3.0 TiB"]
