"""The ear of the bus at one server: a connection that comes back by itself, and the channels that are heard on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import structlog
from msgspec import Struct
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from chatd.errors import OutcomeUnknown, Unavailable
from chatd.store.redis.node import Command, Node

CHANNELS_PER_COMMAND_MAX = 1_000
AGAIN_S_MIN, AGAIN_S_MAX = 0.1, 5.0
CONNECT_S_MAX = 5.0
PING_S = 5.0
PINGS_UNANSWERED_MAX = 2
CLOSE_S_MAX = 2 * PING_S
# The last two: what redis-py and uvloop raise when a connection is closed while it is written to.
LOST = (RedisError, OSError, TimeoutError, Unavailable, OutcomeUnknown, AttributeError, RuntimeError)

log = structlog.get_logger("chatd.bus")


class Told(Struct, frozen=True):
    """Whom an ear tells what.

    ``hint``: (channel, letter). ``heard``: from now on this channel is. ``gap``: all channels are heard again that were
    not for a while. ``astray``: the server is away or refuses a channel, so perhaps another one has it.
    """

    hint: Callable[[bytes, bytes], None]
    heard: Callable[[bytes], None]
    gap: Callable[[], None]
    astray: Callable[[], None]


class Ear:
    """Listens at ``node``. ``sharded``: channels have slots, as keys have, and the server takes those of its own."""

    def __init__(self, node: Node, told: Told, *, sharded: bool) -> None:
        self._node, self._told, self._sharded = node, told, sharded
        self._channels: dict[bytes, bool] = {}  # whether it is heard
        self._lost: set[bytes] = set()  # was heard once, and is not now
        self._found = False  # a lost one is heard again, and nobody was told of the gap yet
        self._parting: set[bytes] = set()  # the server was told to forget it, and has not answered
        self._refused = False
        self._connection: Any = None
        self._to_tell: dict[bytes, None] = {}
        self._ping = False
        self._something = asyncio.Event()
        self._closing = False
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._hear(), name="chatd-bus-ear")]
        self._tasks.append(loop.create_task(self._tell(), name="chatd-bus-ear-tells"))

    async def close(self) -> None:
        """Hear no more."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        # On Python 3.11 redis-py may swallow a cancellation: the loops see `_closing` in their next turn.
        await asyncio.wait(self._tasks, timeout=CLOSE_S_MAX)

    # --- what to hear -----------------------------------------------------------------------------------

    def hears(self, channel: bytes) -> bool:
        """Whether it is heard now, as far as is known."""
        return self._connection is not None and self._channels.get(channel, False)

    def add(self, channel: bytes, *, lost: bool = False) -> None:
        """Hear it. ``lost``: it was heard elsewhere until a while ago."""
        if channel in self._channels:
            return
        self._channels[channel] = False
        if lost:
            self._lost.add(channel)
        self._soon(channel)

    def forget(self, channel: bytes) -> None:
        """Hear it no more."""
        self.drop(channel)
        self._soon(channel)

    def drop(self, channel: bytes) -> bool:
        """Another server has it. Returns: whether it was heard here once."""
        was = self._channels.pop(channel, False) or channel in self._lost
        self._lost.discard(channel)
        self._tell_of_gap()
        return was

    def again(self) -> None:
        """Ask once more for what was refused."""
        if self._refused:
            self._refused = False
            for channel, heard in self._channels.items():
                if not heard:
                    self._soon(channel)

    def _soon(self, channel: bytes) -> None:
        self._to_tell[channel] = None
        self._something.set()

    # --- the connection ---------------------------------------------------------------------------------

    async def _hear(self) -> None:
        pause_s = AGAIN_S_MIN
        while not self._closing:
            connection: Any = None
            try:
                await self._node.exchange([("PING",)], write=False)  # by sentinels, it may be elsewhere now
                connection = cast(Any, self._node.pool).make_connection()
                async with asyncio.timeout(CONNECT_S_MAX):
                    await connection.connect()
                self._connection = connection
                self._parting.clear()
                self._to_tell = dict.fromkeys(self._channels)
                self._something.set()
                pause_s = AGAIN_S_MIN
                await self._take(connection)
            except LOST as exc:
                log.warning("bus_lost", error=str(exc), server=f"{self._node.address[0]}:{self._node.address[1]}")
            finally:
                self._connection = None
                for channel, heard in self._channels.items():
                    if heard:
                        self._lost.add(channel)
                    self._channels[channel] = False
                if connection is not None:
                    await connection.disconnect(nowait=True)
            self._told.astray()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, AGAIN_S_MAX)

    async def _take(self, connection: Any) -> None:
        """Take what comes; a connection that says nothing to a ping is lost."""
        silent = 0
        while not self._closing:
            if not connection.is_connected:  # the driver would connect again without a word
                raise RedisConnectionError("the connection is lost")
            try:
                reply = await connection.read_response(disable_decoding=True, timeout=PING_S, disconnect_on_error=False)
            except ResponseError as exc:
                log.info("bus_refuses", error=str(exc))
                self._refused = True
                self._told.astray()
                continue
            if reply is None:
                silent += 1
                if silent > PINGS_UNANSWERED_MAX:
                    raise TimeoutError("no answer to a ping")
                self._ping = True
                self._something.set()
                continue
            silent = 0
            if isinstance(reply, list):
                self._took(*reply)

    def _took(self, what: bytes, channel: bytes, data: Any = None) -> None:
        match what:
            case b"message" | b"smessage":
                self._told.hint(channel, data)
            case b"subscribe" | b"ssubscribe":
                self._parting.discard(channel)
                if channel in self._channels:
                    self._channels[channel] = True
                    self._found = self._found or channel in self._lost
                    self._lost.discard(channel)
                    self._told.heard(channel)
                    self._tell_of_gap()
            case b"unsubscribe" | b"sunsubscribe":
                if channel in self._parting:
                    self._parting.discard(channel)
                elif channel in self._channels:  # nobody asked for it: its slot has another server now
                    self._channels[channel] = False
                    self._lost.add(channel)
                    self._refused = True
                    self._told.astray()

    def _tell_of_gap(self) -> None:
        if self._found and not self._lost:
            self._found = False
            self._told.gap()

    async def _tell(self) -> None:
        """Tell the server what to hear, as much at once as there is; whoever reconnects tells it everything."""
        while not self._closing:
            await self._something.wait()
            self._something.clear()
            connection = self._connection
            if connection is None or not connection.is_connected:
                continue
            commands = self._commands()
            try:
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            except LOST as exc:
                log.warning("bus_lost", error=str(exc))

    def _commands(self) -> list[Command]:
        wanted = [channel for channel in self._to_tell if channel in self._channels]
        unwanted = [channel for channel in self._to_tell if channel not in self._channels]
        self._parting.update(unwanted)
        self._to_tell.clear()
        # The channels of one command must have one slot, so each gets its own.
        size = 1 if self._sharded else CHANNELS_PER_COMMAND_MAX
        shard = "S" if self._sharded else ""
        commands: list[Command] = [("PING",)] if self._ping else []
        self._ping = False
        for verb, channels in (("UNSUBSCRIBE", unwanted), ("SUBSCRIBE", wanted)):
            commands += [(shard + verb, *channels[at : at + size]) for at in range(0, len(channels), size)]
        return commands
