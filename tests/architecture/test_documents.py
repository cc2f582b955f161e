"""The documents name everything that there is, and nothing that there is not."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import click
import msgspec
import pytest

from chatd import configuration, errors, protocol, session
from chatd.errors import REFUSALS
from chatd.protocol import CLIENT_FRAMES, CLOSE_CODES, SERVER_FRAMES

ROOT = Path(__file__).parent.parent.parent
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text("utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
TEXTS = {p.relative_to(ROOT).as_posix(): p.read_text("utf-8") for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
ROWS = {f"{row.section}.{row.name}": row for row in configuration.table()}


def _section(text: str, heading: str) -> str:
    """A section of a Markdown text, from its heading to the next one of its depth or above."""
    depth = len(heading) - len(heading.lstrip("#"))
    _, found, rest = text.partition(f"\n{heading}")
    assert found, heading
    return re.split(rf"^#{{1,{depth}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def _cells(text: str) -> list[list[str]]:
    """The rows of a Markdown table without its head, as cells."""
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip(" |") for cell in row] for row in rows][1:]


def _marked(text: str, marker: str) -> str:
    _, begin, rest = text.partition(f"<!-- {marker} -->")
    inner, end, _ = rest.partition(f"<!-- /{marker} -->")
    assert begin, marker
    assert end, marker
    return inner


@pytest.mark.parametrize("name", ROWS)
def test_a_setting_stands_in_the_manual_and_in_the_default_file(name: str) -> None:
    assert f"| `{name}` |" in OPERATIONS
    tree = tomllib.loads((ROOT / "config" / "chatd.toml").read_text("utf-8"))
    assert ROWS[name].name in tree[ROWS[name].section]


@pytest.mark.parametrize("document", TEXTS)
def test_a_document_names_no_setting_that_is_not_there(document: str) -> None:
    sections = "|".join(sorted({row.section for row in ROWS.values()} - {"limits"}))
    named = set(re.findall(rf"`((?:{sections})\.[a-z_]+)`", TEXTS[document]))
    told = {f"limits.{field}" for field in protocol.Limits.__struct_fields__}  # what `welcome` calls them
    named |= set(re.findall(r"`(limits\.[a-z_]+)", TEXTS[document])) - told
    assert sorted(named - ROWS.keys()) == []


def test_the_error_codes_are_those_of_the_protocol_text() -> None:
    told = {row[0].strip("`"): row[1] == "yes" for row in _cells(_section(PROTOCOL, "### 3.4 Errors"))}
    assert told == {code: kind.temporary for code, kind in REFUSALS.items()}


def test_the_close_codes_are_those_of_the_protocol_text() -> None:
    told = {int(row[0]): row[1] == "yes" for row in _cells(_section(PROTOCOL, "### 3.5 Close codes"))}
    assert told == {code: close.reconnect for code, close in CLOSE_CODES.items()}


@pytest.mark.parametrize(
    ("heading", "frames"),
    [("### 3.2 Client → server", CLIENT_FRAMES), ("### 3.3 Server → client", SERVER_FRAMES)],
)
def test_every_frame_stands_in_the_protocol_text_with_its_fields(
    heading: str, frames: tuple[type[msgspec.Struct], ...]
) -> None:
    rows = {row[0].strip("`"): " | ".join(row[1:]) for row in _cells(_section(PROTOCOL, heading))}
    assert rows.keys() == {frame.__struct_config__.tag for frame in frames}
    for frame in frames:
        row = rows[str(frame.__struct_config__.tag)]
        for field in msgspec.structs.fields(frame):
            if field.name != "ref":  # optional on every frame, and said once
                assert f"`{field.encode_name}`" in row or f"`{field.encode_name}?`" in row, (frame, field.name)


@pytest.mark.parametrize("struct", [protocol.Limits, protocol.Entry, protocol.ConversationRow])
def test_every_field_inside_a_frame_stands_in_the_protocol_text(struct: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(struct):
        assert re.search(rf"\b{field.encode_name}\b", _section(PROTOCOL, "### 3.3 Server → client"))


def _examples(direction: str) -> list[bytes]:
    blocks = re.findall(rf"^```json {direction}\n(.*?)^```", PROTOCOL, flags=re.MULTILINE | re.DOTALL)
    return [line.encode() for block in blocks for line in block.splitlines()]


def test_the_examples_of_the_protocol_text_are_frames_one_of_each_type() -> None:
    client = [type(protocol.decode_client(line)) for line in _examples("client")]
    server = [type(protocol.decode_server(line)) for line in _examples("server")]
    assert client == list(CLIENT_FRAMES)
    assert server == list(SERVER_FRAMES)


def test_the_states_of_the_protocol_text_are_those_of_the_session() -> None:
    told = {(row[0], row[1]): row[2] for row in _cells(_marked(PROTOCOL, "states"))}
    assert told == {(state.value, event.value): after.value for (state, event), after in session.NEXT.items()}


def test_the_exit_codes_are_those_of_the_manual() -> None:
    told = {int(row[0]) for row in _cells(_section(OPERATIONS, "## Exit codes"))}
    assert told == {0} | {value for name, value in vars(errors).items() if name.startswith("EXIT_")}


def _verbs(command: click.Command, path: str) -> set[str]:
    if not isinstance(command, click.Group):
        return {path}
    context = click.Context(command)
    inner = ((name, command.get_command(context, name)) for name in command.list_commands(context))
    return set().union(*(_verbs(one, f"{path} {name}") for name, one in inner if one is not None))


def _told_verbs() -> set[str]:
    return {row[0].strip("`") for row in _cells(_section(OPERATIONS, "## Commands"))}


def test_the_commands_are_those_of_the_manual() -> None:
    cli = importlib.import_module("chatd.cli")
    groups = [value for value in vars(cli).values() if isinstance(value, click.Group)]
    programs = [g for g in groups if not any(g in other.commands.values() for other in groups)]
    assert len(programs) == 1
    assert _verbs(programs[0], "chatd") == _told_verbs()


COMMAND = re.compile(r"(?:^|[`(]|\.venv/bin/)((?:make|chatd) [^`\n]+)", re.MULTILINE)


def _commands(text: str) -> list[list[str]]:
    """The `make …` and `chatd …` commands of a text: in shell blocks, and between backquotes."""
    shell = re.findall(r"^```(?:sh|console)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    inline = [f"`{code}`" for code in re.findall(r"`([^`\n]+)`", outside)]
    return [shlex.split(match, comments=True) for part in [*shell, *inline] for match in COMMAND.findall(part)]


@pytest.mark.parametrize("document", TEXTS)
def test_the_commands_that_a_document_shows_are_there(document: str) -> None:
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    verbs = _told_verbs()
    unknown = []
    for words in _commands(TEXTS[document]):
        if words[0] == "make":
            unknown += [word for word in words[1:] if "=" not in word and word not in targets]
        elif words[1].isupper() or words[1].startswith("-"):
            continue  # `chatd COMMAND --help`
        elif not verbs & {" ".join(words[:2]), " ".join(words[:3])}:
            unknown.append(" ".join(words))
    assert unknown == []


def test_the_makefile_s_targets_stand_in_the_readme() -> None:
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    assert {"help", "run", "test", "check", "bench", "clean"} <= set(targets)
    assert [t for t in targets if f"make {t}" not in TEXTS["README.md"]] == []


def test_a_command_that_is_not_there_would_be_found() -> None:
    text = "Say `make sandwich`.\n```sh\n.venv/bin/chatd sing loud\nmake test ARGS=x\n```\n"
    assert sorted(_commands(text)) == [
        ["chatd", "sing", "loud"],
        ["make", "sandwich"],
        ["make", "test", "ARGS=x"],
    ]
