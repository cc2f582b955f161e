"""The repository speaks of the project alone: no host of a package registry, no path of somebody's machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MADE = {".git", ".venv", "build", "dist", "data", "results", "__pycache__", "node_modules"}
CACHES = ("_cache", ".hypothesis")

# Put together here, so that this file does not hold what it looks for.
HOSTS = [
    ".".join(parts)
    for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"), ("crates", "io"))
]
FOLDERS = ["work", "root", "home/[a-z]+", "Users/[A-Za-z]+"]
FORBIDDEN = re.compile(
    "|".join(re.escape(host) for host in HOSTS) + "|" + r"(?<![\w.$~}<-])/(?:" + "|".join(FOLDERS) + r")(?:/|\b)"
)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in MADE or path.name.endswith(CACHES):
            continue
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _finds(text: str) -> list[str]:
    return [match.group() for match in FORBIDDEN.finditer(text)]


def test_no_file_names_a_registry_or_a_machine() -> None:
    found = {}
    files = list(_files(ROOT))
    for path in files:
        finds = _finds(path.read_bytes().decode("utf-8", "replace"))
        if finds:
            found[path.relative_to(ROOT).as_posix()] = finds
    assert found == {}
    assert ROOT / "requirements.lock" in files
    assert ROOT / ".ci" / "run" in files


def test_what_is_forbidden_would_be_found() -> None:
    assert [_finds(f"--index-url https://{host}/simple") for host in HOSTS] == [[host] for host in HOSTS]
    for path in ("work/x.py", "root", "home/me/src", "Users/Me"):
        assert len(_finds(f'open("/{path}")')) == 1
    assert _finds("the network / works, framework/x, https://x.example/work, $ROOT/work, a/root/b") == []
