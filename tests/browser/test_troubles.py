"""Two people with two tabs each while the network is cut, tabs close and the server is killed: nothing is lost, shown
twice or out of order, and every tick ends right."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from browser_rig import browsing, is_live, opened
from playwright.async_api import Browser, BrowserContext, Page

from chatd.testing.harness.process import KillableServer
from chatd.testing.proxy import Proxy

CONV = "alice:bob"
PEERS = {"alice": "bob", "bob": "alice"}
BATCH = 20
SHOWN_MAX = 300

# Stored, that is safe from then on: also when the tab closes before anything is sent.
SEND = """([peer, texts]) => Promise.all(texts.map((text) => chatd.send(peer, text).stored)).then(() => null)"""
AT_END = """async () => {
  document.querySelector('.jumps[data-end="false"] .to-end')?.click();
  await new Promise(requestAnimationFrame);
}"""
SETTLED = """([head, last]) => {
  const row = chatd.conversations()[0];
  return row?.head === head && row.unread === 0 && row.peerRead >= last && !chatd.outbox().length
    && !document.querySelector('.tick:not([data-tick="read"])');
}"""
VIEW = """() => [...document.querySelectorAll('.message')].map((one) => [
  Number(one.dataset.seq), one.querySelector('.body').textContent, one.querySelector('.tick')?.dataset.tick ?? null])"""
STORED = """async () => {
  const { name } = (await indexedDB.databases()).find((one) => one.name.startsWith('chatd'));
  const request = indexedDB.open(name);
  const database = await new Promise((done, fail) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => fail(request.error);
  });
  const all = (store) => new Promise((done, fail) => {
    const asked = database.transaction(store).objectStore(store).getAll();
    asked.onsuccess = () => done(asked.result);
    asked.onerror = () => fail(asked.error);
  });
  const [messages, outbox] = [await all('messages'), await all('outbox')];
  database.close();
  return [messages.map(({ seq, from, body }) => [seq, from, body]), outbox.length];
}"""


class Person:
    """A browser of one user, with tabs that show the conversation."""

    def __init__(self, context: BrowserContext, user: str, url: str) -> None:
        self.user, self._context, self._url = user, context, url
        self.tabs: list[Page] = []
        self.errors: list[str] = []

    async def open_tab(self) -> None:
        """One more tab."""
        page = await self._context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        await page.goto(f"{self._url}/#/with/{PEERS[self.user]}")
        await page.wait_for_function("() => window.chatd?.ready.then(() => true)")
        self.tabs.append(page)

    async def reopen(self, number: int) -> None:
        """Close a tab and open another."""
        page = self.tabs.pop(number)
        await page.close()
        await self.open_tab()


async def _person(browser: Browser, user: str, token: str, url: str) -> Person:
    context = await opened(browser)
    kept = {user: {"user": user, "device": "page", "token": token}}
    await context.add_init_script(
        f"localStorage['chatd.accounts'] = {json.dumps(json.dumps(kept))}; localStorage['chatd.last'] = '{user}';"
    )
    person = Person(context, user, url)
    for _ in range(2):
        await person.open_tab()
    return person


async def _all_shown(page: Page, count: int) -> list[tuple[int, str, str | None]]:
    """Everything that the conversation shows, page by page back to its beginning."""
    shown: dict[int, tuple[int, str, str | None]] = {}
    async with asyncio.timeout(60):
        while len(shown) < count:
            rows = await page.evaluate(VIEW)
            assert len({row[0] for row in rows}) == len(rows) <= SHOWN_MAX, "something is shown twice"
            shown.update({row[0]: (row[0], row[1], row[2]) for row in rows})
            await page.evaluate("document.querySelector('.log').scrollTop = 200")
            await page.evaluate("new Promise(requestAnimationFrame)")
    return [row for _, row in sorted(shown.items())]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("each", "cuts", "kills", "seed"), [(1_000, 50, 5, 11)])
async def test_whatever_happens_both_see_the_server_s_log(
    tmp_path: Path, each: int, cuts: int, kills: int, seed: int
) -> None:
    chance = random.Random(seed)
    server = KillableServer(tmp_path)
    tokens = await server.make_tokens(list(PEERS), ["page"])
    await server.start()
    try:
        async with browsing() as browser, Proxy("127.0.0.1", server.port) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            people = [await _person(browser, user, tokens[user, "page"], url) for user in PEERS]
            steps = [(person, number) for person in people for number in range(0, each, BATCH)]
            steps.sort(key=lambda step: (step[1], step[0].user))
            troubles: dict[int, list[str]] = {}
            for kind, count in (("cut", cuts), ("kill", kills), ("reopen", kills * 2)):
                for _ in range(count):
                    troubles.setdefault(chance.randrange(len(steps)), []).append(kind)
            for at, (person, number) in enumerate(steps):
                texts = [f"{person.user} {one}" for one in range(number, number + BATCH)]
                sending = asyncio.create_task(chance.choice(person.tabs).evaluate(SEND, [PEERS[person.user], texts]))
                for kind in troubles.get(at, []):
                    if kind == "cut":
                        await asyncio.sleep(chance.uniform(0, 0.05))  # somewhere among the frames
                        proxy.cut()
                    elif kind == "kill":
                        await server.kill()
                        await server.start()
                        proxy.retarget(server.port)
                await sending
                if "reopen" in troubles.get(at, []):
                    await person.reopen(chance.randrange(2))
            log = await _settled(people, 2 * each)
            await _judge(people, log, each)
            assert server.faults() == []
    finally:
        await server.kill()


async def _settled(people: list[Person], head: int) -> list[list[Any]]:
    """Until everything is sent, and read by both in the tabs that are open. Returns the log.

    Everybody reads at the same time: what one has read turns the other's ticks.
    """
    waiting = [(person.user, page) for person in people for page in person.tabs]
    async with asyncio.timeout(120):
        for _, page in waiting:
            await is_live(page, wait_s=60)  # who was cut often waits up to 30 s before it comes back
            await page.wait_for_function("() => !chatd.outbox().length", timeout=60_000)
        log = await _log(people[0].tabs[0], head)
        last = {sender: seq for seq, sender, _ in log}
        while waiting:
            for person in people:
                for page in person.tabs:
                    await page.bring_to_front()
                    await page.evaluate(AT_END)
            waiting = [(user, page) for user, page in waiting if not await page.evaluate(SETTLED, [head, last[user]])]
    return log


async def _log(page: Page, head: int) -> list[list[Any]]:
    """The server's log, as HTTP gives it."""
    got: list[list[Any]] = await page.evaluate(
        f"""async () => {{
          const all = [];
          for (let before; all.length < {head};) {{
            const page = await chatd.http.history('{CONV}', {{ before, limit: 200 }});
            all.unshift(...page.map((one) => [one.seq, one.from, one.body]));
            before = page[0].seq;
          }}
          return all;
        }}"""
    )
    return got


async def _judge(people: list[Person], log: list[list[Any]], each: int) -> None:
    assert [seq for seq, _, _ in log] == list(range(1, 2 * each + 1))
    for person in people:
        said = [body for _, sender, body in log if sender == person.user]
        assert sorted(said) == sorted(f"{person.user} {number}" for number in range(each)), "each of them, once"
        stored, unsent = await person.tabs[0].evaluate(STORED)
        assert unsent == 0
        assert sorted(stored) == log[-len(stored) :]
        for page in person.tabs:
            shown = await _all_shown(page, len(log))
            assert [[seq, body] for seq, body, _ in shown] == [[seq, body] for seq, _, body in log]
            assert {tick for _, _, tick in shown} == {"read", None}
            assert sum(tick == "read" for _, _, tick in shown) == each
        assert person.errors == []
