"""A long log: what one looks at does not move when more comes, and neither page nor heap grows with it."""

from __future__ import annotations

import time

from browser_rig import bodies, browsing, enter, has_tick, is_live, opened, say, write_to
from playwright.async_api import CDPSession, Page, expect

from chatd.model import Draft
from chatd.protocol import new_message_id
from chatd.testing.server import ChatServer

MESSAGES = 50_000
CONV = "alice:bob"
MESSAGES_MAX = 300
NODES_MAX = 30_000
HEAP_BYTES_MAX = 40_000_000
CALLS_PER_S = {"limits.initial_history": 50}

# Where the topmost message in sight is, and the whole state of the view.
SIGHT = """() => {
  const log = document.querySelector('.log'), top = log.getBoundingClientRect().top;
  const one = [...log.querySelectorAll('[data-seq]')].find((e) => e.getBoundingClientRect().bottom > top + 1);
  return { seq: Number(one.dataset.seq), top: one.getBoundingClientRect().top - top };
}"""
# Scrolls to the top of what is there, and waits for the page before it. Gives the lowest seq, and how far what was in
# sight has moved on the screen.
BACK = """() => new Promise((done, fail) => {
  const log = document.querySelector('.log');
  const first = () => Number(log.querySelector('[data-seq]').dataset.seq);
  const was = first();
  log.scrollTop = 300;
  const one = log.querySelector(`[data-seq="${was}"]`);
  const at = one.getBoundingClientRect().top;
  const started = performance.now();
  const look = () => {
    if (first() < was) done([first(), one.isConnected ? Math.abs(one.getBoundingClientRect().top - at) : 0]);
    else if (performance.now() - started > 20_000) fail(new Error(`no page before ${was}`));
    else {
      if (performance.now() - started > 500) log.dispatchEvent(new Event('scroll'));
      requestAnimationFrame(look);
    }
  };
  look();
})"""


async def _filled(server: ChatServer, count: int) -> None:
    now_ms = time.time_ns() // 1_000_000
    for start in range(0, count, 256):
        drafts = [
            Draft(
                CONV,
                "alice" if number % 2 else "bob",
                new_message_id((now_ms - (count - number) * 60_000) / 1000),
                f"message {number}" + " and some more words of it" * (number % 7),
                now_ms - (count - number) * 60_000,
            )
            for number in range(start + 1, min(start + 256, count) + 1)
        ]
        await server.server.store.commit(drafts, [])


async def _measured(session: CDPSession) -> tuple[int, int]:
    """DOM nodes, and bytes of the heap after a collection."""
    await session.send("HeapProfiler.collectGarbage")
    metrics = {m["name"]: m["value"] for m in (await session.send("Performance.getMetrics"))["metrics"]}
    return int(metrics["Nodes"]), int(metrics["JSHeapUsedSize"])


async def _at_end(page: Page) -> None:
    await expect(page.locator("[data-seq]").first).to_be_attached()
    await expect(page.locator(".jumps")).to_have_attribute("data-end", "true")


async def test_fifty_thousand_messages_scroll_within_bounds() -> None:
    async with browsing() as browser, ChatServer(users=["alice", "bob"], settings=CALLS_PER_S) as server:
        await _filled(server, MESSAGES)
        context = await opened(browser)
        page = await context.new_page()
        await enter(page, server.url, "alice")
        await write_to(page, "bob")
        await expect(page.locator(f"[data-seq='{MESSAGES}']")).to_be_in_viewport()
        await _at_end(page)
        session = await context.new_cdp_session(page)
        await session.send("Performance.enable")
        await page.evaluate("window.shifts = 0")
        moved = 0.0
        lowest = MESSAGES
        while lowest > 1:
            lowest, one = await page.evaluate(BACK)
            moved = max(moved, one)
            assert await page.locator("[data-seq]").count() <= MESSAGES_MAX
        nodes, heap_bytes = await _measured(session)
        print(f"{MESSAGES} messages: {nodes} nodes, heap {heap_bytes} bytes, moved by {moved} px")
        assert moved < 2, "what is in sight moves when older messages come"
        assert await page.evaluate("window.shifts") < 0.01
        assert nodes <= NODES_MAX
        assert heap_bytes <= HEAP_BYTES_MAX
        await expect(page.locator(".edge")).to_have_text("This is the beginning.")
        await page.get_by_role("button", name="Jump to newest").click()
        await expect(page.locator(f"[data-seq='{MESSAGES}']")).to_be_in_viewport()
        await say(page, "the end")
        await has_tick(page, "the end", "sent")


async def test_it_begins_at_the_first_unread_and_leads_back_to_it() -> None:
    async with browsing() as browser, ChatServer(users=["alice", "bob"]) as server:
        await _filled(server, 400)
        bob = await server.client("bob")
        for number in range(120):
            handle = await bob.send("alice", f"new {number}")
        await handle.sent()
        page = await (await opened(browser)).new_page()
        await enter(page, server.url, "alice")
        await expect(page.locator("[data-peer=bob] .badge")).to_contain_text("12")
        await page.locator("[data-peer=bob]").click()
        await expect(page.locator(".new-here")).to_be_in_viewport()
        first = bodies(page).filter(has_text="new 0")
        await expect(first.first).to_be_in_viewport()
        await page.get_by_role("button", name="Jump to newest").click()
        await expect(bodies(page).filter(has_text="new 119")).to_be_in_viewport()
        await expect(page.locator("[data-peer=bob] .badge")).to_have_count(0)
        await page.get_by_role("button", name="Jump to first unread").click()
        await expect(first.first).to_be_in_viewport()


async def test_what_comes_below_does_not_move_what_one_reads() -> None:
    async with browsing() as browser, ChatServer(users=["alice", "bob"]) as server:
        await _filled(server, 500)
        page = await (await opened(browser)).new_page()
        await enter(page, server.url, "alice")
        await write_to(page, "bob")
        await is_live(page)
        await _at_end(page)
        await page.evaluate(BACK)
        before = await page.evaluate(SIGHT)
        bob = await server.client("bob")
        for number in range(350):  # more than the page holds at once
            handle = await bob.send("alice", f"meanwhile {number}")
        await handle.sent()
        await expect(page.locator("[data-peer=bob] .last")).to_have_text("meanwhile 349")
        after = await page.evaluate(SIGHT)
        assert after["seq"] == before["seq"]
        assert abs(after["top"] - before["top"]) < 2
        assert await page.locator("[data-seq]").count() <= MESSAGES_MAX
