"""The files of the page and the SDK, read once: what is not in this table is not served, so no path leads elsewhere.

The page's own addresses carry a version, the digest of all files: what stands there never changes and is kept by
browsers for ever, and one page load never mixes the scripts of two versions.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from types import MappingProxyType

MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".css": "text/css; charset=utf-8",
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".json": "application/json",
        ".md": "text/plain; charset=utf-8",
        ".LICENSE": "text/plain; charset=utf-8",
        ".png": "image/png",
        ".svg": "image/svg+xml",
        ".ts": "text/plain; charset=utf-8",
        ".webmanifest": "application/manifest+json",
    }
)
ROOT_FILES: Mapping[str, str] = MappingProxyType(
    {"sw.js": "page/sw.js", "manifest.webmanifest": "page/manifest.webmanifest"}
)
"""What must stand beside the page itself: a service worker's place is what it may control."""
_IMPORT = re.compile(r"""^(?:import|export|\}).*?\bfrom\s*["'](\.[^"']+)["']""", re.MULTILINE)
"""Also of a module in one line. An import that it misses only costs the browser a round trip."""
_COMMENT = re.compile(rb"^[ \t]*(?://[^\n]*|/\*.*?\*/[ \t]*)$", re.MULTILINE | re.DOTALL)
_PACKED = (".css", ".html", ".js", ".json", ".svg", ".webmanifest")
_WITHOUT = ("node_modules", "__pycache__")


@dataclass(frozen=True, slots=True)
class File:
    """One file as it goes out. ``packed``: the same in gzip, where that is smaller. ``etag``: quoted, of ``body``."""

    body: bytes
    packed: bytes | None
    media_type: str
    etag: str


@dataclass(frozen=True, slots=True)
class Files:
    """All of them by path below chatd/web; ``lean``: the scripts without their comments. ``index``: the page itself."""

    by_path: Mapping[str, File]
    lean: Mapping[str, File]
    index: File
    version: str


@cache
def files() -> Files:
    """Read them from the package. Raises: OSError – the installation is broken."""
    root = resources.files(__package__)
    bodies = {path: one.read_bytes() for top in ("page", "sdk") for path, one in _walk(root.joinpath(top), top)}
    digest = hashlib.sha256()
    for path, body in sorted(bodies.items()):
        digest.update(f"{path} {len(body)}\n".encode() + body)
    version = digest.hexdigest()[:16]
    index = _file("index.html", bodies["page/index.html"].replace(b"$HEAD", _head(version, bodies)))
    by_path = {path: _file(path, body) for path, body in bodies.items()}
    lean = {path: _file(path, without_comments(body)) for path, body in bodies.items() if path.endswith(".js")}
    return Files(MappingProxyType(by_path), MappingProxyType({**by_path, **lean}), index, version)


def without_comments(script: bytes) -> bytes:
    """A script without the comments that have lines of their own; every other line keeps its number.

    No template of ours may have a line that looks like the beginning of a comment: a test holds that.
    """
    return _COMMENT.sub(lambda comment: b"\n" * comment.group().count(b"\n"), script)


def _walk(folder: Traversable, path: str) -> Iterator[tuple[str, Traversable]]:
    for one in sorted(folder.iterdir(), key=lambda o: o.name):
        if one.name.startswith(".") or one.name in _WITHOUT:
            continue
        if one.is_dir():
            yield from _walk(one, f"{path}/{one.name}")
        elif _suffix(one.name) in MEDIA_TYPES:
            yield f"{path}/{one.name}", one


def _head(version: str, bodies: Mapping[str, bytes]) -> bytes:
    """The links of the page: every module at once, so that the browser need not discover them one by one."""
    at = f"assets/{version}"
    loaded = _loaded("page/app.js", bodies)
    lines = [f'<link rel="stylesheet" href="{at}/page/style.css">']
    lines += [f'<link rel="modulepreload" href="{at}/{path}">' for path in loaded]
    lines += [
        f'<link rel="icon" type="image/svg+xml" href="{at}/page/icon.svg">',
        f'<link rel="apple-touch-icon" href="{at}/page/icon-192.png">',
        f'<script type="module" src="{at}/page/app.js"></script>',
    ]
    return "\n".join(lines).encode()


def _loaded(start: str, bodies: Mapping[str, bytes]) -> list[str]:
    """The modules that one imports, and theirs."""
    found, waiting = [start], [start]
    while waiting:
        path = waiting.pop()
        for name in _IMPORT.findall(bodies[path].decode()):
            other = _joined(path, name)
            if other in bodies and other not in found:
                found.append(other)
                waiting.append(other)
    return found


def _joined(path: str, relative: str) -> str:
    parts = path.split("/")[:-1]
    for part in relative.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _suffix(name: str) -> str:
    return "." + name.rpartition(".")[2]


def _file(path: str, body: bytes) -> File:
    suffix = _suffix(path)
    packed = gzip.compress(body, mtime=0) if suffix in _PACKED else None
    if packed is not None and len(packed) >= len(body):
        packed = None
    etag = base64.urlsafe_b64encode(hashlib.sha256(body).digest()[:12]).decode()
    return File(body, packed, MEDIA_TYPES[suffix], f'"{etag}"')
