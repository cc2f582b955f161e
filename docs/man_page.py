"""The manual page chatd.1, written from the commands themselves: `docs/generate.py` puts it into docs/chatd.1."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import click

from chatd import errors
from chatd.cli import main

# What the exit codes mean stands in docs/operations.md; their names here must be those of chatd/errors.py.
EXITS: dict[str, str] = {
    "EXIT_FAILED": "failed; a server: did not end in order, or the disk failed",
    "EXIT_USAGE": "wrong usage of the command line",
    "EXIT_START": "could not start: the port is taken, the data directory is in use or cannot be written",
    "EXIT_NO_SERVER": "no server runs there",
    "EXIT_CONFIG": "the configuration is wrong",
}
FILES: Sequence[tuple[str, str]] = (
    ("DATA/chatd.toml", "the configuration, if chatd init made the data directory"),
    ("DATA/chatd.db", "with chatd.db-wal and chatd.db-shm: all that a server keeps"),
    ("DATA/admin.sock", "how the commands of administration reach the running server"),
    ("$XDG_STATE_HOME/chatd", "what chatd chat, send and tail keep of a user at a server (else ~/.local/state/chatd)"),
)
ENVIRONMENT: Sequence[tuple[str, str]] = (
    ("CHATD_SECTION_NAME", "the setting section.name, as CHATD_SERVER_PORT for server.port"),
    ("CHATD_PASSWORD", "the password of the user that chatd chat, send and tail log in"),
    ("CHATD_TOKEN", "a token instead"),
)


def man_page() -> str:
    """The page in troff's man macros."""
    lines = [
        '.\\" Generated from the commands by `make docs`.',
        '.TH CHATD 1 "" "chatd" "User Commands"',
        ".SH NAME",
        r"chatd \- a self-hostable server for real-time one-to-one messaging",
        ".SH SYNOPSIS",
        ".B chatd",
        r".I COMMAND \fR[\fIOPTION\fR]... [\fIARGUMENT\fR]...",
        ".SH DESCRIPTION",
        *_prose(main.help or ""),
        ".SH COMMANDS",
        *(line for path, command in _verbs(main, "chatd") for line in _command(path, command)),
        ".SH EXIT STATUS",
        *_pairs([("0", "done; a server: ended in order"), *_exits(), ("130", "ended by ^C")]),
        ".SH ENVIRONMENT",
        *_pairs(ENVIRONMENT),
        ".SH FILES",
        *_pairs(FILES),
    ]
    return "\n".join(lines) + "\n"


def _exits() -> list[tuple[str, str]]:
    codes = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    return [(str(value), EXITS[name]) for name, value in sorted(codes.items(), key=lambda item: item[1])]


def _verbs(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, in the order in which it was added; hidden ones are nobody's business."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from _verbs(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _command(path: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=path, help_option_names=["-h", "--help"])
    usage = " ".join(piece for piece in command.collect_usage_pieces(context) if piece)
    yield f".SS {_escaped(f'{path} {usage}'.strip())}"
    yield from _prose(command.help or "")
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or not record[1] or "--help" in parameter.opts:
            continue  # an argument without a word of its own stands in the line above
        yield ".TP"
        yield f".B {_escaped(record[0])}"
        yield _escaped(_line(record[1]))


def _prose(text: str) -> list[str]:
    """Paragraphs; a form feed ends what is shown, as in --help."""
    paragraphs = [_line(part) for part in text.partition("\f")[0].split("\n\n")]
    return [line for part in paragraphs if part for line in (".PP", _escaped(part))]


def _pairs(pairs: Sequence[tuple[str, str]]) -> list[str]:
    return [line for name, meaning in pairs for line in (".TP", f".B {_escaped(name)}", _escaped(meaning))]


def _line(text: str) -> str:
    return " ".join(text.replace("\b", "").split())


def _escaped(text: str) -> str:
    """Plain text as troff reads it: a backslash, a hyphen that is typed, and what would begin a request."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("`", "")
    text = re.sub(r"[^\x00-\x7f]", lambda found: rf"\[u{ord(found[0]):04X}]", text)
    return re.sub(r"^(?=[.'])", r"\\&", text)
