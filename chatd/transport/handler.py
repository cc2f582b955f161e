"""aiohttp's handler of one connection, but for its answer to a request that is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web

from chatd.errors import BadFrame, InternalError, Refusal, TooLarge
from chatd.refusing import GUARDED
from chatd.transport.door import request_log
from chatd.transport.problem import problem


class _Handler(web.RequestHandler):
    """What aiohttp says itself repeats what came, and which aiohttp it is; this says the same as everywhere."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A problem document. It always closes the connection."""
        super().handle_error(request, status, exc, message)  # which logs it, if it is ours
        refusal: Refusal = BadFrame("this is no HTTP request")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            refusal = InternalError("the server failed; it was logged")
        elif status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE):
            refusal = TooLarge("the request is too large")
        response = problem(refusal, status)
        response.headers.update({**GUARDED, "Server": "chatd"})
        response.force_close()
        return response


def handlers(server: web.Server, *, keepalive_s: float) -> Callable[[], web.RequestHandler]:
    """What makes a handler for each connection to ``server``."""
    loop = asyncio.get_running_loop()

    def make() -> web.RequestHandler:
        return _Handler(server, loop=loop, keepalive_timeout=keepalive_s, access_log=None, logger=request_log)  # type: ignore[arg-type]

    return make
