"""The JavaScript client where its storage and its tabs are real: in Chromium."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from browser_rig import browsing, opened
from playwright.async_api import BrowserContext, Page

from chatd.testing.proxy import Proxy
from chatd.testing.server import ChatServer

CONTRACT = (Path(__file__).parent.parent / "web" / "storage_contract.js").read_text("utf-8")
SEED = 7
PEERS = {"alice": "bob", "bob": "alice"}
MESSAGES = 300
TROUBLES = 24

OPEN = """async ([url, user, token]) => {
  const { Chatd } = await import('/sdk/chatd.js');
  window.chat = new Chatd({ url, user, token });
  window.seqs = [];
  chat.on('message', ({ conv, message }) => {
    seqs.push(message.seq);
    if (message.from !== user) chat.read(conv, message.seq);
  });
  await chat.start();
}"""
VIEW = """async (conv) => {
  const database = await new Promise((resolve, reject) => {
    const request = indexedDB.open(chat_database);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  const all = (store) => new Promise((resolve, reject) => {
    const request = database.transaction(store).objectStore(store).getAll();
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  const [messages, outbox, reads] = [await all('messages'), await all('outbox'), await all('reads')];
  database.close();
  return { messages, outbox, reads, state: chat.state, badge: chat.badge, row: chat.conversations()[0], seqs };
}"""


async def _plain(context: BrowserContext, url: str) -> Page:
    """A page of this origin without a script of its own; its policy, which allows none, is not kept."""
    page = await context.new_page()
    await page.goto(f"{url}/version")
    return page


async def test_indexeddb_holds_what_every_storage_promises() -> None:
    async with browsing() as browser, ChatServer() as server:
        context = await opened(browser, bypass_csp=True)

        async def contract(route: Any) -> None:
            await route.fulfill(body=CONTRACT, content_type="text/javascript")

        await context.route("**/storage_contract.js", contract)
        page = await _plain(context, server.url)
        outcomes = await page.evaluate(
            """async () => {
              const { cases } = await import('/storage_contract.js');
              const { indexedDbStorage } = await import('/sdk/chatd.js');
              const outcomes = {};
              for (const [name, holds] of Object.entries(cases)) {
                const storage = indexedDbStorage(name);
                await storage.open();
                outcomes[name] = await holds(storage).then(() => 'holds', String);
                await storage.close();
              }
              return outcomes;
            }"""
        )
        assert len(outcomes) >= 12
        assert {name: said for name, said in outcomes.items() if said != "holds"} == {}


async def test_what_is_stored_outlives_its_page() -> None:
    async with browsing() as browser, ChatServer() as server:
        context = await opened(browser, bypass_csp=True)
        page = await _plain(context, server.url)
        put = "id => import('/sdk/chatd.js').then(async ({ indexedDbStorage }) => {"
        put += " const s = indexedDbStorage('lasts'); await s.open(); await s.add({ id, to: 'bob', body: 'x', at: 1 });"
        put += " return (await s.outbox()).map((e) => e.id); })"
        assert await page.evaluate(put, "one") == ["one"]
        await page.close()
        page = await _plain(context, server.url)
        assert await page.evaluate(put, "two") == ["one", "two"]


async def test_two_tabs_each_cut_closed_and_opened_again_hold_the_servers_log() -> None:
    chance = random.Random(SEED)
    async with browsing() as browser, ChatServer(users=list(PEERS)) as server, AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy("127.0.0.1", server.server.port))
        url = f"http://127.0.0.1:{proxy.port}"
        contexts = {user: await opened(browser, bypass_csp=True) for user in PEERS}
        tokens = {user: await server.token(user) for user in PEERS}

        async def tab(user: str) -> Page:
            page = await _plain(contexts[user], url)
            await page.evaluate(OPEN, [url, user, tokens[user]])
            await page.evaluate("name => { window.chat_database = name }", f"chatd {url} {user}")
            return page

        tabs = {user: [await tab(user), await tab(user)] for user in PEERS}
        wanted: dict[str, list[str]] = {user: [] for user in PEERS}
        per_trouble = MESSAGES // TROUBLES
        for _ in range(TROUBLES):
            for user, peer in PEERS.items():
                bodies = [f"{user} {len(wanted[user]) + i}" for i in range(per_trouble)]
                wanted[user] += bodies
                page = chance.choice(tabs[user])
                script = "([to, bodies]) => Promise.all(bodies.map((body) => chat.send(to, body).stored))"
                await page.evaluate(script, [peer, bodies])
            if chance.random() < 0.6:
                proxy.cut()
            else:
                user = chance.choice(list(PEERS))
                which = chance.randrange(2)
                await tabs[user][which].close()
                tabs[user][which] = await tab(user)
        conv = "alice:bob"
        count = 2 * per_trouble * TROUBLES
        async with asyncio.timeout(60):
            for user in PEERS:
                await tabs[user][0].wait_for_function(
                    f"() => chat.conversations()[0]?.head === {count}", timeout=60_000
                )
                await tabs[user][0].evaluate("([conv, seq]) => chat.read(conv, seq)", [conv, count])
            for user in PEERS:
                for page in tabs[user]:
                    await page.wait_for_function(
                        f"() => chat.state === 'live' && chat.badge === 0 && chat.conversations()[0]?.head === {count}"
                        f" && chat.conversations()[0].peerRead === {count} && chat.outbox().length === 0",
                        timeout=60_000,
                    )
        log: list[Any] = []
        while len(log) < count:
            log += await server.server.store.read(conv, after=len(log), before=None, limit=200)
        held = [(m.seq, m.id, m.sender, m.body) for m in log]
        for user in PEERS:
            assert [m.body for m in log if m.sender == user] == wanted[user]
            for page in tabs[user]:
                view = await page.evaluate(VIEW, conv)
                stored = [(m["seq"], m["id"], m["from"], m["body"]) for m in view["messages"]]
                assert stored == held, json.dumps(view)[:2000]
                assert (view["outbox"], view["reads"]) == ([], [])
                seqs = view["seqs"]
                assert seqs == list(range(count - len(seqs) + 1, count + 1)), "each once and in order, to the end"
