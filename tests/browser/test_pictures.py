"""The README's pictures: made by ``CHATD_PICTURES=1 make test ARGS=tests/browser/test_pictures.py``, else looked at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from browser_rig import PHONE, browsing, enter, has_tick, opened, say, shows
from playwright.async_api import Browser, Page, expect

from chatd.testing.server import ChatServer

ROOT = Path(__file__).parent.parent.parent
IMAGES = ROOT / "docs" / "images"
PICTURES = ("web.png", "web-phone.png")
BYTES_MAX = 150_000
TALK = [
    ("bob", "Is the train on time?"),
    ("alice", "Ten minutes late. I am on platform 4."),
    ("bob", "Then I bring coffee ☕"),
    ("alice", "You are the best. See https://example.org/trains for the next one."),
    ("bob", "On my way"),
]


async def _talked(browser: Browser, server: ChatServer, **options: object) -> Page:
    """A conversation on the page of alice, with a past on the list beside it."""
    page = await (await opened(browser, **options)).new_page()
    await enter(page, server.url, "alice")
    await page.goto(server.url + "/#/with/bob")
    await shows(page, [text for _, text in TALK])
    await expect(page.locator(".conversation .there")).to_have_text("online")
    return page


async def test_the_pictures_are_there_and_small(tmp_path: Path) -> None:
    making = bool(os.environ.get("CHATD_PICTURES"))
    place = IMAGES if making else tmp_path
    async with browsing() as browser, ChatServer(users=["alice", "bob", "carol", "dave"]) as server:
        clients = {user: await server.client(user) for user in ("alice", "bob", "carol", "dave")}
        await (await clients["dave"].send("alice", "Thanks, that worked!")).sent()
        await (await clients["alice"].send("carol", "Dinner on Friday?")).sent()
        await (await clients["carol"].send("alice", "Yes! And bring the photos 📷")).sent()
        for user, text in TALK:
            await (await clients[user].send("bob" if user == "alice" else "alice", text)).sent()
        await clients["bob"].mark_read("alice:bob", 4)
        wide = await _talked(browser, server, viewport={"width": 880, "height": 600})
        await wide.mouse.move(1, 1)
        await wide.screenshot(path=place / PICTURES[0])
        phone = await _talked(browser, server, viewport=PHONE, color_scheme="dark")
        await say(phone, "🎉")
        await has_tick(phone, "🎉", "sent")
        await phone.screenshot(path=place / PICTURES[1])
    sizes = [(IMAGES / name).stat().st_size for name in PICTURES]
    assert sum(sizes) <= BYTES_MAX
    for name in PICTURES:
        assert (place / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", PICTURES)
def test_the_readme_shows_them(name: str) -> None:
    assert f"docs/images/{name}" in (ROOT / "README.md").read_text("utf-8")
