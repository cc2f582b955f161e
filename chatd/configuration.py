"""Where the settings come from, and how they are shown.

Source of a value, the later wins: default, TOML file, environment (``CHATD_SERVER_PORT=…``), command line.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Meta, Struct

from chatd.errors import ConfigError
from chatd.settings import Settings, host_and_port

ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+")
"""What a browser sends as its origin, or all of them; it is compared as it is."""


class Row(Struct, frozen=True):
    """One setting of the table. ``kind`` says its type and bounds for people."""

    section: str
    name: str
    kind: str
    default: Any
    comment: str


def table() -> Iterator[Row]:
    """Every setting in the order of the file."""
    for section in msgspec.structs.fields(Settings):
        for one in msgspec.structs.fields(section.type):
            meta = one.type.__metadata__[0]
            yield Row(section.name, one.name, _kind(one.type.__origin__, meta), one.default, meta.description)


def _kind(base: Any, meta: Meta) -> str:
    values = getattr(base, "__args__", ())
    if getattr(base, "__origin__", None) is Literal:
        return " | ".join(str(v) for v in values)
    name = "list of strings" if base not in (str, int, float, bool) else base.__name__
    low = f"≥ {meta.ge}" if meta.ge is not None else (f"> {meta.gt}" if meta.gt is not None else "")
    high = f"≤ {meta.le}" if meta.le is not None else ""
    bounds = ", ".join(b for b in (low, high) if b)
    return f"{name}, {bounds}" if bounds else name


def default_toml() -> str:
    """The annotated default configuration: what ``config/chatd.toml`` holds and ``chatd config default`` prints."""
    lines = ["# chatd configuration: every setting with its default. Generated from the settings table.", ""]
    section = ""
    for row in table():
        if row.section != section:
            section = row.section
            doc = next(f.type.__doc__ for f in msgspec.structs.fields(Settings) if f.name == section)
            lines += [f"# {doc}", f"[{section}]"]
        lines += [f"# {row.comment} ({row.kind})", f"{row.name} = {toml_value(row.default)}", ""]
    return "\n".join(lines).rstrip() + "\n"


def show_toml(settings: Settings) -> str:
    """The settings in force, as TOML without comments. Secrets are starred: a key, and the password in a URL."""
    lines: list[str] = []
    for section in msgspec.structs.fields(Settings):
        lines.append(f"[{section.name}]")
        values = getattr(settings, section.name)
        lines += [f"{n} = {toml_value(_starred(n, getattr(values, n)))}" for n in values.__struct_fields__]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _starred(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return "***" if value and name.endswith("_secret") else re.sub(r"(://[^:/@]*:)[^/]*@", r"\1***@", value)


def toml_value(value: Any) -> str:
    """One value as TOML text."""
    if isinstance(value, tuple):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    return msgspec.json.encode(value).decode()


def load(
    path: Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings. ``overrides`` has keys like ``server.port``; None values are left out.

    Raises: ConfigError – one line that names the file, the setting and what is wrong with it.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(path.read_text("utf-8"))
        except OSError as exc:
            raise ConfigError(f"{path}: {exc.strerror or exc}") from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{path}: not TOML: {exc}") from exc
        _known(tree, str(path))
    rows = {f"{r.section}.{r.name}": r for r in table()}
    source: dict[str, str] = {}
    for key, row in rows.items():
        text = (os.environ if env is None else env).get(_variable(row))
        if text is not None:
            tree.setdefault(row.section, {})[row.name] = _from_text(text, row)
            source[key] = _variable(row)
    for key, value in (overrides or {}).items():
        if value is not None:
            tree.setdefault(rows[key].section, {})[rows[key].name] = value
            source[key] = "command line"
    try:
        settings = msgspec.convert(tree, Settings)
    except msgspec.ValidationError as exc:
        what, _, where = str(exc).partition(" - at `$.")
        name = where.rstrip("`") or "settings"
        what = what.replace("`bool`, got `str`", "true or false")
        raise ConfigError(f"{source.get(name) or path or 'settings'}: {name}: {what[:1].lower()}{what[1:]}") from exc
    return _consistent(settings)


def _known(tree: Mapping[str, Any], source: str) -> None:
    sections: dict[str, list[str]] = {}
    for row in table():
        sections.setdefault(row.section, []).append(row.name)
    for section, values in tree.items():
        if section not in sections:
            raise ConfigError(f"{source}: unknown section [{section}]{_neighbour(section, list(sections))}")
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: {section} is a section: write [{section}] and its settings below it")
        for name in values:
            if name not in sections[section]:
                hint = _neighbour(name, sections[section])
                raise ConfigError(f"{source}: unknown setting {section}.{name}{hint}")


def _neighbour(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, 1, 0.0)
    return f"; did you mean {near[0]}?" if near else ""


def _from_text(text: str, row: Row) -> Any:
    if isinstance(row.default, tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(row.default, str):
        return text
    if isinstance(row.default, bool):
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return type(row.default)(text)
    except ValueError:
        return text  # the conversion names the setting and the type it wants


def strays(env: Mapping[str, str] | None = None) -> list[str]:
    """Environment variables that look like settings and are none, a line each."""
    prefixes = tuple(f"CHATD_{section.name.upper()}_" for section in msgspec.structs.fields(Settings))
    known = [_variable(row) for row in table()]
    names = [name for name in (os.environ if env is None else env) if name.startswith(prefixes) and name not in known]
    return [f"{name} is set, and is no setting{_neighbour(name, known)}" for name in sorted(names)]


def _variable(row: Row) -> str:
    return f"CHATD_{row.section}_{row.name}".upper()


def _consistent(settings: Settings) -> Settings:
    for row in table():
        value = getattr(getattr(settings, row.section), row.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{row.section}.{row.name}: {value} is no number that can be waited for or counted to")
    for origin in settings.server.origins:
        if not ORIGIN.fullmatch(origin):
            raise ConfigError(f"server.origins: {origin!a}: it is written as https://chat.example, without a path")
    limits, accounts, timing = settings.limits, settings.accounts, settings.timing
    if timing.pong_s > timing.heartbeat_s:
        raise ConfigError(f"timing.pong_s: {timing.pong_s} is longer than timing.heartbeat_s ({timing.heartbeat_s})")
    if limits.body_bytes_max + 512 > limits.frame_bytes_max:
        raise ConfigError(
            f"limits.body_bytes_max: {limits.body_bytes_max} does not fit a frame; "
            f"raise limits.frame_bytes_max above {limits.body_bytes_max + 512}"
        )
    if accounts.jwt_keys and not accounts.jwt_issuer:
        raise ConfigError("accounts.jwt_issuer: needed with accounts.jwt_keys")
    if bool(settings.server.tls_certificate) is not bool(settings.server.tls_key):
        missing = "tls_key" if settings.server.tls_certificate else "tls_certificate"
        raise ConfigError(f"server.{missing}: the certificate and its key are needed together")
    if settings.cluster.advertise and not settings.cluster.bus_url:
        raise ConfigError("cluster.bus_url: needed with cluster.advertise")
    if settings.server.metrics_listen:
        try:
            host_and_port(settings.server.metrics_listen)
        except ValueError as exc:
            raise ConfigError(f"server.metrics_listen: {exc}") from exc
    push = settings.push
    if push.webhook_url and not push.webhook_secret:
        raise ConfigError("push.webhook_secret: needed with push.webhook_url")
    if push.retry_s_min > push.retry_s_max:
        raise ConfigError(f"push.retry_s_min: {push.retry_s_min} is longer than push.retry_s_max ({push.retry_s_max})")
    return settings
