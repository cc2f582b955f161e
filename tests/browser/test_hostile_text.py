"""Texts that try to be more than text: nothing runs, the page's policy is not even asked, and they look as sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from browser_rig import browsing, enter, is_clean, is_live, opened
from playwright.async_api import Page

from chatd.client import Client
from chatd.model import is_user
from chatd.testing.server import ChatServer

ROOT = Path(__file__).parent.parent
PAYLOADS: list[str] = json.loads((ROOT / "browser" / "payloads.json").read_text("utf-8"))
NAUGHTY: list[str] = [s for s in json.loads((ROOT / "golden" / "blns.json").read_text("utf-8")) if s and "\0" not in s]
PAGE = 100
SHOWN = """() => [...document.querySelectorAll('.message')].map(
  (one) => [Number(one.dataset.seq), one.querySelector('.body').textContent])"""


async def _all_shown(page: Page, count: int) -> list[str]:
    """Every text of the open conversation, by scrolling back to its beginning."""
    shown: dict[int, str] = {}
    while len(shown) < count:
        before = len(shown)
        shown.update(dict(await page.evaluate(SHOWN)))
        if len(shown) == before:
            await page.wait_for_timeout(20)
        await page.evaluate("document.querySelector('.log').scrollTop = 0")
    return [text for _, text in sorted(shown.items())]


async def _nothing_ran(page: Page) -> None:
    assert await page.evaluate("[window.ran, document.querySelectorAll('.body :not(a)').length]") == [None, 0]
    assert await page.evaluate("[...document.querySelectorAll('.body a')].every((a) => /^https?:$/.test(a.protocol))")
    await is_clean(page)


async def test_hostile_bodies_are_shown_as_sent() -> None:
    assert len(PAYLOADS) >= 100
    texts = PAYLOADS + NAUGHTY
    async with browsing() as browser, ChatServer(users=["alice", "bob"]) as server:
        sender: Client = await server.client("bob")
        for text in texts:
            handle = await sender.send("alice", text)
        await handle.sent()
        page = await (await opened(browser)).new_page()
        dialogs: list[str] = []
        page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        await enter(page, server.url, "alice")
        await page.goto(server.url + "/#/with/bob")
        await is_live(page)
        await page.get_by_role("button", name="Jump to newest").click()
        assert await _all_shown(page, len(texts)) == texts
        await _nothing_ran(page)
        for text in texts[:: len(texts) // 40]:  # as drafts, and in the list
            await page.locator("#write").fill(text)
            await page.goto(server.url + "/#/")
            await page.goto(server.url + "/#/with/bob")
        await page.locator("#search").fill("<img src=x onerror=ran=1>")
        await _nothing_ran(page)
        assert dialogs == []


async def test_hostile_names_are_refused_or_only_shown() -> None:
    async with browsing() as browser, ChatServer(users=["alice"]) as server, aiohttp.ClientSession() as session:
        for name in PAYLOADS:
            account = {"user": name, "password": "long enough"}
            async with session.post(f"{server.url}/v1/register", json=account) as answer:
                assert answer.status == (201 if is_user(name) else 400), name
        names = [name for name in PAYLOADS if len(name) <= 64][:40]
        for name in names:
            await server.server.accounts.login("alice", "alice", name)
        page = await (await opened(browser)).new_page()
        await enter(page, server.url, "alice")
        for name in PAYLOADS[:20]:  # as an address inside the page, too
            await page.evaluate("(name) => { location.hash = '#/with/' + encodeURIComponent(name) }", name)
        await page.goto(server.url + "/#/settings")
        for name in names:
            await page.locator("#devices bdi", has_text=name.strip()).first.wait_for()
        assert await page.evaluate("[window.ran, document.querySelectorAll('#devices bdi *').length]") == [None, 0]
        await is_clean(page)


@asynccontextmanager
async def _another_site() -> AsyncIterator[str]:
    """A page of another origin, which forbids itself nothing."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><body>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def test_a_page_of_another_site_gets_nothing() -> None:
    """Another origin's page with a stolen token: no socket, no answer to read; and it cannot frame this page."""
    async with browsing() as browser, ChatServer(users=["alice"]) as server, _another_site() as other:
        token = await server.token("alice")
        page = await (await opened(browser)).new_page()
        await page.goto(other)
        ended = await page.evaluate(
            """([url]) => new Promise((done) => {
              const socket = new WebSocket(url.replace('http', 'ws') + '/v1/ws', 'chatd.v1');
              socket.onopen = () => done('open');
              socket.onclose = () => done('refused');
            })""",
            [server.url],
        )
        assert ended == "refused"
        read = await page.evaluate(
            """([url, token]) => fetch(url + '/v1/devices', { headers: { Authorization: 'Bearer ' + token } })
              .then(() => 'read', () => 'refused')""",
            [server.url, token],
        )
        assert read == "refused"
        await page.evaluate(
            """(url) => {
              const frame = document.createElement('iframe');
              frame.src = url;
              document.body.append(frame);
            }""",
            server.url,
        )
        frame = next(one for one in page.frames if one != page.main_frame)
        await frame.wait_for_load_state()
        assert await frame.evaluate("document.querySelector('#app') === null")
