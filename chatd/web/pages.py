"""The web client over HTTP: the page at ``/`` and ``/join``, its files, and the SDK at ``/sdk/``."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from chatd.web.files import ROOT_FILES, File, files

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "manifest-src 'self'; worker-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types chatd"
)
"""Nothing inline, nothing from elsewhere. Text becomes a script's address in one place only: the service worker's."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept-Encoding",
}
FOREVER = "public, max-age=31536000, immutable"
ASK = "no-cache"
"""Kept, and asked about by its ETag each time."""
NEVER = "no-store"


class Site:
    """The web client's answers. Raises: OSError – its files cannot be read."""

    def __init__(self) -> None:
        self._files = files()

    def index(self, request: web.Request) -> web.Response:
        """The page."""
        return _answer(request, self._files.index, ASK)

    def routes(self) -> list[web.RouteDef]:
        """All but the page itself, whose two paths belong to the API's table."""
        return [
            *(web.get(f"/{name}", self._root) for name in ROOT_FILES),
            web.get("/assets/{version:[0-9a-f]{16}}/{path:.+}", self._asset),
            web.get("/{path:(?:page|sdk)/.+}", self._plain),
        ]

    async def _root(self, request: web.Request) -> web.Response:
        return _answer(request, self._files.by_path[ROOT_FILES[request.path.rpartition("/")[2]]], ASK)

    async def _plain(self, request: web.Request) -> web.Response:
        return _named(request, self._files.by_path, ASK)

    async def _asset(self, request: web.Request) -> web.Response:
        # While processes of two versions run, a page may ask the one for the other's files: better the same file of
        # another version than none, but nobody must keep it.
        own = request.match_info["version"] == self._files.version
        return _named(request, self._files.lean, FOREVER if own else NEVER)


def _named(request: web.Request, files: Mapping[str, File], keep: str) -> web.Response:
    found = files.get(request.match_info["path"])
    if found is None:
        raise web.HTTPNotFound(text="404: no such file\n", headers={"X-Content-Type-Options": "nosniff"})
    return _answer(request, found, keep)


def _answer(request: web.Request, file: File, keep: str) -> web.Response:
    headers = {**HEADERS, "Cache-Control": keep, "ETag": file.etag}
    asked = request.headers.get("If-None-Match", "")
    if any(one.strip().removeprefix("W/") == file.etag for one in asked.split(",")):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = file.media_type
    body = file.body
    if file.packed is not None and _takes_gzip(request.headers.get("Accept-Encoding", "")):
        body = file.packed
        headers["Content-Encoding"] = "gzip"
        headers["ETag"] = f"W/{file.etag}"  # the same content in other bytes
    return web.Response(body=body, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    for one in accepted.split(","):
        name, _, weight = one.partition(";")
        if name.strip().lower() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
