"""One connection of the client: moves frames between the wire and the core until it is over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from chatd import protocol
from chatd.client.core import Core, Effect, Leave
from chatd.client.wire import Wire, WireClosed

AGENT = "chatd-python"
HELLO_TIMEOUT_S = 10.0
SILENT_HEARTBEATS = 1.4  # of 25 s: one ping and the 10 s that its answer may take


class Connection:
    """The reader and the writer of one wire. ``perform`` is given what each frame of the server's led to."""

    def __init__(
        self, wire: Wire, core: Core, clock: Callable[[], float], perform: Callable[[list[Effect]], None]
    ) -> None:
        self._wire = wire
        self._core = core
        self._clock = clock
        self._perform = perform
        self._work = asyncio.Event()
        self._silent_s: float | None = None
        self.idle = asyncio.Event()

    async def open(self, token: str) -> protocol.Welcome:
        """Say hello. Returns: the answer, which the core has not seen yet.

        Raises: WireClosed – with the code with which the server closed, or 4408: no answer in time.
        """
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                await self._wire.send(protocol.encode(self._core.hello(token, AGENT)))
                frame = await self._next_frame()
                if isinstance(frame, protocol.Error):
                    await self._refused(frame)
        except TimeoutError as exc:
            raise WireClosed(4408, "no welcome in time") from exc
        if not isinstance(frame, protocol.Welcome):
            raise WireClosed(1006, "the server did not begin with welcome")
        self._silent_s = frame.heartbeat_s * SILENT_HEARTBEATS or None
        return frame

    async def _refused(self, error: protocol.Error) -> None:
        """The close code that follows a refused hello says whether to come back."""
        try:
            await self._next_frame()
        except WireClosed as closed:
            raise WireClosed(closed.code, error.message, retry_after_ms=error.retry_after_ms) from closed

    async def run(self) -> None:
        """Read and write until the connection is over. Raises: WireClosed – always, in the end."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for exc in [task.exception() for task in tasks if not task.cancelled()]:
            if exc is not None:
                raise exc

    def wake(self) -> None:
        """The core may have something to send."""
        self.idle.clear()
        self._work.set()

    async def _next_frame(self) -> protocol.ServerFrame | None:
        """The next frame; None: of a type that this version does not know."""
        while (data := await self._wire.receive()) is None:
            pass  # a ping: the wire has answered it
        return _decode(data)

    async def _read(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._silent_s):
                    data = await self._wire.receive()
            except TimeoutError as exc:
                raise WireClosed(4408, f"the server was silent for {self._silent_s} s") from exc
            if data is None or (frame := _decode(data)) is None:
                continue
            effects = self._core.receive(frame, self._clock())
            self._perform(effects)
            for effect in effects:
                if isinstance(effect, Leave):
                    raise WireClosed(1006, effect.reason)
            self.wake()

    async def _write(self) -> None:
        """Send what is due, as it becomes due. When the wire takes no more, the reader knows the close code."""
        while True:
            self._work.clear()
            now_s = self._clock()
            if self._core.leaves(now_s):
                raise WireClosed(1012, "the server asked to reconnect")
            if self._core.expired(now_s):
                self._perform([])
            try:
                for frame in self._core.due(now_s):
                    await self._wire.send(protocol.encode(frame))
            except WireClosed:
                return
            if self._work.is_set():
                continue
            self.idle.set()
            deadline_s = self._core.deadline_s()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if deadline_s is None else deadline_s - self._clock()):
                    await self._work.wait()


def _decode(data: bytes) -> protocol.ServerFrame | None:
    try:
        return protocol.decode_server(data)
    except protocol.ProtocolBroken as exc:
        raise WireClosed(1006, f"the server sent what is no frame: {exc}") from exc
