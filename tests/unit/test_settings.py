"""The settings table: its sources, what it says about mistakes, and the file that is generated from it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from chatd import configuration, settings
from chatd.errors import ConfigError

ROWS = {f"{row.section}.{row.name}": row for row in configuration.table()}


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "chatd.toml"
    path.write_text(text, "utf-8")
    return path


def test_the_default_file_gives_the_defaults(tmp_path: Path) -> None:
    path = _file(tmp_path, configuration.default_toml())
    assert configuration.load(path, env={}) == settings.Settings()


def test_the_settings_in_force_are_shown_as_a_file_that_gives_them_again(tmp_path: Path) -> None:
    given = configuration.load(None, {}, {"server.origins": ("https://a.example", "*"), "server.data_dir": 'x"\\y'})
    path = _file(tmp_path, configuration.show_toml(given))
    assert configuration.load(path, env={}) == given


def test_the_default_file_has_each_setting_once_with_its_comment() -> None:
    text = configuration.default_toml()
    tree = tomllib.loads(text)
    assert [f"{section}.{name}" for section, values in tree.items() for name in values] == list(ROWS)
    for row in ROWS.values():
        assert text.count(f"# {row.comment} ({row.kind})\n{row.name} = ") == 1


def test_the_later_source_wins(tmp_path: Path) -> None:
    path = _file(tmp_path, "[server]\nport = 1\n")
    env = {"CHATD_SERVER_PORT": "2"}
    assert configuration.load(None, {}).server.port == 8080
    assert configuration.load(path, {}).server.port == 1
    assert configuration.load(path, env).server.port == 2
    assert configuration.load(path, env, {"server.port": 3}).server.port == 3
    assert configuration.load(path, env, {"server.port": None}).server.port == 2


def test_the_environment_is_read_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATD_SERVER_PORT", "4711")
    assert configuration.load().server.port == 4711


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("server.port", "0", 0),
        ("server.host", "::", "::"),
        ("server.origins", "https://a.example, https://b.example,", ("https://a.example", "https://b.example")),
        ("server.origins", "", ()),
        ("limits.commit_interval_ms", "0", 0.0),
        ("store.kind", "memory", "memory"),
    ],
)
def test_the_environment_gives_every_kind_of_value(name: str, text: str, value: object) -> None:
    section, _, field = name.partition(".")
    loaded = configuration.load(None, {"CHATD_" + name.replace(".", "_").upper(): text})
    assert getattr(getattr(loaded, section), field) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[server]\nprot = 1\n", "unknown setting server.prot; did you mean port?"),
        ("[sever]\nport = 1\n", "unknown section [sever]; did you mean server?"),
        ("port = 1\n", "unknown section [port]"),
        ("server = 1\n", "server is a section: write [server] and its settings below it"),
        ("[server]\nport = 65536\n", "server.port: expected `int` <= 65535"),
        ('[server]\nport = "80"\n', "server.port: expected `int`, got `str`"),
        ('[store]\nkind = "mysql"\n', "store.kind: invalid enum value 'mysql'"),
        ("[timing]\nhello_s = 0\n", "timing.hello_s: expected `float` > 0"),
        ('[server]\norigins = "https://a.example"\n', "server.origins: expected `array`, got `str`"),
        ("[server]\nport = \n", "not TOML: "),
        ("[limits]\nbody_bytes_max = 65536\n", "limits.frame_bytes_max above 66048"),
        ('[accounts]\njwt_keys = "keys.json"\n', "accounts.jwt_issuer: needed with accounts.jwt_keys"),
    ],
)
def test_a_mistake_in_the_file_names_itself_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        configuration.load(path, env={})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_names_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path, "[server]\nport = -1\n")
    with pytest.raises(ConfigError, match=r"chatd\.toml: server\.port: "):
        configuration.load(path, env={})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: No such file"):
        configuration.load(tmp_path / "missing.toml", env={})


def test_bytes_that_are_no_utf_8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "chatd.toml"
    path.write_bytes(b'[server]\nhost = "\xff"\n')
    with pytest.raises(ConfigError, match="not TOML: "):
        configuration.load(path, env={})


@pytest.mark.parametrize("text", ["eighty", "1.5", ""])
def test_a_mistake_in_the_environment_names_the_setting(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^CHATD_SERVER_PORT: server\.port: expected `int`"):
        configuration.load(None, {"CHATD_SERVER_PORT": text})
    with pytest.raises(ConfigError, match=r"^CHATD_SERVER_WEB: server\.web: expected true or false"):
        configuration.load(None, {"CHATD_SERVER_WEB": "1"})
    with pytest.raises(ConfigError, match=r"^command line: server\.port: expected `int` <= 65535"):
        configuration.load(None, {"CHATD_SERVER_PORT": "1"}, {"server.port": 65_536})


@pytest.mark.parametrize("name", ROWS)
def test_every_setting_says_its_kind_and_a_comment_of_one_line(name: str) -> None:
    row = ROWS[name]
    assert row.kind
    assert row.comment.endswith(".")
    assert "\n" not in row.comment
    assert "|" not in row.comment


def test_every_default_is_within_its_bounds() -> None:
    overrides = {name: row.default for name, row in ROWS.items()}
    assert configuration.load(None, {}, overrides) == settings.Settings()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[limits]\nsends_per_s = inf\n", "limits.sends_per_s: inf is no number that can be waited for or counted to"),
        ('[server]\norigins = ["chat.example"]\n', "server.origins: 'chat.example': it is written as https://chat.ex"),
        ('[server]\norigins = ["https://a.example/"]\n', "server.origins: 'https://a.example/': it is written as"),
    ],
)
def test_what_would_never_fit_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(says)):
        configuration.load(tmp_path / "x.toml", {})


def test_origins_of_every_kind_are_taken() -> None:
    given = ("*", "null", "https://a.example:8443", "http://[::1]:3000", "capacitor://localhost")
    assert configuration.load(None, {}, {"server.origins": given}).server.origins == given


def test_a_variable_that_is_no_setting_is_named() -> None:
    env = {"CHATD_SERVER_PROT": "1", "CHATD_SERVER_PORT": "1", "CHATD_TOKEN": "x", "CHATD_PASSWORD": "x", "HOME": "/"}
    assert configuration.strays(env) == ["CHATD_SERVER_PROT is set, and is no setting; did you mean CHATD_SERVER_PORT?"]


def test_not_a_number_is_no_number() -> None:
    for text in ("nan", "inf", "-inf"):
        with pytest.raises(ConfigError, match=r"timing\.hello_s"):
            configuration.load(None, {"CHATD_TIMING_HELLO_S": text})


def test_a_pong_may_not_be_awaited_longer_than_the_next_ping() -> None:
    with pytest.raises(ConfigError, match=r"timing\.pong_s: 11 is longer than timing\.heartbeat_s \(10\)"):
        configuration.load(env={}, overrides={"timing.pong_s": 11, "timing.heartbeat_s": 10})
