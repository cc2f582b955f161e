"""The shipped systemd units, by systemd's own tools."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
UNITS = sorted((ROOT / "config" / "systemd").glob("*.service"))
EXPOSURE_MAX = 2.0


def _analyze(*args: str) -> subprocess.CompletedProcess[str]:
    path = shutil.which("systemd-analyze")
    assert path is not None, "no systemd-analyze: install it (Debian: apt-get install systemd)"
    return subprocess.run([path, *args], capture_output=True, text=True, check=False, timeout=60)


def _exposure(unit: Path) -> float:
    told = _analyze("security", "--offline=true", "--no-pager", str(unit))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", told.stdout)
    assert found is not None, told.stdout + told.stderr
    return float(found[1])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_gives_little_away(unit: Path) -> None:
    assert _exposure(unit) <= EXPOSURE_MAX


def test_a_unit_that_gives_everything_away_would_be_found(tmp_path: Path) -> None:
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert _exposure(bare) > EXPOSURE_MAX


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_understands_every_line(unit: Path, tmp_path: Path) -> None:
    program = tmp_path / "chatd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / unit.name
    text = unit.read_text("utf-8")
    assert text.count("/opt/chatd/chatd ") == 1
    copy.write_text(text.replace("/opt/chatd/chatd ", f"{program} "))
    told = _analyze("verify", "--man=no", "--recursive-errors=no", str(copy))
    assert (told.returncode, told.stderr) == (0, "")
    copy.write_text(copy.read_text().replace("KillMode=", "KilMode="))
    assert "KilMode" in _analyze("verify", "--man=no", "--recursive-errors=no", str(copy)).stderr


def test_both_units_are_hardened_alike() -> None:
    rules = [
        unit.read_text("utf-8").partition("\n# It needs its state")[2].partition("\n[Install]")[0] for unit in UNITS
    ]
    assert len(rules) == 2
    assert rules[0] == rules[1]
    assert "NoNewPrivileges=yes" in rules[0]
