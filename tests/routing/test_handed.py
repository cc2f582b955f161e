"""A whole server that gets its connections from a router instead of a port."""

from __future__ import annotations

import asyncio

import aiohttp
from router_rig import PATIENCE_S, Rig, routing

from chatd import configuration, protocol
from chatd.app import Server
from chatd.client import Client
from chatd.client.wire import connect, websocket_url
from chatd.testing.server import GENEROUS
from chatd.testing.speaker import Speaker


async def _server(rig: Rig, name: str) -> Server:
    overrides = {**GENEROUS, "store.kind": "memory", "server.port": 1}  # a port that it could not listen on
    server = Server(configuration.load(env={}, overrides=overrides))
    await server.start(handed=rig.directory / name)
    return server


async def _speaker(url: str, user: str, device: str) -> tuple[Speaker, protocol.Welcome]:
    async with aiohttp.ClientSession() as http:
        account = {"user": user, "password": user}
        async with http.post(f"{url}/v1/register", json=account) as answer:
            assert answer.status in (201, 403)
        async with http.post(f"{url}/v1/login", json={**account, "name": device}) as answer:
            token = (await answer.json())["token"]
    speaker = Speaker(await connect(websocket_url(url, user)))
    await speaker.tell(protocol.Hello(token=token))
    _, welcome = await speaker.until(protocol.Welcome)
    return speaker, welcome


async def test_two_users_talk_through_the_router() -> None:
    async with routing(["a"], start=False) as rig:
        server = await _server(rig, "a")
        await rig.until(["a"])
        url = f"http://127.0.0.1:{rig.router.port}"
        alice = await Client.login(url, "alice", "alice", register=True)
        bob = await Client.login(url, "bob", "bob", register=True)
        async with alice, bob:
            async with asyncio.timeout(PATIENCE_S):
                sent = await alice.send("bob", "through the router")
                await sent.sent()
                async for event in bob.events():
                    if getattr(event, "body", None) == "through the router":
                        break
        await server.stop()
        await rig.until([])


async def test_who_belongs_to_a_worker_that_comes_is_sent_there_and_nobody_else() -> None:
    async with routing(["a", "b"], start=False) as rig:
        server = await _server(rig, "a")
        await rig.until(["a"])
        url = f"http://127.0.0.1:{rig.router.port}"
        at_home = next(u for n in range(100) if rig.router.ring.place(u := f"user-{n}") == "a")
        elsewhere = next(u for n in range(100) if rig.router.ring.place(u := f"user-{n}") == "b")
        stays, _ = await _speaker(url, at_home, "x")
        moves, _ = await _speaker(url, elsewhere, "x")
        rig.start("b")
        _, goaway = await moves.until(protocol.Goaway)
        assert goaway.reconnect_ms > 0
        before, _ = await _pinged(stays)
        assert not any(isinstance(frame, protocol.Goaway) for frame in before)
        await stays.close()
        await moves.close()
        assert (await rig.ask(f"/v1/ws?user={elsewhere}"))["worker"] == "b"
        await server.stop()


async def _pinged(speaker: Speaker) -> tuple[list[protocol.ServerFrame], protocol.Pong]:
    await speaker.tell(protocol.Ping())
    return await speaker.until(protocol.Pong)


async def test_a_server_that_stops_says_goaway_and_its_users_find_the_next_worker() -> None:
    async with routing(["a", "b"], start=False) as rig:
        server = await _server(rig, "a")
        await rig.until(["a"])
        url = f"http://127.0.0.1:{rig.router.port}"
        speaker, _ = await _speaker(url, "alice", "x")
        rig.start("b")
        await rig.until(["a", "b"])
        stopping = asyncio.create_task(server.stop(drain_s=PATIENCE_S))
        frames, code = await speaker.rest()
        assert any(isinstance(frame, protocol.Goaway) for frame in frames)
        assert code == 1012
        await stopping
        await rig.until(["b"])
        assert (await rig.ask("/v1/ws?user=alice"))["worker"] == "b"
