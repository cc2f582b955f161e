"""How log lines look, and that each is one: what a client wrote can neither end a line nor paint on a terminal."""

from __future__ import annotations

import logging
import os
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
LOST_JSON = '{"level":"warning","event":"log_lines_lost","lines":%d}\n'
LOST_CONSOLE = "[warning  ] log_lines_lost lines=%d\n"


class Lines:
    """Where log lines are written, unbuffered. One that is not taken, since nobody reads any more or the disk is full,
    is lost: who logs goes on. The next one that is taken comes behind a line that tells how many were.

    ``fd``: of an open file; ``lost``: that line, with the place of the number.
    """

    def __init__(self, fd: int, encoding: str, *, lost: str) -> None:
        self._fd = fd
        self._encoding = encoding
        self._told = lost
        self._lost = 0
        self._cut = b""

    def write(self, line: str | bytes) -> None:
        """Write a line, with its end."""
        data = line if isinstance(line, bytes) else line.encode(self._encoding, "backslashreplace")
        if self._lost:
            data = self._cut + (self._told % self._lost).encode() + data
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            self._lost += 1
            self._cut = self._cut if len(rest) == len(data) else b"\n"
        else:
            self._lost, self._cut = 0, b""

    def flush(self) -> None:
        """Nothing waits."""


def configure_logging(server: ServerSettings) -> None:
    """To standard error, one event a line; what libraries log through the standard library looks the same."""
    import structlog

    console = server.log_format == "console" or (server.log_format == "auto" and sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[server.log_level.upper()]
    lines: Any = Lines(sys.stderr.fileno(), sys.stderr.encoding, lost=LOST_CONSOLE if console else LOST_JSON)
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
        logger_factory=(structlog.WriteLoggerFactory if console else structlog.BytesLoggerFactory)(lines),
        cache_logger_on_first_use=True,
    )
    if not console:
        shape.append(lambda *line: as_json(*line).decode())
    handler = logging.StreamHandler(lines)
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
