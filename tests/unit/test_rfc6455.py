"""Framing: any valid sequence in any split is its messages; every violation has its close code."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.transport import rfc6455
from chatd.transport.rfc6455 import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Closed,
    Message,
    Parser,
    Ping,
    Pong,
    WireError,
)

MAX = 1_024
KEY = b"\x11\x22\x33\x44"


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, key: bytes | None = KEY, first: int = 0) -> bytes:
    """A client's frame; ``first``: more bits of the first byte; ``key`` None: unmasked."""
    head = bytearray([(0x80 if fin else 0) | first | opcode])
    mask = 0 if key is None else 0x80
    if len(payload) < 126:
        head.append(mask | len(payload))
    elif len(payload) < 65_536:
        head += bytes([mask | 126]) + len(payload).to_bytes(2, "big")
    else:
        head += bytes([mask | 127]) + len(payload).to_bytes(8, "big")
    if key is None:
        return bytes(head) + payload
    masked = bytes(b ^ key[i % 4] for i, b in enumerate(payload))
    return bytes(head) + key + masked


def parse(*pieces: bytes, size: int = MAX) -> list[Message]:
    parser = Parser(size)
    return [message for piece in pieces for message in parser.feed(piece)]


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    """``data`` cut at these places (modulo its length)."""
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(at)]


keys = st.binary(min_size=4, max_size=4)
controls = st.one_of(
    st.tuples(st.just(PING), st.binary(max_size=125)),
    st.tuples(st.just(PONG), st.binary(max_size=125)),
)


@st.composite
def texts(draw: st.DrawFn) -> tuple[bytes, list[Message]]:
    """One text message in 1 … 5 fragments with control frames between them: its bytes and the messages."""
    text = draw(st.text(max_size=200)).encode()
    parts = pieces_of(text, draw(st.lists(st.integers(0, 800), max_size=4))) or [b""]
    wire, expected = b"", []
    for i, part in enumerate(parts):
        wire += frame(TEXT if i == 0 else CONTINUATION, part, fin=i == len(parts) - 1, key=draw(keys))
        if i < len(parts) - 1:
            for opcode, payload in draw(st.lists(controls, max_size=2)):
                wire += frame(opcode, payload, key=draw(keys))
                expected.append(Ping(payload) if opcode == PING else Pong())
    return wire, [*expected, text]


@st.composite
def control_frames(draw: st.DrawFn) -> tuple[bytes, list[Message]]:
    opcode, payload = draw(controls)
    return frame(opcode, payload, key=draw(keys)), [Ping(payload) if opcode == PING else Pong()]


@given(st.lists(st.one_of(texts(), control_frames()), max_size=8), st.lists(st.integers(0, 10_000), max_size=30))
def test_any_valid_sequence_in_any_split_is_its_messages(
    sequence: list[tuple[bytes, list[Message]]], cuts: list[int]
) -> None:
    wire = b"".join(part for part, _ in sequence)
    expected = [message for _, messages in sequence for message in messages]
    assert parse(*pieces_of(wire, cuts)) == expected
    assert parse(*(wire[i : i + 1] for i in range(len(wire)))) == expected


@given(st.lists(texts(), min_size=1, max_size=6), st.integers(1, 5), st.lists(st.integers(0, 10_000), max_size=10))
def test_a_bounded_feed_goes_on_where_it_stopped(
    sequence: list[tuple[bytes, list[Message]]], frames_max: int, cuts: list[int]
) -> None:
    parser, found = Parser(MAX), []
    for piece in pieces_of(b"".join(part for part, _ in sequence), cuts):
        found += list(parser.feed(piece, frames_max))
        while parser.more:
            one = list(parser.feed(b"", frames_max))
            assert len(one) <= frames_max
            found += one
    assert found == [message for _, messages in sequence for message in messages]


def close(payload: bytes) -> bytes:
    return frame(CLOSE, payload)


VIOLATIONS = {
    "unmasked": (frame(TEXT, b"{}", key=None), 1002),
    "unmasked control": (frame(PING, key=None), 1002),
    "reserved bit 1": (frame(TEXT, b"{}", first=0x40), 1002),
    "reserved bit 2": (frame(TEXT, b"{}", first=0x20), 1002),
    "reserved bit 3": (frame(PING, first=0x10), 1002),
    "unknown data opcode 3": (frame(0x3, b"x"), 1002),
    "unknown data opcode 7": (frame(0x7, b"x"), 1002),
    "unknown control opcode 11": (frame(0xB), 1002),
    "unknown control opcode 15": (frame(0xF), 1002),
    "fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "fragmented close": (frame(CLOSE, b"\x03\xe8", fin=False), 1002),
    "ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "16-bit length of 125": (bytes([0x81, 0xFE, 0, 125]) + KEY, 1002),
    "64-bit length of 65535": (bytes([0x81, 0xFF]) + (65_535).to_bytes(8, "big") + KEY, 1002),
    "one byte too many": (frame(TEXT, b"x" * (MAX + 1)), 1009),
    "a length of 2**63": (bytes([0x81, 0xFF]) + (2**63).to_bytes(8, "big") + KEY, 1009),
    "one byte too many over fragments": (
        frame(TEXT, b"x" * MAX, fin=False) + frame(CONTINUATION, b"x"),
        1009,
    ),
    "continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "text inside a fragmented text": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    "binary": (frame(BINARY, b"\x00"), 1003),
    "text that is not UTF-8": (frame(TEXT, b"\xff"), 1007),
    "text with a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "text cut inside a character": (frame(TEXT, "é".encode()[:1]), 1007),
    "close with one byte": (close(b"\x03"), 1002),
    "close 999": (close((999).to_bytes(2, "big")), 1002),
    "close 1004": (close((1004).to_bytes(2, "big")), 1002),
    "close 1005": (close((1005).to_bytes(2, "big")), 1002),
    "close 1006": (close((1006).to_bytes(2, "big")), 1002),
    "close 1015": (close((1015).to_bytes(2, "big")), 1002),
    "close 1016": (close((1016).to_bytes(2, "big")), 1002),
    "close 2999": (close((2999).to_bytes(2, "big")), 1002),
    "close 5000": (close((5000).to_bytes(2, "big")), 1002),
    "close reason not UTF-8": (close(b"\x03\xe8\xff"), 1007),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_has_its_close_code_however_it_is_split(name: str) -> None:
    wire, code = VIOLATIONS[name]
    for pieces in ([wire], [wire[i : i + 1] for i in range(len(wire))], [frame(PING) + wire]):
        with pytest.raises(WireError) as caught:
            parse(*pieces)
        assert caught.value.code == code
        assert caught.value.reason


def test_a_head_is_judged_before_its_payload_came() -> None:
    with pytest.raises(WireError) as caught:
        parse(bytes([0x81, 0xFF]) + (MAX + 70_000).to_bytes(8, "big"), KEY)
    assert caught.value.code == 1009
    with pytest.raises(WireError) as caught:
        parse(b"\x81\x05")
    assert caught.value.code == 1002


def test_exactly_the_largest_message_passes() -> None:
    assert parse(frame(TEXT, b"x" * MAX)) == [b"x" * MAX]
    assert parse(frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x" * (MAX - 1))) == [b"x" * MAX]
    assert parse(frame(TEXT, b"x" * 65_536), size=65_536) == [b"x" * 65_536]


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 4000, 4999])
def test_close_codes_that_may_be_sent(code: int) -> None:
    assert parse(close(code.to_bytes(2, "big") + "tschüß".encode())) == [Closed(code)]


def test_a_close_without_a_code() -> None:
    assert parse(close(b"")) == [Closed(None)]


def test_many_empty_fragments_cost_no_memory_and_linear_time() -> None:
    parser = Parser(MAX)
    assert list(parser.feed(frame(TEXT, fin=False))) == []
    assert list(parser.feed(frame(CONTINUATION, fin=False) * 50_000)) == []
    assert list(parser.feed(frame(CONTINUATION, b"end"))) == [b"end"]


@given(st.binary(max_size=300), keys)
def test_unmask_is_the_xor_of_the_rfc(payload: bytes, key: bytes) -> None:
    assert rfc6455.unmask(payload, key) == bytes(b ^ key[i % 4] for i, b in enumerate(payload))


@pytest.mark.parametrize("size", [0, 125, 126, 4_095, 4_096, 65_535, 65_536])
def test_heads_that_the_server_writes(size: int) -> None:
    head = rfc6455.text_head(size)
    assert head == frame(TEXT, b"x" * size, key=None)[: len(head)]
    assert len(head) == (2 if size < 126 else 4 if size < 65_536 else 10)


def test_a_long_reason_is_cut_at_a_character() -> None:
    payload = rfc6455.close_payload(4400, "é" * 100)
    assert payload == (4400).to_bytes(2, "big") + ("é" * 61).encode()
    assert rfc6455.control(CLOSE, payload)[:2] == bytes([0x88, 124])
