"""Sending, reading, marks and blocks over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from api_rig import T0, Rig, message_id, rig

from chatd.errors import Overloaded
from chatd.settings import LimitSettings


@pytest.fixture
async def api() -> AsyncIterator[Rig]:
    async with rig(limits=LimitSettings(body_bytes_max=64)) as made:
        await made.user("alice", "bob", "carol")
        yield made


async def test_a_message_is_stored_once_and_its_repeat_gets_the_first_answer(api: Rig) -> None:
    first = await api.send("alice", "bob", 1)
    assert (first.status, first.json) == (201, {"id": message_id(1), "conv": "alice:bob", "seq": 1, "ts": T0})
    api.now_ms += 5_000
    again = await api.send("alice", "bob", 1)
    assert (again.status, again.json) == (200, first.json)
    other = await api.send("alice", "bob", 1, "other")
    assert (other.status, other.code) == (409, "id_reuse")
    assert (await api.store.counts()).messages == 1


async def test_a_message_goes_to_a_user_or_into_a_conversation(api: Rig) -> None:
    await api.send("alice", "bob", 1)
    body = {"conv": "alice:bob", "id": message_id(2), "body": "two"}
    answer = await api.call("POST", "/v1/messages", as_user="bob", json=body)
    assert (answer.status, answer.json["seq"]) == (201, 2)
    note = await api.send("alice", "alice", 3, "to myself")
    assert (note.status, note.json["conv"]) == (201, "alice:alice")


@pytest.mark.parametrize("key", [message_id(9), f'"{message_id(9)}"'])
async def test_an_idempotency_key_names_the_message(api: Rig, key: str) -> None:
    for status in (201, 200):
        answer = await api.call(
            "POST",
            "/v1/messages",
            as_user="alice",
            json={"to": "bob", "body": "hi"},
            headers={"Idempotency-Key": key},
        )
        assert (answer.status, answer.json["id"]) == (status, message_id(9))


@pytest.mark.parametrize(
    ("body", "key", "status", "code"),
    [
        ({"to": "bob", "body": "hi"}, None, 400, "bad_frame"),
        ({"to": "bob", "body": "hi"}, "not-a-uuid", 400, "bad_frame"),
        ({"to": "bob", "body": "hi", "id": message_id(1)}, message_id(2), 400, "bad_frame"),
        ({"to": "bob", "body": "hi", "id": message_id(1).upper()}, None, 400, "bad_frame"),
        ({"body": "hi", "id": message_id(1)}, None, 400, "bad_frame"),
        ({"to": "bob", "conv": "alice:bob", "body": "hi", "id": message_id(1)}, None, 400, "bad_frame"),
        ({"to": "Bob", "body": "hi", "id": message_id(1)}, None, 400, "bad_frame"),
        ({"to": "bob", "body": "", "id": message_id(1)}, None, 400, "bad_frame"),
        ({"to": "bob", "body": "a\0", "id": message_id(1)}, None, 400, "bad_frame"),
        ({"to": "bob", "body": 7, "id": message_id(1)}, None, 400, "bad_frame"),
        ({"to": "bob", "id": message_id(1)}, None, 400, "bad_frame"),
        ({"to": "bob", "body": "é" * 33, "id": message_id(1)}, None, 413, "too_large"),
        ({"to": "nobody", "body": "hi", "id": message_id(1)}, None, 404, "not_found"),
        ({"conv": "alice:nobody", "body": "hi", "id": message_id(1)}, None, 404, "not_found"),
    ],
)
async def test_a_send_without_the_form_is_refused_and_stores_nothing(
    api: Rig, body: Any, key: str | None, status: int, code: str
) -> None:
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = await api.call("POST", "/v1/messages", as_user="alice", json=body, headers=headers)
    assert (answer.status, answer.code) == (status, code)
    assert (await api.store.counts()).messages == 0


async def test_a_lone_surrogate_is_refused(api: Rig) -> None:
    data = b'{"to": "bob", "id": "%s", "body": "\\ud800"}' % message_id(1).encode()
    answer = await api.call("POST", "/v1/messages", as_user="alice", data=data)
    assert (answer.status, answer.code) == (400, "bad_frame")


async def test_messages_of_a_user_are_limited_and_told_when_to_come_back(api: Rig) -> None:
    async with rig(limits=LimitSettings(sends_per_s=2, sends_burst=2)) as slow:
        await slow.user("alice", "bob")
        assert [(await slow.send("alice", "bob", n)).status for n in range(2)] == [201, 201]
        answer = await slow.send("alice", "bob", 2)
        assert (answer.status, answer.code, answer.json["retry_after_ms"]) == (429, "rate_limited", 501)
        assert answer.headers["Retry-After"] == "1"
        assert (await slow.send("bob", "alice", 3)).status == 201, "another user has a bucket of its own"
        slow.now_s += 0.501
        assert (await slow.send("alice", "bob", 2)).status == 201


async def test_a_full_queue_passes_its_answer_on(api: Rig) -> None:
    api.sender.fault = Overloaded("the queue is full", retry_after_ms=2_500)
    answer = await api.send("alice", "bob", 1)
    assert (answer.status, answer.code, answer.json["detail"]) == (503, "overloaded", "the queue is full")
    assert (answer.json["retry_after_ms"], answer.headers["Retry-After"]) == (2_500, "3")
    assert answer.json["title"] == "Service Unavailable"


async def test_a_log_is_read_in_pages_both_ways(api: Rig) -> None:
    for number in range(1, 8):
        await api.send("alice" if number % 2 else "bob", "bob" if number % 2 else "alice", number, f"m{number}")

    async def page(query: str) -> tuple[list[int], bool]:
        answer = await api.call("GET", f"/v1/conversations/alice:bob/messages{query}", as_user="bob")
        assert answer.status == 200
        assert answer.json["conv"] == "alice:bob"
        return [m["seq"] for m in answer.json["messages"]], answer.json.get("more", False)

    assert await page("") == ([1, 2, 3, 4, 5, 6, 7], False)
    assert await page("?limit=3") == ([5, 6, 7], True)
    assert await page("?limit=3&before=5") == ([2, 3, 4], True)
    assert await page("?limit=3&before=2") == ([1], False)
    assert await page("?limit=3&before=1") == ([], False)
    assert await page("?limit=3&after=0") == ([1, 2, 3], True)
    assert await page("?limit=3&after=4") == ([5, 6, 7], False)
    assert await page("?limit=3&after=7") == ([], False)
    whole = await api.call("GET", "/v1/conversations/alice:bob/messages?limit=1", as_user="bob")
    assert whole.json["messages"] == [{"seq": 7, "ts": T0, "id": message_id(7), "from": "alice", "body": "m7"}]


async def test_a_log_without_messages_is_empty_whoever_its_peer_would_be(api: Rig) -> None:
    for peer in ("bob", "zzz-nobody"):
        answer = await api.call("GET", f"/v1/conversations/alice:{peer}/messages", as_user="alice")
        assert (answer.status, answer.json["messages"]) == (200, [])


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "limit=1.5",
        "before=0",
        "after=-1",
        "before=x",
        "before=9007199254740992",
        "before=3&after=1",
    ],
)
async def test_a_query_out_of_bounds_is_refused(api: Rig, query: str) -> None:
    answer = await api.call("GET", f"/v1/conversations/alice:bob/messages?{query}", as_user="alice")
    assert (answer.status, answer.code) == (400, "bad_frame")


async def test_conversations_come_newest_first_in_pages(api: Rig) -> None:
    for number, to in enumerate(("bob", "carol", "alice")):
        api.now_ms += 1_000
        await api.send("alice", to, number, f"to {to}")
    first = await api.call("GET", "/v1/conversations?limit=2", as_user="alice")
    assert [c["peer"] for c in first.json["conversations"]] == ["alice", "carol"]
    rest = await api.call("GET", f"/v1/conversations?limit=2&cursor={first.json['cursor']}", as_user="alice")
    assert [c["peer"] for c in rest.json["conversations"]] == ["bob"]
    assert "cursor" not in rest.json
    (row,) = (await api.call("GET", "/v1/conversations", as_user="bob")).json["conversations"]
    assert row == {
        "conv": "alice:bob",
        "peer": "alice",
        "head": 1,
        "delivered": 0,
        "read": 0,
        "peer_delivered": 0,
        "peer_read": 0,
        "unread": 1,
        "updated": T0 + 1_000,
        "last": {"seq": 1, "ts": T0 + 1_000, "id": message_id(0), "from": "alice", "body": "to bob"},
    }


async def test_read_raises_marks_to_the_head_and_never_back(api: Rig) -> None:
    for number in range(3):
        await api.send("alice", "bob", number)

    async def read(seq: int) -> Any:
        answer = await api.call("PUT", "/v1/conversations/alice:bob/read", as_user="bob", json={"seq": seq})
        assert answer.status == 200
        return answer.json

    assert await read(2) == {"conv": "alice:bob", "delivered": 2, "read": 2}
    assert await read(1) == {"conv": "alice:bob", "delivered": 2, "read": 2}
    assert await read(99) == {"conv": "alice:bob", "delivered": 3, "read": 3}
    device = (await api.accounts.devices("bob"))[0].device
    own = await api.call("GET", "/v1/conversations/alice:bob/marks", as_user="bob")
    assert own.json == {
        "conv": "alice:bob",
        "head": 3,
        "devices": {device: {"delivered": 3, "read": 3}},
        "peer": {"delivered": 0, "read": 0},
    }
    peer = await api.call("GET", "/v1/conversations/alice:bob/marks", as_user="alice")
    assert (peer.json["devices"], peer.json["peer"]) == ({}, {"delivered": 3, "read": 3})


@pytest.mark.parametrize("body", [{}, {"seq": 0}, {"seq": "1"}, {"seq": 2**53}, [], {"seq": None}])
async def test_a_read_without_a_seq_is_refused(api: Rig, body: Any) -> None:
    answer = await api.call("PUT", "/v1/conversations/alice:bob/read", as_user="bob", json=body)
    assert (answer.status, answer.code) == (400, "bad_frame")


async def test_what_a_blocked_user_sends_is_sent_and_hidden(api: Rig) -> None:
    assert (await api.call("PUT", "/v1/blocks/alice", as_user="bob")).status == 204
    sent = await api.send("alice", "bob", 1, "unwelcome")
    assert (sent.status, sent.json["seq"]) == (201, 1)
    log = "/v1/conversations/alice:bob/messages"
    assert (await api.call("GET", log, as_user="bob")).json["messages"] == [{"seq": 1, "ts": T0, "gone": "hidden"}]
    assert (await api.call("GET", log, as_user="alice")).json["messages"][0]["body"] == "unwelcome"
    (row,) = (await api.call("GET", "/v1/conversations", as_user="bob")).json["conversations"]
    assert (row["unread"], row["last"]) == (0, {"seq": 1, "ts": T0, "gone": "hidden"})
    assert (await api.call("DELETE", "/v1/blocks/alice", as_user="bob")).status == 204
    await api.send("alice", "bob", 2, "welcome")
    assert (await api.call("GET", log, as_user="bob")).json["messages"][1]["body"] == "welcome"


async def test_blocks_are_listed_and_never_of_oneself_or_nobody(api: Rig) -> None:
    for peer in ("carol", "alice", "carol"):
        assert (await api.call("PUT", f"/v1/blocks/{peer}", as_user="bob")).status == 204
    assert (await api.call("GET", "/v1/blocks", as_user="bob")).json == {"blocks": ["alice", "carol"]}
    assert (await api.call("GET", "/v1/blocks", as_user="alice")).json == {"blocks": []}
    for peer, status in (("bob", 403), ("nobody", 404), ("Not%20A%20Name", 404)):
        assert (await api.call("PUT", f"/v1/blocks/{peer}", as_user="bob")).status == status
    assert (await api.call("DELETE", "/v1/blocks/Not%20A%20Name", as_user="bob")).status == 404
