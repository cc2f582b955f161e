"""What a process that serves needs around its event loop: logs, open files, and an end that is certain."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys
from collections.abc import Callable
from typing import NoReturn

from chatd.errors import EXIT_FAILED
from chatd.settings import ServerSettings

END_GRACE_S = 5.0
"""Beyond ``timing.drain_s``: what the store may need for its last commit and checkpoint."""
SPARE_FILES = 256


def end_now() -> NoReturn:
    """End the process without closing anything: closing a store would be another fsync."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_FAILED)


def configure_logging(server: ServerSettings) -> None:
    """To standard error, one event a line; what libraries log through the standard library looks the same."""
    import structlog

    console = server.log_format == "console" or (server.log_format == "auto" and sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[server.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    shape: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    )
    structlog.configure(
        processors=[*shared, *shape],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *shape],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.INFO))


def raise_open_files(wanted: int) -> None:
    """A connection needs a file: take what the hard limit allows, as far as it is wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the event loop: uvloop where there is one."""
    try:
        import uvloop
    except ImportError:  # it does not exist everywhere
        return asyncio.new_event_loop
    return uvloop.new_event_loop
