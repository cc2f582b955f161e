"""No dependency is as old as a vulnerability that is known: requirements-floors.toml."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent.parent
FLOORS = tomllib.loads((ROOT / "requirements-floors.toml").read_text("utf-8"))
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-binary.lock")


def _locked(lock: str) -> dict[str, Version]:
    text = (ROOT / lock).read_text("utf-8")
    rows = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^ ;\\]+)", text, re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in rows}


def _below(found: dict[str, Version], kind: str) -> list[str]:
    return [
        f"{name} {version}, at least {FLOORS[kind][name]['least']}: {', '.join(FLOORS[kind][name]['closes'])}"
        for name, version in found.items()
        if name in FLOORS[kind] and version < Version(FLOORS[kind][name]["least"])
    ]


def test_the_lock_files_are_above_the_floors() -> None:
    locked = {lock: _locked(lock) for lock in LOCKS}
    assert [below for found in locked.values() for below in _below(found, "pypi")] == []
    everything = set().union(*locked.values())
    assert FLOORS["pypi"].keys() <= everything  # a line for what is not used any more goes


def test_whoever_installs_without_the_locks_gets_no_less() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    lists = project["project"]["optional-dependencies"].values(), project["dependency-groups"].values()
    least: dict[str, Version] = {}
    for text in chain(project["project"]["dependencies"], *chain(*lists)):
        requirement = Requirement(text)
        for one in requirement.specifier:
            if one.operator == ">=":
                least[canonicalize_name(requirement.name)] = Version(one.version)
    assert {"aiohttp", "cryptography", "http-ece", "pyinstaller", "pyjwt", "redis"} <= least.keys()
    assert _below(least, "pypi") == []


def test_the_page_s_kept_libraries_are_above_the_floors() -> None:
    table = (ROOT / "chatd" / "web" / "page" / "vendor" / "README.md").read_text("utf-8")
    kept = {name: Version(version) for name, version in re.findall(r"^\| `[^`]+` \| (\w+) \| ([\d.]+) \|", table, re.M)}
    assert kept.keys() >= {"preact", "htm"}
    assert _below(kept, "npm") == []


def test_a_version_below_a_floor_would_be_found() -> None:
    assert len(_below({"aiohttp": Version("3.14.3"), "pyjwt": Version("2.15.0")}, "pypi")) == 1
