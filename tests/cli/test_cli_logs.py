"""How a log line is written: JSON, one line, whatever is in it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from chatd.cli.logs import as_json


class Loud:
    def __repr__(self) -> str:
        return "loud\x1b[2J\n"


LOOP: dict[str, Any] = {}
LOOP["again"] = LOOP


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({"a": [1, None, True, "ä"]}, {"a": [1, None, True, "ä"]}),
        (2**64, "18446744073709551616"),
        (["\ud800"], "['\\ud800']"),
        ({1: 2}, "{1: 2}"),
        ({"\udfff": 1}, "{'\\udfff': 1}"),
        (float("nan"), None),
        (b"\xff\n", "b'\\xff\\n'"),
        (Loud(), "loud\x1b[2J\n"),
        ([Loud(), "\ud800"], "[loud\\x1b[2J\\n, '\\ud800']"),
        (LOOP, "{'again': {...}}"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_line_holds_it_is_one_line_of_json(value: Any, read: Any) -> None:
    line = as_json(None, "info", {"event": "e", "code": 1003, "it": value, "last": "x"})
    assert b"\n" not in line
    assert b"\x1b" not in line
    assert json.loads(line) == {"event": "e", "code": 1003, "it": read, "last": "x"}


SAID = """
import logging, structlog
from chatd.cli.logs import configure_logging
from chatd.settings import ServerSettings

configure_logging(ServerSettings(log_format="json"))
log = structlog.get_logger("chatd.x")
log.warning("own", text="a\\nb\\ud800\\u202e", address="192.0.2.1")
logging.getLogger("library").warning("theirs %s", "c\\nd\\udc00")
try:
    raise ValueError("e\\n{")
except ValueError:
    log.exception("failed", where=["\\ud800"])
"""


def test_what_libraries_log_looks_the_same_and_comes_in_order() -> None:
    said = subprocess.run([sys.executable, "-c", SAID], capture_output=True, check=True).stderr
    rows = [json.loads(line) for line in said.splitlines()]
    assert [(row["level"], row["event"]) for row in rows] == [
        ("warning", "own"),
        ("warning", "theirs c\\nd\\udc00"),
        ("error", "failed"),
    ]
    assert list(rows[0]) == ["timestamp", "level", "event", "text", "address"]
    assert rows[0]["text"] == "a\\nb\\ud800\\u202e"
    assert list(rows[1]) == ["timestamp", "level", "event"]
    assert rows[2]["where"] == "['\\ud800']"
    assert "\n    ValueError: e\n    {" in rows[2]["exception"]
