"""A refusal as an HTTP answer: its RFC 9457 problem document, its headers, and the whole of it as bytes.

The bytes are for who answers before a library has read the request: made once, a refusal costs one write.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from msgspec import Meta, Struct

from chatd import protocol
from chatd.errors import REFUSALS, Refusal

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

GUARDED = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""What every answer has that does not say something else itself: it is no page, and nobody frames or keeps it."""

PROBLEM_TYPE = "application/problem+json"


class Problem(Struct, kw_only=True, omit_defaults=True, frozen=True):
    """An RFC 9457 problem document. ``code`` is the protocol's error code, ``retry_after_ms`` when to come back."""

    type: str
    title: str
    status: int
    code: Annotated[str, Meta(extra_json_schema={"enum": sorted(REFUSALS)})]
    detail: str
    retry_after_ms: int | None = None


def told(refusal: Refusal, status: int | None = None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers of its own and document of a refusal; ``status`` instead of the usual one of its code."""
    status = status or STATUS[refusal.code]
    document = Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        code=refusal.code,
        detail=refusal.message,
        retry_after_ms=refusal.retry_after_ms,
    )
    headers = {}
    if refusal.retry_after_ms is not None:
        headers["Retry-After"] = str(-(-refusal.retry_after_ms // 1000))  # whole seconds, never too early
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="chatd"'
    return status, headers, protocol.encode(document)


def answer(refusal: Refusal, status: int | None = None) -> bytes:
    """The whole answer; the connection ends with it."""
    status, own, body = told(refusal, status)
    headers = {"Content-Type": PROBLEM_TYPE, "Content-Length": f"{len(body)}", **own, **GUARDED, "Server": "chatd"}
    lines = [f"{name}: {value}\r\n" for name, value in {**headers, "Connection": "close"}.items()]
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{''.join(lines)}\r\n".encode() + body
