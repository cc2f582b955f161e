"""A real browser on a real server: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright, expect

ROOT = Path(__file__).parent.parent.parent
WEB = ROOT / "tests" / "web"
AXE = WEB / "node_modules" / "axe-core" / "axe.min.js"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    *(["--no-sandbox"] if os.geteuid() == 0 else []),
]
PHONE = {"width": 390, "height": 780}

# Counts what no page of ours may cause; a script of the page's own policy cannot run before it.
WATCH = """
window.violations = [];
document.addEventListener('securitypolicyviolation', (e) => violations.push(`${e.violatedDirective} ${e.blockedURI}`));
window.shifts = 0;
new PerformanceObserver((list) => {
  for (const one of list.getEntries()) if (!one.hadRecentInput) window.shifts += one.value;
}).observe({ type: 'layout-shift', buffered: true });
"""


def chromium() -> str:
    """The program. Fails, not skips: `make test` installs it, or says that it is missing."""
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    assert found is not None, "no Chromium: install it (Debian: apt-get install chromium)"
    return found


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """A browser; its contexts know nothing of each other."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


async def opened(browser: Browser, **options: Any) -> BrowserContext:
    """A context in English, watched."""
    context = await browser.new_context(**{"locale": "en-GB", "viewport": {"width": 1000, "height": 700}, **options})
    context.set_default_timeout(20_000)
    await context.add_init_script(WATCH)
    return context


async def enter(page: Page, url: str, user: str, *, register: bool = False, live: bool = True) -> None:
    """Open the page and sign in, or create the account; its password is twice the name."""
    await page.goto(url)
    if register:
        await page.get_by_role("button", name="I need an account").click()
    await page.get_by_label("User name").fill(user)
    await page.get_by_label("Password").fill(user if not register else user * 2)
    await page.get_by_role("button", name="Create account" if register else "Sign in", exact=True).click()
    if live:
        await is_live(page)


async def is_live(page: Page, wait_s: float = 20) -> None:
    """Wait until the page says that it is connected."""
    await expect(page.locator(".status[data-state=live]")).to_be_visible(timeout=1_000 * wait_s)


async def write_to(page: Page, peer: str) -> None:
    """Open the conversation with a user, by the search."""
    await page.locator("#search").fill(peer)
    await page.locator("#search").press("Enter")
    await expect(page.locator("#write")).to_be_visible()


async def say(page: Page, body: str) -> None:
    """Send a message of the open conversation."""
    await page.locator("#write").fill(body)
    await page.get_by_role("button", name="Send", exact=True).click()


def bodies(page: Page) -> Locator:
    """The texts of the open conversation."""
    return page.locator(".message .body")


async def shows(page: Page, texts: list[str]) -> None:
    """Wait until exactly these messages are there, in order."""
    await expect(bodies(page)).to_have_text([re.compile(f"^{re.escape(one)}$") for one in texts], timeout=30_000)


def tick(page: Page, body: str) -> Locator:
    """The tick of the message with this text."""
    return page.locator(".message", has=page.get_by_text(body, exact=True)).locator(".tick")


async def has_tick(page: Page, body: str, name: str) -> None:
    """Wait until it is so far."""
    await expect(tick(page, body)).to_have_attribute("data-tick", name, timeout=30_000)


async def is_clean(page: Page) -> None:
    """Nothing broke the page's policy."""
    assert await page.evaluate("window.violations") == []


def axe_script() -> str:
    """The script of axe, which finds what keeps people out."""
    if not AXE.exists():
        subprocess.run(["npm", "ci", "--silent"], cwd=WEB, check=True, timeout=240)
    return AXE.read_text("utf-8")


async def faults(page: Page, axe: str) -> list[str]:
    """What axe finds: the rule, and where. ``axe``: its script."""
    await page.evaluate(axe)
    found = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [f"{one['id']}: {node['html'][:160]}" for one in found["violations"] for node in one["nodes"]]
