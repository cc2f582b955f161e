"""The router over real sockets: who lands where, what is cut, and who stands in for a worker that is away."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from router_rig import PATIENCE_S, Rig, routing
from structlog.testing import capture_logs

from chatd.errors import ConfigError, StartError
from chatd.limits import parse_networks
from chatd.routing import handover, router
from chatd.routing.router import HEAD_BYTES_MAX, Router, user_of

USERS = [f"user-{n}" for n in range(20)]


def blamed(logged: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Address and status of whose heads were refused."""
    return [(line["address"], line["status"]) for line in logged if line["event"] == "head_refused"]


def _ws(user: str) -> str:
    return f"/v1/ws?user={user}"


async def test_a_user_always_lands_at_its_own_worker() -> None:
    async with routing() as rig:
        for user in USERS * 2:
            assert (await rig.ask(_ws(user)))["worker"] == rig.router.ring.place(user)


async def test_who_gives_no_hint_takes_turns() -> None:
    async with routing() as rig:
        for target in ("/version", "/v1/ws", "/v1/login?user=alice", "/v1/ws?user=no+name"):
            assert {(await rig.ask(target))["worker"] for _ in range(3)} == {"a", "b", "c"}


async def test_the_worker_sees_the_client_s_own_address_and_every_byte() -> None:
    async with routing() as rig:
        told = await rig.ask(_ws("alice"), behind="more")
        assert told["peer"] == told["mine"]
        assert told["got"] == "GET /v1/ws?user=alice HTTP/1.1\r\nHost: x\r\n\r\nmore"


async def test_a_head_in_pieces_and_what_comes_later_arrive_in_order() -> None:
    async with routing(["a"]) as rig:
        reader, writer = await rig.connect()
        head = b"GET / HTTP/1.1\r\n\r\n"
        for i in range(len(head)):
            writer.write(head[i : i + 1])
            await writer.drain()
        later = os.urandom(100_000).hex().encode()
        writer.write(later)
        async with asyncio.timeout(PATIENCE_S):
            got = msgspec.json.decode(await reader.readline())["got"].encode()
            assert got.startswith(head)
            assert got[len(head) :] + await reader.readexactly(len(head) + len(later) - len(got)) == later
        writer.close()


async def test_a_worker_that_drains_is_stood_in_for_by_the_next_and_comes_back() -> None:
    async with routing() as rig:
        user = USERS[0]
        first, second, third = rig.router.ring.preference(user)
        reader, writer = await rig.connect()
        writer.write(f"GET {_ws(user)} HTTP/1.1\r\n\r\n".encode())
        await reader.readline()
        await rig.desks[first].end()
        await rig.until([second, third])
        assert (await rig.ask(_ws(user)))["worker"] == second
        await rig.desks[second].end()
        await rig.until([third])
        assert (await rig.ask(_ws(user)))["worker"] == third
        writer.write(b"still here")
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readexactly(10) == b"still here"
        writer.close()
        rig.start(first)
        await rig.until([first, third])
        assert (await rig.ask(_ws(user)))["worker"] == first


async def test_the_workers_are_told_who_is_ready() -> None:
    async with routing() as rig:
        await rig.desks["a"].end()
        await rig.until(["b", "c"])
        async with asyncio.timeout(PATIENCE_S):
            for name in ("b", "c"):
                while rig.desks[name].views[-1:] != [(name, {"b": 1, "c": 1})]:
                    rig.desks[name].viewed.clear()
                    await rig.desks[name].viewed.wait()


async def test_without_a_worker_the_answer_is_503_in_one_line() -> None:
    async with routing(start=False) as rig:
        answer = await rig.refused(f"GET {_ws('alice')} HTTP/1.1\r\n\r\n".encode())
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 503 Service Unavailable\r\n")
    assert "Retry-After: 1" in head
    assert f"Content-Length: {len(body)}" in head
    assert '"detail":"no worker is ready"' in body
    assert "Server: chatd" in head
    assert msgspec.json.decode(body)["retry_after_ms"] == 1_000


async def test_a_slow_head_is_answered_408() -> None:
    async with routing(head_s=0.05) as rig:
        with capture_logs() as logged:
            assert (await rig.refused(b"GET / HTTP/1.1\r\n")).startswith("HTTP/1.1 408 ")
            assert (await rig.refused(b"")).startswith("HTTP/1.1 408 ")
    assert blamed(logged) == [("127.0.0.1", 408)], "silence is no fault"


async def test_an_oversized_head_is_answered_431_whatever_else_comes() -> None:
    async with routing() as rig:
        with capture_logs() as logged:
            answer = await rig.refused(b"GET / HTTP/1.1\r\nX: " + b"y" * (4 * HEAD_BYTES_MAX))
        assert answer.startswith("HTTP/1.1 431 ")
        assert blamed(logged) == [("127.0.0.1", 431)]
        rig.router._proxies = parse_networks(["127.0.0.1"])
        with capture_logs() as logged:
            await rig.refused(b"GET / HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1\r\nX: ".ljust(2 * HEAD_BYTES_MAX, b"y"))
        assert blamed(logged) == [("local", 431)], "what such a head says may be the client's own word"
        assert all(desk.transports == [] for desk in rig.desks.values())


async def test_who_leaves_before_its_head_is_forgotten() -> None:
    async with routing(["a"]) as rig:
        reader, writer = await rig.connect()
        writer.write(b"GET")
        writer.write_eof()
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
        writer.close()
        assert rig.router._heads == {}


async def test_who_says_nothing_is_answered_408_as_well() -> None:
    async with routing(["a"], head_s=0.1) as rig:
        reader, writer = await rig.connect()
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_too_many_unfinished_heads_cost_the_oldest_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "HEADS_MAX", 3)
    async with routing(["a"]) as rig:
        waiting = [await rig.connect() for _ in range(4)]
        for number, (_, writer) in enumerate(waiting):
            writer.write(b"GET /")
            async with asyncio.timeout(PATIENCE_S):
                while len(rig.router._heads) < min(number + 1, 3):  # noqa: ASYNC110 - the router has no event for it
                    await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            assert (await waiting[0][0].read()).startswith(b"HTTP/1.1 408 ")
        waiting[3][1].write(b" HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            assert (await waiting[3][0].readline()).startswith(b"{")
        for _, writer in waiting:
            writer.close()


class Busy:
    """A worker that is connected and takes nothing until it is told to."""

    def __init__(self, rig: Rig, name: str) -> None:
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.setblocking(False)
        self._listening.bind(str(rig.directory / name))
        self._listening.listen()
        self.link: socket.socket

    async def say_ready(self) -> None:
        self.link, _ = await asyncio.get_running_loop().sock_accept(self._listening)
        self.link.send(handover.READY)

    def take(self) -> list[bytes]:
        """All that waits for it; the connections are answered with their head."""
        heads: list[bytes] = []
        while True:
            try:
                data, descriptor = handover._receive(self.link)
            except BlockingIOError:
                return heads
            if descriptor is not None:
                with socket.socket(fileno=descriptor) as client:
                    client.send(data[1:])
                heads.append(data[1:])

    def close(self) -> None:
        self.link.close()
        self._listening.close()


async def _fill(rig: Rig, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    clients = []
    for number in range(count):
        reader, writer = await rig.connect()
        writer.write(f"GET /{number} HTTP/1.1\r\nX: {'y' * 8000}\r\n\r\n".encode())
        clients.append((reader, writer))
    return clients


async def test_a_busy_worker_gets_its_connections_when_it_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "SEND_BUFFER_BYTES", 32_768)
    async with routing(["busy"], start=False) as rig:
        busy = Busy(rig, "busy")
        await busy.say_ready()
        await rig.until(["busy"])
        clients = await _fill(rig, 40)
        seen: list[bytes] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(seen) < len(clients):
                seen += busy.take()
                await asyncio.sleep(0)
        assert len(set(seen)) == len(clients)
        for number, (reader, writer) in enumerate(clients):
            assert (await reader.readline()).startswith(f"GET /{number} ".encode())
            writer.close()
        busy.close()


async def test_a_worker_that_falls_silent_is_passed_over_until_it_speaks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "SILENT_S_MAX", 1.0)
    monkeypatch.setattr(handover, "READY_EVERY_S", 0.05)
    async with routing(["stuck", "fit"], start=False) as rig:
        stuck = Busy(rig, "stuck")
        await stuck.say_ready()
        rig.start("fit")
        await rig.until(["fit"])
        user = next(u for n in range(100) if rig.router.ring.place(u := f"user-{n}") == "stuck")
        assert (await rig.ask(_ws(user)))["worker"] == "fit"
        monkeypatch.setattr(handover, "SILENT_S_MAX", 600.0)
        stuck.link.send(handover.READY)
        await rig.until(["stuck", "fit"])
        reader, writer = await rig.connect()
        writer.write(f"GET {_ws(user)} HTTP/1.1\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE_S):
            while not stuck.take():  # noqa: ASYNC110 - it is asked, not told
                await asyncio.sleep(0)
            assert (await reader.readline()).startswith(b"GET /v1/ws")
        writer.close()
        stuck.close()


async def test_what_waits_for_a_worker_that_dies_goes_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "SEND_BUFFER_BYTES", 32_768)
    async with routing(["busy", "idle"], start=False) as rig:
        busy = Busy(rig, "busy")
        await busy.say_ready()
        await rig.until(["busy"])
        clients = await _fill(rig, 40)
        async with asyncio.timeout(PATIENCE_S):
            while len(rig.router._links["busy"]._waiting) < 20:  # noqa: ASYNC110 - the router has no event for it
                await asyncio.sleep(0)
        rig.start("idle")
        await rig.until(["busy", "idle"])
        busy.close()
        answers = []
        for reader, writer in clients:
            try:
                answers.append(await reader.readline())
            except ConnectionResetError:  # it lay in the dead worker's buffer
                answers.append(b"")
            writer.close()
        moved = [answer for answer in answers if b'"worker":"idle"' in answer]
        assert len(moved) >= 20
        assert answers.count(b"") == len(clients) - len(moved)


async def test_a_worker_with_a_full_queue_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "SEND_BUFFER_BYTES", 32_768)
    monkeypatch.setattr(handover, "WAITING_CONNECTIONS_MAX", 2)
    async with routing(["busy"], start=False) as rig:
        busy = Busy(rig, "busy")
        await busy.say_ready()
        await rig.until(["busy"])
        clients = await _fill(rig, 40)
        async with asyncio.timeout(PATIENCE_S):
            assert (await clients[-1][0].readline()).startswith(b"HTTP/1.1 503 ")
        for _, writer in clients:
            writer.close()
        busy.close()


async def test_a_router_that_stops_answers_who_is_not_placed_and_leaves_the_others_alone() -> None:
    async with routing(["a"]) as rig:
        placed_reader, placed = await rig.connect()
        placed.write(b"GET / HTTP/1.1\r\n\r\n")
        await placed_reader.readline()
        reader, writer = await rig.connect()
        writer.write(b"GET")
        async with asyncio.timeout(PATIENCE_S):
            while not rig.router._heads:  # noqa: ASYNC110 - the router has no event for it
                await asyncio.sleep(0)
            rig.router.stop_listening()
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        writer.close()
        await rig.router.stop()
        placed.write(b"on")
        async with asyncio.timeout(PATIENCE_S):
            assert await placed_reader.readexactly(2) == b"on"
        placed.close()


async def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{port}"):
            await Router({}, head_s=1.0).start("127.0.0.1", port)


@pytest.mark.parametrize("url", ["https://a:1", "http://a", "http://a:x", "http://a:1/path", "a:1", "http://:1"])
async def test_a_node_that_is_no_address_is_told(url: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.nodes: \S+ is not http://host:port"):
        Router({}, [url], head_s=1.0)


@pytest.mark.parametrize(
    ("line", "user"),
    [
        (b"GET /v1/ws?user=alice HTTP/1.1", "alice"),
        (b"GET /v1/ws?a=b&user=alice&c HTTP/1.1", "alice"),
        (b"GET /v1/ws?user=al%69ce HTTP/1.1", "alice"),
        (b"GET /v1/ws HTTP/1.1", None),
        (b"GET /v1/ws?user= HTTP/1.1", None),
        (b"GET /v1/ws?user=a&user=b HTTP/1.1", None),
        (b"GET /v1/ws?user=%ff HTTP/1.1", None),
        (b"GET /v1/ws?user=\xff HTTP/1.1", None),
        (b"GET /v1/ws?" + b"&".join([b"x=1"] * 40) + b"&user=alice HTTP/1.1", None),
        (b"GET /v1/wss?user=alice HTTP/1.1", None),
        (b"POST /v1/ws?user=alice HTTP/1.1", None),
        (b"", None),
        (b"GET", None),
    ],
)
def test_the_hint_is_read_from_the_request_line(line: bytes, user: str | None) -> None:
    assert user_of(line + b"\r\nHost: x\r\n\r\n") == user
