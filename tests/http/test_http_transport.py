"""What is the same for every endpoint: faults, bounds, browsers, unknown paths; and the endpoints for operators."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from api_rig import PASSWORD, Rig, rig

from chatd import __version__
from chatd.errors import REFUSALS, OutcomeUnknown, Refusal, StoreBroken, Unavailable
from chatd.refusing import STATUS
from chatd.transport import http
from chatd.transport.browser import origin_allowed
from chatd.transport.problem import problem

OTHER = "https://other.example"


@pytest.fixture
async def api() -> AsyncIterator[Rig]:
    async with rig(origins=["https://chat.example"]) as made:
        await made.user("alice", "bob")
        yield made


@pytest.mark.parametrize("kind", REFUSALS.values(), ids=lambda k: k.code)
def test_every_refusal_is_a_problem_document_with_its_status(kind: type[Refusal]) -> None:
    response = problem(kind("what is wrong", retry_after_ms=1_001))
    assert response.status == STATUS[kind.code]
    assert response.content_type == "application/problem+json"
    assert response.headers["Retry-After"] == "2"
    assert ("WWW-Authenticate" in response.headers) is (kind.code == "unauthenticated")
    assert isinstance(response.body, bytes)
    assert f'"code":"{kind.code}"'.encode() in response.body


async def test_an_unexpected_fault_is_logged_once_and_told_without_details(api: Rig) -> None:
    api.sender.fault = ZeroDivisionError("secret detail")
    with structlog.testing.capture_logs() as logged:
        answer = await api.send("alice", "bob", 1)
    assert (answer.status, answer.code) == (500, "internal")
    assert b"secret" not in answer.body
    assert [(line["event"], line["path"], line["log_level"]) for line in logged] == [
        ("request_failed", "/v1/messages", "error")
    ]


async def test_an_unknown_outcome_and_a_broken_store_are_told_as_such(api: Rig) -> None:
    api.sender.fault = OutcomeUnknown("timed out")
    answer = await api.send("alice", "bob", 1)
    assert (answer.status, answer.code) == (503, "unavailable")
    assert "may or may not" in answer.json["detail"]
    assert api.broken == []
    api.sender.fault = StoreBroken("fsync failed")
    answer = await api.send("alice", "bob", 1)
    assert (answer.status, answer.code) == (503, "unavailable")
    assert [str(exc) for exc in api.broken] == ["fsync failed"]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"nonsense", b"[]", b'"x"', b"\xff\xfe", b'{"user": "\xff"}', b"[" * 5_000, b"\0"]
)
async def test_a_body_that_is_no_object_is_refused(api: Rig, data: bytes) -> None:
    answer = await api.call("POST", "/v1/login", data=data)
    assert (answer.status, answer.code) == (400, "bad_frame")


async def test_a_body_over_the_bound_is_refused_and_one_at_it_is_not(api: Rig) -> None:
    start, end = b'{"user": "alice", "password": "%s", "x": "' % PASSWORD.encode(), b'"}'
    full = start + b"x" * (65_536 - len(start) - len(end)) + end
    assert (await api.call("POST", "/v1/login", data=full)).status == 200
    answer = await api.call("POST", "/v1/login", data=full + b" ")
    assert (answer.status, answer.code) == (413, "too_large")


async def test_a_small_body_that_unpacks_to_a_large_one_is_refused(api: Rig) -> None:
    packed = gzip.compress(b" " * 10_000_000)
    assert len(packed) < 65_536
    answer = await api.call("POST", "/v1/login", data=packed, headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.code) == (413, "too_large")
    broken = await api.call("POST", "/v1/login", data=b"no gzip", headers={"Content-Encoding": "gzip"})
    assert (broken.status, broken.code) == (400, "bad_frame")


async def test_a_body_that_does_not_come_is_not_waited_for(api: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection(api.client.host, api.client.port)
    writer.write(b"POST /v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"was not there within" in await reader.readuntil(b"}")
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_goes_away_in_its_body_is_no_fault(
    api: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started, ended, read_body = asyncio.Event(), asyncio.Event(), http._body

    async def watched(*args: Any) -> Any:
        started.set()
        try:
            return await read_body(*args)
        finally:
            ended.set()

    monkeypatch.setattr(http, "_body", watched)
    with structlog.testing.capture_logs() as logged:
        _, writer = await asyncio.open_connection(api.client.host, api.client.port)
        writer.write(b"POST /v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await started.wait()
        writer.transport.abort()
        await ended.wait()
        assert (await api.call("GET", "/healthz")).status == 200
    assert (logged, [r for r in caplog.records if r.levelno >= logging.WARNING]) == ([], [])


async def test_unknown_paths_and_methods_are_unsupported(api: Rig) -> None:
    for path in ("/v1/nothing", "/v1/", "/v1/conversations/alice:bob", "/v1/conversations/a/b/c"):
        answer = await api.call("GET", path, as_user="alice")
        assert (answer.status, answer.code) == (404, "unsupported")
    answer = await api.call("PATCH", "/v1/messages", as_user="alice")
    assert (answer.status, answer.code, answer.headers["Allow"]) == (405, "unsupported", "POST, OPTIONS")
    answer = await api.call("POST", "/v1/blocks/bob", as_user="alice")
    assert (answer.status, answer.headers["Allow"]) == (405, "PUT, DELETE, OPTIONS")
    assert (await api.call("HEAD", "/healthz")).status == 200


async def test_an_allowed_origin_may_ask_and_read(api: Rig) -> None:
    origin = {"Origin": "https://chat.example"}
    preflight = await api.call("OPTIONS", "/v1/messages", headers=origin)
    assert preflight.status == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://chat.example"
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    for method, path in (("POST", "/v1/login"), ("GET", "/v1/devices")):
        answer = await api.call(method, path, json={} if method == "POST" else None, headers=origin)
        assert answer.headers["Access-Control-Allow-Origin"] == "https://chat.example", "errors can be read too"
        assert answer.headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_another_origin_may_neither_ask_nor_read(api: Rig) -> None:
    origin = {"Origin": OTHER}
    for method, path in (("OPTIONS", "/v1/messages"), ("GET", "/v1/devices")):
        answer = await api.call(method, path, headers=origin)
        assert not [name for name in answer.headers if name.startswith("Access-Control")]
    new = {"user": "eve", "password": PASSWORD}
    answer = await api.call("POST", "/v1/register", json=new, headers=origin)
    assert (answer.status, answer.code) == (403, "forbidden")
    assert not await api.accounts.known("eve")


async def test_a_page_of_the_server_s_own_may_ask(api: Rig) -> None:
    own = str(api.client.make_url("/")).rstrip("/")
    answer = await api.call("POST", "/v1/register", json={"user": "eve", "password": PASSWORD}, headers={"Origin": own})
    assert answer.status == 201


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "verdict"),
    [
        (None, "chat.example", [], True),
        ("https://chat.example", "chat.example", [], True),
        ("https://chat.example:8443", "chat.example:8443", [], True),
        ("https://Chat.Example", "chat.example", [], True),
        ("https://chat.example:8443", "chat.example", [], False),
        ("https://evil.example", "chat.example", [], False),
        ("https://chat.example.evil.example", "chat.example", ["https://chat.example"], False),
        ("http://ok.example", "chat.example", ["https://ok.example"], False),
        ("https://ok.example", "chat.example", ["https://ok.example"], True),
        ("https://evil.example", "chat.example", ["*"], True),
        ("null", "chat.example", [], False),
        ("", "", [], False),
        ("null", "", [], False),
        ("https://[bad", "chat.example", [], False),
    ],
)
def test_which_origins_are_allowed(origin: str | None, host: str, allowed: list[str], verdict: bool) -> None:
    assert origin_allowed(origin, host, allowed) is verdict


async def test_any_origin_where_all_are_allowed() -> None:
    async with rig(origins=["*"]) as api:
        answer = await api.call("GET", "/version", headers={"Origin": OTHER})
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_live_version_and_metrics(api: Rig) -> None:
    assert (await api.call("GET", "/healthz")).json == {"status": "ok"}
    assert (await api.call("GET", "/version")).json == {
        "name": "chatd",
        "version": __version__,
        "protocol": "chatd.v1",
    }
    metrics = await api.call("GET", "/metrics")
    assert b"chatd_rig_total 1.0" in metrics.body
    assert metrics.headers["Content-Type"].startswith("text/plain; version=")


async def test_ready_follows_the_store_and_the_server_s_end(api: Rig) -> None:
    assert (await api.call("GET", "/readyz")).json == {"status": "ok"}
    api.store.fault = Unavailable("the disk is full")
    assert (await api.call("GET", "/readyz")).status == 200, "asked again within a second: the same answer"
    api.now_s += 1.0
    for _ in range(2):
        answer = await api.call("GET", "/readyz")
        assert (answer.status, answer.code, answer.json["detail"]) == (503, "unavailable", "the disk is full")
    assert api.store.probes == 2
    api.store.fault, api.now_s = None, api.now_s + 1.0
    assert (await api.call("GET", "/readyz")).status == 200
    api.is_ready = False
    assert (await api.call("GET", "/readyz")).status == 503
    assert (await api.call("GET", "/healthz")).status == 200


@pytest.mark.parametrize("path", ["/", "/join"])
async def test_a_page_allows_nothing_but_what_stands_in_it(api: Rig, path: str) -> None:
    page = await api.call("GET", path)
    assert page.status == 200
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for inline in re.findall(rb"<(?:style|script)>(.*?)</", page.body, re.DOTALL):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(inline).digest()).decode()}'" in policy
    assert not re.search(rb"<[^>]+ (src|style|on\w+)=", page.body), "inline handlers and other sources are not allowed"


async def test_an_invite_link_keeps_its_code_out_of_requests(api: Rig) -> None:
    page = (await api.call("GET", "/join")).body
    assert b"location.hash" in page
    assert b"history.replaceState" in page, "nor does it stay in the address bar"
    assert b'fetch("v1/register"' in page


async def test_the_document_is_served(api: Rig) -> None:
    answer = await api.call("GET", "/v1/openapi.json")
    assert answer.json["openapi"].startswith("3.1")
