"""What the guard lets out, and what it makes of every answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import cast

import aiohttp
import pytest
from push_worlds import NOW_MS, Names, guard

from chatd.errors import BadFrame
from chatd.push.base import Outcome
from chatd.push.guard import ANSWER_BYTES_MAX, _text, is_public, meaning, read_retry_after
from chatd.testing.push_service import DROP, HANG, FakePushService, Reply

RESULTS = {
    200: "delivered",
    201: "delivered",
    202: "delivered",
    204: "delivered",
    301: "refused",
    302: "refused",
    307: "refused",
    400: "refused",
    401: "refused",
    403: "refused",
    404: "gone",
    405: "refused",
    408: "later",
    410: "gone",
    413: "refused",
    418: "refused",
    425: "later",
    429: "later",
    500: "later",
    502: "later",
    503: "later",
    507: "later",
}


@pytest.fixture
async def service() -> AsyncIterator[FakePushService]:
    async with FakePushService() as one:
        yield one


async def _post(url: str, *, private: bool = True, names: Names | None = None) -> Outcome:
    one = guard(private=private, names=names)
    try:
        return await one.post(url, b"{}", {"Content-Type": "application/json"})
    finally:
        await one.close()


# --- answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "result"), RESULTS.items())
async def test_every_answer_has_a_meaning(service: FakePushService, status: int, result: str) -> None:
    service.script(Reply(status, body="" if status == 204 else "because\nof this"))
    outcome = await _post(service.url("/secret-path"))
    assert outcome.result == result
    assert outcome.reason.startswith(f"127.0.0.1:{service.origin.rpartition(':')[2]}: {status}")
    assert "secret-path" not in outcome.reason
    assert "\n" not in outcome.reason
    assert ("because of this" in outcome.reason) == (result != "delivered")
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("9" * 30, 86_400.0),
        ("9" * 5_000, 86_400.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("Thu, 09 Oct 2025 08:53:20 GMT", 0.0),
        ("Thu, 09 Oct 2025 08:54:50 GMT", 90.0),
        ("Thu, 09 Oct 2025 08:54:50 -0000", 90.0),
        ("Thu, 09 Oct 2025 08:00:00 GMT", 0.0),
        ("Thu, 09 Oct 2031 08:00:00 GMT", 86_400.0),
        ("Thu, 99 Oct 2025 08:00:00 GMT", None),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(value: str | None, seconds: float | None) -> None:
    assert read_retry_after(value, NOW_MS) == seconds
    assert meaning(429, value, NOW_MS).retry_after_s == seconds
    assert meaning(503, value, NOW_MS).retry_after_s == seconds
    assert meaning(400, value, NOW_MS).retry_after_s is None


def test_a_date_without_a_zone_is_utc_wherever_the_server_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert read_retry_after("Thu, 09 Oct 2025 08:54:50 -0000", NOW_MS) == 90.0
    finally:
        monkeypatch.undo()
        time.tzset()


async def test_retry_after_comes_through(service: FakePushService) -> None:
    service.script(Reply(429, retry_after="30"), Reply(503, retry_after="Thu, 09 Oct 2025 08:54:50 GMT"))
    assert (await _post(service.url("/x"))).retry_after_s == 30.0
    assert (await _post(service.url("/x"))).retry_after_s == 90.0


async def test_a_connection_that_breaks_is_for_later(service: FakePushService) -> None:
    service.script(DROP)
    outcome = await _post(service.url("/secret-path"))
    assert outcome.result == "later"
    assert outcome.reason.startswith("127.0.0.1:")
    assert "secret-path" not in outcome.reason


async def test_nobody_listening_is_for_later() -> None:
    async with FakePushService() as service:
        url = service.url("/x")
    outcome = await _post(url)
    assert outcome.result == "later"
    assert outcome.reason.startswith("127.0.0.1:")


async def test_a_name_that_does_not_resolve_is_for_later() -> None:
    class Nowhere(Names):
        async def resolve(self, *_: object) -> list[object]:  # type: ignore[override]
            raise OSError("no such host")

    outcome = await _post("https://push.example/x", private=False, names=Nowhere({}))
    assert outcome.result == "later"
    assert "push.example" in outcome.reason


async def test_who_waits_too_long_cancels_and_the_guard_lives_on(service: FakePushService) -> None:
    service.script(HANG, to="/hangs")
    one = guard()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await one.post(service.url("/hangs"), b"", {})
    assert (await one.post(service.url("/x"), b"", {})).result == "delivered"
    await one.close()
    assert (await one.post(service.url("/x"), b"", {})).result == "delivered"
    await one.close()


async def test_an_answer_is_read_to_its_bound_and_no_further(service: FakePushService) -> None:
    service.script(Reply(400, body="x" * 1_000_000), Reply(200, body="x" * 1_000_000))
    outcome = await _post(service.url("/x"))
    assert outcome.result == "refused"
    assert len(outcome.reason) < 250
    assert (await _post(service.url("/x"))).result == "delivered"


async def test_what_is_longer_than_the_bound_is_left_unread() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"x" * (ANSWER_BYTES_MAX + 10))
    assert (await _text(cast("aiohttp.StreamReader", reader))).startswith("xxx")
    assert await reader.read(ANSWER_BYTES_MAX) == b"x" * 10


async def test_an_answer_that_never_ends_counts_by_its_status() -> None:
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\nonly this")
        await reader.read()  # until the guard closes
        writer.close()
        await writer.wait_closed()
        ended.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await _post(f"http://127.0.0.1:{port}/x")).result == "delivered"
        await ended.wait()


async def test_no_cookies_are_kept_and_no_redirect_is_followed(service: FakePushService) -> None:
    service.script(Reply(302, headers={"Location": "/elsewhere", "Set-Cookie": "a=b"}))
    one = guard()
    assert "redirect" in (await one.post(service.url("/x"), b"", {})).reason
    await one.post(service.url("/x"), b"", {})
    await one.close()
    assert [request.path for request in service.requests] == ["/x", "/x"]
    assert all("cookie" not in request.headers for request in service.requests)


async def test_statuses_may_mean_something_else_to_a_notifier(service: FakePushService) -> None:
    service.script(Reply(404))
    one = guard()
    outcome = await one.post(service.url("/x"), b"", {}, special={404: Outcome("delivered", "fine")})
    await one.close()
    assert (outcome.result, outcome.reason.partition(": ")[2]) == ("delivered", "404 fine")


# --- what may not be reached -----------------------------------------------------------------------------

PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.8.8.8",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.8",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:a9fe:a9fe",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "2001::1",
    "2001:db8::1",
    "2002:a00:1::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "2001:4860:4860::8888", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
async def test_private_addresses_are_refused_written_out_or_behind_a_name(address: str) -> None:
    assert not is_public(ip_address(address))
    literal = f"https://[{address}]/x" if ":" in address else f"https://{address}/x"
    names = Names({"push.example": [address], "two.example": ["8.8.8.8", address]})
    one = guard(private=False, names=names)
    with pytest.raises(BadFrame, match="private address"):
        one.check(literal)
    assert (await one.post(literal, b"", {})).result == "refused"
    assert names.asked == []
    for name in ("push.example", "two.example"):
        one.check(f"https://{name}/x")
        outcome = await one.post(f"https://{name}/x", b"", {})
        assert outcome.result == "refused"
        assert name in outcome.reason
        assert "private address" in outcome.reason
    await one.close()


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_let_out(address: str) -> None:
    assert is_public(ip_address(address))
    guard(private=False).check(f"https://[{address}]/x" if ":" in address else f"https://{address}:8443/x")


@pytest.mark.parametrize(
    ("endpoint", "fault"),
    [
        ("http://push.example/x", "begins with https://"),
        ("HTTP://push.example/x", "begins with https://"),
        ("ftp://push.example/x", "begins with https://"),
        ("file:///etc/passwd", "begins with https://"),
        ("//push.example/x", "begins with https://"),
        ("push.example/x", "begins with https://"),
        ("https:/push.example/x", "begins with https://"),
        ("https:///x", "begins with https://"),
        ("", "begins with https://"),
        ("https://user:secret@push.example/x", "user name"),
        ("https://user@push.example/x", "user name"),
        ("https://@push.example/x", "user name"),
        ("https://push.example:99999/x", "not a URL"),
        ("https://push.example:port/x", "not a URL"),
        ("https://[::1/x", "not a URL"),
        ("https://push.example\\@127.0.0.1/x", "not a URL"),
        ("https://push.example/a b", "printable ASCII"),
        ("https://push.example/\r\nHost: x", "printable ASCII"),
        ("https://①②⑦.0.0.1/x", "printable ASCII"),
        ("https://2130706433/x", "usual form"),
        ("https://0x7f000001/x", "usual form"),
        ("https://0x7f.1/x", "usual form"),
        ("https://0177.0.0.1/x", "usual form"),
        ("https://127.1/x", "usual form"),
        ("https://127.0.0.1./x", "usual form"),
        ("https://[fe80::1%25eth0]/x", "private address"),
        ("https://[2001:4860:4860::8888%25eth0]/x", "private address"),
        ("https://127%2e0%2e0%2e1/x", "not a host name"),
        ("https://push.example;x/", "not a host name"),
        ("https://push.example/" + "x" * 2_028, "longer than 2048"),
    ],
)
async def test_endpoints_that_are_refused_before_anything_is_sent(endpoint: str, fault: str) -> None:
    names = Names({})
    one = guard(private=False, names=names)
    with pytest.raises(BadFrame, match=r"^endpoint: ") as caught:
        one.check(endpoint)
    assert fault in caught.value.message
    assert await one.post(endpoint, b"", {}) == Outcome("refused", caught.value.message)
    assert names.asked == []
    await one.close()


async def test_the_longest_endpoint_and_one_with_a_port_are_taken() -> None:
    one = guard(private=False)
    one.check("https://push.example/" + "x" * 2_027)
    assert one.check("https://push.example:8443/a%3Ab:c?d=e%20f").raw_path_qs == "/a%3Ab:c?d=e%20f"


async def test_a_name_that_turns_to_a_private_address_is_refused_then(
    service: FakePushService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when it was subscribed, loopback when it is used."""
    monkeypatch.setattr("chatd.push.guard.DNS_CACHE_S", 0)
    port = service.origin.rpartition(":")[2]
    names = Names({"push.example": ["8.8.8.8"]})
    one = guard(private=False, names=names)
    one.check(f"https://push.example:{port}/x")
    names.addresses["push.example"] = ["127.0.0.1"]
    outcome = await one.post(f"https://push.example:{port}/x", b"", {})
    await one.close()
    assert outcome.result == "refused"
    assert service.requests == []


async def test_a_redirect_to_loopback_reaches_nothing(service: FakePushService) -> None:
    service.script(Reply(307, headers={"Location": service.url("/inside")}), to="/out")
    names = Names({"push.example": ["127.0.0.1"]})
    outcome = await _post(f"http://push.example:{service.origin.rpartition(':')[2]}/out", names=names)
    assert outcome.result == "refused"
    assert "redirect" in outcome.reason
    assert [request.path for request in service.requests] == ["/out"]


async def test_the_operator_may_allow_private_endpoints(service: FakePushService) -> None:
    names = Names({"ntfy.home": ["127.0.0.1"]})
    port = service.origin.rpartition(":")[2]
    assert (await _post(f"http://ntfy.home:{port}/x", names=names)).result == "delivered"
    assert (await _post(service.url("/x"))).result == "delivered"
    with pytest.raises(BadFrame, match="user name"):
        guard().check("http://a:b@ntfy.home/x")
    with pytest.raises(BadFrame, match="usual form"):
        guard().check("http://2130706433/x")
