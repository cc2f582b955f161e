"""What is thrown at a server: JSON that means harm, framing the RFC forbids, and seeded mutations of both."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from chatd.protocol import new_message_id

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA
KEY = b"\x37\xfa\x21\x3d"  # of the RFC's own example
CONV = "alice:mallory"
FRAME_BYTES_MAX = 65_536


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    key: bytes | None = KEY,
    reserved: int = 0,
    length: int | None = None,
) -> bytes:
    """A client's WebSocket frame. ``key`` None: unmasked. ``reserved``: bits 0x70 of the first byte.

    ``length``: what the head says instead of the payload's length.
    """
    size = len(payload) if length is None else length
    mask = 0 if key is None else 0x80
    head = bytearray([(0x80 if fin else 0) | reserved | opcode])
    if size < 126:
        head.append(mask | size)
    elif size < 65_536:
        head += bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([mask | 127]) + size.to_bytes(8, "big")
    if key is None:
        return bytes(head) + payload
    pad = (key * (len(payload) // 4 + 1))[: len(payload)]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")
    return bytes(head) + key + masked.to_bytes(len(payload), "big")


def text(value: Any) -> bytes:
    """A text frame of this value as JSON, or of these bytes as they are."""
    return frame(TEXT, value if isinstance(value, bytes) else json.dumps(value).encode())


def _edges() -> Mapping[str, tuple[Any, ...]]:
    """For each field of the protocol values at and beyond its edges."""
    wrong: tuple[Any, ...] = (None, True, [], {}, 1.5, "", "\x00", "x" * 20_000, -1, 10**400, [[]], {"a": {}})
    seqs = (0, 1, -1, 2**53 - 1, 2**53, 2**63, 2**64, 1e308, "1", *wrong)
    return {
        "type": ("hello", "auth", "send", "ack", "welcome", "__class__", "x" * 65, *wrong),
        "token": ("x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "x" * 8_192, "x" * 8_193, *wrong),
        "id": ("0" * 36, "01890A5D-AC96-774B-BCCE-B302099A8057", "01890a5d-ac96-774b-bcce-b302099a8057\n", *wrong),
        "to": ("mallory", "alice", "nobody", "x" * 64, "x" * 65, "Alice", "alice\n", "../x", "alice:bob", *wrong),
        "conv": (CONV, "alice:bob", "mallory:mallory", "mallory:alice", ":", "a:b:c", "x" * 160, "x" * 161, *wrong),
        "body": ("x", "x" * 16_384, "x" * 16_385, "é" * 8_192, "é" * 8_193, "\x00", "\u202e\u0000", *wrong),
        "n": seqs,
        "seq": seqs,
        "before": seqs,
        "after": seqs,
        "limit": (0, 1, 200, 201, *seqs),
        "cursor": ("x", "x" * 256, "x" * 257, "0/0/0", "-1", *wrong),
        "since": ("x", "0/0", "x" * 257, *wrong),
        "incarnation": ("x", "x" * 64, "x" * 65, *wrong),
        "watermarks": ({CONV: 1}, {CONV: 2**53}, {str(i): i for i in range(1_001)}, {"": 1}, *wrong),
        "agent": ("x" * 256, "x" * 257, *wrong),
        "ref": (0, "", "x" * 64, "x" * 65, 2**53, -(2**53), *wrong),
    }


def _honest() -> tuple[dict[str, Any], ...]:
    """A good frame of every type; the fields of each are the ones to spoil."""
    return (
        {"type": "hello", "token": "x", "incarnation": "i", "since": "s", "watermarks": {CONV: 1}, "agent": "a"},
        {"type": "auth", "token": "x", "ref": 1},
        {"type": "send", "id": new_message_id(), "to": "alice", "body": "x", "n": 1, "ref": 1},
        {"type": "send", "id": new_message_id(), "conv": CONV, "body": "x"},
        {"type": "ack", "conv": CONV, "seq": 1, "ref": 1},
        {"type": "read", "conv": CONV, "seq": 1},
        {"type": "history", "conv": CONV, "limit": 10, "before": 5, "ref": 2},
        {"type": "history", "conv": CONV, "limit": 10, "after": 0},
        {"type": "conversations", "limit": 10, "cursor": "x"},
        {"type": "ping", "ref": "r"},
    )


def horrors() -> Iterator[bytes]:
    """Payloads of text frames that are bad JSON, or JSON that is bad."""
    yield from (b"", b" ", b"null", b"1", b'"', b"[]", b"{", b"{}", b"{}{}", b"{},", b"nul", b"//", b"\x00", b"NaN")
    yield from (b"[" * 65_000, b'{"a":' * 13_000, b'{"type":' + b"[" * 60_000, b"[" * 1_000 + b"]" * 1_000)
    yield b'{"type":"ping","ref":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001
    for number in (b"9" * 5_000, b"-" + b"9" * 60_000, b"1e999", b"-0", b"1E400", b"NaN", b"Infinity", b"0x10", b"01"):
        yield b'{"type":"ping","ref":' + number + b"}"
        yield b'{"type":"ack","conv":"alice:mallory","seq":' + number + b"}"
        yield b'{"type":"dance","x":' + number + b"}"
    for string in (b"\\ud800", b"\\udfff\\ud800", b"\\u0000", b"\\x41", b"\\", b"\\u12", b"\x01", b"\xf4\x90\x80\x80"):
        yield b'{"type":"send","id":"01890a5d-ac96-774b-bcce-b302099a8057","to":"alice","body":"' + string + b'"}'
        yield b'{"type":"' + string + b'"}'
        yield b'{"' + string + b'":1,"type":"ping"}'
    yield from (b"\xef\xbb\xbf{}", '{"type":"ping"}'.encode("utf-16"), '{"type":"ping"}'.encode("utf-32"))
    yield from (b'{"type":"ping","type":"hello"}', b'{"type":"ping","ref":1,"ref":2}', b'{"TYPE":"ping"}')
    yield b"{" + b",".join(b'"k%d":%d' % (i, i) for i in range(4_000)) + b',"type":"ping"}'
    yield b'{"type":"ping"}' + b" " * 65_000
    for honest in _honest():
        for name in honest:
            yield json.dumps({k: v for k, v in honest.items() if k != name}).encode()
        for name, values in _edges().items():
            if name in honest or name == "ref":
                for value in values:
                    yield json.dumps({**honest, name: value}).encode()


def violations() -> Iterator[bytes]:
    """Whole frames, or pieces, that RFC 6455 forbids or that are at its edges."""
    ping = b'{"type":"ping"}'
    yield from (frame(opcode, ping) for opcode in range(16))
    yield from (frame(opcode, ping, fin=False) for opcode in range(16))
    yield from (frame(opcode, ping, key=None) for opcode in range(16))
    yield from (frame(TEXT, ping, reserved=bits) for bits in (0x10, 0x20, 0x40, 0x70))
    yield from (frame(opcode, b"x" * size) for opcode in (CLOSE, PING, PONG) for size in (124, 125, 126, 65_536))
    yield from (frame(CLOSE, code.to_bytes(2, "big")) for code in (0, 999, 1000, 1004, 1005, 1006, 1015, 2999, 5000))
    yield from (frame(CLOSE, b"\x03"), frame(CLOSE, b"\x03\xe8\xff\xfe"), frame(CLOSE, b"\x03\xe8" + b"x" * 123))
    yield from (frame(TEXT, ping, length=n) for n in (0, 126, 65_535, 65_536, 2**31, 2**32, 2**63 - 1, 2**64 - 1))
    yield from (bytes([0x81, 0xFE, 0, 5]) + KEY + b"x" * 5, bytes([0x81, 0xFF]) + (5).to_bytes(8, "big") + KEY)
    yield from (
        frame(TEXT, bad) for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xe2\x82")
    )
    yield from (frame(TEXT, b"x" * n) for n in (FRAME_BYTES_MAX - 1, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1))
    yield frame(TEXT, b"a", fin=False) + frame(TEXT, b"b")
    yield frame(TEXT, b"x" * 60_000, fin=False) + frame(CONTINUATION, b"x" * 60_000)
    yield frame(TEXT, b"{", fin=False) + frame(PING, b"between") + frame(CONTINUATION, b"}")
    yield frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 500 + frame(CONTINUATION, ping)
    yield frame(PING, b"x" * 125) * 100
    yield b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def _is_object(payload: bytes) -> bool:
    """Whether a server answers it and lives on, rather than ends the connection."""
    try:
        return isinstance(json.loads(payload.decode()), dict)
    except (ValueError, RecursionError):
        return False


class Corpus:
    """An endless, seeded stream of hostile frames: some as they are in the corpus, some mutated."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - to be repeatable, not secret
        self._payloads = list(horrors())
        self._objects = [payload for payload in self._payloads if _is_object(payload)]
        self._honest, self._edges = _honest(), {name: values for name, values in _edges().items() if name != "type"}
        self._wire = list(violations())
        self._mutations: tuple[Callable[[bytes], bytes], ...] = (
            self._flip_bits,
            self._truncate,
            self._splice,
            self._repeat,
        )

    def __len__(self) -> int:
        """How many frames it begins with, before any mutation."""
        return len(self._payloads) + len(self._wire)

    def whole(self) -> list[bytes]:
        """Every frame once, unmutated, in an order of this seed's."""
        return self._random.sample([*map(text, self._payloads), *self._wire], len(self))

    def one(self) -> bytes:
        """One hostile frame, or what is left of it."""
        kind = self._random.random()
        if kind < 0.4:
            return text(self._random.choice(self._objects))
        if kind < 0.95:
            return text(self._spoiled())
        if kind < 0.965:
            return text(self._random.choice(self._payloads))
        if kind < 0.97:
            return self._random.choice(self._wire)
        mutate = self._random.choice(self._mutations)
        if kind < 0.99:
            return text(mutate(self._random.choice(self._payloads)))
        return mutate(self._random.choice([*self._wire, text(self._random.choice(self._payloads))]))

    def _spoiled(self) -> dict[str, Any]:
        """An honest frame with up to three fields changed, and perhaps one of another frame."""
        spoiled = dict(self._random.choice(self._honest))
        if "id" in spoiled and self._random.random() < 0.5:
            spoiled["id"] = f"{self._random.randrange(16**8):08x}-ac96-774b-bcce-b302099a8057"
        for _ in range(self._random.randrange(4)):
            name = self._random.choice(list(self._edges if self._random.random() < 0.2 else spoiled))
            if name in self._edges:
                spoiled[name] = self._random.choice(self._edges[name])
        return spoiled

    def _flip_bits(self, data: bytes) -> bytes:
        spoiled = bytearray(data)
        for _ in range(self._random.randint(1, 8) if data else 0):
            spoiled[self._random.randrange(len(spoiled))] ^= 1 << self._random.randrange(8)
        return bytes(spoiled)

    def _truncate(self, data: bytes) -> bytes:
        return data[: self._random.randrange(len(data) + 1)]

    def _splice(self, data: bytes) -> bytes:
        other = self._random.choice(self._payloads)
        return data[: self._random.randrange(len(data) + 1)] + other[self._random.randrange(len(other) + 1) :]

    def _repeat(self, data: bytes) -> bytes:
        at = self._random.randrange(len(data) + 1)
        piece = data[at : at + self._random.randint(1, 64)]
        return data[:at] + piece * self._random.randint(2, 50) + data[at:]
