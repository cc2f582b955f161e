"""What is generated from the code is what lies in the repository, and the generated documents are right."""

from __future__ import annotations

import base64
import json
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from chatd.errors import REFUSALS
from chatd.protocol import CLIENT_FRAMES, CLOSE_CODES, SERVER_FRAMES

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS: dict[str, str] = runpy.run_path(str(ROOT / "docs" / "generate.py"))["documents"]()
SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "protocol.schema.json").read_text("utf-8"))
ASYNCAPI: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "asyncapi.yaml").read_text("utf-8"))
FRAMES: list[dict[str, Any]] = json.loads((ROOT / "tests" / "golden" / "frames.json").read_text("utf-8"))["frames"]

# JSON Schema judges a value: how it was written, and whether a number is written as an integer, it cannot see.
BEYOND_SCHEMA = {
    "type twice",
    "ack seq 1.0",
    "ack seq 1e3",
    "ref a float",
    "lone high surrogate",
    "lone low surrogate",
    "surrogates in the wrong order",
    "lone surrogate in an unknown field",
    "NaN in an unknown field",
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_generated_file_is_as_the_code_says(name: str) -> None:
    assert (ROOT / name).read_text("utf-8") == DOCUMENTS[name], f"{name} has drifted: make docs"


def _validator(union: str) -> jsonschema.Draft202012Validator:
    """JSON Schema means ECMA-262, whose "$" is the end; jsonschema takes Python's, before a final newline too."""
    defs = json.loads(json.dumps(SCHEMA["$defs"]).replace('$"', r'\\Z"'))
    return jsonschema.Draft202012Validator({**SCHEMA, "$defs": defs, "oneOf": [{"$ref": f"#/$defs/{union}"}]})


@pytest.mark.parametrize("name", ["docs/protocol.schema.json", "docs/asyncapi.yaml"])
def test_every_pattern_can_be_read_without_lookaround(name: str) -> None:
    """Go's and Rust's regular expressions have none: whoever checks with the document could not even begin."""
    patterns = [line for line in DOCUMENTS[name].splitlines() if "pattern" in line]
    assert len(patterns) > 3
    assert not [pattern for pattern in patterns if "(?" in pattern]


def test_the_schema_is_a_schema_and_has_every_frame_once() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for union, frames in (("ClientFrame", CLIENT_FRAMES), ("ServerFrame", SERVER_FRAMES)):
        assert SCHEMA["$defs"][union]["oneOf"] == [{"$ref": f"#/$defs/{frame.__name__}"} for frame in frames]


@pytest.mark.parametrize("frame", [pytest.param(f, id=f["name"]) for f in FRAMES if "close" not in f])
def test_the_schema_and_the_codec_agree(frame: dict[str, Any]) -> None:
    text = base64.b64decode(frame["base64"]).decode() if "base64" in frame else frame["text"]
    validator = _validator("ClientFrame" if frame["direction"] == "client" else "ServerFrame")
    good = frame["valid"] or "stage" in frame or frame["name"] in BEYOND_SCHEMA
    assert validator.is_valid(json.loads(text)) is good


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        inner = [r for value in node.values() for r in _references(value)]
        return [*inner, node["$ref"]] if isinstance(node.get("$ref"), str) else inner
    return [r for value in node for r in _references(value)] if isinstance(node, list) else []


def _resolve(document: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/"), reference
    node: Any = document
    for part in reference[2:].split("/"):
        node = node[part]
    return node


@pytest.mark.parametrize("document", [pytest.param(ASYNCAPI, id="asyncapi"), pytest.param(SCHEMA, id="schema")])
def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = _references(document)
    assert len(references) > 20
    for reference in references:
        assert _resolve(document, reference), reference


def test_asyncapi_has_the_parts_that_version_3_asks_for() -> None:
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= ASYNCAPI["info"].keys()
    for server in ASYNCAPI["servers"].values():
        assert {"host", "protocol"} <= server.keys()
    for channel in ASYNCAPI["channels"].values():
        assert channel["address"] == "/v1/ws"
        assert channel["bindings"]["ws"]["method"] == "GET"
    for operation in ASYNCAPI["operations"].values():
        assert operation["action"] in {"send", "receive"}
        channel = operation["channel"]["$ref"]
        reply = operation.get("reply", {"channel": operation["channel"], "messages": []})
        assert reply["channel"]["$ref"] == channel
        for message in [*operation["messages"], *reply["messages"]]:
            assert message["$ref"].startswith(f"{channel}/messages/")


def test_asyncapi_has_every_frame_in_its_direction() -> None:
    received: set[str] = set()
    sent: set[str] = set()
    for operation in ASYNCAPI["operations"].values():
        own = {_resolve(ASYNCAPI, _resolve(ASYNCAPI, m["$ref"])["$ref"])["name"] for m in operation["messages"]}
        answers = operation.get("reply", {"messages": []})["messages"]
        sent |= {_resolve(ASYNCAPI, _resolve(ASYNCAPI, m["$ref"])["$ref"])["name"] for m in answers}
        (received if operation["action"] == "receive" else sent).update(own)
    assert received == {str(frame.__struct_config__.tag) for frame in CLIENT_FRAMES}
    assert sent == {str(frame.__struct_config__.tag) for frame in SERVER_FRAMES}


def test_asyncapi_has_every_code() -> None:
    closes = {c["code"]: c["reconnect"] for c in ASYNCAPI["x-close-codes"]}
    assert closes == {code: close.reconnect for code, close in CLOSE_CODES.items()}
    errors = {e["code"]: e["temporary"] for e in ASYNCAPI["x-error-codes"]}
    assert errors == {code: kind.temporary for code, kind in REFUSALS.items()}


def test_a_payload_of_asyncapi_is_the_definition_of_the_schema() -> None:
    schemas = json.dumps(ASYNCAPI["components"]["schemas"]).replace("#/components/schemas/", "#/$defs/")
    definitions = {k: v for k, v in SCHEMA["$defs"].items() if k not in {"ClientFrame", "ServerFrame"}}
    assert json.loads(schemas) == definitions
