"""The wire: every frame of protocol version 1 and its codec. The server and the Python client share this file.

Shapes: one JSON object in one WebSocket text frame; ``type`` names the frame. Decoding validates; encoding
omits what is absent. Nobody else knows JSON. Source: docs/protocol.md.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct, field

from chatd.errors import BadFrame, Unsupported
from chatd.model import (
    CONV_CHARS_MAX,
    PAGE_ITEMS_MAX,
    SEQ_MAX,
    USER_PATTERN,
    UUID_PATTERN,
    WATCH_USERS_MAX,
    WATCHES_MAX,
    WATERMARKS_MAX,
    ConversationView,
    Durability,
    Message,
    PresenceState,
    is_message_id,
)

SUBPROTOCOL = "chatd.v1"
WS_PATH = "/v1/ws"
TYPING_EVERY_S = 3.0  # a device tells it of one conversation at most this often; what comes sooner is dropped
TYPING_S = 6.0  # and it holds for so long

UserName = Annotated[str, Meta(pattern=USER_PATTERN, max_length=64)]
ConvId = Annotated[str, Meta(min_length=1, max_length=CONV_CHARS_MAX)]
MessageId = Annotated[str, Meta(pattern=UUID_PATTERN)]
Seq = Annotated[int, Meta(ge=1, le=SEQ_MAX)]
Mark = Annotated[int, Meta(ge=0, le=SEQ_MAX)]
UnixMs = Annotated[int, Meta(ge=0, le=SEQ_MAX)]
Ref: TypeAlias = Annotated[int, Meta(ge=-SEQ_MAX, le=SEQ_MAX)] | Annotated[str, Meta(max_length=64)]
Limit = Annotated[int, Meta(ge=1, le=PAGE_ITEMS_MAX)]
Token = Annotated[str, Meta(min_length=1, max_length=8192)]
Cursor = Annotated[str, Meta(min_length=1, max_length=256)]
Gone = Literal["hidden", "deleted", "expired"]


class _Frame(Struct, kw_only=True, omit_defaults=True, tag_field="type", frozen=True, gc=False):
    pass


# --- client → server -------------------------------------------------------------------------------------


class Hello(_Frame, tag="hello", frozen=True):
    """The first frame: who this device is and where its logs end. Answer: welcome, catch-up, caught_up."""

    token: Token
    incarnation: Annotated[str, Meta(max_length=64)] | None = None
    since: Cursor | None = None
    watermarks: Annotated[dict[ConvId, Mark], Meta(max_length=WATERMARKS_MAX)] | None = None
    agent: Annotated[str, Meta(max_length=256)] | None = None
    ref: Ref | None = None


class Auth(_Frame, tag="auth", frozen=True):
    """Renews the token of a live session; it must speak for the same user and device. Answer: ok."""

    token: Token
    ref: Ref | None = None


class Send(_Frame, tag="send", frozen=True):
    """One message to ``to`` (a user) or into ``conv``, named by ``id``. Answer: sent."""

    id: MessageId
    body: str
    to: UserName | None = None
    conv: ConvId | None = None
    n: Seq | None = None
    ref: Ref | None = None


class Ack(_Frame, tag="ack", frozen=True):
    """This device holds everything up to ``seq``. Answer: nothing, or ok when it has a ref."""

    conv: ConvId
    seq: Seq
    ref: Ref | None = None


class Read(_Frame, tag="read", frozen=True):
    """The user has read up to ``seq`` on this device; implies ack. Answer: nothing, or ok when it has a ref."""

    conv: ConvId
    seq: Seq
    ref: Ref | None = None


class History(_Frame, tag="history", frozen=True):
    """A page of a conversation's log, before or after a seq; neither: its end. Answer: messages."""

    conv: ConvId
    limit: Limit
    before: Seq | None = None
    after: Mark | None = None
    ref: Ref | None = None


class Conversations(_Frame, tag="conversations", frozen=True):
    """A page of this user's conversations, newest activity first. Answer: conversations."""

    limit: Limit
    cursor: Cursor | None = None
    ref: Ref | None = None


class Watch(_Frame, tag="watch", frozen=True):
    """Tell me who of these is there, now and when it changes. Answer: presence, with those who may be watched."""

    users: Annotated[tuple[UserName, ...], Meta(max_length=WATCH_USERS_MAX)]
    ref: Ref | None = None


class Unwatch(_Frame, tag="unwatch", frozen=True):
    """No longer. Answer: ok."""

    users: Annotated[tuple[UserName, ...], Meta(max_length=WATCH_USERS_MAX)]
    ref: Ref | None = None


class Status(_Frame, tag="status", frozen=True):
    """How this device is there. ``inactive``: nobody looks at it; it is sent no presence and no typing. Answer: ok."""

    state: Literal["online", "away"]
    inactive: bool = False
    ref: Ref | None = None


class Typing(_Frame, tag="typing", frozen=True):
    """The user is writing, or no longer is. A hint: it may be dropped. Answer: nothing."""

    conv: ConvId
    on: bool
    ref: Ref | None = None


class Ping(_Frame, tag="ping", frozen=True):
    """Asks for the server's time. Answer: pong."""

    ref: Ref | None = None


ClientFrame: TypeAlias = (
    Hello | Auth | Send | Ack | Read | History | Conversations | Watch | Unwatch | Status | Typing | Ping
)


# --- server → client -------------------------------------------------------------------------------------


class Limits(Struct, kw_only=True, frozen=True):
    """What this server bounds. Bytes are UTF-8; ``window``: unacknowledged messages in flight to a device."""

    frame_bytes_max: int
    body_bytes_max: int
    window: int
    watermarks_max: int = WATERMARKS_MAX
    page_items_max: int = PAGE_ITEMS_MAX
    initial_history: int
    watches_max: int = WATCHES_MAX
    watch_users_max: int = WATCH_USERS_MAX


class Welcome(_Frame, tag="welcome", frozen=True):
    """The session is open. ``reset``: forget the watermarks, keep the outbox, take what comes."""

    user: str
    device: str
    session: str
    now: UnixMs
    incarnation: str
    reset: bool
    heartbeat_s: float
    durability: Durability
    limits: Limits
    ref: Ref | None = None


class Sent(_Frame, tag="sent", frozen=True):
    """The message is durable. ``duplicate``: only an answer, it moves no watermark; seq comes as messages."""

    id: str
    conv: str
    seq: int
    ts: int
    duplicate: bool = False
    ref: Ref | None = None


class Entry(Struct, kw_only=True, omit_defaults=True, frozen=True, gc=False):
    """One place in a log: a message, or ``gone`` with only seq and ts, so that the numbers have no gap.

    ``first``: with ``gone`` expired, the entry is the place of all messages ``first`` … ``seq``.
    """

    seq: int
    ts: int
    id: str | None = None
    sender: str | None = field(name="from", default=None)
    body: str | None = None
    gone: Gone | None = None
    first: int | None = None


class Messages(_Frame, tag="messages", frozen=True):
    """Entries of one conversation, ascending in seq: live, catch-up and history use this one shape."""

    conv: str
    messages: tuple[Entry, ...]
    more: bool = False
    ref: Ref | None = None


class Receipt(_Frame, tag="receipt", frozen=True):
    """A user's marks in a conversation, after they grew."""

    conv: str
    user: str
    delivered: int
    read: int


class ConversationRow(Struct, kw_only=True, omit_defaults=True, frozen=True):
    """One conversation in a listing. ``updated``: Unix ms of its last message; ``last``: that message."""

    conv: str
    peer: str
    head: int
    delivered: int
    read: int
    peer_delivered: int
    peer_read: int
    unread: int
    updated: int
    last: Entry | None = None


class ConversationList(_Frame, tag="conversations", frozen=True):
    """Conversations, newest activity first; ``cursor`` when there are more."""

    conversations: tuple[ConversationRow, ...]
    cursor: str | None = None
    ref: Ref | None = None


class CaughtUp(_Frame, tag="caught_up", frozen=True):
    """All that was missing has been sent. Keep ``since`` and give it in the next hello."""

    since: str


class Whereabouts(Struct, kw_only=True, omit_defaults=True, frozen=True, gc=False):
    """One user's presence. ``last_seen``: Unix ms, of somebody offline who shows it to a user who shows it too."""

    user: str
    state: PresenceState
    last_seen: int | None = None


class Presence(_Frame, tag="presence", frozen=True):
    """Who is there, of those whom this device watches: all that was asked for, or what changed since."""

    states: tuple[Whereabouts, ...]
    ref: Ref | None = None


class PeerTyping(_Frame, tag="typing", frozen=True):
    """The peer is writing, or no longer is. It ends by itself TYPING_S after the last one with ``on``."""

    conv: str
    user: str
    on: bool


class Ok(_Frame, tag="ok", frozen=True):
    """Done."""

    ref: Ref | None = None


class Pong(_Frame, tag="pong", frozen=True):
    """The server's time, Unix ms."""

    now: UnixMs
    ref: Ref | None = None


class Error(_Frame, tag="error", frozen=True):
    """A refusal, and what it is about. ``temporary``: the same request may be repeated."""

    code: str
    message: str
    temporary: bool
    retry_after_ms: int | None = None
    id: str | None = None
    conv: str | None = None
    ref: Ref | None = None


class Goaway(_Frame, tag="goaway", frozen=True):
    """Finish up and reconnect after a random part of ``reconnect_ms``."""

    reason: str
    reconnect_ms: int


ServerFrame: TypeAlias = (
    Welcome
    | Sent
    | Messages
    | Receipt
    | ConversationList
    | CaughtUp
    | Presence
    | PeerTyping
    | Ok
    | Pong
    | Error
    | Goaway
)

CLIENT_FRAMES: tuple[type[Struct], ...] = (
    Hello,
    Auth,
    Send,
    Ack,
    Read,
    History,
    Conversations,
    Watch,
    Unwatch,
    Status,
    Typing,
    Ping,
)
SERVER_FRAMES: tuple[type[Struct], ...] = (
    Welcome,
    Sent,
    Messages,
    Receipt,
    ConversationList,
    CaughtUp,
    Presence,
    PeerTyping,
    Ok,
    Pong,
    Error,
    Goaway,
)


class CloseCode(Struct, frozen=True):
    """Why a connection was closed, and whether a client comes back."""

    code: int
    reconnect: bool
    meaning: str


CLOSE_CODES: dict[int, CloseCode] = {
    c.code: c
    for c in (
        CloseCode(1000, False, "closed by the client"),
        CloseCode(1001, True, "the server is going away"),
        CloseCode(1002, False, "broken WebSocket framing"),
        CloseCode(1003, False, "a binary frame"),
        CloseCode(1006, True, "no close frame: the network went away"),
        CloseCode(1007, False, "a text frame that is not UTF-8"),
        CloseCode(1009, False, "a frame over limits.frame_bytes_max"),
        CloseCode(1011, True, "a fault of the server"),
        CloseCode(1012, True, "the server restarts"),
        CloseCode(1013, True, "too many connections: later"),
        CloseCode(4400, False, "broken protocol"),
        CloseCode(4401, False, "bad, expired or revoked token"),
        CloseCode(4403, False, "account disabled"),
        CloseCode(4408, True, "timed out"),
        CloseCode(4409, False, "the same device connected again"),
        CloseCode(4429, True, "too fast"),
    )
}


class ProtocolBroken(Exception):
    """What came is no JSON object: the connection ends with close code 4400."""


class FrameRefused(Exception):
    """A frame that is a JSON object and no valid frame: ``error`` is the answer, the connection lives."""

    def __init__(self, refusal: BadFrame | Unsupported, error: Error) -> None:
        super().__init__(refusal.message)
        self.error = error


_decode_client: Callable[[bytes], ClientFrame] = msgspec.json.Decoder(ClientFrame).decode
_decode_server: Callable[[bytes], ServerFrame] = msgspec.json.Decoder(ServerFrame).decode
_CLIENT_TYPES: set[object] = {f.__struct_config__.tag for f in CLIENT_FRAMES}
_SERVER_TYPES: set[object] = {f.__struct_config__.tag for f in SERVER_FRAMES}

encode = msgspec.json.Encoder().encode


def decode_client(data: bytes) -> ClientFrame:
    """Decode what a client sent.

    Raises: FrameRefused – an object, but no valid frame; ProtocolBroken – no JSON object or no UTF-8.
    """
    try:
        return _decode_client(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _refused(data, exc, _CLIENT_TYPES) from exc


def decode_server(data: bytes) -> ServerFrame | None:
    """Decode what a server sent; None: a type that this version does not know, to be ignored.

    Raises: ProtocolBroken – no JSON object, or a known type in a wrong shape.
    """
    try:
        return _decode_server(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        refused = _refused(data, exc, _SERVER_TYPES)
        if isinstance(refused, FrameRefused) and refused.error.code == Unsupported.code:
            return None
        raise ProtocolBroken(str(exc)) from exc


def _refused(data: bytes, exc: Exception, types: set[object]) -> FrameRefused | ProtocolBroken:
    try:
        whole = json.loads(data.decode())
    except (ValueError, RecursionError):
        return ProtocolBroken("not one JSON object in UTF-8")
    if not isinstance(whole, dict):
        return ProtocolBroken("not one JSON object in UTF-8")
    kind = whole.get("type")
    refusal: BadFrame | Unsupported
    if isinstance(kind, str) and kind not in types:
        refusal = Unsupported(f"unknown frame type {kind[:64]!a}")
    else:
        shape = isinstance(exc, msgspec.ValidationError)
        refusal = BadFrame(str(exc)[:200] if shape else "a lone surrogate, or a number JSON does not have")
    ref, message_id, conv = whole.get("ref"), whole.get("id"), whole.get("conv")
    error = Error(
        code=refusal.code,
        message=refusal.message,
        temporary=False,
        ref=ref if _is_ref(ref) else None,
        id=message_id if isinstance(message_id, str) and is_message_id(message_id) else None,
        conv=conv if isinstance(conv, str) and conv.isascii() and len(conv) <= CONV_CHARS_MAX else None,
    )
    return FrameRefused(refusal, error)


def _is_ref(value: object) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return abs(value) <= SEQ_MAX
    return isinstance(value, str) and len(value) <= 64 and not any("\ud800" <= c <= "\udfff" for c in value)


def entry(message: Message, viewer: str | None = None) -> Entry:
    """A committed message as ``viewer`` may see it; its sender always sees it whole."""
    if message.first:
        first = message.first if message.first < message.seq else None
        return Entry(seq=message.seq, ts=message.ts_ms, gone="expired", first=first)
    if message.erased:
        return Entry(seq=message.seq, ts=message.ts_ms, gone="deleted")
    if message.hidden and viewer != message.sender:
        return Entry(seq=message.seq, ts=message.ts_ms, gone="hidden")
    return Entry(seq=message.seq, ts=message.ts_ms, id=message.id, sender=message.sender, body=message.body)


def messages(conv: str, log: Sequence[Message], viewer: str, *, more: bool = False, ref: Ref | None = None) -> Messages:
    """A ``messages`` frame of consecutive committed messages, as ``viewer`` may see them."""
    return Messages(conv=conv, messages=tuple(entry(m, viewer) for m in log), more=more, ref=ref)


def conversation_row(view: ConversationView, viewer: str) -> ConversationRow:
    """One line of a ``conversations`` frame."""
    return ConversationRow(
        conv=view.conv,
        peer=view.peer,
        head=view.head,
        delivered=view.delivered,
        read=view.read,
        peer_delivered=view.peer_delivered,
        peer_read=view.peer_read,
        unread=view.unread,
        updated=view.updated_ms,
        last=None if view.last is None else entry(view.last, viewer),
    )


def new_message_id(now_s: float | None = None) -> str:
    """A UUIDv7 (RFC 9562): time-ordered, so that the store's index of ids keeps its locality."""
    ms = int((time.time() if now_s is None else now_s) * 1000) & (2**48 - 1)
    tail = int.from_bytes(os.urandom(10), "big")
    value = (ms << 80) | (0x7 << 76) | ((tail >> 68 & 0xFFF) << 64) | (0b10 << 62) | (tail & (2**62 - 1))
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def new_token() -> str:
    """An opaque token of 256 random bits in URL-safe text."""
    return base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()
