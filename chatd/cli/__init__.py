"""The command line. Every verb imports what it needs when it runs, so that none pays for the others."""

from __future__ import annotations

import errno
import io
import sys
from typing import Any

import click

from chatd.cli import (
    administer,
    backup,
    cluster,
    configure,
    doctor,
    health,
    messages,
    migrate,
    notify,
    operate,
    people,
    serve,
    talk,
    tools,
)
from chatd.cli.process import open_streams
from chatd.errors import (
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_NO_SERVER,
    EXIT_START,
    ChatdError,
    ConfigError,
    NoServer,
    StartError,
)

EXIT_CODES: dict[type[ChatdError], int] = {
    ConfigError: EXIT_CONFIG,
    StartError: EXIT_START,
    NoServer: EXIT_NO_SERVER,
}
EXIT_INTERRUPTED = 130
"""What a shell calls the end by ^C (128 + SIGINT)."""


class Program(click.Group):
    """The root. Whatever chatd raises on purpose, or the system says, becomes one line and an exit code; ^C nothing."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ChatdError as exc:
            code = next((code for kind, code in EXIT_CODES.items() if isinstance(exc, kind)), EXIT_FAILED)
            click.echo(f"chatd: {' '.join(str(exc).split())}", err=True)
            ctx.exit(code)
        except OSError as exc:
            if exc.errno == errno.EPIPE:  # nobody listens any more: click ends without a word
                raise
            click.echo(f"chatd: {f'{exc.filename}: ' if exc.filename else ''}{exc.strerror or exc}", err=True)
            ctx.exit(EXIT_FAILED)
        except (KeyboardInterrupt, click.Abort):
            ctx.exit(EXIT_INTERRUPTED)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A self-hostable server for real-time one-to-one messaging.

    `chatd serve` runs it; `chatd chat USER@URL` talks through it.
    """
    open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks ✓ gets an escape, not a crash
            stream.reconfigure(errors="backslashreplace")


for _command in (
    serve.serve,
    cluster.cluster,
    operate.status,
    operate.top,
    operate.drain,
    configure.init,
    configure.config,
    administer.user,
    administer.token,
    notify.push,
    migrate.migrate_store,
    backup.backup,
    backup.restore,
    people.export,
    people.erase,
    doctor.doctor,
    talk.chat,
    messages.send,
    messages.tail,
    health.health,
    tools.bench,
    tools.completion,
    tools.version,
):
    main.add_command(_command)
