"""The OpenAPI document says what the routes do, all of it, in well-formed schemas."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from chatd.errors import REFUSALS
from chatd.refusing import STATUS
from chatd.transport import openapi, shapes
from chatd.transport.handlers import Handlers

DOCUMENT = openapi.document()
OPERATIONS = [
    (path, method, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
PROTOCOL = """
POST /v1/register · POST /v1/login · POST /v1/logout · GET /v1/devices · DELETE /v1/devices/{device} · POST /v1/messages
GET /v1/conversations · GET /v1/conversations/{conv}/messages · GET /v1/conversations/{conv}/marks
PUT /v1/conversations/{conv}/read · PUT /v1/blocks/{user} · DELETE /v1/blocks/{user} · GET /v1/blocks
GET /v1/privacy · PUT /v1/privacy · GET /v1/push
GET /v1/push/subscription · PUT /v1/push/subscription · DELETE /v1/push/subscription
GET /v1/account · GET /v1/admin/stats · GET /v1/admin/users · PUT /v1/admin/users/{user}
GET /v1/admin/users/{user}/devices · DELETE /v1/admin/users/{user}/devices/{device} · POST /v1/admin/invites
GET /healthz · GET /readyz · GET /version · GET /metrics · GET /v1/openapi.json
"""


def test_every_call_of_the_protocol_is_there() -> None:
    documented = {f"{method.upper()} {path}" for path, method, _ in OPERATIONS}
    assert set(re.findall(r"[A-Z]+ /\S*", PROTOCOL)) == documented - {"GET /", "GET /join"}


def test_every_endpoint_has_a_handler_and_every_handler_an_endpoint() -> None:
    handlers = {name for name in vars(Handlers) if not name.startswith("_")}
    assert handlers == {operation["operationId"] for _, _, operation in OPERATIONS}
    assert len(OPERATIONS) == len(openapi.ENDPOINTS) == len(handlers)


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    text = json.dumps(DOCUMENT)
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in DOCUMENT["components"]["schemas"]
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    used = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert used == set(DOCUMENT["components"]["schemas"]), "a schema that nothing uses"


def test_every_pattern_can_be_read_without_lookaround() -> None:
    """Go's and Rust's regular expressions have none: whoever checks with the document could not even begin."""
    patterns = re.findall(r'"pattern": ("[^"]+")', json.dumps(DOCUMENT))
    assert len(patterns) > 5
    assert not [pattern for pattern in patterns if "(?" in pattern]


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=[o["operationId"] for _, _, o in OPERATIONS])
def test_an_operation_is_complete(path: str, method: str, operation: dict[str, Any]) -> None:
    parameters = operation.get("parameters", [])
    assert re.findall(r"{(\w+)}", path) == [p["name"] for p in parameters if p["in"] == "path"]
    for parameter in parameters:
        jsonschema.Draft202012Validator.check_schema(parameter["schema"])
    assert operation["summary"].endswith(".")
    assert ("security" in operation) is (
        not next(e for e in openapi.ENDPOINTS if e.name == operation["operationId"]).auth
    )
    assert ("401" in operation["responses"]) is ("security" not in operation or path == "/v1/login")
    for status, answer in operation["responses"].items():
        assert answer["description"]
        if int(status) >= 400:
            assert list(answer["content"]) == ["application/problem+json"]
    assert min(int(s) for s in operation["responses"]) in (200, 201, 204)


def test_every_error_code_has_a_status_and_stands_in_the_problem_schema() -> None:
    assert set(STATUS) == set(REFUSALS)
    assert DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == sorted(REFUSALS)


def test_queries_say_their_bounds_and_defaults() -> None:
    history = DOCUMENT["paths"]["/v1/conversations/{conv}/messages"]["get"]["parameters"]
    limit = next(p for p in history if p["name"] == "limit")
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 200, "default": shapes.PAGE_ITEMS}
    assert {p["name"] for p in history} == {"conv", "before", "after", "limit"}
