"""What tests of the page share."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

WEB = Path(__file__).parent.parent / "web"
AXE = WEB / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe, which finds what keeps people out."""
    if not AXE.exists():
        subprocess.run(["npm", "ci", "--silent"], cwd=WEB, check=True, timeout=240)
    return AXE.read_text("utf-8")
