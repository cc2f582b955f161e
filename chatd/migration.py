"""A history moves from one store to another: copied, read again on both sides and compared, then given free.

Killed at any point and run again it goes on: how far it came is read from what is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing

from msgspec import Struct

from chatd.store.base import Counts
from chatd.store.moving import Entry, Log, Notes, Piece, Reader, Source, Target, checksum, page


class Progress(Struct, frozen=True):
    """How far it is. ``phase``: what is done now. ``messages`` of ``total`` are done in it."""

    phase: str
    messages: int
    total: int


class Moved(Struct, frozen=True):
    """What came of it. ``differences``: empty, or the first of what is not equal, a line each.

    ``before``: it had moved before, and nothing was done but to compare. ``copied``: messages that this run wrote.
    """

    counts: Counts
    before: bool
    copied: int
    differences: tuple[str, ...]


DIFFERENCES_MAX = 10
Tell = Callable[[Progress], None]


async def move(source: Source, target: Target, tell: Tell = lambda _: None) -> Moved:
    """Move all of ``source`` to ``target``, which stays unusable if there are differences.

    Raises: StartError – the target holds something else. Unavailable, OutcomeUnknown – it broke off; do it again.
    """
    before = await target.begin(source.incarnation) == "all"
    copied = 0 if before else await _copy(source, target, tell)
    differences = await _compare(source, target, tell)
    counts = await source.counts()
    if not differences:
        if not before:
            await target.finish()
        await source.leave()
    return Moved(counts, before, copied, tuple(differences))


async def _copy(source: Source, target: Target, tell: Tell) -> int:
    """Returns: how many messages were written."""
    total = (await source.counts()).messages
    done = copied = 0
    tell(Progress("copying", done, total))
    async with aclosing(source.all_convs()) as pages:
        async for convs in pages:
            notes = await source.notes(convs)
            erased = await source.erased(convs)
            beginnings = {one.conv: (*one.trimmed, erased.get(one.conv, 0)) for one in notes}
            await target.begin_at({conv: where for conv, where in beginnings.items() if where[0] or where[2]})
            heads = await target.heads(convs)
            logs = {one.conv: Log(one, after=heads[one.conv]) for one in notes}
            done += sum(min(log.after, log.head) for log in logs.values())
            batch = await _read(source, logs)
            while batch:
                following, _ = await asyncio.gather(_read(source, logs), target.append(batch))
                count = sum(map(len, batch.values()))
                done, copied = done + count, copied + count
                tell(Progress("copying", done, total))
                batch = following
            await target.put_notes(notes)
    async with aclosing(source.all_users()) as users:
        async for names in users:
            await target.put_users(await source.users(names))
    await target.put_rest(await source.rest())
    return copied


async def _read(reader: Reader, logs: Mapping[str, Log]) -> dict[str, Sequence[Entry]]:
    """The next messages of conversations that are not at their head; empty when all are."""
    pieces = page(logs)
    return await _pieces(reader, logs, pieces) if pieces else {}


async def _pieces(reader: Reader, logs: Mapping[str, Log], pieces: Sequence[Piece]) -> dict[str, Sequence[Entry]]:
    found = {}
    for piece, entries in zip(pieces, await reader.entries(pieces), strict=True):
        logs[piece.conv].add(entries)
        if entries:
            found[piece.conv] = entries
    return found


async def _compare(source: Source, target: Target, tell: Tell) -> list[str]:
    """Read both again. Returns: what is not equal, a line each, `DIFFERENCES_MAX` at most."""
    here, there = await source.counts(), await target.counts()
    differences = [
        f"{name}: {getattr(here, name)} in the source, {getattr(there, name)} in the target"
        for name in here.__struct_fields__
        if getattr(here, name) != getattr(there, name)
    ]
    done = 0
    tell(Progress("comparing", done, here.messages))
    async with aclosing(source.all_convs()) as pages:
        async for convs in pages:
            one, other = await asyncio.gather(_checksums(source, convs), _checksums(target, convs))
            differences += [f"conversation {conv} differs" for conv in convs if one[conv] != other[conv]]
            done += sum(head for head, _ in one.values())
            tell(Progress("comparing", done, here.messages))
            if len(differences) >= DIFFERENCES_MAX:
                return differences[:DIFFERENCES_MAX]
    async with aclosing(source.all_users()) as users:
        async for names in users:
            mine, theirs = await asyncio.gather(source.users(names), target.users(names))
            pairs = zip(mine, theirs, strict=True)
            differences += [f"user {a.name} differs" for a, b in pairs if checksum(a) != checksum(b)]
    if checksum(await source.rest()) != checksum(await target.rest()):
        differences.append("invites or keys for push differ")
    return differences[:DIFFERENCES_MAX]


async def _checksums(reader: Reader, convs: Sequence[str]) -> dict[str, tuple[int, bytes]]:
    """Head and checksum of each conversation, all that is stored of it read."""
    notes: Sequence[Notes] = await reader.notes(convs)
    logs = {one.conv: Log(one) for one in notes}
    while await _read(reader, logs):
        pass
    return {conv: (log.head, log.checksum.digest()) for conv, log in logs.items()}
