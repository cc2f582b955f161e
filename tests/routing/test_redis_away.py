"""Redis is away for a while, to every process at once: what was answered stands, the rest is answered afterwards."""

from __future__ import annotations

import asyncio
import os

from client_rig import PATIENCE_S, messages_of

from chatd.client import Client
from chatd.testing.proxy import Proxy
from chatd.testing.redis_server import RedisServer
from chatd.testing.server import ChatServer

AWAY_S = float(os.environ.get("CHATD_TEST_AWAY_S", "3"))


async def test_what_is_written_meanwhile_is_kept_and_arrives_once_and_in_order() -> None:
    with RedisServer(appendfsync="always") as redis:
        async with Proxy("127.0.0.1", redis.port) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}/0"
            settings = {"cluster.bus_url": url, "cluster.reconcile_s": 2.0, "cluster.spread_s": 0.5}
            async with (
                ChatServer(url, users=["alice", "bob"], settings=settings) as one,
                ChatServer(url, settings=settings) as two,
            ):
                tokens = {user: await one.token(user) for user in ("alice", "bob")}
                async with (
                    Client(one.url, token=tokens["alice"], user="alice") as alice,
                    Client(two.url, token=tokens["bob"], user="bob") as bob,
                ):
                    handles = [await alice.send("bob", f"before {n}") for n in range(50)]
                    assert len(await messages_of(bob, 50)) == 50
                    proxy.refuse(True)
                    proxy.cut()
                    end_s = asyncio.get_running_loop().time() + AWAY_S
                    n = 0
                    while asyncio.get_running_loop().time() < end_s:
                        handles.append(await alice.send("bob", f"meanwhile {n}"))
                        n += 1
                        await asyncio.sleep(AWAY_S / 50)
                    proxy.refuse(False)
                    handles += [await alice.send("bob", f"after {n}") for n in range(50)]
                    async with asyncio.timeout(PATIENCE_S):
                        sent = [await handle.sent() for handle in handles]
                    assert [one.seq for one in sent] == list(range(1, len(handles) + 1))
                    rest = await messages_of(bob, len(handles) - 50)
                    assert [message.seq for message in rest] == list(range(51, len(handles) + 1))
                    assert [message.id for message in rest] == [handle.id for handle in handles[50:]]
