"""The store that many processes share: one Redis, and a script that appends to a conversation in one atomic step.

All keys of a conversation have one tag and so one slot; those of a user have another. On one server a commit is one
call of one script, whatever its size: all of it or none, also for a process that dies in the middle.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from chatd.errors import ConfigError, OutcomeUnknown, StartError, StoreBroken, Unavailable
from chatd.model import Advance, Draft, Durability, Marks, MarksView, Message, peer_of, with_trimmed
from chatd.settings import StoreSettings
from chatd.store.base import Committed, Counts, Erased
from chatd.store.redis import checks
from chatd.store.redis.accounts import RedisAccounts
from chatd.store.redis.engine import Engine, whole
from chatd.store.redis.erasing import RedisErasing
from chatd.store.redis.names import BUCKETS, bucket_of, message, pair_of, short_id, trimmed
from chatd.store.redis.node import RETRY_AFTER_MS, Command, Node, anyhow, refused
from chatd.store.redis.presence import RedisPresence
from chatd.store.redis.push import RedisPush
from chatd.store.redis.scripting import SCRIPTS
from chatd.store.redis.work import Done, Work, committed, decode, sort

FENCE_STANDS_S = 86_400
SEQ_END = 2**53
NOTHING = b"0 0 0 0 0 0 0 0 0 0 0"  # the state of a conversation without messages, see common.lua
FORMAT = "1"  # of the keys and what stands in them
MOVING = "moving"  # the format while a history comes from another store
LIFE_TAG = "=life"
LISTED_MAX = 100_000
FENCED = b"fenced"
OVERTAKEN = "this commit was overtaken by a search for its messages"

_pack = msgspec.msgpack.encode


class RedisStore(RedisPush, RedisErasing, RedisAccounts, RedisPresence):
    """`Store` over Redis 7 or later. See chatd.store.base for what it promises."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        try:
            self.engine = Engine(
                settings.redis_url,
                prefix=settings.redis_prefix,
                timeout_s=settings.redis_timeout_s,
                connections_max=settings.redis_connections_max,
                replicas=settings.redis_replicas,
            )
        except ValueError as exc:
            raise ConfigError(f"store.redis_url: {exc}") from exc
        self._incarnation = ""
        self._on_disk: Durability = "memory"
        self._writer = secrets.token_hex(8)
        self._epoch = 0  # numbers this object's commits
        self._listed: set[str] = set()  # conversations that are in the index of all of them, as far as is known
        self._astray = 0  # the newest commit that may still be on its way

    @property
    def durability(self) -> Durability:
        """What Redis' own settings make of a commit (see `chatd.store.redis.checks`), or that replicas have it too."""
        return "replicated" if self._settings.redis_replicas else self._on_disk

    @property
    def incarnation(self) -> str:
        """Kept in Redis. One that was emptied has another, and so has one that may have forgotten what it answered."""
        return self._incarnation

    async def open(self) -> None:
        """Connect, check that this Redis can be trusted with messages, begin."""
        try:
            await self.engine.open()
            self._on_disk = await checks.durability(self.engine, self._settings.redis_durability)
            self._incarnation = await self._life(self.engine.servers)
            self.engine.watch(self._check_life)
        except (Unavailable, OutcomeUnknown) as exc:
            await self.engine.close()
            raise StartError(f"store.redis_url: {exc}") from exc
        except BaseException:
            await self.engine.close()
            raise

    async def _life(self, nodes: Sequence[Node]) -> str:
        """The name of the history that is there now, with these servers. They are trusted with it then.

        Raises: StartError – it is of another version; Unavailable.
        """
        key, met = self.engine.key(LIFE_TAG, "life"), [node.met for node in nodes]
        with anyhow():
            masters = await checks.masters(nodes[0])
            args = (int(self._on_disk != "fsync"), secrets.token_hex(8), int(nodes == self.engine.servers))
            told = _pack([(one.server, one.run, one.promoted) for one in met]), _pack(masters)
            command = ("EVAL", SCRIPTS["life"].text, 1, key, self.engine.prefix, LIFE_TAG, FORMAT, *args, *told)
            found, name = await self.engine.one(command, write=False)  # replicas that lack it begin another one
        if found == MOVING.encode():
            raise StartError("store.redis_url: half of a history is there: run `chatd migrate-store` to its end")
        if found != FORMAT.encode():
            raise StartError(
                f"store.redis_url: the data under {self.engine.prefix!r} are of format {found.decode()}, "
                f"and this version knows {FORMAT}; take the version that wrote them, or another store.redis_prefix"
            )
        for node, one in zip(nodes, met, strict=True):
            node.trusted = one
        return str(name.decode())

    async def _check_life(self, node: Node) -> None:
        """Another server answers than did. Raises: StoreBroken – messages may be forgotten; Unavailable."""
        trusted = node.trusted
        try:
            name = await self._life([node])
        except StartError as exc:
            raise StoreBroken(str(exc)) from exc
        if name != self._incarnation:
            node.trusted = trusted
            raise StoreBroken(
                "Redis was started again, or a replica took its place, and may lack what was answered: its history has "
                "a new name, with which this process must begin anew"
            )

    async def close(self) -> None:
        """See `MessageStore.close`."""
        await self.engine.close()

    # --- logs and marks ----------------------------------------------------------------------------------

    @whole
    async def commit(self, drafts: Sequence[Draft], advances: Sequence[Advance]) -> Committed:
        """One call of one script for all of it."""
        self.engine.check_open()
        work = sort(drafts, advances)
        if not work:
            return Committed((), ())
        self._epoch = epoch = self._epoch + 1
        try:
            if self.engine.cluster:
                done = await self._commit_apart(work, epoch)
            else:
                done = await self._commit_at_once(work, epoch)
        except BaseException:  # also when the caller does not wait for it any more
            self._astray = max(self._astray, epoch)
            raise
        return committed(drafts, advances, work, done)

    async def _commit_at_once(self, work: dict[str, Work], epoch: int) -> list[Done]:
        """On one server: everything in one step."""
        arg = _pack([one.packed(conv) for conv, one in work.items()])
        command = self.engine.script("commit", next(iter(work)), self._writer, epoch, "1", arg)
        answer = await self.engine.one(command, write=True)
        if answer == FENCED:
            raise Unavailable(OVERTAKEN)
        return decode(answer)

    async def _commit_apart(self, work: dict[str, Work], epoch: int) -> list[Done]:
        """In a cluster: a step a conversation, and before and after them a note in the slots of the users.

        Each conversation's part is stored or not as a whole. If it is not known of all, the outcome is unknown; who
        dies before the third round trip leaves a note, by which the next listing finds what it did not move.
        """
        token = f" {self._writer}.{epoch}"
        touched: dict[str, list[str]] = {}
        for conv, one in work.items():
            for user in set(one.pair):
                touched.setdefault(user, []).append(conv)
        notes = [
            self.engine.script("touch", user, user, _pack([conv + token for conv in convs]))
            for user, convs in touched.items()
        ]
        notes += [("ZADD", self.engine.key(bucket_of(conv), "convs"), 0, conv) for conv in work.keys() - self._listed]
        try:
            await self.engine.run(notes, write=True)
        except OutcomeUnknown as exc:
            raise Unavailable(str(exc)) from exc  # nothing but notes were written
        if len(self._listed) > LISTED_MAX:
            self._listed.clear()
        self._listed.update(work)
        commits = [
            self.engine.script("commit", conv, self._writer, epoch, "0", _pack([one.packed(conv)]))
            for conv, one in work.items()
        ]
        answers = await self.engine.outcomes(commits, write=True)
        bad = [one for one in answers if isinstance(one, Exception) or one == FENCED]
        if bad:
            known = len(bad) == len(answers) and all(one == FENCED or refused(one) for one in bad)
            text = OVERTAKEN if bad[0] == FENCED else str(bad[0])
            raise Unavailable(text, retry_after_ms=RETRY_AFTER_MS) if known else OutcomeUnknown(text)
        done = [decode(answer)[0] for answer in answers]
        changed = {conv: int(one.changed) for conv, one in zip(work, done, strict=True)}
        await self.engine.outcomes(  # what fails here is in the notes
            [
                self.engine.script("settle", user, user, token, _pack([(conv, changed[conv]) for conv in convs]))
                for user, convs in touched.items()
            ],
            write=True,
        )
        return done

    async def find(self, conv: str, sender: str, id: str) -> Message | None:
        """Asked where it is written; a commit of this process that may still be on its way comes too late then."""
        if peer_of(conv, sender) is None:
            return None
        name = f"{pair_of(conv).index(sender)}{short_id(id)}"
        args = (conv, self._writer, self._astray, FENCE_STANDS_S, name, int(self._settings.redis_replicas > 0))
        try:
            entry = await self.engine.one(self.engine.script("find", conv, *args), write=True)
        except OutcomeUnknown as exc:  # a fence is no message; what too few replicas have cannot be told yet
            raise Unavailable(str(exc), retry_after_ms=RETRY_AFTER_MS) from exc
        return None if entry is None else message(conv, entry)

    async def read(
        self,
        conv: str,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        bytes_max: int = 262_144,
    ) -> Sequence[Message]:
        """See `MessageStore.read`."""
        anchor = after if after is not None else SEQ_END if before is None else before
        way = "before" if after is None else "after"
        command = self.engine.script("read", conv, conv, way, anchor, limit, bytes_max)
        trim, entries = await self.engine.one(command, write=False)
        log = [message(conv, entry) for entry in entries]
        log = log if way == "after" else log[::-1]
        if trim is None:
            return log
        return with_trimmed(log, conv, *trimmed(trim), after=after, before=before, limit=limit)

    async def heads(self, convs: Sequence[str]) -> dict[str, int]:
        """See `MessageStore.heads`."""
        return dict(zip(convs, [head for head, _ in await self._heads(convs)], strict=True))

    async def _heads(self, convs: Sequence[str]) -> list[tuple[int, int]]:
        """The head of each, and 1 where either of the two blocks the other."""
        parts = self.engine.parts(convs)
        commands = [self.engine.script("heads", part[0], _pack(part)) for part in parts]
        return [row for rows in await self.engine.run(commands, write=False) for row in rows]

    async def position(self, conv: str, user: str, device: str) -> int:
        """See `MessageStore.position`."""
        field = f"mark{pair_of(conv).index(user)}{device}"
        mark = await self.engine.one(("HGET", self.engine.key(conv, "meta"), field), write=False)
        return 0 if mark is None else int(mark.split()[0])

    async def marks(self, conv: str, user: str) -> MarksView:
        """See `MessageStore.marks`."""
        flat = await self.engine.one(("HGETALL", self.engine.key(conv, "meta")), write=False)
        meta: dict[bytes, bytes] = dict(zip(flat[::2], flat[1::2], strict=True))
        pair = pair_of(conv)
        member, peer = pair.index(user), pair.index(peer_of(conv, user) or user)
        own = b"mark%d" % member
        state = [int(number) for number in meta.get(b"state", NOTHING).split()]
        devices = {}
        for field, mark in meta.items():
            if field.startswith(own):
                _, delivered, read = map(int, mark.split())
                if delivered or read:  # an enrolled device has a position before it has marks
                    devices[field.removeprefix(own).decode()] = Marks(delivered, read)
        frozen = meta.get(b"frozen%d" % peer)
        told = state[6 + 2 * peer : 8 + 2 * peer] if frozen is None else [int(number) for number in frozen.split()]
        return MarksView(conv, state[0], devices, Marks(*told))

    # --- blocks ------------------------------------------------------------------------------------------

    async def block(self, user: str, peer: str, *, on: bool) -> None:
        """First where it is in force, then in the user's list: if only half of it is done, repeat it."""
        conv = f"{min(user, peer)}:{max(user, peer)}"
        pair = pair_of(conv)
        users = _pack(tuple(dict.fromkeys(pair)))
        args = (conv, pair.index(user), pair.index(peer), int(on), int(not self.engine.cluster), users)
        listed: Command = ("SADD" if on else "SREM", self.engine.key(user, "blocks"), peer)
        commands = [self.engine.script("block", conv, *args), listed]
        if self.engine.cluster and not on:
            moved = _pack([(conv, 1)])
            commands += [self.engine.script("settle", one, one, "", moved) for one in dict.fromkeys(pair)]
        await self.engine.run(commands, write=True)

    async def blocks(self, user: str) -> Sequence[str]:
        """See `MessageStore.blocks`."""
        peers = await self.engine.one(("SMEMBERS", self.engine.key(user, "blocks")), write=False)
        return sorted(peer.decode() for peer in peers)

    @whole
    async def erase(self, user: str, *, cursor: str | None = None) -> Erased | None:
        """See `AccountStore.erase`. The blocks go before the account's last traces, so that a second try finds them."""
        key = self.engine.key
        if cursor is None:
            if not await self.engine.one(("EXISTS", key(user, "account")), write=False):
                return None
            await self.delete_account(user)
            for peer in await self.blocks(user):
                await self.block(user, peer, on=False)
            forget: list[Command] = [("HDEL", key(user, "account"), "password", "seen"), ("DEL", key(user, "enrolled"))]
            await self.engine.run(forget, write=True)
        return await self._erase_bodies(user, cursor or "")

    # --- the whole store ---------------------------------------------------------------------------------

    @whole
    async def probe(self) -> None:
        """In a cluster every server is asked, and one is written to."""
        await self.engine.everywhere(("PING",))
        await self.engine.one(("SET", f"{self.engine.prefix}probe", self._writer), write=False)

    @whole
    async def counts(self) -> Counts:
        """Counted one by one, so that they are the totals of what is there."""
        conversations = messages = 0
        for number in range(BUCKETS):
            async for convs in self._bucket(number):
                heads = [head for head, _ in await self._heads(convs)]
                conversations += sum(head > 0 for head in heads)
                messages += sum(heads)
        return Counts(await self._users(), conversations, messages)
