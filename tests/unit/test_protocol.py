"""The codec, against the golden frames that every client's tests can read."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatd import protocol
from chatd.errors import REFUSALS, Refusal
from chatd.model import ConversationView, Message, is_message_id
from chatd.protocol import CLIENT_FRAMES, SERVER_FRAMES, FrameRefused, ProtocolBroken
from chatd.sending import make_draft

GOLDEN = Path(__file__).parent.parent / "golden" / "frames.json"
FRAMES: list[dict[str, Any]] = json.loads(GOLDEN.read_text("utf-8"))["frames"]
ID = "01890a5d-ac96-774b-bcce-b302099a8057"


def _bytes(frame: dict[str, Any]) -> bytes:
    return base64.b64decode(frame["base64"]) if "base64" in frame else frame["text"].encode()


def _decode(frame: dict[str, Any]) -> msgspec.Struct | None:
    decode = protocol.decode_client if frame["direction"] == "client" else protocol.decode_server
    return decode(_bytes(frame))


def _chosen(**wanted: object) -> list[Any]:
    chosen = [f for f in FRAMES if all(f.get(key) == value for key, value in wanted.items())]
    assert chosen, wanted
    return [pytest.param(f, id=f["name"]) for f in chosen]


@pytest.mark.parametrize("frame", _chosen(valid=True))
def test_a_good_frame_is_decoded_and_encoded_to_its_canonical_form(frame: dict[str, Any]) -> None:
    decoded = _decode(frame)
    assert decoded is not None
    encoded = protocol.encode(decoded)
    assert json.loads(encoded) == frame["value"]
    assert _decode({"direction": frame["direction"], "text": encoded.decode()}) == decoded


@pytest.mark.parametrize("frame", [p for p in _chosen(valid=False, direction="client") if "error" in p.values[0]])
def test_a_frame_with_a_fault_is_refused_with_its_code(frame: dict[str, Any]) -> None:
    if "stage" in frame:  # the codec lets it through: the rules above it refuse
        assert isinstance(_decode(frame), CLIENT_FRAMES)
        return
    with pytest.raises(FrameRefused) as caught:
        _decode(frame)
    assert caught.value.error.code == frame["error"]
    assert caught.value.error.temporary is False
    protocol.decode_server(protocol.encode(caught.value.error))


@pytest.mark.parametrize("frame", _chosen(valid=False, close=4400))
def test_what_is_no_frame_ends_the_connection(frame: dict[str, Any]) -> None:
    with pytest.raises(ProtocolBroken):
        _decode(frame)


@pytest.mark.parametrize("frame", _chosen(valid=False, ignored=True))
def test_a_client_ignores_a_type_of_a_later_version(frame: dict[str, Any]) -> None:
    assert _decode(frame) is None


def test_the_golden_frames_have_every_type_with_every_field_and_with_the_least() -> None:
    for direction, kinds in (("client", CLIENT_FRAMES), ("server", SERVER_FRAMES)):
        for kind in kinds:
            tag = kind.__struct_config__.tag
            values = [f["value"] for f in FRAMES if f["direction"] == direction and f["valid"]]
            seen = [set(value) - {"type"} for value in values if value["type"] == tag]
            fields = msgspec.structs.fields(kind)
            assert {f.encode_name for f in fields} == set().union(*seen), kind
            required = {f.encode_name for f in fields if f.required}
            assert min(seen, key=len) == required | ({"to"} if kind is protocol.Send else set()), kind


def test_every_golden_frame_says_what_becomes_of_it() -> None:
    names = [f["name"] for f in FRAMES]
    assert len(names) == len(set(names))
    for frame in FRAMES:
        outcomes = {"value", "error", "close", "ignored"} & set(frame)
        assert outcomes == ({"value"} if frame["valid"] else outcomes - {"value"}), frame["name"]
        assert len(outcomes) == 1, frame["name"]
        assert frame.get("error", "internal") in REFUSALS
        assert frame.get("close", 4400) in protocol.CLOSE_CODES


@pytest.mark.parametrize(
    ("text", "about"),
    [
        (f'{{"type":"later","ref":7,"id":"{ID}","conv":"a:b"}}', (7, ID, "a:b")),
        ('{"type":"later","ref":"r","id":"X","conv":"\\u00e4"}', ("r", None, None)),
        ('{"type":"later","ref":true,"id":3,"conv":[]}', (None, None, None)),
        ('{"type":"later","ref":9007199254740992,"conv":"%s"}' % ("c" * 161), (None, None, None)),
        ('{"type":"later","ref":"%s"}' % ("x" * 65), (None, None, None)),
        ('{"type":"ping","ref":"\\ud800"}', (None, None, None)),
    ],
)
def test_a_refusal_says_what_it_is_about_where_that_has_its_form(text: str, about: tuple[object, ...]) -> None:
    with pytest.raises(FrameRefused) as caught:
        protocol.decode_client(text.encode())
    error = caught.value.error
    assert (error.ref, error.id, error.conv) == about
    assert json.loads(protocol.encode(error))["type"] == "error"


def test_an_unknown_type_is_named_in_ascii_and_cut() -> None:
    with pytest.raises(FrameRefused) as caught:
        protocol.decode_client(('{"type":"%s"}' % ("é" * 500)).encode())
    assert caught.value.error.message.isascii()
    assert len(caught.value.error.message) < 450


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_a_refusal_or_the_end(data: bytes) -> None:
    assert _any(data) in {"frame", "bad_frame", "unsupported", "broken"}


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_json = _scalars | st.lists(_scalars, max_size=2) | st.dictionaries(st.text(max_size=4), _scalars, max_size=2)
_names = st.sampled_from(sorted({f for kind in CLIENT_FRAMES for f in kind.__struct_fields__}))
_types = st.sampled_from([str(kind.__struct_config__.tag) for kind in CLIENT_FRAMES])


@settings(deadline=None)
@given(_types, st.dictionaries(_names, _json, max_size=6))
def test_any_object_is_a_frame_or_a_refusal(kind: str, fields: dict[str, Any]) -> None:
    assert _any(json.dumps({"type": kind, **fields}).encode()) in {"frame", "bad_frame"}


def _any(data: bytes) -> str:
    try:
        frame = protocol.decode_client(data)
    except FrameRefused as refused:
        return refused.error.code
    except ProtocolBroken:
        return "broken"
    assert protocol.decode_client(protocol.encode(frame)) == frame
    return "frame"


def test_a_hidden_message_keeps_its_place_for_the_peer_and_its_text_for_the_sender() -> None:
    message = Message("alice:bob", 3, ID, "alice", "hi", 1_000, hidden=True)
    assert protocol.entry(message, "bob") == protocol.Entry(seq=3, ts=1_000, gone="hidden")
    assert protocol.entry(message, "alice").body == "hi"
    frame = protocol.messages("alice:bob", [message], "bob", more=True, ref=1)
    assert json.loads(protocol.encode(frame)) == {
        "type": "messages",
        "conv": "alice:bob",
        "messages": [{"seq": 3, "ts": 1000, "gone": "hidden"}],
        "more": True,
        "ref": 1,
    }


def test_a_listing_row_is_the_view_without_the_device_s_position() -> None:
    message = Message("alice:bob", 3, ID, "bob", "hi", 1_000)
    view = ConversationView("alice:bob", "bob", 3, 2, 1, 3, 3, 2, 1_000, 2, message)
    row = protocol.conversation_row(view, "alice")
    assert row.last == protocol.Entry(seq=3, ts=1_000, id=ID, sender="bob", body="hi")
    assert (row.head, row.delivered, row.read, row.peer_delivered, row.peer_read) == (3, 2, 1, 3, 3)
    assert (row.unread, row.updated) == (2, 1_000)


def test_a_new_id_is_a_uuid_of_version_7_that_begins_with_its_time() -> None:
    one, other = protocol.new_message_id(1_700_000_000.5), protocol.new_message_id(1_700_000_000.5)
    assert is_message_id(one)
    assert one != other
    assert int(one.replace("-", "")[:12], 16) == 1_700_000_000_500
    assert one[14] == "7"
    assert one[19] in "89ab"
    assert protocol.new_message_id(1_700_000_000.501) > one


def test_a_token_has_256_random_bits_in_url_safe_text() -> None:
    tokens = {protocol.new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(base64.urlsafe_b64decode(token + "=")) == 32 for token in tokens)


def test_close_codes_that_end_it_for_good_are_those_of_the_contract() -> None:
    final = {code for code, close in protocol.CLOSE_CODES.items() if not close.reconnect}
    assert final == {1000, 1002, 1003, 1007, 1009, 4400, 4401, 4403, 4409}
    assert all(code == close.code for code, close in protocol.CLOSE_CODES.items())


@pytest.mark.parametrize("frame", _chosen(direction="client", stage="send"))
def test_a_send_that_the_codec_lets_through_is_refused_by_the_rules_of_sending(frame: dict[str, Any]) -> None:
    decoded = _decode(frame)
    assert isinstance(decoded, protocol.Send)
    with pytest.raises(Refusal) as caught:
        make_draft(
            user="alice",
            to=decoded.to,
            conv=decoded.conv,
            id=decoded.id,
            body=decoded.body,
            body_bytes_max=16_384,
            now_ms=0,
        )
    assert caught.value.code == frame["error"]
