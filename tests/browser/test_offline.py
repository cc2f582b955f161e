"""Without a network: what was written waits in the browser, also when that is closed, and goes out once, in order."""

from __future__ import annotations

from pathlib import Path

from browser_rig import FLAGS, WATCH, browsing, chromium, enter, is_live, opened, say, shows, write_to
from playwright.async_api import BrowserContext, Playwright, async_playwright, expect

from chatd.testing.server import ChatServer

TEXTS = [f"written offline {number}" for number in range(20)]


async def _profile(playwright: Playwright, place: Path) -> BrowserContext:
    """The browser of one person: what it keeps stays in ``place``."""
    context = await playwright.chromium.launch_persistent_context(
        str(place), executable_path=chromium(), args=FLAGS, locale="en-GB"
    )
    context.set_default_timeout(20_000)
    await context.add_init_script(WATCH)
    return context


async def test_written_offline_closed_and_opened_again_it_is_sent_once_and_in_order(tmp_path: Path) -> None:
    async with async_playwright() as playwright, ChatServer(users=["alice", "bob"]) as server:
        context = await _profile(playwright, tmp_path)
        page = context.pages[0]
        await enter(page, server.url, "alice")
        await page.evaluate("navigator.serviceWorker.ready.then(() => null)")
        await write_to(page, "bob")
        await context.set_offline(True)
        await expect(page.locator(".status")).to_contain_text("Offline.")
        for text in TEXTS:
            await say(page, text)
        await expect(page.locator(".unsent")).to_have_count(20)
        await page.reload()  # the page itself comes from the service worker
        await expect(page.locator(".unsent")).to_have_count(20)
        await page.locator("#write").fill("a draft")
        await context.close()
        assert await server.server.store.heads(["alice:bob"]) == {"alice:bob": 0}

        context = await _profile(playwright, tmp_path)
        page = context.pages[0]
        await page.goto(server.url + "/#/with/bob")
        await is_live(page)
        await shows(page, TEXTS)
        await expect(page.locator(".unsent")).to_have_count(0)
        await expect(page.locator("#write")).to_have_value("a draft")
        log = await server.server.store.read("alice:bob", after=0, before=None, limit=200)
        assert [message.body for message in log] == TEXTS
        await context.close()


async def test_older_messages_that_cannot_be_had_are_told_of_and_come_later() -> None:
    settings = {"limits.initial_history": 30}
    async with browsing() as browser, ChatServer(users=["alice", "bob"], settings=settings) as server:
        bob = await server.client("bob")
        for number in range(60):
            handle = await bob.send("alice", f"message {number}")
        await handle.sent()
        context = await opened(browser)
        page = await context.new_page()
        await page.route("**/v1/conversations/**", lambda route: route.abort())
        await enter(page, server.url, "alice")
        await page.locator("[data-peer=bob]").click()
        await expect(page.locator(".edge")).to_have_text("Older messages come when the server answers again.")
        await expect(page.locator("[data-seq='31']")).to_be_in_viewport()  # the first unread one is not here
        await page.unroute("**/v1/conversations/**")
        server.cut("alice")
        await is_live(page)
        await page.evaluate("document.querySelector('.log').scrollTop = 0")
        await expect(page.locator(".edge")).to_have_text("This is the beginning.")
        await expect(page.locator("[data-seq='1']")).to_be_attached()


async def test_the_page_says_plainly_how_the_connection_is() -> None:
    async with browsing() as browser, ChatServer(users=["alice"]) as server:
        context = await opened(browser)
        page = await context.new_page()
        await enter(page, server.url, "alice")
        server.server.sockets.draining = True  # new connections are refused
        server.cut("alice")
        await expect(page.locator(".status")).to_contain_text("No connection. Trying again in ", timeout=30_000)
        server.server.sockets.draining = False
        await is_live(page)
        token = await page.evaluate("JSON.parse(localStorage['chatd.accounts']).alice.device")
        await server.server.accounts.revoke("alice", token)
        await expect(page.get_by_role("alert")).to_have_text("This device was signed out.")
