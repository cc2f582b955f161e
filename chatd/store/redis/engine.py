"""The way to Redis, one server or a cluster: which command goes where, scripts that are loaded when they are missing.

A round trip is one `Engine.run`: many commands, one write to each server concerned. A cluster that moves a slot refuses
what comes for it before it does anything, so such a command, and only such a one, is sent again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from itertools import chain
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError, TryAgainError

from chatd.errors import OutcomeUnknown, Unavailable
from chatd.store.redis.node import Command, Node, anyhow, refused, translated
from chatd.store.redis.scripting import SCRIPTS
from chatd.store.redis.sentinel import SCHEME, Sentinels

P = ParamSpec("P")
T = TypeVar("T")

TAGS_PER_CALL_MAX = 1_000
SENT_AGAIN_MAX = 8
SENT_AGAIN_S = 0.05
KEYLESS = frozenset({"PING", "INFO", "CONFIG", "SCRIPT", "CLUSTER"})


_inside: ContextVar[bool] = ContextVar("_inside", default=False)


class _HasEngine(Protocol):
    engine: Engine


S = TypeVar("S", bound=_HasEngine)


def whole(method: Callable[Concatenate[S, P], Awaitable[T]]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """For a method of several round trips: once it has begun, a close waits for the last one."""

    @wraps(method)
    async def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.engine.call():
            return await method(self, *args, **kwargs)

    return run


class Engine:
    """``url``: of the server, of any one of a cluster, or of sentinels. ``prefix``: before every key.

    ``replicas``: how many must have what is written before it counts. ``round_trips``: how many there were, to any
    server.
    """

    def __init__(self, url: str, *, prefix: str, timeout_s: float, connections_max: int, replicas: int = 0) -> None:
        self.prefix: Final = prefix
        self.cluster = False
        self.round_trips = 0
        self._sentinels = Sentinels(url, timeout_s=timeout_s) if url.startswith(f"{SCHEME}:") else None
        self._url = url if self._sentinels is None else self._sentinels.node_url
        self._timeout_s, self._connections_max, self._replicas = timeout_s, connections_max, replicas
        self._on_restart: Callable[[Node], Awaitable[None]] | None = None
        self.home = self._node()
        self._nodes: dict[tuple[str, int], Node] = {}
        self._slots: list[Node] = []
        self._stale = True
        self._opened = False
        self._under_way = 0
        self._idle = asyncio.Event()

    def _node(self, address: tuple[str, int] | None = None) -> Node:
        return Node(
            self._url,
            timeout_s=self._timeout_s,
            connections_max=self._connections_max,
            replicas=self._replicas,
            address=address,
            find=None if self._sentinels is None else self._sentinels.master,
        )

    async def open(self) -> None:
        """Find out what it is, load the scripts. Raises: Unavailable – with the reason."""
        self._opened = True
        try:
            info = await self.one(("INFO", "cluster"), write=False)
            if b"cluster_enabled:1" in info:
                await self._look_around()
                self.cluster = True
            await self._load()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Refuse later calls, finish those under way, disconnect."""
        self._opened = False
        self._idle.clear()
        if self._under_way:
            await self._idle.wait()
        for node in (self.home, *self._nodes.values()):
            await node.close()
        if self._sentinels is not None:
            await self._sentinels.close()

    @property
    def servers(self) -> list[Node]:
        """Those that take writes, as far as is known."""
        return list(dict.fromkeys(self._slots)) if self.cluster else [self.home]

    def server_of(self, key: bytes) -> Node:
        """Where this key or channel is, as far as is known."""
        return self._slots[key_slot(key)] if self.cluster else self.home

    async def look_again(self) -> None:
        """Ask a cluster which server has which slot. Raises: Unavailable – nobody answers, or a slot has no server."""
        with self.call():
            if self.cluster:
                await self._look_around()

    def watch(self, on_restart: Callable[[Node], Awaitable[None]]) -> None:
        """Await this before anything is sent to a server that does not continue the one that is trusted there."""
        self._on_restart = on_restart
        for node in self.servers:
            node.on_restart = on_restart

    def check_open(self) -> None:
        """Raises: Unavailable – the store is closed."""
        if not self._opened:
            raise Unavailable("the store is closed")

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call under way, of one round trip or, around others, of several. Raises: Unavailable – closed."""
        inside = _inside.get()
        if not inside:
            self.check_open()
        token = _inside.set(True)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            _inside.reset(token)
            if not self._under_way:
                self._idle.set()

    # --- what to send ------------------------------------------------------------------------------------

    def key(self, tag: str, what: str) -> str:
        """The key of a thing; what has one tag (a conversation, a user …) is in one slot."""
        return f"{self.prefix}{{{tag}}}:{what}"

    def script(self, name: str, tag: str, *args: str | bytes | int) -> Command:
        """The command that runs a script on the keys of a tag; on one server it may reach those of others."""
        script = SCRIPTS[name]
        stem = f"{self.prefix}{{{tag}}}:"
        return ("EVALSHA", script.sha, len(script.keys), *[stem + key for key in script.keys], self.prefix, *args)

    def parts(self, items: Sequence[T]) -> list[Sequence[T]]:
        """Items, each of a tag of its own, that one script call may reach: many on one server, one in a cluster."""
        size = 1 if self.cluster else TAGS_PER_CALL_MAX
        return [items[at : at + size] for at in range(0, len(items), size)]

    # --- the round trip ----------------------------------------------------------------------------------

    async def one(self, command: Command, *, write: bool) -> Any:
        """Run one command. Raises: as `run`."""
        return (await self.run([command], write=write))[0]

    async def run(self, commands: Sequence[Command], *, write: bool) -> list[Any]:
        """Run commands, in order on each server; their answers, of bytes, integers, lists and None.

        ``write``: they change something. Raises: Unavailable – nothing was done, or nothing that matters.
        OutcomeUnknown – of a write: some of it may have been done, or may still be.
        """
        answers = await self.outcomes(commands, write=write)
        failed = [answer for answer in answers if isinstance(answer, Exception)]
        if failed:
            nothing_done = len(failed) == len(answers) and all(refused(answer) for answer in failed)
            raise translated(failed[0], unknown=write and not nothing_done) from failed[0]
        return answers

    async def outcomes(self, commands: Sequence[Command], *, write: bool) -> list[Any]:
        """The same, with an exception in the place of an answer. Raises: Unavailable – closed, or nobody to ask."""
        with self.call():
            answers = await self._sent(commands, write=write)
            for _ in range(SENT_AGAIN_MAX):
                again = [n for n, answer in enumerate(answers) if isinstance(answer, (NoScriptError, AskError))]
                later = [n for n, answer in enumerate(answers) if isinstance(answer, (TryAgainError, ClusterDownError))]
                if not again and not later:
                    break
                if later:  # a slot is on its way, or a server is being replaced
                    await asyncio.sleep(SENT_AGAIN_S)
                again += later
                cured = await self._again(commands, answers, again, write=write)
                for n, answer in zip(again, cured, strict=True):
                    answers[n] = answer
            return answers

    async def _again(
        self, commands: Sequence[Command], answers: Sequence[Any], which: Sequence[int], *, write: bool
    ) -> list[Any]:
        """Send those again that were refused for a reason that can be cured."""
        try:
            if any(isinstance(answers[n], NoScriptError) for n in which):  # a server is new, or forgot its scripts
                await self._load()
            return await self._cured(commands, answers, which, write=write)
        except Unavailable as exc:  # the others may be done
            return [exc] * len(which)

    async def _cured(
        self, commands: Sequence[Command], answers: Sequence[Any], which: Sequence[int], *, write: bool
    ) -> list[Any]:
        self._stale = self._stale or any(isinstance(answers[n], (MovedError, ClusterDownError)) for n in which)
        asked = {n: answers[n] for n in which if type(answers[n]) is AskError}
        sent: dict[int, Any] = {}
        for n, ask in asked.items():  # the slot is between two servers, and this key is at the new one already
            node = self._known((str(ask.host), int(ask.port)))
            self.round_trips += 1
            sent[n] = (await self._safely(node, [("ASKING",), commands[n]], write=write))[-1]
        rest = [n for n in which if n not in asked]
        sent.update(zip(rest, await self._sent([commands[n] for n in rest], write=write), strict=True))
        return [sent[n] for n in which]

    async def _sent(self, commands: Sequence[Command], *, write: bool) -> list[Any]:
        """One exchange with each server concerned, at the same time."""
        if not commands:
            return []
        if not self.cluster:
            self.round_trips += 1
            return await self._safely(self.home, commands, write=write)
        if self._stale:
            await self._look_around()
        groups: defaultdict[Node, list[int]] = defaultdict(list)
        for n, command in enumerate(commands):
            groups[self._slots[key_slot(_key_of(command))]].append(n)
        self.round_trips += len(groups)
        calls = [self._safely(node, [commands[n] for n in which], write=write) for node, which in groups.items()]
        answers: list[Any] = [None] * len(commands)
        for which, part in zip(groups.values(), await asyncio.gather(*calls), strict=True):
            for n, answer in zip(which, part, strict=True):
                answers[n] = answer
        return answers

    async def _safely(self, node: Node, commands: Sequence[Command], *, write: bool) -> list[Any]:
        try:
            return await node.exchange(commands, write=write)
        except (Unavailable, OutcomeUnknown) as exc:
            self._stale = True  # it may have been replaced
            return [exc] * len(commands)

    async def everywhere(self, *commands: Command) -> list[list[Any]]:
        """Run commands that have no keys on every server that takes writes. Raises: Unavailable."""
        nodes = self.servers
        with self.call():
            self.round_trips += len(nodes)
            found = await asyncio.gather(*(node.exchange(commands, write=False) for node in nodes))
        for answer in chain.from_iterable(found):
            if isinstance(answer, Exception):
                raise translated(answer, unknown=False) from answer
        return list(found)

    async def _load(self) -> None:
        await self.everywhere(*(("SCRIPT", "LOAD", script.text) for script in SCRIPTS.values()))

    # --- the cluster -------------------------------------------------------------------------------------

    def _known(self, address: tuple[str, int]) -> Node:
        if address not in self._nodes:
            self._nodes[address] = self._node(address)
            self._nodes[address].on_restart = self._on_restart
        return self._nodes[address]

    async def _look_around(self) -> None:
        """Ask the first that answers which server has which slot. Raises: Unavailable – nobody, or none has one."""
        reason: Exception = Unavailable("Redis: no server of the cluster answers")
        for node in (self.home, *self._nodes.values()):
            try:
                with anyhow():
                    (ranges,) = await node.exchange([("CLUSTER", "SLOTS")], write=False)
            except Unavailable as exc:
                reason = exc
                continue
            if isinstance(ranges, Exception):
                reason = translated(ranges, unknown=False)
                continue
            slots: list[Node | None] = [None] * 16_384
            for first, last, master, *_ in ranges:
                host = master[0].decode() or node.address[0]
                slots[first : last + 1] = [self._known((host, master[1]))] * (last + 1 - first)
            found = [slot for slot in slots if slot is not None]
            if len(found) == len(slots):
                for gone in set(self._slots) - set(found):
                    gone.doubt()
                self._slots, self._stale = found, False
                return
            reason = Unavailable("Redis: the cluster has slots that no server serves")
        raise reason


def _key_of(command: Command) -> bytes:
    """The key that says where a command goes."""
    if command[0] in KEYLESS:
        return b""
    key = command[3] if command[0] in {"EVALSHA", "EVAL"} else command[1]
    return key if isinstance(key, bytes) else str(key).encode()
