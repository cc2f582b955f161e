"""Names in Redis and what stands behind them: ids, members of a conversation, entries of a log, buckets."""

from __future__ import annotations

import zlib
from binascii import a2b_base64, b2a_base64
from typing import Any, Final

from chatd.model import Message, members_of

BUCKETS: Final = 64  # of the index of all conversations, so that no one key holds them all


def short_id(text: str) -> str:
    """A UUID in 22 characters of base64 (the scripts take text, no bytes)."""
    return b2a_base64(bytes.fromhex(text.replace("-", "")), newline=False)[:22].decode()


def long_id(short: bytes) -> str:
    """The canonical text of a short UUID."""
    h = a2b_base64(short + b"==").hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def pair_of(conv: str) -> tuple[str, str]:
    """The two users of a conversation. Raises: ValueError – it is none."""
    pair = members_of(conv)
    if pair is None:
        raise ValueError(f"no conversation is called {conv[:200]!r}")
    return pair


def message(conv: str, entry: Any) -> Message:
    """The message in an entry of a log: [b"seq-0", [b"m", member, b"i", id, b"t", ts_ms, b"h", hidden, b"b", body]].

    ``hidden``: how many are, up to it, and negative when it is one of them. Of an erased one, b"e" and b"1" follow.
    """
    name, (_, member, _, short, _, ts_ms, _, hidden, _, body, *erased) = entry
    return Message(
        conv,
        int(name.partition(b"-")[0]),
        long_id(short),
        pair_of(conv)[int(member)],
        body.decode(),
        int(ts_ms),
        hidden.startswith(b"-"),
        erased=bool(erased),
    )


def trimmed(field: bytes | None) -> tuple[int, int]:
    """Up to which seq a conversation was trimmed, and the ts_ms of the last message that went; see common.lua."""
    seq, ts_ms, _ = (field or b"0 0 0").split()
    return int(seq), int(ts_ms)


def bucket_number(conv: str) -> int:
    """Which bucket lists this conversation."""
    return zlib.crc32(conv.encode()) % BUCKETS


def bucket_of(conv: str) -> str:
    """The tag of the bucket that lists this conversation."""
    return bucket_tag(bucket_number(conv))


def bucket_tag(number: int) -> str:
    """The tag of a bucket; no user and no conversation is called so."""
    return f"={number}"
