"""aiohttp's handler of one connection, but for its answer to a request that is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

from chatd.errors import BadFrame, InternalError, Refusal, TooLarge
from chatd.limits import Network, peer_address
from chatd.refusing import GUARDED
from chatd.security import Tell
from chatd.transport.door import request_log
from chatd.transport.problem import problem


class _Handler(web.RequestHandler):
    """What aiohttp says itself repeats what came, and which aiohttp it is; this says the same as everywhere."""

    __slots__ = ("_on_refused",)

    def __init__(self, server: web.Server, on_refused: Callable[[str | None, int], None], **more: Any) -> None:
        super().__init__(server, **more)
        self._on_refused = on_refused

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
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            self._on_refused(request.remote, status)
        else:
            refusal = InternalError("the server failed; it was logged")
        if status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE):
            refusal = TooLarge("the request is too large")
        response = problem(refusal, status)
        response.headers.update({**GUARDED, "Server": "chatd"})
        response.force_close()
        return response


def handlers(
    server: web.Server, *, keepalive_s: float, tell: Tell, proxies: Sequence[Network] = ()
) -> Callable[[], web.RequestHandler]:
    """What makes a handler for each connection to ``server``. ``tell``: as `Door` has it; `peer_address` is blamed."""
    loop = asyncio.get_running_loop()

    def on_refused(remote: str | None, status: int) -> None:
        tell("head_refused", address=peer_address(remote, proxies), status=status)

    def make() -> web.RequestHandler:
        return _Handler(
            server, on_refused, loop=loop, keepalive_timeout=keepalive_s, access_log=None, logger=request_log
        )

    return make
