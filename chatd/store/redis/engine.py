"""The way to Redis: a bounded pool of connections, scripts by their hash, and every driver error translated once.

A round trip is one `Engine.run`: many commands, one write to the socket, one answer each. Nothing is repeated behind
the caller's back, for a repeated write would hide that the first one may have happened.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Final, TypeAlias, TypeVar, cast

from redis import exceptions
from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, NoScriptError, RedisError, ResponseError

from chatd.errors import OutcomeUnknown, Unavailable

Command: TypeAlias = "tuple[str | bytes | int, ...]"
T = TypeVar("T")

TAGS_PER_CALL_MAX = 1_000
RETRY_AFTER_MS = 500
# What Redis says before it has done anything; anything else may have happened half-way.
REFUSED: Final = (
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
    exceptions.BusyLoadingError,
    exceptions.MasterDownError,
    exceptions.NoPermissionError,
    exceptions.NoScriptError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
)
REFUSED_CODES: Final = (
    "BUSY",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOAUTH",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
)


class Script:
    """A Lua file of this package. ``sha``: what EVALSHA calls it."""

    def __init__(self, name: str, common: str, text: str) -> None:
        first, _, rest = text.partition("\n")
        self.name = name
        self.text = f"{first}\n{common}{rest}"
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def _scripts() -> dict[str, Script]:
    folder = files("chatd.store.redis") / "scripts"
    texts = {path.name.removesuffix(".lua"): path.read_text("utf-8") for path in folder.iterdir()}
    common = texts.pop("common")
    return {name: Script(name, common, text) for name, text in sorted(texts.items())}


SCRIPTS: Final = _scripts()


class Engine:
    """``url``: as redis-py takes it, with user, password and database. ``prefix``: before every key.

    ``timeout_s``: for getting a connection, and for each round trip. ``round_trips``: how many there were.
    """

    def __init__(self, url: str, *, prefix: str, timeout_s: float, connections_max: int) -> None:
        self.prefix: Final = prefix
        self.round_trips = 0
        self._timeout_s = timeout_s
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections_max,
            timeout=None,  # the time is kept here: the driver's way of it can swallow a cancellation in Python 3.11
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._opened = False
        self._under_way = 0
        self._idle = asyncio.Event()

    async def open(self) -> None:
        """Load the scripts. Raises: Unavailable – with the reason."""
        self._opened = True
        try:
            await self.run([("PING",)], write=False)
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
        await self._pool.disconnect()

    def check_open(self) -> None:
        """Raises: Unavailable – the store is closed."""
        if not self._opened:
            raise Unavailable("the store is closed")

    @contextmanager
    def _call(self) -> Iterator[None]:
        self.check_open()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    # --- what to send ------------------------------------------------------------------------------------

    def key(self, tag: str, what: str) -> str:
        """The key of a thing; what has one tag (a conversation, a user …) is in one slot."""
        return f"{self.prefix}{{{tag}}}:{what}"

    def script(self, name: str, tag: str, *args: str | bytes | int) -> Command:
        """The command that runs a script on the keys of a tag."""
        return ("EVALSHA", SCRIPTS[name].sha, 1, self.key(tag, ""), self.prefix, *args)

    def parts(self, items: Sequence[T]) -> list[Sequence[T]]:
        """Items whose keys one script call may reach, in their order; on one server that is many at a time."""
        return [items[at : at + TAGS_PER_CALL_MAX] for at in range(0, len(items), TAGS_PER_CALL_MAX)]

    # --- the round trip ----------------------------------------------------------------------------------

    async def one(self, command: Command, *, write: bool) -> Any:
        """Run one command. Raises: as `run`."""
        return (await self.run([command], write=write))[0]

    async def run(self, commands: Sequence[Command], *, write: bool) -> list[Any]:
        """Run commands in order, in one round trip; their answers, of bytes, integers, lists and None.

        ``write``: they change something. Raises: Unavailable – nothing was done, or nothing that matters.
        OutcomeUnknown – of a write: some of it may have been done, or may still be.
        """
        with self._call():
            if not commands:
                return []
            answers = await self._exchange(commands, write=write)
            missing = [n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if missing:  # the server is a new one, or forgot its scripts
                await self._load()
                for n, again in zip(
                    missing, await self._exchange([commands[n] for n in missing], write=write), strict=True
                ):
                    answers[n] = again
        failed = [answer for answer in answers if isinstance(answer, RedisError)]
        if failed:
            nothing_done = len(failed) == len(answers) and all(_refused(answer) for answer in failed)
            raise _translated(failed[0], unknown=write and not nothing_done) from failed[0]
        return answers

    async def _load(self) -> None:
        """Give the server all scripts; it forgets them when it restarts."""
        with self._call():
            answers = await self._exchange([("SCRIPT", "LOAD", one.text) for one in SCRIPTS.values()], write=False)
        for answer in answers:
            if isinstance(answer, RedisError):
                raise _translated(answer, unknown=False) from answer

    async def _exchange(self, commands: Sequence[Command], *, write: bool) -> list[Any]:
        """Send and read; an error that Redis answered with stands in the place of its answer."""
        pool = self._pool
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await cast(Any, pool).get_connection()
        except (RedisError, OSError) as exc:
            raise _translated(exc, unknown=False) from exc
        try:
            self.round_trips += 1
            async with asyncio.timeout(self._timeout_s):
                return await self._talk(connection, commands)
        except (RedisError, OSError) as exc:
            # LOADING is an answer, too, though the driver calls it a lost connection.
            raise _translated(exc, unknown=write and not isinstance(exc, BusyLoadingError)) from exc
        finally:
            await pool.release(connection)

    async def _talk(self, connection: AbstractConnection, commands: Sequence[Command]) -> list[Any]:
        answers: list[Any] = []
        try:
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            for _ in commands:
                try:
                    answers.append(await connection.read_response(disable_decoding=True))
                except ResponseError as exc:
                    answers.append(exc)
        finally:
            if len(answers) < len(commands):  # what else comes on this connection would be taken for another's answer
                await connection.disconnect(nowait=True)
        return answers


def _refused(error: RedisError) -> bool:
    return isinstance(error, REFUSED) or str(error).partition(" ")[0] in REFUSED_CODES


def _translated(error: Exception, *, unknown: bool) -> Unavailable | OutcomeUnknown:
    """The contract's error for one of the driver's or the server's."""
    text = f"Redis: {str(error) or type(error).__name__}"
    if isinstance(error, TimeoutError):
        text = "Redis does not answer in time (store.redis_timeout_s)"
    elif isinstance(error, exceptions.ConnectionError) and not isinstance(error, BusyLoadingError):
        text = f"Redis cannot be reached: {error}"
    return OutcomeUnknown(text) if unknown else Unavailable(text[:300], retry_after_ms=RETRY_AFTER_MS)
