"""The table of HTTP endpoints, and the OpenAPI 3.1 document made from it.

`chatd.transport.http` makes its routes from the same table, so that the document cannot say anything else than the
server does.
"""

from __future__ import annotations

import re
from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct

from chatd import __version__
from chatd.errors import REFUSALS
from chatd.model import DEVICE_PATTERN, USER_PATTERN, UUID_PATTERN, portable
from chatd.protocol import ConversationList, Messages
from chatd.refusing import PROBLEM_TYPE, STATUS, Problem
from chatd.transport import shapes

_REF = "#/components/schemas/{name}"

_PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "user": {"type": "string", "pattern": USER_PATTERN},
    "device": {"type": "string", "pattern": DEVICE_PATTERN},
    "conv": {"type": "string", "minLength": 1, "maxLength": 160},
}


class Endpoint(Struct, frozen=True, kw_only=True):
    """One operation. ``name`` is its operationId and the name of its handler.

    ``answers``: status → what the body is: a struct (JSON), a media type, or None (no body). ``refusals``: the error
    codes that belong to it; those that every request can get are added to the document. ``admin``: for administrators.
    """

    name: str
    method: str
    path: str
    summary: str
    answers: dict[int, type[Struct] | str | None]
    auth: bool = True
    admin: bool = False
    body: type[Struct] | None = None
    query: type[Struct] | None = None
    idempotency_key: bool = False
    refusals: tuple[str, ...] = ()


_BODY = ("bad_frame", "too_large")
_LOGIN = (*_BODY, "forbidden", "rate_limited", "overloaded")

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        name="register",
        method="POST",
        path="/v1/register",
        summary="Create an account, where registration is open or with an invite.",
        auth=False,
        body=shapes.Register,
        answers={201: shapes.Registered},
        refusals=_LOGIN,
    ),
    Endpoint(
        name="login",
        method="POST",
        path="/v1/login",
        summary="Make a device and its token. Every failure has one answer.",
        auth=False,
        body=shapes.Login,
        answers={200: shapes.LoggedIn},
        refusals=(*_LOGIN, "unauthenticated"),
    ),
    Endpoint(
        name="logout",
        method="POST",
        path="/v1/logout",
        summary="End this device and its token.",
        answers={204: None},
        refusals=("not_found",),
    ),
    Endpoint(
        name="devices",
        method="GET",
        path="/v1/devices",
        summary="The user's devices, oldest first.",
        answers={200: shapes.Devices},
    ),
    Endpoint(
        name="revoke_device",
        method="DELETE",
        path="/v1/devices/{device}",
        summary="End a device and its token; its sockets close.",
        answers={204: None},
        refusals=("not_found",),
    ),
    Endpoint(
        name="send_message",
        method="POST",
        path="/v1/messages",
        summary="Send a message. 201: stored now. 200: this id was stored before; the answer is the first one.",
        body=shapes.NewMessage,
        idempotency_key=True,
        answers={201: shapes.SentMessage, 200: shapes.SentMessage},
        refusals=(*_BODY, "not_found", "id_reuse", "out_of_order", "overloaded"),
    ),
    Endpoint(
        name="conversations",
        method="GET",
        path="/v1/conversations",
        summary="A page of the user's conversations, newest activity first.",
        query=shapes.ConversationsQuery,
        answers={200: ConversationList},
        refusals=("bad_frame",),
    ),
    Endpoint(
        name="history",
        method="GET",
        path="/v1/conversations/{conv}/messages",
        summary="A page of a conversation's log, ascending in seq; without before and after its end.",
        query=shapes.HistoryQuery,
        answers={200: Messages},
        refusals=("bad_frame", "not_found"),
    ),
    Endpoint(
        name="marks",
        method="GET",
        path="/v1/conversations/{conv}/marks",
        summary="The marks of the user's devices and the peer's.",
        answers={200: shapes.ConversationMarks},
        refusals=("not_found",),
    ),
    Endpoint(
        name="read",
        method="PUT",
        path="/v1/conversations/{conv}/read",
        summary="The user has read up to a seq.",
        body=shapes.ReadUpTo,
        answers={200: shapes.UserMarks},
        refusals=(*_BODY, "not_found", "overloaded"),
    ),
    Endpoint(
        name="blocks",
        method="GET",
        path="/v1/blocks",
        summary="Whom the user blocks.",
        answers={200: shapes.Blocks},
    ),
    Endpoint(
        name="block",
        method="PUT",
        path="/v1/blocks/{user}",
        summary="Nothing of this user arrives any more; that user sees no difference.",
        answers={204: None},
        refusals=("not_found",),
    ),
    Endpoint(
        name="unblock",
        method="DELETE",
        path="/v1/blocks/{user}",
        summary="Take a block back.",
        answers={204: None},
        refusals=("not_found",),
    ),
    Endpoint(
        name="privacy",
        method="GET",
        path="/v1/privacy",
        summary="What the user shows of itself.",
        answers={200: shapes.Privacy},
        refusals=("not_found",),
    ),
    Endpoint(
        name="set_privacy",
        method="PUT",
        path="/v1/privacy",
        summary="Show when the user was last here and see it of others, or neither.",
        body=shapes.Privacy,
        answers={204: None},
        refusals=(*_BODY, "not_found"),
    ),
    Endpoint(
        name="push",
        method="GET",
        path="/v1/push",
        summary="The kinds of push subscriptions that this server takes, and what a client needs to know for each.",
        answers={200: shapes.Push},
    ),
    Endpoint(
        name="subscription",
        method="GET",
        path="/v1/push/subscription",
        summary="The push subscription of this device.",
        answers={200: shapes.DeviceSubscription},
        refusals=("not_found",),
    ),
    Endpoint(
        name="subscribe",
        method="PUT",
        path="/v1/push/subscription",
        summary="Notify this device here, in place of where it was notified before.",
        body=shapes.NewSubscription,
        answers={204: None},
        refusals=(*_BODY, "unsupported", "not_found"),
    ),
    Endpoint(
        name="unsubscribe",
        method="DELETE",
        path="/v1/push/subscription",
        summary="Notify this device no longer.",
        answers={204: None},
        refusals=("not_found",),
    ),
    Endpoint(
        name="account",
        method="GET",
        path="/v1/account",
        summary="Whom the token speaks for.",
        answers={200: shapes.Account},
    ),
    Endpoint(
        name="admin_stats",
        method="GET",
        path="/v1/admin/stats",
        summary="How each process is that shares the data directory, so of one host: what it counted, who is slow.",
        admin=True,
        answers={200: shapes.Stats},
        refusals=("unsupported",),
    ),
    Endpoint(
        name="admin_users",
        method="GET",
        path="/v1/admin/users",
        summary="A page of all users in order of name, and how many devices of each are connected.",
        admin=True,
        query=shapes.UsersQuery,
        answers={200: shapes.Users},
        refusals=("bad_frame", "unsupported"),
    ),
    Endpoint(
        name="admin_set_user",
        method="PUT",
        path="/v1/admin/users/{user}",
        summary="Lock a user out, or let it in again; nobody can lock itself out.",
        admin=True,
        body=shapes.Disabled,
        answers={204: None},
        refusals=(*_BODY, "not_found"),
    ),
    Endpoint(
        name="admin_devices",
        method="GET",
        path="/v1/admin/users/{user}/devices",
        summary="A user's devices, oldest first.",
        admin=True,
        answers={200: shapes.Devices},
        refusals=("not_found",),
    ),
    Endpoint(
        name="admin_revoke",
        method="DELETE",
        path="/v1/admin/users/{user}/devices/{device}",
        summary="End a user's device and its token; its sockets close.",
        admin=True,
        answers={204: None},
        refusals=("not_found",),
    ),
    Endpoint(
        name="admin_invite",
        method="POST",
        path="/v1/admin/invites",
        summary="Make an invite with which one person may register, never as an administrator.",
        admin=True,
        body=shapes.NewInvite,
        answers={201: shapes.Invite},
        refusals=_BODY,
    ),
    Endpoint(
        name="openapi",
        method="GET",
        path="/v1/openapi.json",
        summary="This document.",
        auth=False,
        answers={200: "application/json"},
    ),
    Endpoint(
        name="healthz",
        method="GET",
        path="/healthz",
        summary="The process lives.",
        auth=False,
        answers={200: shapes.Health},
    ),
    Endpoint(
        name="readyz",
        method="GET",
        path="/readyz",
        summary="The store can be used and the server is not ending.",
        auth=False,
        answers={200: shapes.Health},
    ),
    Endpoint(
        name="version",
        method="GET",
        path="/version",
        summary="Which server this is.",
        auth=False,
        answers={200: shapes.Version},
    ),
    Endpoint(
        name="metrics",
        method="GET",
        path="/metrics",
        summary="Metrics for Prometheus, to this machine only; 404 if they have a listener of their own.",
        auth=False,
        answers={200: "text/plain"},
        refusals=("forbidden", "not_found"),
    ),
    Endpoint(
        name="landing",
        method="GET",
        path="/",
        summary="The web client; where it is switched off, a page that says what this is.",
        auth=False,
        answers={200: "text/html"},
    ),
    Endpoint(
        name="join",
        method="GET",
        path="/join",
        summary="The same, to create an account; an invite stands in the URL's fragment.",
        auth=False,
        answers={200: "text/html"},
    ),
)


@cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document. Callers must not change it."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    structs: list[Any] = [Problem]
    for endpoint in ENDPOINTS:
        structs += [s for s in (endpoint.body, *endpoint.answers.values()) if isinstance(s, type)]
    _, schemas = msgspec.json.schema_components(dict.fromkeys(structs), ref_template=_REF)
    whole: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "chatd",
            "version": __version__,
            "summary": "Real-time one-to-one messaging: the HTTP half of protocol version 1.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The server that gave this document."}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "From /v1/login, or a host's JWT."}
            },
        },
    }
    return portable(whole)  # type: ignore[no-any-return]


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": endpoint.name, "summary": endpoint.summary}
    if not endpoint.auth:
        operation["security"] = []
    if parameters := _parameters(endpoint):
        operation["parameters"] = parameters
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": _json(endpoint.body)}
    operation["responses"] = {
        **{str(status): _answer(status, body) for status, body in endpoint.answers.items()},
        **_refusals(endpoint),
    }
    return operation


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_PARAMETERS[name]}
        for name in re.findall(r"{(\w+)}", endpoint.path)
    ]
    if endpoint.query is not None:
        _, schemas = msgspec.json.schema_components([endpoint.query], ref_template=_REF)
        for name, schema in schemas[endpoint.query.__name__]["properties"].items():
            parameters.append({"name": name, "in": "query", "required": False, "schema": schema})
    if endpoint.idempotency_key:
        schema = {"type": "string", "pattern": UUID_PATTERN}
        about = "The message's id, if the body has none."
        parameters.append({"name": "Idempotency-Key", "in": "header", "description": about, "schema": schema})
    return parameters


def _json(struct: type[Struct], media: str = "application/json") -> dict[str, Any]:
    return {media: {"schema": {"$ref": _REF.format(name=struct.__name__)}}}


def _answer(status: int, body: type[Struct] | str | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if isinstance(body, str):
        answer["content"] = {body: {"schema": {"type": "object" if body.endswith("json") else "string"}}}
    elif body is not None:
        answer["content"] = _json(body)
    return answer


def refusals_of(endpoint: Endpoint) -> frozenset[str]:
    """Every error code that a request to this endpoint can be answered with."""
    always = {"unavailable", "internal"}
    if endpoint.auth:
        always |= {"unauthenticated", "forbidden", "rate_limited"}
    if endpoint.method != "GET":
        always.add("forbidden")  # a page of an origin that is not allowed
    return frozenset(always.union(endpoint.refusals))


def _refusals(endpoint: Endpoint) -> dict[str, Any]:
    codes: dict[int, list[str]] = {}
    for code in REFUSALS:
        if code in refusals_of(endpoint):
            codes.setdefault(STATUS[code], []).append(code)
    return {
        str(status): {
            "description": f"{HTTPStatus(status).phrase}: {', '.join(of)}",
            "content": _json(Problem, PROBLEM_TYPE),
        }
        for status, of in sorted(codes.items())
    }
