# ruff: noqa: T201 - printing is what it is for
"""Reads pytest's JUnit file: ``count FILE`` prints the closing line, ``skipped FILE LIST`` compares them.

LIST holds one test a line, as ``package.module::name``; ``#`` begins a comment.
"""

import difflib
import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def cases(junit: Path) -> list[ET.Element]:
    return list(ET.parse(junit).iter("testcase")) if junit.exists() else []  # noqa: S314 - pytest's own file


def count(junit: Path) -> int:
    """Print "N passed, N failed"; 1 when a test failed or none ran."""
    found = cases(junit)
    failed = sum(1 for case in found if case.find("failure") is not None or case.find("error") is not None)
    skipped = sum(1 for case in found if case.find("skipped") is not None)
    print(f"{len(found) - failed - skipped} passed, {failed} failed")
    return 1 if failed or not found else 0


def skipped(junit: Path, listed: Path) -> int:
    """Print how the skipped tests differ from the list; 1 when they do."""
    lines = (line.partition("#")[0].strip() for line in listed.read_text("utf-8").splitlines())
    expected = sorted(line for line in lines if line)
    actual = sorted(
        f"{case.get('classname')}::{case.get('name')}" for case in cases(junit) if case.find("skipped") is not None
    )
    diff = list(difflib.unified_diff(expected, actual, str(listed), "skipped in this run", lineterm=""))
    print("\n".join(diff) or f"{len(actual)} skipped, as listed")
    return 1 if diff else 0


if __name__ == "__main__":
    command, junit, *rest = sys.argv[1:]
    sys.exit(skipped(Path(junit), Path(rest[0])) if command == "skipped" else count(Path(junit)))
