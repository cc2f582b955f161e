"""The suite listens to itself: a test whose output holds a token, a password or a body that it made has failed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
TEST = """
import asyncio
from chatd.passwords import Passwords
from chatd.protocol import new_message_id
from chatd.testing import ThreadedChatServer
import chatd.protocol

def test_it():
    with ThreadedChatServer(users=["alice", "bob"]) as server:
        token = server.token("alice")
    print("that was all")
    {line}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "failed"),
    [
        ("print('nothing to see')", False),
        ("print('the token is', token)", True),
        ("import structlog; structlog.get_logger().info('in', token=token)", True),
        ("import sys; sys.stderr.write(token)", True),
    ],
)
def test_a_test_that_prints_a_secret_fails(line: str, failed: bool, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TEST.format(line=line))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-c", "/dev/null", "--rootdir", tmp_path, tmp_path],
        env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("printed a secret" in ran.stdout) is failed, ran.stdout
    assert ran.returncode == (1 if failed else 0), ran.stdout
