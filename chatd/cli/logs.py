"""How log lines look, and that each is one: what a client wrote can neither end a line nor paint on a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import orjson

from chatd.settings import ServerSettings

if TYPE_CHECKING:
    from structlog.typing import Processor

FIRST = ("timestamp", "level", "event")
TEXT_CHARS_MAX = 2_000
"""Of one value; a traceback is whole."""
INDENT = "    "


def configure_logging(server: ServerSettings) -> None:
    """To standard error, one event a line; what libraries log through the standard library looks the same."""
    import structlog

    console = server.log_format == "console" or (server.log_format == "auto" and sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[server.log_level.upper()]
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    shape: list[Processor] = [structlog.processors.format_exc_info, printable]
    if console:
        plain = structlog.dev.plain_traceback
        colors = sys.stderr.isatty()
        shape.append(structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, sort_keys=False))
    structlog.configure(
        processors=[*shared, *shape] if console else [*shared, *shape, as_json],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=(
            structlog.WriteLoggerFactory(sys.stderr) if console else structlog.BytesLoggerFactory(sys.stderr.buffer)
        ),
        cache_logger_on_first_use=True,
    )
    if not console:
        shape.append(lambda *line: as_json(*line).decode())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *shape],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.INFO))


def printable(logger: Any, method: str, line: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A processor: time, level and event first; whatever no terminal should be given is written as an escape.

    A traceback keeps its lines, but each is indented: none can pass for a log line.
    """
    made = {name: line.pop(name) for name in FIRST if name in line}
    made |= line
    for name, value in made.items():
        if not isinstance(value, str):
            continue
        if name == "exception":
            made[name] = "\n".join(INDENT + escaped(part) for part in value.split("\n"))
        else:
            made[name] = escaped(value[:TEXT_CHARS_MAX])
    return made


def as_json(logger: Any, method: str, line: MutableMapping[str, Any]) -> bytes:
    """The last processor: the line in JSON, whatever is in it; what JSON cannot say is written as Python would."""
    try:
        return orjson.dumps(line, default=repr)
    except TypeError:  # half a surrogate pair inside of a value, an integer above 64 bits, a key that is no text
        return orjson.dumps({escaped(name): _json_or_repr(value) for name, value in line.items()})


def _json_or_repr(value: Any) -> orjson.Fragment | str:
    try:
        return orjson.Fragment(orjson.dumps(value, default=repr))
    except TypeError:
        return escaped(repr(value))


def escaped(text: str) -> str:
    """The text with all that is not printable (controls, line ends, turns of direction) as ``\\x1b``, ``\\u202e``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
