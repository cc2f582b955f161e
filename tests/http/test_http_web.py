"""The web client's files over HTTP: what is served, what is not, under which headers, and how long it is kept."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest

from chatd.testing.server import ChatServer
from chatd.web.files import MEDIA_TYPES, files, without_comments


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with ChatServer() as server:
        yield server.url


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as one:
        yield one


@pytest.mark.parametrize("path", ["/", "/join"])
async def test_the_page_may_do_nothing_but_its_own(url: str, session: aiohttp.ClientSession, path: str) -> None:
    async with session.get(url + path) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/html"
        policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == policy["worker-src"] == "'self'"
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-cache"
        page = (
            (await answer.read()) if "Content-Encoding" not in answer.headers else gzip.decompress(await answer.read())
        )
    assert not re.search(rb"<script>|<style|\son\w+=|\sstyle=|javascript:", page), "nothing is inline"


async def test_every_file_that_the_page_names_is_there_and_kept_for_ever(
    url: str, session: aiohttp.ClientSession
) -> None:
    named = re.findall(r'"(assets/[^"]+)"', files().index.body.decode())
    assert len(named) > 10
    for path in named:
        async with session.get(f"{url}/{path}") as answer:
            assert answer.status == 200, path
            assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert answer.headers["Content-Type"] in MEDIA_TYPES.values()


@pytest.mark.parametrize(
    "path", ["/sdk/chatd.js", "/sw.js", "/manifest.webmanifest", "/page/icon.svg", "/page/icon-192.png"]
)
async def test_what_has_no_version_is_asked_about_by_its_etag(
    url: str, session: aiohttp.ClientSession, path: str
) -> None:
    async with session.get(url + path, headers={"Accept-Encoding": "identity"}) as answer:
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "no-cache"
        tag, whole = answer.headers["ETag"], await answer.read()
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        async with session.get(url + path, headers={"If-None-Match": known}) as answer:
            assert (answer.status, await answer.read()) == (304, b"")
    async with session.get(url + path, headers={"If-None-Match": '"other"', "Accept-Encoding": "gzip"}) as answer:
        body = await answer.read()
        assert answer.status == 200
        assert (gzip.decompress(body) if answer.headers.get("Content-Encoding") == "gzip" else body) == whole


@pytest.mark.parametrize(
    "path",
    [
        "/sdk/",
        "/sdk/nothing.js",
        "/sdk/..%2f__init__.py",
        "/sdk/../__init__.py",
        "/sdk/%2e%2e/pages.py",
        "/page/../pages.py",
        "/page//etc/passwd",
        "/page/%00",
        "/page",
        "/index.html",
        "/assets/0123456789abcdef/../../app.py",
        "/assets/0123456789abcdef/pages.py",
        "/assets/zz/page/app.js",
        "/favicon.ico",
    ],
)
async def test_what_is_no_file_of_the_page_is_not_there(url: str, session: aiohttp.ClientSession, path: str) -> None:
    import yarl

    async with session.get(yarl.URL(url + path, encoded=True)) as answer:
        assert answer.status == 404


async def test_another_version_s_files_are_given_but_not_kept(url: str, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{url}/assets/0123456789abcdef/page/app.js") as answer:
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")


async def test_switched_off_nothing_of_it_is_there(session: aiohttp.ClientSession) -> None:
    async with ChatServer(settings={"server.web": False}) as server:
        for path in ("/sdk/chatd.js", "/sw.js", f"/assets/{files().version}/page/app.js"):
            async with session.get(server.url + path) as answer:
                assert answer.status == 404
        async with session.get(server.url) as answer:
            assert answer.status == 200
            assert b"script" not in await answer.read()


async def test_it_works_below_a_path_of_a_host_application(session: aiohttp.ClientSession) -> None:
    """All addresses of the page are relative."""
    page = files().index.body.decode()
    assert not re.search(r'(?:src|href)="(?:/|https?:)', page)


def test_all_script_together_is_small() -> None:
    """60 KB in gzip, each file by itself, as it is served."""
    loaded = re.findall(r'"modulepreload" href="assets/\w+/([^"]+)"', files().index.body.decode())
    sizes = {path: len(files().lean[path].packed or files().lean[path].body) for path in [*loaded, "page/sw.js"]}
    assert sum(sizes.values()) <= 60_000, sizes


def test_what_administrators_load_is_apart_and_small() -> None:
    """Its modules are imported when an administrator opens the page's administration, and counted for themselves."""
    assert "admin" not in files().index.body.decode()
    sizes = {path: len(f.packed or f.body) for path, f in files().lean.items() if re.match(r"page/admin\w*\.js$", path)}
    assert len(sizes) == 4
    assert sum(sizes.values()) <= 12_000, sizes


def test_comments_go_and_code_and_line_numbers_stay() -> None:
    script = b"// one\nconst a = 'x'; // stays\n  /** two\n   * lines */\nb(/** @type {any} */ (a));\n/* c */ d();\n"
    assert without_comments(script) == b"\nconst a = 'x'; // stays\n\n\nb(/** @type {any} */ (a));\n/* c */ d();\n"


def test_no_template_or_text_has_a_line_that_looks_like_a_comment() -> None:
    for path, file in files().by_path.items():
        if path.endswith(".js"):
            inside = re.findall(rb"`[^`]*`", without_comments(file.body))
            original = re.findall(rb"`[^`]*`", re.sub(rb"^\s*(//|\*|/\*).*$", b"", file.body, flags=re.MULTILINE))
            assert inside == original, path
