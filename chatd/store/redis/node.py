"""One Redis server: a bounded pool of connections, one round trip at a time, and every driver error translated once.

Nothing is repeated here, for a repeated write would hide that the first one may have happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeAlias, cast
from weakref import WeakKeyDictionary

from msgspec import Struct
from redis import exceptions
from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError, ResponseError

from chatd.errors import OutcomeUnknown, Unavailable

Command: TypeAlias = "tuple[str | bytes | int, ...]"

RETRY_AFTER_MS = 500
# What Redis says before it has done anything; anything else may have happened half-way.
REFUSED: Final = (
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
    exceptions.BusyLoadingError,
    exceptions.ClusterDownError,
    exceptions.AskError,
    exceptions.NoPermissionError,
    exceptions.NoScriptError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
)
REFUSED_CODES: Final = ("BUSY", "MISCONF", "NOAUTH", "NOREPLICAS", "OOM")


class Met(Struct, frozen=True):
    """Who answered a new connection. ``server``: its name in a cluster, its address from sentinels, else empty.

    ``run``: the name that it gave itself when it was started. ``promoted``: what it replicated before it became a
    master, or empty: it always was one since its start.
    """

    server: str = ""
    run: str = ""
    promoted: str = ""
    replica: bool = False
    clustered: bool = False

    def continues(self, other: Met) -> bool:
        """Whether it is the one of before, and was nobody's replica meanwhile."""
        same = (self.server, self.run) == (other.server, other.run)
        return same and self.promoted in ("", other.promoted)  # after an hour without replicas it forgets the name


NOBODY: Final = Met()
_anyhow: ContextVar[bool] = ContextVar("_anyhow", default=False)


@contextmanager
def anyhow() -> Iterator[None]:
    """What is sent inside goes also to a server that is not trusted."""
    token = _anyhow.set(True)
    try:
        yield
    finally:
        _anyhow.reset(token)


class Node:
    """``url``: as redis-py takes it, with user, password and database. ``address``: another server, found by this one.

    ``timeout_s``: for getting a connection, and for each round trip. ``replicas``: how many must have what is written
    before it counts. ``met``: who answered last; ``on_restart``: awaited with this node before anything else is sent to
    one that does not continue ``trusted``. ``find``: tells where the server is, at first and whenever it was lost.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        connections_max: int,
        replicas: int = 0,
        address: tuple[str, int] | None = None,
        find: Callable[[], Awaitable[tuple[str, int]]] | None = None,
    ) -> None:
        self._url, self._timeout_s, self._connections_max = url, timeout_s, connections_max
        self._replicas = replicas
        self.met = NOBODY
        self.trusted = NOBODY
        self.on_restart: Callable[[Node], Awaitable[None]] | None = None
        self._met_by: WeakKeyDictionary[object, Met] = WeakKeyDictionary()
        self._find = find
        self._lost = find is not None
        self._finding = asyncio.Lock()
        self.pool = self._pool(address)

    def _pool(self, address: tuple[str, int] | None) -> BlockingConnectionPool:
        pool = BlockingConnectionPool.from_url(
            self._url,
            max_connections=self._connections_max,
            timeout=None,  # the time is kept here: the driver's way of it can swallow a cancellation in Python 3.11
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            redis_connect_func=self._greet,
        )
        if address is not None:
            pool.connection_kwargs.update(host=address[0], port=address[1])
        try:
            cast(Any, pool).make_connection()  # it does not connect yet
        except TypeError as exc:  # what stands behind the ? becomes an argument of the driver's
            raise ValueError(f"an option that no connection has: {str(exc).rpartition(' ')[2]}") from exc
        return pool

    async def _found(self) -> None:
        """Go where the server is now, if it was lost and somebody knows. Raises: Unavailable – nobody does."""
        async with self._finding:
            if self._find is None or not self._lost:
                return
            address = await self._find()
            if address != self.address:
                old, self.pool = self.pool, self._pool(address)
                await old.disconnect(inuse_connections=False)
            self._lost = False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; of a socket in the file system its path and 0."""
        known = self.pool.connection_kwargs
        return str(known.get("host", known.get("path", "localhost"))), int(known.get("port", 6379))

    async def _greet(self, connection: AbstractConnection) -> None:
        """A new connection may be one to a new server."""
        await connection.on_connect()
        ask = connection.pack_command("INFO", "server", "replication")
        await connection.send_packed_command(ask, check_health=False)
        info = (await connection.read_response(disable_decoding=True)).decode()
        told = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        server, clustered = "", told.get("redis_mode") == "cluster"
        if clustered:
            await connection.send_packed_command(connection.pack_command("CLUSTER", "MYID"), check_health=False)
            server = (await connection.read_response(disable_decoding=True)).decode()
        elif self._find is not None:
            server = f"{cast(Any, connection).host}:{cast(Any, connection).port}"
        promoted = told.get("master_replid2", "")
        self.met = self._met_by[connection] = Met(
            server,
            told.get("run_id", ""),
            promoted if promoted.strip("0") else "",
            replica=told.get("role") == "slave",
            clustered=clustered,
        )

    def doubt(self) -> None:
        """It may have been another's replica for a while: every connection asks again who is there."""
        self.met = NOBODY

    async def exchange(self, commands: Sequence[Command], *, write: bool) -> list[Any]:
        """Send and read; an error that Redis answered with stands in the place of its answer.

        OutcomeUnknown stands there when too few replicas have what was written.
        Raises: Unavailable – nothing was sent. OutcomeUnknown – of a write: it was, and there is no answer. What
        ``on_restart`` raises; nothing was sent.
        """
        waits: list[Command] = []
        if write and self._replicas:
            waits = [("WAIT", self._replicas, int(self._timeout_s * 500))]
        if self._lost:
            await self._found()
        pool = self.pool
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await cast(Any, pool).get_connection()
        except (RedisError, OSError) as exc:
            self._lost = self._find is not None
            raise translated(exc, unknown=False) from exc
        if self._met_by.get(connection, self.met) != self.met:  # another has answered since this one was made
            await connection.disconnect(nowait=True)
            await pool.release(connection)
            return await self.exchange(commands, write=write)
        if self.met.replica and not self.met.clustered:
            self._lost = self._find is not None
            self.doubt()
            await pool.release(connection)
            raise Unavailable("Redis: the server there is a replica", retry_after_ms=RETRY_AFTER_MS)
        if self._must_ask():
            await pool.release(connection)  # it may be the only one, and what comes now needs one
            if self.on_restart is not None:
                await self.on_restart(self)
            return await self.exchange(commands, write=write)
        try:
            async with asyncio.timeout(self._timeout_s):
                answers = self._confirmed(await self._talk(connection, [*commands, *waits]), len(commands))
        except (RedisError, OSError) as exc:
            self._lost = self._find is not None
            # LOADING is an answer, too, though the driver calls it a lost connection.
            raise translated(exc, unknown=write and not isinstance(exc, BusyLoadingError)) from exc
        finally:
            await pool.release(connection)
        if any(isinstance(answer, exceptions.ReadOnlyError) for answer in answers):
            self._lost = self._find is not None  # another one has taken its place
            self.doubt()
        return answers

    def _must_ask(self) -> bool:
        """Whether to ask first what became of the history. A replica in a cluster only says who its master is."""
        watched = self.on_restart is not None and not _anyhow.get() and not self.met.replica
        return watched and not self.met.continues(self.trusted)

    def _confirmed(self, answers: list[Any], count: int) -> list[Any]:
        """The answers to the commands, which are as good as none when too few replicas have what was written."""
        if len(answers) == count or (isinstance(answers[count], int) and answers[count] >= self._replicas):
            return answers[:count]
        short = OutcomeUnknown(f"Redis: {answers[count]} of {self._replicas} replicas have it (store.redis_replicas)")
        return [answer if isinstance(answer, Exception) else short for answer in answers[:count]]

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

    async def close(self) -> None:
        """Disconnect."""
        await self.pool.disconnect()


def refused(error: Exception) -> bool:
    """Whether this error means that nothing was done."""
    return isinstance(error, (Unavailable, *REFUSED)) or str(error).partition(" ")[0] in REFUSED_CODES


def translated(error: Exception, *, unknown: bool) -> Unavailable | OutcomeUnknown:
    """The contract's error for one of the driver's or the server's."""
    text = f"Redis: {str(error) or type(error).__name__}"
    if isinstance(error, (Unavailable, OutcomeUnknown)):
        text = str(error)
    elif isinstance(error, TimeoutError):
        text = "Redis does not answer in time (store.redis_timeout_s)"
    elif isinstance(error, exceptions.ConnectionError) and not isinstance(error, BusyLoadingError):
        text = f"Redis cannot be reached: {error}"
    return OutcomeUnknown(text) if unknown else Unavailable(text[:300], retry_after_ms=RETRY_AFTER_MS)
