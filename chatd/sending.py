"""From a request to send to a Draft: the rules for a body and its destination, one place for WebSocket and HTTP."""

from __future__ import annotations

from chatd.errors import BadFrame, NotFound, TooLarge
from chatd.model import Draft, conv_of, peer_of


def make_draft(
    *, user: str, to: str | None, conv: str | None, id: str, body: str, body_bytes_max: int, now_ms: int
) -> Draft:
    """Check a send of ``user`` and make its draft. ``to`` and ``id`` have their forms already (the codec saw to it).

    Raises: BadFrame – not exactly one of ``to`` and ``conv``; a body that is empty or has U+0000 or a lone surrogate.
    TooLarge – the body has more than ``body_bytes_max`` bytes of UTF-8. NotFound – ``conv`` is not one of the user's.
    """
    if to is not None:
        if conv is not None:
            raise BadFrame("give `to` or `conv`, not both")
        conv = conv_of(user, to)
    elif conv is None:
        raise BadFrame("give `to` (a user) or `conv`")
    elif peer_of(conv, user) is None:
        raise NotFound("no such conversation")
    if not body:
        raise BadFrame("the body is empty")
    # UTF-8 has at least a byte a character, so a long text needs no encoding to be refused; ASCII needs none at all.
    if len(body) > body_bytes_max or (not body.isascii() and _utf8_bytes(body) > body_bytes_max):
        raise TooLarge(f"the body has more than {body_bytes_max} bytes")
    if "\0" in body:
        raise BadFrame("the body has U+0000, which no body may have")
    return Draft(conv, user, id, body, now_ms)


def _utf8_bytes(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as exc:
        raise BadFrame("the body has a lone surrogate, which UTF-8 cannot hold") from exc
