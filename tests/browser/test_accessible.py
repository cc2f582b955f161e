"""The page for everybody: axe finds nothing on any view, light and dark, wide and narrow; the keyboard is enough."""

from __future__ import annotations

import pytest
from browser_rig import PHONE, axe_script, bodies, browsing, enter, faults, is_live, opened, say, shows, write_to
from playwright.async_api import expect

from chatd.testing.server import ChatServer


@pytest.fixture(scope="module")
def axe() -> str:
    return axe_script()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [{"width": 1000, "height": 700}, PHONE], ids=["wide", "phone"])
async def test_axe_finds_nothing(axe: str, scheme: str, viewport: dict[str, int]) -> None:
    async with browsing() as browser, ChatServer(users=["alice", "bob", "carol", "dave"]) as server:
        bob, carol = await server.client("bob"), await server.client("carol")
        for number in range(30):
            handle = await bob.send("alice", f"a line, number {number}")
        await handle.sent()
        handle = await carol.send("alice", "שלום עולם, see https://example.org/page")
        await handle.sent()
        context = await opened(browser, color_scheme=scheme, viewport=viewport, reduced_motion="reduce")
        page = await context.new_page()
        await page.goto(server.url)
        assert await faults(page, axe) == []
        await page.get_by_role("button", name="I need an account").click()
        assert await faults(page, axe) == []
        await page.get_by_role("button", name="I have an account").click()
        await page.get_by_label("User name").fill("alice")
        await page.get_by_label("Password").fill("wrong")
        await page.get_by_role("button", name="Sign in", exact=True).click()
        await expect(page.get_by_role("alert")).to_have_text("Wrong user name or password.")
        assert await faults(page, axe) == []
        await enter(page, server.url, "alice")
        await expect(page.locator("[data-peer=bob] .avatar")).to_have_attribute("data-presence", "online")
        assert await faults(page, axe) == []
        await page.goto(server.url + "/#/with/bob")
        await expect(bodies(page).first).to_be_visible()
        await say(page, "an answer")
        await expect(page.locator(".own .tick")).to_be_visible()
        assert await faults(page, axe) == []
        await page.locator("#block").click()
        assert await faults(page, axe) == []
        await page.get_by_role("button", name="Cancel").click()
        await page.goto(server.url + "/#/with/nobody")
        await say(page, "is somebody there?")
        await expect(page.locator(".unsent .problem")).to_be_visible()
        assert await faults(page, axe) == []
        await page.goto(server.url + "/#/settings")
        await expect(page.locator("#devices li").first).to_be_visible()
        assert await faults(page, axe) == []


async def test_the_keyboard_is_enough() -> None:
    async with browsing() as browser, ChatServer(users=["alice", "bob", "carol"]) as server:
        for user in ("bob", "carol"):
            await (await (await server.client(user)).send("alice", f"hi from {user}")).sent()
        page = await (await opened(browser)).new_page()
        await enter(page, server.url, "alice")
        await expect(page.locator("[data-peer]")).to_have_count(2)
        await page.keyboard.press("/")
        await expect(page.locator("#search")).to_be_focused()
        await page.keyboard.press("ArrowDown")
        await expect(page.locator("[data-peer=carol]")).to_be_focused()
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Enter")
        await shows(page, ["hi from bob"])
        await expect(page.locator("#write")).to_be_focused()
        await page.keyboard.type("two")
        await page.keyboard.press("Shift+Enter")
        await page.keyboard.type("lines")
        await page.keyboard.press("Enter")
        await shows(page, ["hi from bob", "two\nlines"])
        await page.keyboard.press("Alt+ArrowDown")
        await shows(page, ["hi from carol"])
        await page.keyboard.press("Escape")
        await expect(page.locator(".empty").last).to_contain_text("Choose a conversation")


async def test_what_arrives_is_read_out_and_the_log_is_not() -> None:
    async with browsing() as browser, ChatServer(users=["alice", "bob", "carol"]) as server:
        page = await (await opened(browser)).new_page()
        await enter(page, server.url, "alice")
        await write_to(page, "bob")
        await expect(page.get_by_role("log")).to_have_attribute("aria-live", "off")
        await expect(page.get_by_role("status")).to_have_text("Connected")
        await (await (await server.client("bob")).send("alice", "hello")).sent()
        await expect(page.locator("#announcer")).to_have_text("bob: hello")
        await (await (await server.client("carol")).send("alice", "hello")).sent()
        await expect(page.locator("#announcer")).to_have_text("New message from carol")


async def test_right_to_left_emoji_and_another_language() -> None:
    async with browsing() as browser, ChatServer(users=["alice", "bob"]) as server:
        bob = await server.client("bob")
        texts = ["مرحبا بالعالم", "👩‍👩‍👧‍👦🏳️‍🌈", "hello"]
        for text in texts:
            handle = await bob.send("alice", text)
        await handle.sent()
        page = await (await opened(browser, locale="de-AT")).new_page()
        await page.goto(server.url)
        await page.get_by_label("Benutzername").fill("alice")
        await page.get_by_label("Passwort").fill("alice")
        await page.get_by_role("button", name="Anmelden", exact=True).click()
        await is_live(page)
        await expect(page.locator("html")).to_have_attribute("lang", "de")
        await page.locator("[data-peer=bob]").click()
        await shows(page, texts)
        directions = await bodies(page).evaluate_all("(all) => all.map((one) => getComputedStyle(one).direction)")
        assert directions == ["rtl", "ltr", "ltr"]
        await page.goto(server.url + "/#/settings")
        await page.locator("#language").select_option("en")
        await expect(page.get_by_role("heading", name="Devices")).to_be_visible()
        await page.reload()
        await expect(page.get_by_role("heading", name="Devices")).to_be_visible()


async def test_it_is_installable_and_fast_at_first_sight() -> None:
    async with browsing() as browser, ChatServer() as server:
        context = await opened(browser)
        page = await context.new_page()
        await page.goto(server.url)
        await page.get_by_label("User name").wait_for()
        painted_ms = await page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        print(f"first contentful paint: {painted_ms:.0f} ms")
        session = await context.new_cdp_session(page)
        faults = (await session.send("Page.getInstallabilityErrors"))["installabilityErrors"]
        assert [one["errorId"] for one in faults if one["errorId"] != "in-incognito"] == []
        assert await page.evaluate("window.shifts") < 0.01
