"""The Dockerfile and the compose files: what they name is there, and what they run serves."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from chatd import configuration
from chatd.testing.ports import free_port

ROOT = Path(__file__).parent.parent.parent
CONFIG = ROOT / "config"
DOCKERFILE = (CONFIG / "Dockerfile").read_text("utf-8")
COMPOSE = ("compose.yaml", "compose-cluster.yaml")
NOBODY_UID = 10_001
PATIENCE_S = 30.0


def _stages() -> list[list[tuple[str, list[str]]]]:
    """(instruction, words) of each stage."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    stages: list[list[tuple[str, list[str]]]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        words = json.loads(rest[rest.index("[") :]) if re.search(r"\[.*\]$", rest) else shlex.split(rest)
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, words))
    return stages


def _copies(stage: list[tuple[str, list[str]]]) -> Iterator[tuple[str, str]]:
    """(source, place) of what a stage takes from the repository."""
    for name, words in stage:
        if name == "COPY" and not words[0].startswith("--"):
            yield from ((source, words[-1]) for source in words[:-1])


def _let_in(path: str) -> bool:
    """Whether the ignore file lets a path of the repository into the build."""
    lines = [line for line in (CONFIG / "Dockerfile.dockerignore").read_text("utf-8").splitlines() if line[:1] != "#"]
    verdict = True
    for line in lines:
        pattern = line.removeprefix("!")
        if fnmatch.fnmatch(path, pattern) or path.startswith(f"{pattern}/"):
            verdict = line.startswith("!")
    return verdict


def test_what_the_image_copies_is_there_and_let_in_and_nothing_else_is() -> None:
    build, last = _stages()
    sources = [source for source, _ in _copies(build)]
    assert len(sources) > 5
    assert [source for source in sources if not (ROOT / source).exists() or not _let_in(source)] == []
    assert list(_copies(last)) == []
    for secret in (".git", ".venv", "data", "tests", "docs/operations.md"):
        assert not _let_in(secret), secret


def test_the_image_runs_as_nobody_in_particular_and_asks_after_itself() -> None:
    last = dict(_stages()[-1])
    assert last["USER"] == [str(NOBODY_UID)]
    assert last["VOLUME"] == last["WORKDIR"] == ["/var/lib/chatd"]
    assert (last["ENTRYPOINT"], last["CMD"]) == (["/opt/chatd/chatd"], ["serve"])
    assert last["HEALTHCHECK"] == ["/opt/chatd/chatd", "health"]
    assert _environment().keys() <= {f"CHATD_{row.section}_{row.name}".upper() for row in configuration.table()}


def _environment() -> dict[str, str]:
    return dict(word.split("=", 1) for name, words in _stages()[-1] if name == "ENV" for word in words)


def _compose(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((CONFIG / name).read_text("utf-8"))
    return read


@pytest.mark.parametrize("name", COMPOSE)
def test_a_compose_file_is_one(name: str) -> None:
    schema = json.loads((ROOT / "tests" / "golden" / "compose-spec.json").read_text("utf-8"))
    validator = jsonschema.Draft7Validator(schema)
    validator.check_schema(schema)
    file = _compose(name)
    assert [error.message for error in validator.iter_errors(file)] == []
    for service in file["services"].values():
        assert set(service.get("networks", [])) <= set(file["networks"])
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(file["volumes"])
        if "build" in service:
            context = (CONFIG / service["build"]["context"]).resolve()
            assert (context / service["build"]["dockerfile"]).is_file()
        if "extends" in service:
            assert service["extends"]["service"] in _compose(service["extends"]["file"])["services"]
    assert list(validator.iter_errors({**file, "servces": {}})) != []


def _chatd_environment(name: str) -> dict[str, str]:
    service = _compose(name)["services"]["chatd"]
    inherited = _chatd_environment(service["extends"]["file"]) if "extends" in service else _environment()
    return {**inherited, **service["environment"]}


@pytest.mark.parametrize("name", COMPOSE)
def test_the_settings_of_a_compose_file_are_right_and_nothing_is_published_to_others(name: str) -> None:
    found = configuration.load(env=_chatd_environment(name))
    gateway = _compose(name)["networks"]["chat"]["ipam"]["config"][0]["gateway"]
    assert found.server.trusted_proxies == (gateway,)
    assert found.accounts.registration == "invite"
    for one in _compose(name)["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in one.get("ports", []))
        if "extends" not in one:
            assert (one["cap_drop"], one["read_only"]) == (["ALL"], True)


def test_the_cluster_s_redis_keeps_what_it_answered() -> None:
    services = _compose("compose-cluster.yaml")["services"]
    options = " ".join(services["redis"]["command"])
    assert "--appendonly yes --appendfsync always" in options
    assert services["redis"]["volumes"] == ["redis:/data"]
    found = configuration.load(env=_chatd_environment("compose-cluster.yaml"))
    assert (found.store.kind, found.store.redis_durability) == ("redis", "fsync")
    assert found.cluster.bus_url == found.store.redis_url == "redis://redis:6379/0"


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_what_the_image_copies_is_enough_and_what_it_runs_serves(tmp_path: Path) -> None:
    """The stages by hand, as there need be no Docker: the same files, commands, environment and user."""
    await _serves(tmp_path, await asyncio.to_thread(_built, tmp_path / "src"))


def _built(source: Path) -> Path:
    """The binary that the first stage makes of a directory with nothing in it but what it copies."""
    for path, place in _copies(_stages()[0]):
        target = source / place / Path(path).name if place.endswith("/") else source / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / path, target)
    environment = ("make", "-o", ".venv/.runtime", "build/binary/venv/.made")
    subprocess.run(environment, cwd=ROOT, capture_output=True, check=True)
    assert DOCKERFILE.count("RUN build/binary/venv/bin/python -P config/binary/build.py\n") == 1
    (source / "build" / "binary").mkdir(parents=True)
    command = [str(ROOT / "build/binary/venv/bin/python"), "-P", "config/binary/build.py"]
    ended = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return source / "build" / "binary" / "dist" / "chatd" / "chatd"


async def _serves(directory: Path, program: Path) -> None:
    data = directory / "data"
    data.mkdir(mode=0o700)
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        os.chown(data, NOBODY_UID, NOBODY_UID)
        user = {"user": NOBODY_UID, "group": NOBODY_UID, "extra_groups": []}
        for parent in (directory, *directory.parents):
            if parent.stat().st_uid == 0 and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
    env = {
        **_chatd_environment("compose.yaml"),
        "CHATD_SERVER_DATA_DIR": str(data),
        "CHATD_SERVER_PORT": str(free_port()),
    }
    last = dict(_stages()[-1])
    serve = await asyncio.create_subprocess_exec(
        program, *last["CMD"], cwd=data, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **user
    )
    assert serve.stdout is not None
    said = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while b"^C ends it" not in said:
                line = await serve.stdout.readline()
                assert line, said.decode()
                said += line
            health = await asyncio.create_subprocess_exec(
                program, *last["HEALTHCHECK"][1:], cwd=data, env=env, stdout=subprocess.PIPE, **user
            )
            out, _ = await health.communicate()
            assert (health.returncode, out) == (0, b"ready\n")
            serve.terminate()
            await serve.stdout.read()
            assert await serve.wait() == 0
    finally:
        if serve.returncode is None:
            serve.kill()
            await serve.wait()
    assert b"/join#" in said  # the first administrator's link
