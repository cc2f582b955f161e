"""What the verbs share: where the configuration is, and how a password is asked for."""

from __future__ import annotations

import getpass
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from chatd import configuration
from chatd.errors import ChatdError, ConfigError, StartError
from chatd.settings import CONFIG_NAME, ServerSettings, Settings

PASSWORD_BYTES_MAX = 8_192

_F = TypeVar("_F", bound=Callable[..., Any])


class Failed(ChatdError):
    """One line that names what went wrong and the way out (exit 1)."""


def place_options(function: _F) -> _F:
    """``--config`` and ``--data-dir``: how a verb finds the server that it is about."""
    config = click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="Configuration file. Default: chatd.toml in the data directory.",
    )
    data_dir = click.option("--data-dir", help="Directory of everything that must last. Default: ./data.")
    return config(data_dir(function))


def cleartext_option(function: _F) -> _F:
    """``--allow-cleartext``: the setting ``server.allow_cleartext``."""
    return click.option(
        "--allow-cleartext",
        is_flag=True,
        default=None,
        help="Without TLS of its own on an address that other machines reach: a proxy in front has it.",
    )(function)


def refuse_tls(server: ServerSettings) -> None:
    """Raises: ConfigError – TLS is set, where a router reads the head of each connection before a process gets it."""
    if server.tls_certificate:
        raise ConfigError(
            "server.tls_certificate: a router hands connections over before TLS could begin: let a proxy in front end "
            "it (config/nginx.conf, config/haproxy.cfg), or run one process with `chatd serve`"
        )


def find_config(config: Path | None, data_dir: str | None) -> Path | None:
    """The configuration file: the named one, or chatd.toml of the data directory if there is one.

    Raises: StartError – this user may not look there.
    """
    if config is not None:
        return config
    found = Path(configuration.load(overrides={"server.data_dir": data_dir}).server.data_dir) / CONFIG_NAME
    try:
        found.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise StartError(
            f"data directory {found.parent}: {exc.strerror}: run this as the user that the server has, or name another "
            "one with --data-dir"
        ) from exc
    return found


def load_settings(config: Path | None, data_dir: str | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings in force for a data directory.

    Raises: ConfigError – also when the file of a data directory names another one: it was copied or moved. StartError.
    """
    path = find_config(config, data_dir)
    settings = configuration.load(path, overrides={"server.data_dir": data_dir, **(overrides or {})})
    if config is None and path is not None and Path(settings.server.data_dir).resolve() != path.parent.resolve():
        raise ConfigError(
            f"{path}: server.data_dir: {settings.server.data_dir} is not the directory that this file lies in; "
            "correct it, or name the file with --config"
        )
    return settings


def program() -> str:
    """This program as the user would type it."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{Path(sys.executable).name} -m chatd"
    on_path = shutil.which(called.name)
    if on_path is not None and Path(on_path).resolve() == Path(sys.executable if frozen() else called).resolve():
        return called.name
    here = os.path.relpath(called)
    return str(called) if here.startswith("..") else here if os.sep in here else os.path.join(os.curdir, here)


def frozen() -> bool:
    """Whether this is the binary of `make binary`: the interpreter is inside, and `sys.executable` is chatd itself."""
    return bool(getattr(sys, "frozen", False))


def self_command() -> list[str]:
    """What starts this program once more, before the verb: for workers, and for a server that is measured."""
    return [sys.executable] if frozen() else [sys.executable, "-m", "chatd"]


def read_line(fd: int = 0) -> str:
    """The next line of standard input, not a byte more: what follows belongs to somebody else.

    Raises: Failed – it is no UTF-8, or over `PASSWORD_BYTES_MAX`.
    """
    line = bytearray()
    while (byte := os.read(fd, 1)) not in (b"", b"\n"):
        line += byte
        if len(line) > PASSWORD_BYTES_MAX:
            raise Failed(f"standard input: a password of more than {PASSWORD_BYTES_MAX} bytes")
    try:
        return line.decode().removesuffix("\r")
    except UnicodeDecodeError as exc:
        raise Failed("standard input: the password is not UTF-8") from exc


def ask_password(what: str, otherwise: str) -> str:
    """Ask for a password on the terminal, hidden. Raises: Failed – there is none; ``otherwise`` is the way out."""
    if not sys.stdin.isatty():
        raise Failed(f"no terminal to ask for a password: {otherwise}")
    try:
        return getpass.getpass(f"{what}: ")
    except EOFError as exc:
        raise Failed("no password was given") from exc


def new_password(user: str, *, from_stdin: bool) -> str:
    """A password to set: the first line of standard input, or typed twice. Raises: Failed."""
    if from_stdin:
        return read_line()
    password = ask_password(f"New password for {user}", "give it in the first line with --password-stdin")
    if ask_password("The same again", "") != password:
        raise Failed("the two passwords differ; nothing was changed")
    return password
