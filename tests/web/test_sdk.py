"""The JavaScript client: its own tests, run by Node. Without Node they fail, for nothing else covers what they do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SUITES = sorted(path.name for path in HERE.glob("*.test.js"))
TIMEOUT_S = 240


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    assert found, "the tests of the JavaScript client need Node 20 or later (Debian: nodejs, npm)"
    if not (HERE / "node_modules" / "typescript").exists():
        subprocess.run(["npm", "ci", "--silent"], cwd=HERE, check=True, timeout=TIMEOUT_S)
    return found


def test_there_are_suites() -> None:
    assert len(SUITES) >= 8


@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize("suite", SUITES)
def test_suite(node: str, suite: str) -> None:
    flags = ["--experimental-websocket", "--test", "--test-reporter=spec", f"--test-timeout={TIMEOUT_S * 1000}"]
    environment = {**os.environ, "CHATD_PYTHON": sys.executable}
    done = subprocess.run(
        [node, *flags, suite],
        cwd=HERE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S + 30,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "\nℹ pass 0\n" not in done.stdout
