"""Imports point down, an adapter knows no other adapter, and the lower layers are pure: docs/architecture.md §2."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# Module or package → its layer. The longest name that fits holds; in layer 3 it also names the adapter.
LAYERS = {
    "chatd": 0,
    "chatd.errors": 0,
    "chatd.model": 0,
    "chatd.configuration": 0,
    "chatd.newfile": 1,
    "chatd.settings": 0,
    "chatd.protocol": 1,
    "chatd.refusing": 1,
    "chatd.session": 1,
    "chatd.cursor": 1,
    "chatd.limits": 1,
    "chatd.sending": 1,
    "chatd.stats": 1,
    "chatd.store": 1,
    "chatd.store.base": 1,
    "chatd.store.moving": 1,
    "chatd.tracing": 1,
    "chatd.presence": 1,
    "chatd.presence.state": 1,
    "chatd.presence.watching": 1,
    "chatd.push": 1,
    "chatd.routing": 1,
    "chatd.routing.bus": 1,
    "chatd.routing.ring": 1,
    "chatd.routing.turns": 1,
    "chatd.push.base": 1,
    "chatd.push.outbox": 1,
    "chatd.accounts": 2,
    "chatd.catch_up": 2,
    "chatd.connection": 2,
    "chatd.delivery": 2,
    "chatd.exporting": 2,
    "chatd.jwt_keys": 2,
    "chatd.metrics": 2,
    "chatd.migration": 2,
    "chatd.operations": 2,
    "chatd.passwords": 2,
    "chatd.probing": 2,
    "chatd.receipts": 2,
    "chatd.retention": 2,
    "chatd.sequencer": 2,
    "chatd.security": 2,
    "chatd.services": 2,
    "chatd.presence.service": 2,
    "chatd.push.marks": 2,
    "chatd.push.sender": 2,
    "chatd.routing.exchange": 2,
    "chatd.routing.membership": 2,
    "chatd.routing.others": 2,
    "chatd.push.service": 2,
    "chatd.push.subscriptions": 2,
    "chatd.store.conformance": 2,
    "chatd.admin": 3,
    "chatd.client": 3,
    "chatd.overview": 3,
    "chatd.routing.board_redis": 3,
    "chatd.routing.bus_redis": 3,
    "chatd.routing.ear_redis": 3,
    "chatd.routing.handover": 3,
    "chatd.routing.leases_redis": 3,
    "chatd.routing.members_redis": 3,
    "chatd.routing.proxying": 3,
    "chatd.routing.router": 3,
    "chatd.routing.supervised": 3,
    "chatd.routing.supervisor": 3,
    "chatd.push.guard": 3,
    "chatd.push.load": 3,
    "chatd.push.ntfy": 3,
    "chatd.push.webhook": 3,
    "chatd.push.webpush": 3,
    "chatd.store.memory": 3,
    "chatd.store.memory_accounts": 3,
    "chatd.store.memory_conversation": 3,
    "chatd.store.memory_presence": 3,
    "chatd.store.memory_push": 3,
    "chatd.store.redis": 3,
    "chatd.store.sqlite": 3,
    "chatd.tracing_otel": 3,
    "chatd.transport": 3,
    "chatd.web": 3,
    "chatd.__main__": 4,
    "chatd.app": 4,
    "chatd.listening": 4,
    "chatd.cli": 4,
    "chatd.doctor": 4,
    "chatd.testing": 4,
}
# One adapter in several files.
ADAPTERS = {
    "chatd.overview": "chatd.admin",
    "chatd.routing.board_redis": "chatd.store.redis",
    "chatd.routing.bus_redis": "chatd.store.redis",
    "chatd.routing.ear_redis": "chatd.store.redis",
    "chatd.routing.leases_redis": "chatd.store.redis",
    "chatd.routing.members_redis": "chatd.store.redis",
    "chatd.routing.handover": "chatd.routing.router",
    "chatd.routing.proxying": "chatd.routing.router",
    "chatd.routing.supervised": "chatd.routing.router",
    "chatd.routing.supervisor": "chatd.routing.router",
    "chatd.store.memory_accounts": "chatd.store.memory",
    "chatd.store.memory_conversation": "chatd.store.memory",
    "chatd.store.memory_presence": "chatd.store.memory",
    "chatd.store.memory_push": "chatd.store.memory",
    "chatd.web": "chatd.transport",
    "chatd.push.ntfy": "chatd.push.guard",
    "chatd.push.webhook": "chatd.push.guard",
    "chatd.push.webpush": "chatd.push.guard",
}
# The client's cores are as pure as layer 1, and the client knows of the server only what both ends share.
CLIENT_CORES = {f"chatd.client.{name}" for name in ("core", "events", "hints", "outqueue", "watermarks")}
CLIENT_MAY = {"chatd", "chatd.client", "chatd.errors", "chatd.model", "chatd.protocol"}

DRIVERS = {"aiohttp", "aiosqlite", "redis", "socket", "sqlite3", "ssl"}
IMPURE = DRIVERS | {"asyncio", "concurrent", "random", "secrets", "subprocess", "threading", "uuid"}
THIRD_PARTY_OF_PURE = {"msgspec"}
CLOCKS = {f"time.{name}" for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "sleep")} | {
    "datetime.now",
    "datetime.utcnow",
    "date.today",
    "os.urandom",
}
# The two functions of the protocol that make names; who calls them passes the time or wants a secret.
MAY_READ = {("chatd.protocol", "new_message_id"), ("chatd.protocol", "new_token")}


def _modules() -> dict[str, str]:
    found = {}
    for path in sorted((ROOT / "chatd").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path.read_text("utf-8")
    return found


MODULES = _modules()


def _row(module: str) -> str | None:
    """The longest name in LAYERS that fits; the root package stands for itself alone."""
    name = module
    while name and name not in LAYERS:
        name = name.rpartition(".")[0]
    return None if name == "chatd" and module != "chatd" else name


def _imports(source: str) -> set[str]:
    """The modules that a source imports, wherever it does; of chatd as precisely as can be told."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            module = node.module or ""
            names = {f"{module}.{alias.name}" for alias in node.names}
            submodules = names & MODULES.keys()
            found |= submodules
            if len(submodules) < len(names):
                found.add(module)
    return found


def _faults(module: str, source: str) -> list[str]:
    """What is wrong with the imports of a module."""
    row = _row(module)
    if row is None:
        return [f"{module} has no layer: give it one in LAYERS"]
    faults = []
    for other in sorted(_imports(source)):
        if other.partition(".")[0] != "chatd":
            continue
        target = _row(other)
        if target is None:
            faults.append(f"{module} imports {other}, which has no layer")
        elif LAYERS[target] > LAYERS[row]:
            faults.append(f"{module} (layer {LAYERS[row]}) imports {other} (layer {LAYERS[target]})")
        elif LAYERS[row] == LAYERS[target] == 3 and ADAPTERS.get(row, row) != ADAPTERS.get(target, target):
            faults.append(f"{module} imports {other}, another adapter")
        elif row == "chatd.client" and target not in CLIENT_MAY:
            faults.append(f"{module} imports {other}: the client knows nothing of the server")
    roots = {name.partition(".")[0] for name in _imports(source)}
    if LAYERS[row] <= 1 or module in CLIENT_CORES:
        third_party = {r for r in roots if r not in sys.stdlib_module_names} - {"chatd"} - THIRD_PARTY_OF_PURE
        faults += [f"{module} is pure and imports {name}" for name in sorted((roots & IMPURE) | third_party)]
        faults += [f"{module} is pure and calls {call}" for call in _clock_reads(module, source)]
    elif LAYERS[row] == 2:
        faults += [f"{module} is a service and imports {name}" for name in sorted(roots & DRIVERS)]
    return faults


def _clock_reads(module: str, source: str) -> list[str]:
    tree = ast.parse(source)
    allowed = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and (module, function.name) in MAY_READ
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in allowed:
            name = ".".join(ast.unparse(node).split(".")[-2:])
            if name in CLOCKS:
                found.append(name)
        elif isinstance(node, ast.ImportFrom) and node.module in {"time", "os"}:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found += [name for name in names if name in CLOCKS]
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_layer_may(module: str) -> None:
    assert _faults(module, MODULES[module]) == []


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    graph = {m: {i for i in _imports(s) if i in MODULES and i != m} for m, s in MODULES.items()}
    order: list[str] = []
    while ready := [m for m, imported in graph.items() if m not in order and imported <= set(order)]:
        order += ready
    assert sorted(graph.keys() - set(order)) == []


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("chatd.session", "from chatd.store.sqlite import open", "imports chatd.store.sqlite (layer 3)"),
        ("chatd.errors", "import chatd.protocol", "(layer 0) imports chatd.protocol (layer 1)"),
        ("chatd.sequencer", "def f():\n    from chatd.transport import x", "imports chatd.transport (layer 3)"),
        ("chatd.transport.websocket", "from chatd.store.memory import MemoryStore", "another adapter"),
        ("chatd.store.sqlite.log", "from chatd.client import Client", "another adapter"),
        ("chatd.client.core", "from chatd.configuration import load", "knows nothing of the server"),
        ("chatd.unheard_of", "import json", "has no layer"),
        ("chatd.session", "import asyncio", "is pure and imports asyncio"),
        ("chatd.cursor", "import aiohttp.web", "is pure and imports aiohttp"),
        ("chatd.cursor", "import structlog", "is pure and imports structlog"),
        ("chatd.client.core", "import random", "is pure and imports random"),
        ("chatd.model", "import time\nx = time.time()", "is pure and calls time.time"),
        ("chatd.model", "from time import monotonic", "is pure and calls time.monotonic"),
        ("chatd.model", "import datetime\nx = datetime.datetime.now(tz)", "is pure and calls datetime.now"),
        ("chatd.protocol", "import os\ndef other(): return os.urandom(1)", "is pure and calls os.urandom"),
        ("chatd.sequencer", "import sqlite3", "is a service and imports sqlite3"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str, fault: str) -> None:
    faults = _faults(module, source)
    assert len(faults) == 1
    assert fault in faults[0]


def test_what_is_allowed_is_allowed() -> None:
    assert _faults("chatd.protocol", "import os\ndef new_token(): return os.urandom(32)") == []
    assert _faults("chatd.store.memory", "from chatd.store.memory_accounts import MemoryAccounts") == []
    assert _faults("chatd.app", "import aiohttp\nfrom chatd.store.sqlite import open\nimport chatd.cli") == []
    assert _faults("chatd.sequencer", "import asyncio\nfrom chatd.store.base import Store") == []
