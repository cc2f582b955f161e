"""ntfy: what is published, what is cleared, and which topics are taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from push_worlds import NOW_MS, clear, context, message

from chatd.errors import BadFrame
from chatd.model import Subscription
from chatd.push import base
from chatd.push.base import Payload
from chatd.push.ntfy import MESSAGE_BYTES_MAX, Ntfy, make
from chatd.settings import PushSettings
from chatd.testing.push_service import DROP, HANG, FakePushService, Reply


@pytest.fixture
async def service() -> AsyncIterator[FakePushService]:
    async with FakePushService() as one:
        yield one


@pytest.fixture
async def ntfy() -> AsyncIterator[Ntfy]:
    one = await make(context())
    yield one
    await one.close()


def _topic(service: FakePushService, keys: dict[str, str] | None = None) -> Subscription:
    return Subscription("bob", "phone", "ntfy", service.url("/bobs_topic-1"), keys or {}, NOW_MS)


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (message(count=1), ("alice", "1 new message", ["speech_balloon"])),
        (message(count=2), ("alice", "2 new messages", ["speech_balloon"])),
        (message(count=2, body="Grüße 👋\nzwei"), ("alice", "Grüße 👋\nzwei", ["speech_balloon"])),
        (base.Test(key="k", tag="tag", to="bob", text="Läuft?"), ("chatd", "Läuft?", ["white_check_mark"])),
        (base.Test(key="k", tag="tag", to="bob", text=""), ("chatd", "Test", ["white_check_mark"])),
    ],
)
async def test_it_is_published_as_json_to_the_root(
    service: FakePushService, ntfy: Ntfy, payload: Payload, shown: tuple[str, str, list[str]]
) -> None:
    assert (await ntfy.send(payload, _topic(service), 60)).result == "delivered"
    (request,) = service.requests
    assert (request.method, request.path, request.headers["content-type"]) == ("POST", "/", "application/json")
    title, text, tags = shown
    assert request.payload == {
        "topic": "bobs_topic-1",
        "sequence_id": payload.tag,
        "title": title,
        "message": text,
        "tags": tags,
    }
    assert "authorization" not in request.headers


async def test_a_token_goes_along(service: FakePushService, ntfy: Ntfy) -> None:
    for payload in (message(), clear()):
        await ntfy.send(payload, _topic(service, {"token": "tk_secret"}), 60)
    assert [request.headers["authorization"] for request in service.requests] == ["Bearer tk_secret"] * 2


async def test_a_clear_removes_what_is_shown(service: FakePushService, ntfy: Ntfy) -> None:
    assert (await ntfy.send(clear(), _topic(service), 60)).result == "delivered"
    (request,) = service.requests
    assert (request.method, request.path) == ("PUT", "/bobs_topic-1/tag-of-alice-and-bob/clear")
    assert request.body == b""


@pytest.mark.parametrize("status", [404, 405])
async def test_a_server_that_cannot_clear_is_no_subscription_that_is_gone(
    service: FakePushService, ntfy: Ntfy, status: int
) -> None:
    service.script(Reply(status))
    assert (await ntfy.send(clear(), _topic(service), 60)).result == "delivered"


@pytest.mark.parametrize("text", ["a", "ü", "👋"])
async def test_a_long_body_is_cut_to_what_is_shown_as_text(service: FakePushService, ntfy: Ntfy, text: str) -> None:
    await ntfy.send(message(body=text * 10_000), _topic(service), 60)
    shown = service.requests[0].payload["message"]
    assert MESSAGE_BYTES_MAX - 4 <= len(shown.encode()) <= MESSAGE_BYTES_MAX
    assert shown.endswith(text + "…")


@pytest.mark.parametrize(
    ("reply", "result"),
    [
        (Reply(200), "delivered"),
        (Reply(400), "refused"),
        (Reply(401), "refused"),
        (Reply(403), "refused"),
        (Reply(410), "gone"),
        (Reply(413), "refused"),
        (Reply(429), "later"),
        (Reply(507), "later"),
        (DROP, "later"),
    ],
)
async def test_every_answer_has_its_outcome(service: FakePushService, ntfy: Ntfy, reply: Reply, result: str) -> None:
    service.script(reply)
    assert (await ntfy.send(message(), _topic(service), 60)).result == result


async def test_a_server_that_hangs_is_cancelled_by_the_caller(service: FakePushService, ntfy: Ntfy) -> None:
    service.script(HANG)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await ntfy.send(message(), _topic(service), 60)


async def test_what_cannot_be_sent_is_refused_without_a_request(service: FakePushService, ntfy: Ntfy) -> None:
    topic = _topic(service)
    wrong = Subscription("bob", "phone", "ntfy", service.url("/a/b"), {}, NOW_MS)
    assert (await ntfy.send(message(), None, 60)).result == "refused"
    assert (await ntfy.send(message(), wrong, 60)).result == "refused"
    assert (await ntfy.send(msgspec.structs.replace(clear(), tag="../x"), topic, 60)).result == "refused"
    assert service.requests == []


@pytest.mark.parametrize("endpoint", ["https://ntfy.sh/mytopic", "https://ntfy.example:8443/" + "x" * 64])
async def test_topics_that_are_taken(endpoint: str) -> None:
    ntfy = await make(context(PushSettings()))
    ntfy.check(endpoint, {})
    ntfy.check(endpoint, {"token": "tk_AgQdq7mVBoFD37zQVN29RhuMzNIz2"})


@pytest.mark.parametrize(
    ("endpoint", "keys", "fault"),
    [
        ("https://ntfy.sh/", {}, "URL of an ntfy topic"),
        ("https://ntfy.sh", {}, "URL of an ntfy topic"),
        ("https://ntfy.sh/a/b", {}, "URL of an ntfy topic"),
        ("https://ntfy.sh/a/", {}, "URL of an ntfy topic"),
        ("https://ntfy.sh/a?auth=x", {}, "URL of an ntfy topic"),
        ("https://ntfy.sh/a#b", {}, "URL of an ntfy topic"),
        ("https://ntfy.sh/a%2Fb", {}, "URL of an ntfy topic"),
        ("https://ntfy.sh/" + "x" * 65, {}, "URL of an ntfy topic"),
        ("http://ntfy.sh/a", {}, "begins with https://"),
        ("https://192.168.1.2/a", {}, "private address"),
        ("https://ntfy.sh/a", {"password": "x"}, "may have a token"),
        ("https://ntfy.sh/a", {"token": ""}, "printable ASCII"),
        ("https://ntfy.sh/a", {"token": "a b"}, "printable ASCII"),
        ("https://ntfy.sh/a", {"token": "a\r\nX-Header: b"}, "printable ASCII"),
        ("https://ntfy.sh/a", {"token": "x" * 257}, "printable ASCII"),
    ],
)
async def test_topics_that_are_not(endpoint: str, keys: dict[str, str], fault: str) -> None:
    ntfy = await make(context(PushSettings()))
    with pytest.raises(BadFrame) as caught:
        ntfy.check(endpoint, keys)
    assert fault in caught.value.message
