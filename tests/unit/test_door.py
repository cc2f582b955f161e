"""The door: a head in time and within bounds, or nothing is built for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from chatd.limits import parse_networks
from chatd.refusing import GUARDED, Problem
from chatd.security import EVENTS
from chatd.transport.door import HEAD_BYTES_MAX, Door
from chatd.transport.turnstile import Turnstile

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = b"GET /v1/ws?user=alice HTTP/1.1\r\nHost: x\r\n\r\n"


class Inside(asyncio.Protocol):
    """What the door leads to: it notes what it gets, and answers "in"."""

    def __init__(self, made: list[Inside]) -> None:
        self.data = b""
        made.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        assert isinstance(self.transport, asyncio.WriteTransport)
        self.transport.write(b"in")


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it is so."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0)


def problem_of(answer: bytes, status: int, code: str, *, retry_after_s: int | None = None) -> None:
    """The answer is a problem document of this status and code, with the guards that every answer has."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    document = msgspec.json.decode(body, type=Problem)
    assert first == f"HTTP/1.1 {status} {document.title}"
    assert (document.status, document.code) == (status, code)
    assert headers["Content-Type"] == "application/problem+json"
    assert (headers["Content-Length"], headers["Connection"], headers["Server"]) == (f"{len(body)}", "close", "chatd")
    assert headers.items() >= GUARDED.items()
    assert headers.get("Retry-After") == (None if retry_after_s is None else f"{retry_after_s}")
    assert document.retry_after_ms == (None if retry_after_s is None else retry_after_s * 1_000)


class Rig:
    """A listening door. ``made``: the protocols behind it. The turnstile's time stands still until a test moves it."""

    def __init__(self, *, waiting_max: int = 100, per_address_max: int = 100, proxies: tuple[str, ...] = ()) -> None:
        self.made: list[Inside] = []
        self.doors: set[Door] = set()
        self.arrived = asyncio.Event()
        self.port = 0
        self.now_s = 50.0
        self.told: list[dict[str, str | int]] = []
        self.turnstile = Turnstile(
            100.0, 1, waiting_max=waiting_max, waiting_per_address_max=per_address_max, now_s=lambda: self.now_s
        )
        self._proxies = parse_networks(proxies)

    def door(self, head: bytes = b"", *, head_s: float = 30.0) -> Door:
        self.arrived.set()
        return Door(
            lambda: Inside(self.made),
            head_s=head_s,
            doors=self.doors,
            turnstile=self.turnstile,
            proxies=self._proxies,
            head=head,
            tell=self._tell,
        )

    def _tell(self, event: str, *, address: str, user: str = "", **more: str | int) -> None:
        assert event in EVENTS
        self.told.append({"event": event, "address": address, **more})

    async def listen(self, head_s: float = 30.0) -> asyncio.Server:
        server = await asyncio.get_running_loop().create_server(lambda: self.door(head_s=head_s), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def connect(self, first: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(first)
        return reader, writer

    async def waiting(self, count: int) -> None:
        """So many wait for their turn; data have been read by then."""
        await until(lambda: len(self.turnstile) == count)

    def turns(self, count: int) -> None:
        self.now_s += 0.0101 * count


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    one = Rig()
    async with await one.listen():
        yield one
        one.turnstile.close()


async def test_a_head_in_any_pieces_goes_inside_whole_with_what_follows_it(rig: Rig) -> None:
    reader, writer = await rig.connect()
    for i in range(len(HEAD) - 1):
        writer.write(HEAD[i : i + 1])
        await writer.drain()
    assert rig.made == []
    writer.write(HEAD[-1:] + b"body")
    assert await reader.readexactly(2) == b"in"
    assert rig.made[0].data == HEAD + b"body"
    assert rig.doors == set()
    writer.write(b"more")
    assert await reader.readexactly(2) == b"in"
    assert rig.made[0].data == HEAD + b"bodymore"
    writer.close()


async def test_a_head_that_never_ends_is_answered_408_in_time() -> None:
    rig = Rig()
    async with await rig.listen(0.05):
        reader, writer = await rig.connect()
        writer.write(HEAD[:-1])
        problem_of(await reader.read(), 408, "bad_frame")
        writer.close()
    assert rig.told == [{"event": "head_refused", "address": "127.0.0.1", "status": 408}]
    assert rig.made == []
    assert rig.doors == set()


async def test_a_head_that_is_too_long_is_answered_431(rig: Rig) -> None:
    reader, writer = await rig.connect()
    writer.write(b"GET / HTTP/1.1\r\nX: ".ljust(HEAD_BYTES_MAX + 1, b"y"))
    problem_of(await reader.read(), 431, "too_large")
    writer.close()
    assert rig.made == []
    assert rig.told == [{"event": "head_refused", "address": "127.0.0.1", "status": 431}]


async def test_silence_is_answered_and_blamed_on_nobody() -> None:
    """Browsers open connections that they may need, and do not use each."""
    rig = Rig()
    async with await rig.listen(0.05):
        reader, writer = await rig.connect()
        problem_of(await reader.read(), 408, "bad_frame")
        writer.close()
    assert rig.told == []


@pytest.mark.parametrize(
    ("end", "address"),
    [(b"", "local"), (b"\r\n", "192.0.2.7"), (b"\r\nX-Forwarded-For: 192.0.2.66\r\n\r\n", "192.0.2.7")],
    ids=["no_end", "whole", "behind"],
)
async def test_a_trusted_proxy_is_blamed_for_no_head_and_only_a_whole_head_names_its_client(
    end: bytes, address: str
) -> None:
    rig = Rig(proxies=("127.0.0.1",))
    head = UPGRADE[:-2] + b"X-Forwarded-For: 192.0.2.7\r\n" + end
    async with await rig.listen():
        reader, writer = await rig.connect(head.ljust(HEAD_BYTES_MAX + 1, b"y"))
        problem_of(await reader.read(), 431, "too_large")
        writer.close()
    assert rig.told == [{"event": "head_refused", "address": address, "status": 431}]


async def test_what_stands_behind_a_head_moves_nobody_s_turn() -> None:
    """It is the client's own word, also where a proxy's is believed."""
    rig = Rig(per_address_max=1, proxies=("127.0.0.1",))
    async with await rig.listen():
        sockets = [await rig.connect(UPGRADE)]
        assert await sockets[0][0].readexactly(2) == b"in"
        for claimed in (b"192.0.2.1", b"192.0.2.2"):
            head = UPGRADE[:-2] + b"X-Forwarded-For: 192.0.2.7\r\n\r\n"
            sockets.append(await rig.connect(head + b"X-Forwarded-For: " + claimed + b"\r\n\r\n"))
            await rig.waiting(1)
        problem_of(await sockets[2][0].read(), 429, "rate_limited", retry_after_s=1)
        assert [line["address"] for line in rig.told] == ["192.0.2.7"]
        for _, writer in sockets:
            writer.close()
        await rig.waiting(0)


async def test_who_leaves_before_its_head_leaves_nothing(rig: Rig) -> None:
    reader, writer = await rig.connect()
    writer.write(b"GET")
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    assert (rig.made, rig.doors) == ([], set())


async def test_the_end_of_the_server_cuts_who_stands_in_the_door(rig: Rig) -> None:
    reader, writer = await rig.connect()
    writer.write(b"GET")
    async with asyncio.timeout(10):
        await rig.arrived.wait()
    for door in list(rig.doors):
        door.cut()
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    writer.close()


async def test_what_a_router_has_read_of_the_head_comes_first() -> None:
    rig = Rig()
    given = [HEAD + b"body", HEAD[:4]]

    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: rig.door(given.pop(0)), "127.0.0.1", 0) as server:
        rig.port = server.sockets[0].getsockname()[1]
        reader, whole = await rig.connect()
        assert await reader.readexactly(2) == b"in"
        assert rig.made[0].data == HEAD + b"body"
        reader, part = await rig.connect()
        part.write(HEAD[4:])
        assert await reader.readexactly(2) == b"in"
        assert rig.made[1].data == HEAD
        whole.close()
        part.close()
    assert rig.doors == set()


# --- a WebSocket's turn -----------------------------------------------------------------------------------


async def test_websockets_enter_one_after_the_other_with_what_came_behind_their_heads(rig: Rig) -> None:
    first, one = await rig.connect(UPGRADE)
    assert await first.readexactly(2) == b"in"
    second, two = await rig.connect(UPGRADE + b"early")
    await rig.waiting(1)
    assert len(rig.made) == 1
    two.write(b"earlier")
    rig.turns(1)
    await until(lambda: len(rig.made) == 2 and rig.made[1].data == UPGRADE + b"earlyearlier")
    assert await second.readexactly(2) == b"in"
    assert rig.doors == set()
    one.close()
    two.close()


async def test_other_requests_do_not_wait_behind_websockets(rig: Rig) -> None:
    sockets = [await rig.connect(UPGRADE) for _ in range(4)]
    await rig.waiting(3)
    for path in (b"/livez", b"/v1/wsx", b"/v1/messages"):
        reader, writer = await rig.connect(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        assert await reader.readexactly(2) == b"in"
        writer.close()
    assert len(rig.turnstile) == 3
    for _, writer in sockets:
        writer.close()


async def test_who_leaves_while_it_waits_costs_no_turn_and_leaves_nothing(rig: Rig) -> None:
    _, inside = await rig.connect(UPGRADE)
    impatient = [await rig.connect(UPGRADE) for _ in range(20)]
    await rig.waiting(20)
    reader, writer = await rig.connect(UPGRADE)
    await rig.waiting(21)
    for _, one in impatient:
        one.close()
    await rig.waiting(1)
    rig.turns(1)
    assert await reader.readexactly(2) == b"in"
    assert len(rig.made) == 2
    assert rig.doors == set()
    inside.close()
    writer.close()


async def test_what_comes_while_one_waits_is_bounded(rig: Rig) -> None:
    _, inside = await rig.connect(UPGRADE)
    reader, writer = await rig.connect(UPGRADE)
    await rig.waiting(1)
    writer.write(b"x" * HEAD_BYTES_MAX)
    assert (await reader.readline()).startswith(b"HTTP/1.1 431 ")
    assert len(rig.turnstile) == 0
    reader, at_once = await rig.connect(UPGRADE + b"x" * HEAD_BYTES_MAX)
    assert (await reader.readline()).startswith(b"HTTP/1.1 431 ")
    assert len(rig.made) == 1
    for one in (inside, writer, at_once):
        one.close()


async def test_too_many_of_one_address_are_answered_429_and_the_others_wait() -> None:
    rig = Rig(per_address_max=2, proxies=("127.0.0.1",))
    heads = [UPGRADE[:-2] + b"X-Forwarded-For: 192.0.2.%d\r\n\r\n" % n for n in (1, 1, 1, 1, 2)]
    async with await rig.listen():
        sockets = []
        for head, waiting in zip(heads, (0, 1, 2, 2, 3), strict=True):
            sockets.append(await rig.connect(head))
            await rig.waiting(waiting)
            if waiting == 0:
                assert await sockets[0][0].readexactly(2) == b"in"
            elif len(sockets) == 4:
                problem_of(await sockets[3][0].read(), 429, "rate_limited", retry_after_s=1)
        for _, writer in sockets:
            writer.close()
        await rig.waiting(0)
    assert rig.doors == set()
    assert rig.told == [{"event": "rate_limited", "address": "192.0.2.1", "what": "connections"}]


async def test_an_address_of_its_own_choice_helps_nobody_without_a_trusted_proxy() -> None:
    rig = Rig(per_address_max=1)
    async with await rig.listen():
        sockets = [await rig.connect(UPGRADE)]
        assert await sockets[0][0].readexactly(2) == b"in"
        sockets.append(await rig.connect(UPGRADE[:-2] + b"X-Forwarded-For: 192.0.2.1\r\n\r\n"))
        await rig.waiting(1)
        sockets.append(await rig.connect(UPGRADE[:-2] + b"X-Forwarded-For: 192.0.2.2\r\n\r\n"))
        assert (await sockets[2][0].readline()).startswith(b"HTTP/1.1 429 ")
        for _, writer in sockets:
            writer.close()
        await rig.waiting(0)


async def test_a_full_queue_is_answered_503() -> None:
    rig = Rig(waiting_max=1)
    async with await rig.listen():
        sockets = [await rig.connect(UPGRADE)]
        assert await sockets[0][0].readexactly(2) == b"in"
        sockets.append(await rig.connect(UPGRADE))
        await rig.waiting(1)
        sockets.append(await rig.connect(UPGRADE))
        problem_of(await sockets[2][0].read(), 503, "overloaded", retry_after_s=5)
        assert rig.told == [{"event": "turned_away", "address": "127.0.0.1"}]
        for _, writer in sockets:
            writer.close()
        await rig.waiting(0)


async def test_a_slow_head_takes_no_place_and_its_deadline_ends_with_it() -> None:
    rig = Rig()
    async with await rig.listen(0.2):
        first, inside = await rig.connect(UPGRADE)
        assert await first.readexactly(2) == b"in"
        slow, writer = await rig.connect(UPGRADE[:-1])
        patient, waits = await rig.connect(UPGRADE)
        assert (await slow.read()).startswith(b"HTTP/1.1 408 ")  # the other one has waited about as long, and may
        assert len(rig.turnstile) == 1
        rig.turns(1)
        assert await patient.readexactly(2) == b"in"
        for one in (inside, writer, waits):
            one.close()


async def test_the_end_of_the_server_answers_who_waits_for_its_turn(rig: Rig) -> None:
    first, inside = await rig.connect(UPGRADE)
    assert await first.readexactly(2) == b"in"
    reader, writer = await rig.connect(UPGRADE)
    await rig.waiting(1)
    for door in list(rig.doors):
        door.cut()
    problem_of(await reader.read(), 503, "unavailable", retry_after_s=1)
    assert rig.told == []
    assert len(rig.turnstile) == 0
    assert len(rig.made) == 1
    inside.close()
    writer.close()
