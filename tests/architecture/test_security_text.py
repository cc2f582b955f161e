"""docs/security.md names tests: each exists. And every test that is named there is one that can be run."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from chatd.security import EVENTS

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "security.md").read_text("utf-8")
ROWS = [
    line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith(("| threat", "| event", "| `"))
]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def _tests(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


def _faults(row: str) -> list[str]:
    """What is wrong with the tests that a row of the table names."""
    named = NAMED.findall(row.rpartition(" | ")[2])
    if not named:
        return ["it names no test"]
    return [f"{path} has no {name}" for path, name in named if not (ROOT / path).is_file() or name not in _tests(path)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:60])
def test_each_threat_has_a_behaviour_and_tests_that_exist(row: str) -> None:
    assert len(row.strip("| ").split(" | ")) == 4
    assert _faults(row) == []


def test_a_test_that_is_not_there_would_be_found() -> None:
    assert _faults("| a | b | c | nothing |") == ["it names no test"]
    here = "tests/architecture/test_security_text.py"
    assert _faults(f"| a | b | c | `{here}::test_of_nothing`, `tests/none.py::test_x` |") == [
        f"{here} has no test_of_nothing",
        "tests/none.py has no test_x",
    ]
    assert len(ROWS) > 35


def test_the_events_that_the_filter_looks_for_are_events() -> None:
    text = (ROOT / "config" / "fail2ban" / "filter.d" / "chatd.conf").read_text("utf-8")
    (looked_for,) = re.findall(r"^_events = (\S+)$", text, flags=re.MULTILINE)
    assert set(looked_for.split("|")) <= {name for name, event in EVENTS.items() if event.hostile}
