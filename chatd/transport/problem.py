"""Refusals as RFC 9457 problem documents, and the headers that every answer of the API has."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web

from chatd import protocol
from chatd.errors import Refusal
from chatd.transport.shapes import Problem

STATUS: dict[str, int] = {
    "bad_frame": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "unsupported": 404,
    "id_reuse": 409,
    "out_of_order": 409,
    "too_large": 413,
    "rate_limited": 429,
    "internal": 500,
    "overloaded": 503,
    "unavailable": 503,
}
"""Error code → HTTP status. ``unsupported`` is 405 where the path exists and the method does not."""

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def problem(refusal: Refusal, status: int | None = None) -> web.Response:
    """The answer to a refused request; ``status`` instead of the usual one of its code."""
    status = status or STATUS[refusal.code]
    document = Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        code=refusal.code,
        detail=refusal.message,
        retry_after_ms=refusal.retry_after_ms,
    )
    headers = dict(HEADERS)
    if refusal.retry_after_ms is not None:
        headers["Retry-After"] = str(-(-refusal.retry_after_ms // 1000))  # whole seconds, never too early
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="chatd"'
    body = protocol.encode(document)
    return web.Response(status=status, body=body, headers=headers, content_type="application/problem+json")
