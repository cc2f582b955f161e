"""Refusals as aiohttp's responses, and the headers that every answer of the API has."""

from __future__ import annotations

from aiohttp import web

from chatd.errors import Refusal
from chatd.refusing import PROBLEM_TYPE, told

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def problem(refusal: Refusal, status: int | None = None) -> web.Response:
    """The answer to a refused request; ``status`` instead of the usual one of its code."""
    status, headers, body = told(refusal, status)
    return web.Response(status=status, body=body, headers={**HEADERS, **headers}, content_type=PROBLEM_TYPE)
