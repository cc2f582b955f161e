"""What is around a conversation: tabs, accounts of one browser, invites, devices, blocks, the list's search."""

from __future__ import annotations

from browser_rig import PHONE, bodies, browsing, enter, has_tick, is_live, opened, say, shows, write_to
from playwright.async_api import expect

from chatd.testing.server import ChatServer


async def test_two_tabs_of_each_show_the_same_and_the_other_takes_over() -> None:
    async with browsing() as browser, ChatServer(users=["alice", "bob"]) as server:
        tabs = {}
        for user, peer in (("alice", "bob"), ("bob", "alice")):
            context = await opened(browser)
            first, second = await context.new_page(), await context.new_page()
            await enter(first, server.url, user)
            await second.goto(f"{server.url}/#/with/{peer}")
            await first.goto(f"{server.url}/#/with/{peer}")
            await is_live(second)
            tabs[user] = [first, second]
        assert len(list(server.server.delivery.connected("alice"))) == 1, "one connection for both tabs"
        await say(tabs["alice"][0], "from the first tab")
        await say(tabs["alice"][1], "from the second tab")
        for page in tabs["alice"] + tabs["bob"]:
            await expect(bodies(page)).to_have_count(2)
        await tabs["alice"].pop(0).close()
        await say(tabs["alice"][0], "alone now")
        await has_tick(tabs["alice"][0], "alone now", "read")
        for page in tabs["bob"]:
            await expect(bodies(page)).to_have_count(3)


async def test_two_accounts_in_two_windows_of_one_browser() -> None:
    async with browsing() as browser, ChatServer(users=["alice", "bob"]) as server:
        context = await opened(browser)
        first, second = await context.new_page(), await context.new_page()
        await enter(first, server.url, "alice")
        await second.goto(server.url + "/#/settings")
        await second.locator("#other").click()
        await expect(second.get_by_role("button", name="Continue as alice")).to_be_visible()
        await enter(second, server.url, "bob")
        await write_to(first, "bob")
        await say(first, "hello, other window")
        await second.locator("[data-peer=alice]").click()
        await shows(second, ["hello, other window"])
        await first.reload()
        await shows(first, ["hello, other window"])


async def test_an_invite_opens_the_form_and_leaves_the_address() -> None:
    settings = {"accounts.registration": "invite"}
    async with browsing() as browser, ChatServer(users=["root"], settings=settings) as server:
        code = await server.server.accounts.create_invite(hours=1)
        page = await (await opened(browser)).new_page()
        await page.goto(f"{server.url}/join#{code}")
        await expect(page.get_by_label("Invite")).to_have_value(code)
        assert page.url == server.url + "/"
        await page.get_by_label("User name").fill("alice")
        await page.get_by_label("Password").fill("long enough")
        await page.get_by_role("button", name="Create account").click()
        await is_live(page)


async def test_a_device_is_revoked_and_says_so() -> None:
    async with browsing() as browser, ChatServer(users=["alice"]) as server:
        here, there = [await (await opened(browser)).new_page() for _ in range(2)]
        await enter(there, server.url, "alice")
        await enter(here, server.url, "alice")
        await here.goto(server.url + "/#/settings")
        await expect(here.locator("#devices li")).to_have_count(2)
        await here.locator("#devices button").click()
        await expect(here.locator("#devices li")).to_have_count(1)
        await expect(there.get_by_role("alert")).to_have_text("This device was signed out.")
        await here.locator("#leave").click()
        await expect(here.get_by_role("button", name="Sign in", exact=True)).to_be_visible()
        assert await here.evaluate("localStorage['chatd.accounts']") == "{}"


async def test_who_is_blocked_is_not_heard_until_unblocked() -> None:
    async with browsing() as browser, ChatServer(users=["alice", "bob"]) as server:
        bob = await server.client("bob")
        await (await bob.send("alice", "one")).sent()
        page = await (await opened(browser)).new_page()
        await enter(page, server.url, "alice")
        await page.locator("[data-peer=bob]").click()
        await page.locator("#block").click()
        await page.get_by_role("dialog").get_by_role("button", name="Block").click()
        await expect(page.locator(".blocked")).to_have_text("You blocked bob.")
        await (await bob.send("alice", "two")).sent()
        await page.locator("#block").click()
        await expect(page.locator("#write")).to_be_visible()
        await (await bob.send("alice", "three")).sent()
        await shows(page, ["one", "three"])
        await expect(page.locator(".gone")).to_have_text("Message hidden")


async def test_the_list_is_searched_on_a_phone_and_drafts_stay() -> None:
    async with browsing() as browser, ChatServer(users=["alice", "bob", "carol"]) as server:
        for user, text in (("bob", "about the garden"), ("carol", "about the house")):
            await (await (await server.client(user)).send("alice", text)).sent()
        page = await (await opened(browser, viewport=PHONE)).new_page()
        await enter(page, server.url, "alice")
        await page.locator("#search").fill("garden")
        await expect(page.locator("[data-peer]")).to_have_count(1)
        await page.locator("[data-peer=bob]").click()
        await page.locator("#write").fill("half a thought")
        await page.get_by_role("link", name="Back").click()
        await expect(page.locator("[data-peer=bob] .last")).to_have_text("Draft: half a thought")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.reload()
        await page.locator("[data-peer=bob]").click()
        await expect(page.locator("#write")).to_have_value("half a thought")
