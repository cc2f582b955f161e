"""Every test's captured output is searched for the secrets that the test made: tokens, passwords, bodies."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chatd import accounts, protocol, sequencer
from chatd.passwords import Passwords

if TYPE_CHECKING:
    from cli_rig import Place

ROOT = Path(__file__).parent.parent
SECRETS_MAX = 20_000
"""Of one test; of a load test with more, those up to here are looked for."""
SECRET_CHARS_MIN = 12
"""Shorter ones stand in a log by chance, as a user's name that is its password in a test."""


class Kept:
    """The secrets of the test that runs."""

    def __init__(self) -> None:
        self.now: set[str] = set()

    def keep(self, secret: str) -> None:
        if len(secret) >= SECRET_CHARS_MIN and len(self.now) < SECRETS_MAX:
            self.now.add(secret)

    def found_in(self, text: str) -> list[str]:
        return [secret for secret in self.now if secret in text]


KEPT = Kept()


def _watch() -> None:
    """Note each token that is made, each password that is hashed or checked, and each body that is submitted."""
    new_token, hash_, verify = protocol.new_token, Passwords.hash, Passwords.verify
    submit = sequencer.Sequencer.submit

    def kept_token() -> str:
        token = new_token()
        KEPT.keep(token)
        return token

    async def kept_hash(self: Passwords, password: str) -> str:
        KEPT.keep(password)
        return await hash_(self, password)

    async def kept_verify(self: Passwords, password: str, password_hash: str | None) -> bool:
        KEPT.keep(password)
        return await verify(self, password, password_hash)

    def kept_submit(self: Any, draft: Any, *args: Any, **kwargs: Any) -> Any:
        KEPT.keep(draft.body)
        return submit(self, draft, *args, **kwargs)

    protocol.new_token = kept_token
    defaults = accounts.Accounts.__init__.__kwdefaults__
    assert defaults is not None
    defaults["new_token"] = kept_token
    Passwords.hash = kept_hash  # type: ignore[method-assign]
    Passwords.verify = kept_verify  # type: ignore[method-assign]
    sequencer.Sequencer.submit = kept_submit  # type: ignore[method-assign]


_watch()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    KEPT.now.clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """After the last part of a test: a test that printed a secret has failed."""
    report = yield
    if call.when == "teardown" and report.outcome == "passed":
        printed = "\n".join(text for _, text in report.sections)
        if sung := KEPT.found_in(printed):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} printed a secret: {sorted(sung)[0][:60]!r}\n{printed}"
    return report


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place to run commands in; for the tests of the command line."""
    from cli_rig import Place  # it lies beside them

    return Place(tmp_path)


@pytest.fixture(scope="session")
def made() -> Path:
    """The directory with what `make binary` makes; nothing is made again that is newer than what it is made of."""
    stamps = ("-o", ".venv/.runtime", "-o", ".venv/.dev")  # whoever runs tests has the environment
    ended = subprocess.run(["make", *stamps, "binary"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ROOT / "dist"
