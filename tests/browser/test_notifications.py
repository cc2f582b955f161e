"""Notifications, from a message to the screen: encrypted by the server, decrypted by the push service of the tests,
delivered to the real service worker by the browser's own protocol."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from browser_rig import browsing, enter, opened, shows
from playwright.async_api import BrowserContext, CDPSession, Page, Worker, expect

from chatd.testing.push_service import FakePushService
from chatd.testing.server import ChatServer

SETTINGS: dict[str, Any] = {"push.private_endpoints": True, "push.delay_s": 0.2, "push.retry_s_min": 0.02}
# The browser's own push service is out of reach here: this one is what it would have given.
SUBSCRIBED = """(() => {
  const made = %s;
  const subscription = { endpoint: made.endpoint, toJSON: () => made, unsubscribe: async () => true };
  PushManager.prototype.subscribe = async () => subscription;
  PushManager.prototype.getSubscription = async () => subscription;
})()"""
# Only the browser may make an event that waits; this one is told to, by itself.
CLICKED = """async () => {
  const [notification] = await registration.getNotifications();
  const event = new NotificationEvent('notificationclick', { notification });
  let work;
  Object.defineProperty(event, 'waitUntil', { value: (promise) => { work = promise; } });
  dispatchEvent(event);
  await work;
}"""
SHOWN = """async () => (await (await navigator.serviceWorker.ready).getNotifications())
  .map(({ title, body, tag }) => ({ title, body, tag }))"""


async def _registration(session: CDPSession) -> str:
    """The id of the page's service worker, for the browser's own protocol."""
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def told(event: dict[str, Any]) -> None:
        if event["registrations"] and not found.done():
            found.set_result(event["registrations"][0]["registrationId"])

    session.on("ServiceWorker.workerRegistrationUpdated", told)
    await session.send("ServiceWorker.enable")
    return await found


async def _worker(context: BrowserContext) -> Worker:
    if not context.service_workers:
        await context.wait_for_event("serviceworker")
    return context.service_workers[0]


async def _until_shown(page: Page, count: int) -> list[dict[str, str]]:
    await page.wait_for_function(f"async () => (await ({SHOWN})()).length === {count}")
    shown: list[dict[str, str]] = await page.evaluate(SHOWN)
    return shown


async def test_a_push_is_shown_leads_to_its_conversation_and_goes_when_read_elsewhere() -> None:
    async with (
        browsing() as browser,
        FakePushService() as service,
        ChatServer(users=["alice", "bob", "carol"], settings=SETTINGS) as server,
    ):
        made = service.subscribe((await server.server.subscriptions.kinds())["webpush"]["vapid"])
        context = await opened(browser, permissions=["notifications"])
        await context.add_init_script(SUBSCRIBED % json.dumps({"endpoint": made.endpoint, "keys": made.keys}))
        page = await context.new_page()
        await enter(page, server.url, "alice")
        worker = await _worker(context)
        await page.evaluate("navigator.serviceWorker.ready.then(() => null)")
        session = await context.new_cdp_session(page)
        registration = await _registration(session)
        await page.goto(server.url + "/#/settings")
        await page.locator("#notify").check()
        await expect(page.locator("#notify:enabled")).to_be_checked()

        async def deliver(number: int) -> dict[str, Any]:
            payload = (await service.nth(number, to=made)).payload
            push = {"origin": server.url, "registrationId": registration, "data": json.dumps(payload)}
            await session.send("ServiceWorker.deliverPushMessage", push)
            assert isinstance(payload, dict)
            return payload

        await page.evaluate("chatd.stop()")  # the page is there and hears nothing: as when it is closed
        bob = await server.client("bob")
        await (await bob.send("alice", "are you there?")).sent()
        first = await deliver(1)
        assert first["type"] == "message"
        assert await _until_shown(page, 1) == [{"title": "bob", "body": "1 new message", "tag": first["tag"]}]
        await deliver(1)  # the same again is not shown again
        await (await bob.send("alice", "hello?")).sent()
        await deliver(2)
        await page.wait_for_function(f"async () => (await ({SHOWN})())[0]?.body === '2 new messages'")

        await page.reload()  # awake again, and led there by the click
        await worker.evaluate(CLICKED)
        await shows(page, ["are you there?", "hello?"])
        assert page.url == server.url + "/#/with/bob"
        await _until_shown(page, 0)

        await page.evaluate("chatd.stop()")
        carol = await server.client("carol")
        await (await carol.send("alice", "and me?")).sent()
        await deliver(3)
        await _until_shown(page, 1)
        phone = await server.client("alice", "phone")  # read elsewhere, while this page sleeps
        async with asyncio.timeout(10):
            while not phone.badge:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await phone.mark_read("alice:carol", 1)
        assert (await deliver(4))["type"] == "clear"
        await _until_shown(page, 0)


async def test_what_is_read_in_another_tab_or_device_goes_from_the_screen_of_an_awake_page() -> None:
    async with browsing() as browser, ChatServer(users=["alice", "bob"]) as server:
        context = await opened(browser, permissions=["notifications"])
        page = await context.new_page()
        await enter(page, server.url, "alice")
        await page.evaluate("navigator.serviceWorker.ready.then(() => null)")
        session = await context.new_cdp_session(page)
        registration = await _registration(session)
        await (await (await server.client("bob")).send("alice", "hi")).sent()
        await expect(page.locator("[data-peer=bob]")).to_be_visible()
        told: dict[str, Any] = {"type": "message", "key": "alice:bob#1", "tag": "t", "to": "alice", "conv": "alice:bob"}
        told |= {"sender": "bob", "count": 1, "seq": 1, "ts": 1, "badge": 1}
        push = {"origin": server.url, "registrationId": registration, "data": json.dumps(told)}
        await session.send("ServiceWorker.deliverPushMessage", push)
        await _until_shown(page, 1)
        await (await server.client("alice", "phone")).mark_read("alice:bob", 1)
        await _until_shown(page, 0)
