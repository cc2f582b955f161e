"""Two people, two browsers: what one writes the other sees, and both see how far it came."""

from __future__ import annotations

from browser_rig import browsing, enter, has_tick, is_clean, opened, say, shows, write_to
from playwright.async_api import expect

from chatd.testing.server import ChatServer


async def test_two_people_register_and_talk() -> None:
    async with browsing() as browser, ChatServer() as server:
        alice, bob = [await (await opened(browser)).new_page() for _ in range(2)]
        errors: list[str] = []
        for page in (alice, bob):
            page.on("pageerror", lambda error: errors.append(str(error)))
        await enter(alice, server.url, "alice", register=True)
        await enter(bob, server.url, "bob", register=True)
        await write_to(alice, "bob")
        await say(alice, "hello bob")
        await has_tick(alice, "hello bob", "delivered")
        row = bob.locator("[data-peer=alice]")
        await expect(row.locator(".badge")).to_contain_text("1 unread message")
        await expect(bob).to_have_title("(1) chatd")
        await row.click()
        await shows(bob, ["hello bob"])
        await has_tick(alice, "hello bob", "read")
        await expect(row.locator(".badge")).to_have_count(0)
        await bob.locator("#write").press_sequentially("hi", delay=20)
        await expect(alice.locator(".there")).to_have_text("is typing…")
        await bob.keyboard.press("Enter")
        await shows(alice, ["hello bob", "hi"])
        await has_tick(bob, "hi", "read")
        await expect(alice.locator(".there")).to_have_text("online")
        for page in (alice, bob):
            await is_clean(page)
        assert errors == []


async def test_nobody_there_is_told_where_the_message_stands() -> None:
    async with browsing() as browser, ChatServer(users=["alice"]) as server:
        alice = await (await opened(browser)).new_page()
        await enter(alice, server.url, "alice")
        await write_to(alice, "nobody")
        await say(alice, "hello?")
        unsent = alice.locator(".unsent")
        await expect(unsent).to_contain_text("Not sent: there is no such user")
        await server.server.accounts.add_user("nobody", "nobody")
        await unsent.get_by_role("button", name="Send again").click()
        await has_tick(alice, "hello?", "sent")
        await shows(alice, ["hello?"])
