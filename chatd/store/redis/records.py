"""How the records of a history that moves stand in Redis. See `chatd.store.moving`."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from chatd.model import Marks, Subscription
from chatd.store.moving import Entry, Held, Kept, Mark, Notes, User
from chatd.store.redis import NOTHING
from chatd.store.redis.accounts import account_of, device_of
from chatd.store.redis.names import trimmed


def short_of(raw: bytes) -> str:
    """See `chatd.store.redis.names.short_id`."""
    return b2a_base64(raw, newline=False)[:22].decode()


def entry_of(row: Any) -> Entry:
    name, (_, member, _, short, _, ts_ms, _, hidden, _, body, *erased) = row
    raw = a2b_base64(short + b"==")
    return Entry(int(name.partition(b"-")[0]), int(member), raw, int(ts_ms), int(hidden), body.decode(), bool(erased))


def note_fields(notes: Notes) -> list[str | int]:
    """The fields of `meta` but ``state``, each followed by its value."""
    fields: list[str | int] = []
    for mark in notes.marks:
        fields += [f"mark{mark.member}{mark.device}", f"{mark.position} {mark.delivered} {mark.read}"]
    for member in (0, 1):
        if notes.blocks[member]:
            fields += [f"blocked{member}", "1"]
        if notes.frozen is not None:
            marks = notes.frozen[member]
            fields += [f"frozen{member}", f"{marks.delivered} {marks.read}"]
        if notes.pushed[member]:
            fields += [f"pushed{member}", str(notes.pushed[member])]
    if notes.trimmed[0]:
        fields += ["trimmed", "{} {} 0".format(*notes.trimmed)]
    return fields


def notes_of(conv: str, flat: Sequence[bytes], ids: int) -> Notes:
    meta: dict[str, bytes] = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
    state = [int(number) for number in meta.get("state", NOTHING).split()]
    marks = sorted(
        Mark(int(name[4]), name[5:], *(int(number) for number in value.split()))
        for name, value in meta.items()
        if name.startswith("mark")
    )
    blocks = ("blocked0" in meta, "blocked1" in meta)
    frozen = None
    if "frozen0" in meta:
        first, second = (Marks(*(int(n) for n in meta[f"frozen{member}"].split())) for member in (0, 1))
        frozen = first, second
    trim = trimmed(meta.get("trimmed"))
    return Notes(
        conv,
        head=state[0],
        ts_ms=state[1],
        last=(state[2], state[3]),
        visible=(state[4], state[5]),
        hidden=state[10],
        ids=ids - bool(trim[0]),  # the mark of a trim stands among them
        told=(Marks(*state[6:8]), Marks(*state[8:10])),
        marks=tuple(marks),
        blocks=blocks,
        frozen=frozen,
        pushed=(int(meta.get("pushed0", 0)), int(meta.get("pushed1", 0))),
        trimmed=trim,
    )


def account_fields(kept: Kept) -> Iterator[str | int]:
    one = kept.account
    yield from ("admin", int(one.admin), "disabled", int(one.disabled), "created", one.created_ms)
    yield from ("shows", int(one.shows_last_seen), "invite", "")
    if one.password_hash is not None:
        yield from ("password", one.password_hash)
    if kept.deleted:
        yield from ("deleted", 1)
    if kept.last_seen_ms is not None:
        yield from ("seen", kept.last_seen_ms)


def user_of(name: str, account: Any, devices: Any, subscriptions: Any, enrolled: Any, blocks: Any, convs: Any) -> User:
    *row, deleted, seen = account
    kept = None
    known = account_of(name, [*row, None])
    if known is not None:
        kept = Kept(known, deleted is not None, None if seen is None else int(seen))
    fields = {field.decode(): value for field, value in zip(devices[::2], devices[1::2], strict=True)}
    held = []
    for device in sorted(field[1:] for field in fields if field[0] == "d"):
        token = fields.get(f"t{device}")
        one = device_of(name, device, fields[f"d{device}"], fields.get(f"x{device}"))
        held.append(Held(one, None if token is None else bytes.fromhex(token.decode())))
    decoded = [msgspec.json.decode(text, type=Subscription) for text in subscriptions]
    return User(
        name,
        kept,
        devices=tuple(held),
        subscriptions=tuple(sorted(decoded, key=lambda one: one.device)),
        enrolled=tuple(sorted(device.decode() for device in enrolled)),
        blocks=tuple(sorted(peer.decode() for peer in blocks)),
        convs=tuple(conv.decode() for conv in convs),
    )


def with_tokens(user: User, known: Mapping[str, bytes | None]) -> User:
    """The user, without those tokens that do not lead to their devices."""
    devices = tuple(
        held
        if held.token_hash is None or known[held.token_hash.hex()] == f"{user.name} {held.device.device}".encode()
        else msgspec.structs.replace(held, token_hash=None)
        for held in user.devices
    )
    return msgspec.structs.replace(user, devices=devices)
