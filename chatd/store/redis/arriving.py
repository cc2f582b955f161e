"""A history that comes from another store, and how it is read again. See `chatd.store.moving`.

Until all is there the store has a format of its own, which no version serves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

import msgspec
from redis.exceptions import ResponseError

from chatd.errors import OutcomeUnknown, StartError, Unavailable
from chatd.model import Durability
from chatd.settings import StoreSettings
from chatd.store.base import Counts
from chatd.store.moving import PAGE_BYTES_MAX, Entry, Found, Invite, Notes, Piece, Rest, User
from chatd.store.redis import FORMAT, LIFE_TAG, MOVING, RedisStore, checks
from chatd.store.redis.accounts import ACCOUNT, NAMES_TAG
from chatd.store.redis.names import bucket_of
from chatd.store.redis.node import Command, translated
from chatd.store.redis.records import (
    account_fields,
    entry_of,
    note_fields,
    notes_of,
    short_of,
    user_of,
    with_tokens,
)

KEYS_PER_SCAN: Final = 1_000
COMMANDS_PER_TRIP_MAX: Final = 2_000
LOGS: Final = (b"}:log", b"}:ids")
NOTES: Final = b"}:meta"
_pack = msgspec.msgpack.encode


class RedisTarget:
    """`Target` over Redis. ``settings``: of the store that it becomes. ``durability``: as `MessageStore`, once open."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._store = RedisStore(settings)
        self._engine = self._store.engine
        self._life = self._engine.key(LIFE_TAG, "life")
        self._runs: set[bytes] = set()
        self.durability: Durability = "memory"

    async def open(self) -> None:
        """Connect, and check that this Redis can be trusted with messages. Raises: StartError."""
        try:
            await self._engine.open()
            self.durability = await checks.durability(self._engine, self._settings.redis_durability)
            self._runs = await self._servers()
        except (Unavailable, OutcomeUnknown) as exc:
            await self._engine.close()
            raise StartError(f"the target: {exc}") from exc
        except BaseException:
            await self._engine.close()
            raise

    async def close(self) -> None:
        """Disconnect."""
        await self._engine.close()

    async def _servers(self) -> set[bytes]:
        """The names that the servers gave themselves when they were started."""
        told = await self._engine.everywhere(("INFO", "server"))
        return {line for (info,) in told for line in info.splitlines() if line.startswith(b"run_id:")}

    # --- what comes --------------------------------------------------------------------------------------

    async def begin(self, incarnation: str) -> Found:
        """See `Target`."""
        known = await self._engine.one(("HGET", self._life, "format"), write=False)
        if known is None:
            async for keys in self._keys():
                self._refuse(f"it holds {keys[0].decode()!r} and more")
        claim = self._engine.script("claim", LIFE_TAG, LIFE_TAG, MOVING, incarnation)
        found, name = await self._engine.one(claim, write=True)
        if found is None:
            return "nothing"
        same = name == incarnation.encode()
        if found == FORMAT.encode() and same:
            return "all"
        if found != MOVING.encode():
            self._refuse("chatd has been using it")
        if not same:
            self._refuse("half of another history came there, or the source has begun another one since")
        async for keys in self._keys():
            await self._write([command for key in keys for command in self._bare(key)])
        return "half"

    def _bare(self, key: bytes) -> Iterator[Command]:
        """Leave nothing but messages: what was deleted in the source since must not stay."""
        if key.endswith(NOTES):
            conv = key.rpartition(b"{")[2].removesuffix(NOTES).decode()
            yield self._engine.script("arrived", conv, conv, _pack((0, 0, 0, 0)), _pack(()), _pack(()))
        elif not key.endswith(LOGS) and key != self._life.encode():
            yield ("UNLINK", key)

    def _refuse(self, why: str) -> None:
        prefix = self._engine.prefix
        raise StartError(
            f"the target is not empty: {why}; remove all keys that begin with {prefix!r}, "
            "or take another store.redis_prefix"
        )

    async def _keys(self) -> AsyncIterator[list[bytes]]:
        """All keys of this store, some at a time; one may come twice."""
        for node in self._engine.servers:
            cursor: bytes | int = 0
            while cursor != b"0":
                command: Command = ("SCAN", cursor, "MATCH", f"{self._engine.prefix}*", "COUNT", KEYS_PER_SCAN)
                (answer,) = await node.exchange([command], write=False)
                if isinstance(answer, Exception):
                    raise translated(answer, unknown=False) from answer
                cursor, keys = answer
                if keys:
                    yield keys

    async def heads(self, convs: Sequence[str]) -> Mapping[str, int]:
        """See `Target`."""
        return await self._store.heads(convs)

    async def _write(self, commands: Sequence[Command]) -> None:
        rest = iter(commands)
        while part := list(islice(rest, COMMANDS_PER_TRIP_MAX)):
            for answer in await self._engine.outcomes(part, write=True):
                if isinstance(answer, ResponseError) and " is not what came before of it" in str(answer):
                    raise StartError(f"the target: {answer}: empty it and begin anew") from answer
                if isinstance(answer, Exception):
                    raise translated(answer, unknown=False) from answer

    async def begin_at(self, beginnings: Mapping[str, tuple[int, int, int]]) -> None:
        """See `Target`."""
        await self._write([self._engine.script("begin_at", conv, conv, *where) for conv, where in beginnings.items()])

    async def append(self, messages: Mapping[str, Sequence[Entry]]) -> None:
        """See `Target`."""
        commands = []
        for conv, entries in messages.items():
            packed = _pack([(e.seq, e.member, short_of(e.id), e.ts_ms, e.hidden, e.body, e.erased) for e in entries])
            commands.append(self._engine.script("arrive", conv, conv, packed))
        await self._write(commands)

    async def put_notes(self, notes: Sequence[Notes]) -> None:
        """See `Target`."""
        key = self._engine.key
        commands: list[Command] = []
        for one in notes:
            told = [number for marks in one.told for number in (marks.delivered, marks.read)]
            sent = (*one.last, *one.visible) if one.trimmed[0] else ()  # what is not here does not tell
            args = (_pack(told), _pack(note_fields(one)), _pack(sent))
            commands.append(self._engine.script("arrived", one.conv, one.conv, *args))
            if one.head:
                commands.append(("ZADD", key(bucket_of(one.conv), "convs"), 0, one.conv))
        await self._write(commands)

    async def put_users(self, users: Sequence[User]) -> None:
        """See `Target`."""
        await self._write([command for user in users for command in self._user(user)])

    def _user(self, user: User) -> Iterator[Command]:
        def key(what: str) -> str:
            return self._engine.key(user.name, what)

        if user.kept is not None:
            yield ("HSET", key("account"), *account_fields(user.kept))
            if not user.kept.deleted:
                yield ("ZADD", self._engine.key(NAMES_TAG, "names"), 0, user.name)
        for held in user.devices:
            token = "" if held.token_hash is None else held.token_hash.hex()
            one = held.device
            if token:
                yield ("SET", self._engine.key(f"token={token}", "device"), f"{user.name} {one.device}")
            born = msgspec.json.encode((one.name, one.created_ms))
            yield ("HSET", key("devices"), f"d{one.device}", born)
            if one.expires_ms is not None:
                yield ("HSET", key("devices"), f"x{one.device}", one.expires_ms)
            if token:
                yield ("HSET", key("devices"), f"t{one.device}", token)
        for subscription in user.subscriptions:
            yield ("HSET", key("subscriptions"), subscription.device, msgspec.json.encode(subscription))
        if user.enrolled:
            yield ("SADD", key("enrolled"), *user.enrolled)
        if user.blocks:
            yield ("SADD", key("blocks"), *user.blocks)
        for place, conv in enumerate(user.convs, 1):
            yield ("ZADD", key("convs"), place, conv)
        # The common counter of changes, which only one server has, must be ahead of every index.
        if user.convs and not self._engine.cluster:
            yield ("INCRBY", f"{self._engine.prefix}changes", len(user.convs))

    async def put_rest(self, rest: Rest) -> None:
        """See `Target`."""
        commands: list[Command] = [("SET", f"{self._engine.prefix}kept:{name}", value) for name, value in rest.values]
        for invite in rest.invites:
            key = self._engine.key(f"invite={invite.hash.hex()}", "invite")
            commands.append(("HSET", key, "admin", int(invite.admin), "expires", invite.expires_ms))
        await self._write(commands)

    async def finish(self) -> None:
        """See `Target`."""
        if await self._servers() != self._runs:
            raise Unavailable("Redis was started again meanwhile, and may have forgotten something")
        await self._engine.run([("HSET", self._life, "format", FORMAT)], write=True)

    # --- and is read again -------------------------------------------------------------------------------

    async def counts(self) -> Counts:
        """See `Reader`."""
        return await self._store.counts()

    async def notes(self, convs: Sequence[str]) -> list[Notes]:
        """See `Reader`."""
        commands: list[Command] = []
        for conv in convs:
            commands.append(("HGETALL", self._engine.key(conv, "meta")))
            commands.append(("HLEN", self._engine.key(conv, "ids")))
        answers = await self._engine.run(commands, write=False)
        return [notes_of(conv, answers[2 * at], answers[2 * at + 1]) for at, conv in enumerate(convs)]

    async def entries(self, pieces: Sequence[Piece]) -> list[list[Entry]]:
        """See `Reader`."""
        room = PAGE_BYTES_MAX // max(1, len(pieces))
        commands = [self._engine.script("read", p.conv, p.conv, "after", p.after, p.limit, room) for p in pieces]
        return [[entry_of(one) for one in found] for _, found in await self._engine.run(commands, write=False)]

    async def users(self, names: Sequence[str]) -> list[User]:
        """See `Reader`."""
        key = self._engine.key
        commands: list[Command] = []
        for name in names:
            commands += [
                ("HMGET", key(name, "account"), *ACCOUNT, "seen"),
                ("HGETALL", key(name, "devices")),
                ("HVALS", key(name, "subscriptions")),
                ("SMEMBERS", key(name, "enrolled")),
                ("SMEMBERS", key(name, "blocks")),
                ("ZRANGE", key(name, "convs"), 0, -1),
            ]
        answers = iter(await self._engine.run(commands, write=False))
        users = [user_of(name, *islice(answers, 6)) for name in names]
        tokens = [held.token_hash.hex() for user in users for held in user.devices if held.token_hash is not None]
        asked: list[Command] = [("GET", key(f"token={token}", "device")) for token in tokens]
        known = dict(zip(tokens, await self._engine.run(asked, write=False), strict=True)) if tokens else {}
        return [with_tokens(user, known) for user in users]

    async def rest(self) -> Rest:
        """See `Reader`."""
        kept, invites = f"{self._engine.prefix}kept:".encode(), f"{self._engine.prefix}{{invite=".encode()
        found: set[bytes] = set()
        async for keys in self._keys():
            found.update(key for key in keys if key.startswith((kept, invites)))
        names = sorted(key for key in found if key.startswith(kept))
        hashes = sorted(found.difference(names))
        values = await self._engine.run([("GET", name) for name in names], write=False)
        rows = await self._engine.run([("HMGET", key, "admin", "expires") for key in hashes], write=False)
        return Rest(
            tuple(
                Invite(
                    bytes.fromhex(key.removeprefix(invites).partition(b"}")[0].decode()), admin == b"1", int(expires)
                )
                for key, (admin, expires) in zip(hashes, rows, strict=True)
            ),
            tuple(
                (name.removeprefix(kept).decode(), value.decode()) for name, value in zip(names, values, strict=True)
            ),
        )
