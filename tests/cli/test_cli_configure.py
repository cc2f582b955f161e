"""``chatd init``, ``config``, ``version``: no server needed. And what all verbs have in common."""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from cli_rig import Place
from click.testing import CliRunner

from chatd import __version__
from chatd.cli import main

ROOT = Path(__file__).parent.parent.parent


def _verbs(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _verbs(inner, (*path, name))


@pytest.mark.parametrize("verb", list(_verbs(main)), ids=" ".join)
def test_every_verb_has_help(verb: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*verb, "--help"])
    assert result.exit_code == 0
    assert "usage: " in result.output.lower()


async def test_the_default_configuration_is_the_file_of_the_project(place: Place) -> None:
    shown = await place.run("config", "default")
    assert (shown.code, shown.out) == (0, (ROOT / "config" / "chatd.toml").read_text("utf-8"))


async def test_init_makes_a_directory_that_serves_and_never_overwrites(place: Place) -> None:
    made = await place.run("init", "home")
    assert made.code == 0
    directory = place.directory / "home"
    assert f"serve --data-dir {directory}\n" in made.out
    path = directory / "chatd.toml"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text("utf-8").replace("initial_history = 50", "initial_history = 7")
    path.write_text(text, "utf-8")

    again = await place.run("init", "home")
    assert again.code == 1
    assert f"{path} is there already" in again.err
    assert path.read_text("utf-8") == text

    shown = await place.run("config", "show", "--data-dir", "home")
    in_force = tomllib.loads(shown.out)
    assert (in_force["limits"]["initial_history"], in_force["server"]["data_dir"]) == (7, "home")
    named = tomllib.loads((await place.run("config", "show", "--config", str(path))).out)
    assert named["server"]["data_dir"] == str(directory)
    assert (await place.run("config", "check", str(path))).out == f"{path} is right.\n"


async def test_an_unknown_key_is_named_with_its_neighbour(place: Place) -> None:
    (place.directory / "my.toml").write_text("[server]\nprot = 9000\n")
    for command in (("serve", "--config", "my.toml"), ("config", "check", "my.toml")):
        failed = await place.run(*command)
        assert failed.code == 78
        assert failed.err == "chatd: my.toml: unknown setting server.prot; did you mean port?\n"


async def test_a_configuration_that_was_moved_is_not_obeyed_by_accident(place: Place) -> None:
    assert (await place.run("init", "home")).code == 0
    (place.directory / "home").rename(place.data)
    failed = await place.run("serve")
    assert failed.code == 78
    assert f"server.data_dir: {place.directory / 'home'} is not the directory that this file lies in" in failed.err
    assert not (place.directory / "home").exists()
    assert (await place.run("config", "show", "--data-dir", "data")).code == 0


async def test_a_bad_value_a_missing_file_and_a_wrong_option(place: Place) -> None:
    place.env["CHATD_SERVER_PORT"] = "many"
    bad = await place.run("config", "show")
    assert bad.code == 78
    assert "server.port" in bad.err
    del place.env["CHATD_SERVER_PORT"]
    missing = await place.run("serve", "--config", "nowhere.toml")
    assert (missing.code, missing.err) == (78, "chatd: nowhere.toml: No such file or directory\n")
    usage = await place.run("serve", "--prot", "1")
    assert usage.code == 2
    assert "--prot" in usage.err


async def test_traces_without_their_extra_tell_what_to_install(place: Place) -> None:
    (place.directory / "opentelemetry.py").write_text("raise ImportError('no OpenTelemetry here')\n")
    place.env |= {"PYTHONPATH": f"{place.directory}:{place.env.get('PYTHONPATH', '')}"}
    place.env["CHATD_TRACING_ENDPOINT"] = "http://127.0.0.1:4318"
    failed = await place.run("serve", "--port", "0")
    assert failed.code == 78
    told = failed.err.splitlines()[-1]
    assert told.startswith("chatd: tracing.endpoint: needs the extra: pip install 'chatd[otel]'")
    place.env["CHATD_TRACING_ENDPOINT"] = "127.0.0.1:4318"
    assert "tracing.endpoint" in (await place.run("config", "show")).err


async def test_the_versions(place: Place) -> None:
    told = await place.run("version")
    assert told.code == 0
    assert [line.split()[0] for line in told.out.splitlines()] == ["chatd", "Python", "SQLite", "aiohttp", "event"]
    assert told.out.startswith(f"chatd {__version__}\n")


async def test_what_is_secret_is_not_shown(place: Place) -> None:
    place.env |= {
        "CHATD_STORE_REDIS_URL": "redis://chatd:canary-1@redis.example:6379/0",
        "CHATD_CLUSTER_BUS_URL": "rediss://:canary-2@%41/1",
        "CHATD_PUSH_WEBHOOK_URL": "https://hook:canary-3@hook.example/x",
        "CHATD_PUSH_WEBHOOK_SECRET": "canary-4",
    }
    shown = await place.run("config", "show")
    assert shown.code == 0
    assert "canary" not in shown.out
    in_force = tomllib.loads(shown.out)
    assert in_force["store"]["redis_url"] == "redis://chatd:***@redis.example:6379/0"
    assert in_force["push"]["webhook_secret"] == "***"
