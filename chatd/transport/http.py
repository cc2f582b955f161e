"""The HTTP API: the table of `chatd.transport.openapi` with a handler behind each row.

Every request goes one way: origin, token, rate, query and body in their shapes, handler, answer. A refusal raised
anywhere on it becomes a problem document; the routes work the same in an application of their own or in a host's.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus

import msgspec
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct

from chatd.errors import (
    BadFrame,
    Forbidden,
    InternalError,
    OutcomeUnknown,
    RateLimited,
    Refusal,
    StoreBroken,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from chatd.limits import Buckets
from chatd.model import Identity
from chatd.transport import openapi
from chatd.transport.api import Api, Call, no_content, pay
from chatd.transport.browser import cors_headers, origin_allowed
from chatd.transport.handlers import Handlers
from chatd.transport.problem import problem

BODY_TIMEOUT_S = 10.0
COUNTED_ELSEWHERE = {"send_message", "read", "readyz"}
"""Endpoints whose store errors the sequencer or the probe has counted."""
_RUN = secrets.token_hex(4)
_NUMBERS = itertools.count(1)
"""A request's id is both: unique among all processes, and cheap."""

log = structlog.get_logger("chatd.http")


Handler = Callable[[Call], Awaitable[web.Response]]


def routes(api: Api) -> list[web.RouteDef]:
    """The routes of the whole table, to be added to an application."""
    handlers = Handlers(api)
    by_path: dict[str, list[openapi.Endpoint]] = {}
    for endpoint in openapi.ENDPOINTS:
        by_path.setdefault(endpoint.path, []).append(endpoint)
    made: list[web.RouteDef] = []
    # Routes of one path stand together, so that aiohttp makes one resource of them and "*" means "any other method".
    for path, endpoints in by_path.items():
        made += [web.route(e.method, path, _serve(api, e, getattr(handlers, e.name))) for e in endpoints]
        made.append(web.route("*", path, _other_method(api, [e.method for e in endpoints])))
    made.append(web.route("*", "/v1/{unknown:.*}", _unknown_path))
    if api.site is not None:
        made += api.site.routes()
    return made


# --- the way of a request --------------------------------------------------------------------------------


def _serve(api: Api, endpoint: openapi.Endpoint, handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    pays_by_address = not endpoint.auth and endpoint.body is not None

    async def checked(request: web.Request) -> web.Response:
        origin = request.headers.get("Origin")
        if endpoint.method != "GET" and not origin_allowed(origin, request.headers.get("Host"), api.origins):
            api.tell("origin_refused", request, origin=origin or "")
            raise Forbidden("this origin is not allowed here: see server.origins")
        identity = None
        if endpoint.auth:
            identity = await _identified(api, request)
            _pay(api, request, api.calls, f"{identity.user} {identity.device}", "requests", identity.user)
            if endpoint.admin and not identity.admin:
                raise Forbidden("this is for administrators")
        elif pays_by_address:
            _pay(api, request, api.logins, api.address_key(request), "logins")
        query = _query(request, endpoint.query) if endpoint.query else None
        body = await _body(request, endpoint.body, api.limits.frame_bytes_max) if endpoint.body else None
        return await handler(Call(request, identity, body, query))

    async def serve(request: web.Request) -> web.Response:
        request_id = f"{_RUN}-{next(_NUMBERS)}"
        try:
            response = await checked(request)
        except Refusal as exc:
            if endpoint.name not in COUNTED_ELSEWHERE:
                api.on_store_error(exc)
            response = problem(exc)
        except OutcomeUnknown as exc:
            api.on_store_error(exc)
            response = problem(Unavailable("it may or may not have been done: repeat it", retry_after_ms=1_000))
        except StoreBroken as exc:
            api.on_store_error(exc)
            api.on_broken(exc)
            response = problem(Unavailable("the server is ending"))
        except ConnectionError:
            raise  # the client went away: there is nobody to answer
        except Exception:  # the boundary: whatever it was, the client learns that it was ours, the log learns what
            log.exception("request_failed", request=request_id, method=request.method, path=endpoint.path)
            response = problem(InternalError(f"the server failed; its log has it as request {request_id}"))
        if api.log_requests:
            log.debug("request", request=request_id, method=request.method, path=endpoint.path, status=response.status)
        response.headers.extend(cors_headers(request.headers.get("Origin"), api.origins))
        return response

    return serve


def _other_method(api: Api, methods: Sequence[str]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def other_method(request: web.Request) -> web.Response:
        origin = request.headers.get("Origin")
        if request.method == "OPTIONS":
            response = no_content()
        else:
            refusal = Unsupported(f"{request.method} is no method of this path")
            response = problem(refusal, HTTPStatus.METHOD_NOT_ALLOWED)
        response.headers["Allow"] = ", ".join([*methods, "OPTIONS"])
        response.headers.extend(cors_headers(origin, api.origins, preflight=request.method == "OPTIONS"))
        return response

    return other_method


async def _unknown_path(request: web.Request) -> web.Response:
    return problem(Unsupported("no such path: see /v1/openapi.json"))


async def _identified(api: Api, request: web.Request) -> Identity:
    token = _bearer(request)
    try:
        return await api.accounts.authenticate(token)
    except (Unauthenticated, Forbidden) as exc:
        api.tell("token_refused", request, reason=exc.message)
        raise


def _pay(api: Api, request: web.Request, buckets: Buckets, key: str, what: str, user: str = "") -> None:
    try:
        pay(buckets, key, api.now_s(), what)
    except RateLimited:
        api.tell("rate_limited", request, user, what=what)
        raise


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("this needs a token: Authorization: Bearer …")
    return token.strip()


def _query(request: web.Request, shape: type[Struct]) -> Struct:
    try:
        return msgspec.convert(dict(request.query), shape, strict=False)
    except msgspec.ValidationError as exc:
        raise BadFrame(f"query: {exc}"[:200]) from exc


async def _body(request: web.Request, shape: type[Struct], bytes_max: int) -> Struct:
    """The body, decoded. Read here and not by aiohttp, for our bound and deadline hold in any application."""
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                data += chunk
                if len(data) > bytes_max:
                    raise TooLarge(f"the request has more than {bytes_max} bytes")
        return msgspec.json.decode(data, type=shape)
    except TimeoutError as exc:
        raise BadFrame(f"the request's body was not there within {BODY_TIMEOUT_S:g} s") from exc
    except (web.RequestPayloadError, HttpProcessingError) as exc:
        raise BadFrame("the request's body is broken") from exc
    except msgspec.ValidationError as exc:
        raise BadFrame(str(exc)[:200]) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadFrame("the request's body is no JSON object in UTF-8") from exc
