"""What browsers need to be told: which origins may come in, and what a page of ours may do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from chatd.refusing import GUARDED

ALL = "*"

CORS_METHODS = "GET, POST, PUT, DELETE"
CORS_HEADERS = "Authorization, Content-Type, Idempotency-Key"
CORS_MAX_AGE_S = 600
HSTS = "max-age=31536000"


def guard(*, tls: bool) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """For ``on_response_prepare``: the headers of `GUARDED`, no word about what serves, and with TLS that it stays."""

    async def guarded(request: web.Request, response: web.StreamResponse) -> None:
        for name, value in GUARDED.items():
            response.headers.setdefault(name, value)
        response.headers["Server"] = "chatd"
        if tls:
            response.headers["Strict-Transport-Security"] = HSTS

    return guarded


def origin_allowed(origin: str | None, host: str | None, allowed: Sequence[str]) -> bool:
    """Whether a request may be served: no Origin (not a browser), the server's own, or one of the list ("*": all).

    ``host``: the Host header, which a page of this server's own has as the authority of its origin.
    """
    if origin is None or ALL in allowed or origin in allowed:
        return True
    # The scheme is not compared: behind a proxy that ends TLS the server cannot know its own.
    return host is not None and origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def cors_headers(origin: str | None, allowed: Sequence[str], *, preflight: bool = False) -> dict[str, str]:
    """The headers that let a page of an allowed other origin read the answer; tokens travel, credentials never do."""
    if origin is None or not (ALL in allowed or origin in allowed):
        return {}
    headers = {"Access-Control-Allow-Origin": ALL if ALL in allowed else origin, "Vary": "Origin"}
    if preflight:
        headers["Access-Control-Allow-Methods"] = CORS_METHODS
        headers["Access-Control-Allow-Headers"] = CORS_HEADERS
        headers["Access-Control-Max-Age"] = str(CORS_MAX_AGE_S)
    else:
        headers["Access-Control-Expose-Headers"] = "Retry-After, WWW-Authenticate"
    return headers
