"""Writes the files that are generated from the code, so that they cannot say anything else: ``make docs``.

docs/protocol.schema.json (JSON Schema 2020-12) and docs/asyncapi.yaml (AsyncAPI 3.0) come from the frame types in
chatd/protocol.py, docs/chatd.1 from the commands (docs/man_page.py), config/chatd.toml from the settings table,
config/grafana/chatd.json from the table in docs/dashboard.py, and the tables in docs/operations.md from the settings
and the metrics. tests/architecture/test_generated.py fails on drift.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import yaml

from chatd.configuration import default_toml, table, toml_value
from chatd.errors import REFUSALS
from chatd.metrics import SPECS, Metrics
from chatd.model import portable
from chatd.protocol import CLIENT_FRAMES, CLOSE_CODES, SERVER_FRAMES, SUBPROTOCOL, WS_PATH
from chatd.security import EVENTS

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

from dashboard import dashboard  # noqa: E402 - they stand beside this file, which is no package
from man_page import man_page  # noqa: E402

LABELS = {f"chatd_{spec.name}": f" by `{spec.label}`" for spec in SPECS if spec.label}

# What a server sends as the direct answer to a client's frame; any frame may be answered with an error instead.
ANSWERS: dict[str, tuple[str, ...]] = {
    "Hello": ("Welcome",),
    "Auth": ("Ok",),
    "Send": ("Sent",),
    "Ack": ("Ok",),
    "Read": ("Ok",),
    "History": ("Messages",),
    "Conversations": ("ConversationList",),
    "Watch": ("Presence",),
    "Unwatch": ("Ok",),
    "Status": ("Ok",),
    "Typing": (),
    "Ping": ("Pong",),
}
# What a server sends on its own.
PUSHED = ("Messages", "Receipt", "ConversationList", "CaughtUp", "Presence", "PeerTyping", "Error", "Goaway")


def documents() -> dict[str, str]:
    """Path below the repository's root → the text that the file must have."""
    return {
        "config/chatd.toml": default_toml(),
        "config/grafana/chatd.json": dashboard(),
        "docs/chatd.1": man_page(),
        "docs/security.md": _security_md((ROOT / "docs/security.md").read_text("utf-8")),
        "docs/operations.md": _operations_md((ROOT / "docs/operations.md").read_text("utf-8")),
        "docs/protocol.schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
        "docs/asyncapi.yaml": "# Generated from chatd/protocol.py by `make docs`.\n"
        + yaml.safe_dump(asyncapi(), sort_keys=False, allow_unicode=True, width=110),
    }


def _operations_md(text: str) -> str:
    settings = ["| setting | default | value | meaning |", "|---|---|---|---|"]
    for row in table():
        kind = row.kind.replace(" | ", ", ")
        settings.append(f"| `{row.section}.{row.name}` | `{toml_value(row.default)}` | {kind} | {row.comment} |")
    metrics = ["| name | kind | meaning |", "|---|---|---|"]
    for family in Metrics().registry.collect():
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        label = LABELS.get(family.name, "")
        metrics.append(f"| `{name}`{label} | {family.type} | {family.documentation} |")
    return _between(_between(text, "settings", settings), "metrics", metrics)


def _security_md(text: str) -> str:
    rows = ["| event | level | meaning |", "|---|---|---|"]
    rows += [f"| `{e.name}` | {'warning' if e.hostile else 'info'} | {e.meaning} |" for e in EVENTS.values()]
    return _between(text, "events", rows)


def _between(text: str, marker: str, lines: list[str]) -> str:
    before, begin, rest = text.partition(f"<!-- {marker} -->\n")
    _, end, after = rest.partition(f"<!-- /{marker} -->\n")
    return before + begin + "\n".join(lines) + "\n" + end + after


def json_schema() -> dict[str, Any]:
    """One JSON Schema document: a definition per frame, and the two unions ClientFrame and ServerFrame."""
    definitions = _schemas("#/$defs/{name}")
    for union, frames in (("ClientFrame", CLIENT_FRAMES), ("ServerFrame", SERVER_FRAMES)):
        definitions[union] = {"oneOf": [{"$ref": f"#/$defs/{frame.__name__}"} for frame in frames]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:chatd:protocol:1",
        "title": "chatd protocol, version 1",
        "description": "Generated from chatd/protocol.py by `make docs`. Unknown fields are ignored.",
        "oneOf": [{"$ref": "#/$defs/ClientFrame"}, {"$ref": "#/$defs/ServerFrame"}],
        "$defs": definitions,
    }


def asyncapi() -> dict[str, Any]:
    """The WebSocket as an AsyncAPI 3.0 document, seen from the server: it receives what a client sends."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:chatd:protocol:1",
        "info": {
            "title": "chatd",
            "version": "1.0.0",
            "description": "One-to-one messaging over one WebSocket. The prose is docs/protocol.md.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {
                "host": "127.0.0.1:8080",
                "protocol": "ws",
                "description": "What `make run` serves. In public: wss, behind a proxy that ends TLS.",
            }
        },
        "channels": {"socket": _channel()},
        "operations": _operations(),
        "components": {
            "messages": {frame.__name__: _message(frame) for frame in CLIENT_FRAMES + SERVER_FRAMES},
            "schemas": _schemas("#/components/schemas/{name}"),
        },
        "x-close-codes": [msgspec.to_builtins(code) for code in CLOSE_CODES.values()],
        "x-error-codes": [
            {"code": code, "temporary": kind.temporary, "meaning": _prose(kind)} for code, kind in REFUSALS.items()
        ],
    }


def _channel() -> dict[str, Any]:
    names = [frame.__name__ for frame in CLIENT_FRAMES + SERVER_FRAMES]
    return {
        "address": WS_PATH,
        "description": "One JSON object in one text frame. `hello` comes first.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "ws": {
                "method": "GET",
                "query": {
                    "type": "object",
                    "properties": {
                        "user": {"type": "string", "description": "A hint for placement; it proves nothing."}
                    },
                },
                "headers": {
                    "type": "object",
                    "properties": {"Sec-WebSocket-Protocol": {"type": "string", "const": SUBPROTOCOL}},
                    "required": ["Sec-WebSocket-Protocol"],
                },
                "bindingVersion": "0.1.0",
            }
        },
    }


def _operations() -> dict[str, Any]:
    channel = {"$ref": "#/channels/socket"}
    operations: dict[str, Any] = {}
    for frame in CLIENT_FRAMES:
        operations[f"receive{frame.__name__}"] = {
            "action": "receive",
            "channel": channel,
            "summary": _prose(frame),
            "messages": _references((frame.__name__,)),
            "reply": {"channel": channel, "messages": _references((*ANSWERS[frame.__name__], "Error"))},
        }
    for frame in SERVER_FRAMES:
        if frame.__name__ in PUSHED:
            operations[f"send{frame.__name__}"] = {
                "action": "send",
                "channel": channel,
                "summary": _prose(frame),
                "messages": _references((frame.__name__,)),
            }
    # A copy of every part, so that YAML needs no anchors.
    copied: dict[str, Any] = json.loads(json.dumps(operations))
    return copied


def _references(names: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"$ref": f"#/channels/socket/messages/{name}"} for name in names]


def _message(frame: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        "name": str(frame.__struct_config__.tag),
        "title": frame.__name__,
        "summary": _prose(frame),
        "payload": {"$ref": f"#/components/schemas/{frame.__name__}"},
    }


def _schemas(reference: str) -> dict[str, Any]:
    _, definitions = msgspec.json.schema_components(CLIENT_FRAMES + SERVER_FRAMES, ref_template=reference)
    for definition in definitions.values():
        definition["description"] = definition["description"].replace("``", "`")
    return portable(definitions)  # type: ignore[no-any-return]


def _prose(thing: type) -> str:
    return (thing.__doc__ or "").replace("``", "`")


if __name__ == "__main__":
    for name, text in documents().items():
        (ROOT / name).write_text(text, "utf-8")
