"""The administration in the page: for administrators alone, charts of what the server counts, users to look after."""

from __future__ import annotations

import platform
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from browser_rig import PHONE, axe_script, browsing, enter, faults, is_clean, is_live, opened
from playwright.async_api import Browser, Page, expect

from chatd.testing.bus import Hub, LoopBoard, LoopBus
from chatd.testing.server import ChatServer

PATIENCE_MS = 20_000


@asynccontextmanager
async def _world() -> AsyncIterator[tuple[Browser, ChatServer]]:
    """root administers; alice is connected, and has a device that she lost."""
    async with browsing() as browser, ChatServer(users=["alice", "bob"]) as server:
        await server.server.accounts.add_user("root", "root", admin=True)
        await server.token("alice", "lost phone")
        yield browser, server


async def _open(page: Page, server: ChatServer, user: str = "root") -> None:
    await enter(page, server.url, user)
    await page.goto(server.url + "/#/settings")
    await page.get_by_role("link", name="Administration").click()
    await expect(page.get_by_role("heading", name="Administration")).to_be_visible()


async def test_others_neither_see_it_nor_load_it() -> None:
    async with _world() as (browser, server):
        page = await (await opened(browser)).new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await enter(page, server.url, "alice")
        await page.goto(server.url + "/#/settings")
        await expect(page.locator("#devices li").first).to_be_visible()
        await expect(page.get_by_text("Signed in as alice")).to_be_visible()
        await expect(page.get_by_role("link", name="Administration")).to_have_count(0)
        await page.goto(server.url + "/#/admin")
        await expect(page.locator("main")).to_have_text("that is not allowed")
        assert not [url for url in asked if "/page/admin" in url or "/v1/admin" in url]


async def test_the_charts_show_what_the_server_counts() -> None:
    async with _world() as (browser, server):
        alice = await server.client("alice")
        page = await (await opened(browser)).new_page()
        await _open(page, server)
        await expect(page.locator("#server-state")).to_contain_text(
            f"Ready · 1 process on {platform.node()} · version "
        )
        chart = page.locator("[data-chart=messages]")
        await expect(chart.locator("polyline")).to_have_count(1, timeout=PATIENCE_MS)
        await expect(chart).to_contain_text("0/s")
        for number in range(20):
            handle = await alice.send("bob", f"{number}")
        await handle.sent()
        await expect(chart.locator("svg")).to_have_accessible_name(
            re.compile(r"^Messages a second: now .*, at most [1-9]"), timeout=PATIENCE_MS
        )
        await expect(page.locator("[data-chart=connections]")).to_contain_text("2 · 2 users")
        await expect(page.locator("[data-chart=commit]")).to_contain_text(re.compile(r"half within .* (ms|µs|s)|–"))
        hot = page.get_by_role("region", name="Hot conversations")
        await expect(hot.get_by_role("row", name="alice:bob 20")).to_be_visible(timeout=PATIENCE_MS)
        await page.get_by_role("button", name="Pause").click()
        await expect(page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")
        await is_clean(page)


async def test_of_a_cluster_one_host_is_shown_and_the_rest_is_told() -> None:
    hub = Hub()
    async with (
        browsing() as browser,
        ChatServer(users=["alice"], bus=LoopBus(hub), board=LoopBoard(hub)) as other,
        ChatServer(share=other.store.inner, bus=LoopBus(hub), board=LoopBoard(hub)) as server,
    ):
        await server.server.accounts.add_user("root", "root", admin=True)
        page = await (await opened(browser)).new_page()
        await _open(page, server)
        await expect(page.locator("#server-state")).to_contain_text(f"Ready · 1 process on {platform.node()} · ")
        told = "1 further process of the cluster is neither shown nor counted here."
        await expect(page.locator("#elsewhere")).to_have_text(told)
        await is_clean(page)


async def test_users_are_locked_out_signed_out_and_invited() -> None:
    async with _world() as (browser, server):
        alice = await server.client("alice")
        await alice.conversations()
        page = await (await opened(browser)).new_page()
        await _open(page, server)
        row = page.locator("[data-user=alice]")
        await expect(row).to_contain_text("Connected: 1")
        await expect(page.locator("[data-user=root]")).to_contain_text("administrator")
        await expect(page.locator("[data-user=root] .lock")).to_have_count(0)
        await page.get_by_role("button", name="Devices of alice").click()
        await page.get_by_role("button", name="Sign out lost phone of alice").click()
        await expect(page.get_by_role("button", name="Sign out lost phone of alice")).to_have_count(0)
        assert [one.name for one in await server.server.accounts.devices("alice")] == ["test"]
        await page.get_by_role("button", name="Lock out alice").click()
        await expect(row).to_contain_text("locked out")
        assert not server.server.delivery.has("alice")
        await page.get_by_role("button", name="Let in alice").click()
        await expect(row).not_to_contain_text("locked out")
        await page.get_by_role("button", name="Make an invite").click()
        link = await page.locator("#invite-link").input_value()
        assert link.startswith(f"{server.url}/join#")
        await server.server.accounts.register("carol", "carol", link.partition("#")[2])
        await is_clean(page)


@pytest.fixture(scope="module")
def axe() -> str:
    return axe_script()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [{"width": 1000, "height": 700}, PHONE], ids=["wide", "phone"])
async def test_axe_finds_nothing(axe: str, scheme: str, viewport: dict[str, int]) -> None:
    async with _world() as (browser, server):
        alice = await server.client("alice")
        await (await alice.send("bob", "hi")).sent()
        context = await opened(browser, color_scheme=scheme, viewport=viewport)
        page = await context.new_page()
        await _open(page, server)
        await expect(page.locator("[data-chart=memory] polyline")).to_have_count(1, timeout=PATIENCE_MS)
        await expect(page.locator("[data-user=alice]")).to_be_visible()
        await page.get_by_role("button", name="Devices of alice").click()
        await page.get_by_role("button", name="Make an invite").click()
        await expect(page.locator("#invite-link")).to_be_visible()
        await expect(page.get_by_role("region", name="Hot conversations")).to_be_visible()
        assert await faults(page, axe) == []
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width <= viewport["width"], "nothing sticks out"


async def test_of_who_administers_no_more_nothing_stays_on_the_screen() -> None:
    async with _world() as (browser, server):
        page = await (await opened(browser)).new_page()
        await _open(page, server)
        await expect(page.locator("#users li")).to_have_count(3)
        await server.server.accounts.demote("root")
        await expect(page.get_by_role("alert").first).to_have_text("this is for administrators", timeout=PATIENCE_MS)
        for part in ("#server-state", "#users", ".charts"):
            await expect(page.locator(part)).to_have_count(0)
        await server.server.accounts.promote("root")
        await expect(page.locator("#users li")).to_have_count(3, timeout=PATIENCE_MS)


async def test_the_keyboard_is_enough_and_german_is_spoken() -> None:
    async with _world() as (browser, server):
        context = await opened(browser, locale="de-AT", reduced_motion="reduce")
        page = await context.new_page()
        await page.goto(server.url)
        await page.get_by_label("Benutzername").fill("root")
        await page.get_by_label("Passwort").fill("root")
        await page.keyboard.press("Enter")
        await is_live(page)
        await page.goto(server.url + "/#/admin")
        await expect(page.get_by_role("heading", name="Verwaltung")).to_be_visible()
        await expect(page.locator("#server-state")).to_contain_text("Bereit · 1 Prozess")
        await page.locator("#pause").focus()
        await page.keyboard.press("Space")
        await expect(page.locator("#pause")).to_have_attribute("aria-pressed", "true")
        await page.get_by_role("button", name="alice sperren").focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("[data-user=alice]")).to_contain_text("gesperrt")
        await page.keyboard.press("Escape")
        await expect(page.locator(".empty").last).to_contain_text("Eine Unterhaltung wählen")
