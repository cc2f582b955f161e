"""What is inside the binary, as CycloneDX 1.6: told by what PyInstaller put there, not by what was asked for."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sqlite3
import ssl
import uuid
from collections.abc import Iterable, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OPENSSL = re.compile(r"OpenSSL (\S+)")
Component = dict[str, Any]


def write(path: str, modules: Iterable[str], files: Sequence[tuple[str, str]]) -> None:
    """Write the document to ``path``.

    ``modules``: names of the Python modules inside. ``files``: (place inside, file that it was taken from).
    """
    names = {*modules, *(place.replace("/", ".") for place, _ in files)}
    found = sorted({"pyinstaller", *_distributions(names)} - {"chatd"})
    own = _distribution("chatd") | {"type": "application"}
    components = [
        *map(_distribution, found),
        *_interpreter(),
        *(_library(place, Path(source)) for place, source in sorted(files) if "/" not in place and ".so" in place),
        *_scripts(),
    ]
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"lifecycles": [{"phase": "build"}], "component": own},
        "components": components,
        "dependencies": [
            {"ref": _ref(name), "dependsOn": _needs(name, found)} for name in ["chatd", *found] if name != "pyinstaller"
        ],
    }
    # Named by its content, so that the same build gives the same file.
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}"
    Path(path).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _distributions(names: Iterable[str]) -> set[str]:
    by_module = metadata.packages_distributions()
    roots = {name.partition(".")[0] for name in names}
    return {canonicalize_name(found) for root in roots for found in by_module.get(root, ())}


def _ref(name: str) -> str:
    return f"pkg:pypi/{canonicalize_name(name)}@{metadata.version(name)}"


def _distribution(name: str) -> Component:
    about = metadata.metadata(name).json
    component: Component = {
        "type": "library",
        "bom-ref": _ref(name),
        "name": canonicalize_name(name),
        "version": metadata.version(name),
        "purl": _ref(name),
    }
    if expression := about.get("license_expression"):
        component["licenses"] = [{"expression": str(expression)}]
    elif licence := about.get("license"):
        component["licenses"] = [{"license": {"name": str(licence).partition("\n")[0]}}]
    return component


def _needs(name: str, found: Sequence[str]) -> list[str]:
    """What of the binary a distribution asks for, extras of chatd's requirements included."""
    needs = set()
    for text in metadata.requires(name) or ():
        one = Requirement(text)
        extras = {"crypto", "hiredis", "push", ""}
        if canonicalize_name(one.name) in found and (
            one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras)
        ):
            needs.add(_ref(one.name))
    return sorted(needs)


def _interpreter() -> list[Component]:
    """CPython and what it was built with, and the OpenSSL inside cryptography, which is another one."""
    from cryptography.hazmat.backends.openssl.backend import backend

    own, other = OPENSSL.match(ssl.OPENSSL_VERSION), OPENSSL.match(backend.openssl_version_text())
    rows = [("python", "python", platform.python_version(), ""), ("sqlite", "sqlite", sqlite3.sqlite_version, "")]
    rows += [("openssl", "openssl", match[1], where) for match, where in ((own, ""), (other, "cryptography")) if match]
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:generic/{name}@{version}" + (f"#{where}" if where else ""),
            "name": name,
            "version": version,
            "purl": f"pkg:generic/{name}@{version}",
            "cpe": f"cpe:2.3:a:{vendor}:{name}:{version}:*:*:*:*:*:*:*",
            **({"description": f"linked into {where}"} if where else {}),
        }
        for vendor, name, version, where in rows
    ]


def _library(place: str, source: Path) -> Component:
    """A shared library of the machine that built, by the digest that it had there (stripping comes after)."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return {"type": "file", "bom-ref": place, "name": place, "hashes": [{"alg": "SHA-256", "content": digest}]}


def _scripts() -> list[Component]:
    """The page's kept libraries, by the table that lies beside them."""
    table = resources.files("chatd.web").joinpath("page/vendor/README.md").read_text("utf-8")
    rows = {
        (cells[1], cells[2], cells[4].partition(":")[0])
        for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
        if len(cells) == 5 and cells[0].startswith("`")
    }
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:npm/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:npm/{name}@{version}",
            "licenses": [{"license": {"id": licence}}],
        }
        for name, version, licence in sorted(rows)
    ]
