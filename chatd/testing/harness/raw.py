"""A device that speaks the protocol itself, remembers little, and records everything."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from chatd import protocol
from chatd.client.wire import Wire, WireClosed, connect, websocket_url
from chatd.testing.history import DeviceRecorder

RETRY_S_MAX = 0.03
WELCOME_S_MAX = 1.0
UNACKED_MAX = 3  # a log; over all logs below the server's window, or a device that dawdles would stop


class RawDevice:
    """One device: its outbox is sent again, in order, on every connection until it is answered.

    ``found``: told of what must never be. ``held``: the last seq of each log.
    """

    def __init__(
        self,
        url: str,
        token: str,
        record: DeviceRecorder,
        dice: random.Random,
        found: Callable[[str, str], None],
    ) -> None:
        self.held: dict[str, int] = {}
        self.outbox: dict[str, tuple[str, str]] = {}  # id: (conv, body), in order
        self.connects = 0
        self.caught_up = False
        self._url = url
        self._token = token
        self._record = record
        self._dice = dice
        self._found = found
        self._incarnation: str | None = None
        self._since: str | None = None
        self._acked: dict[str, int] = {}
        self._wire: Wire | None = None
        self._unsent: list[str] = []
        self._n = 0
        self._lazy = True
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """user/device."""
        return self._record.name

    @property
    def incarnation(self) -> str:
        """Of the history that it was welcomed to."""
        return self._incarnation or ""

    @property
    def pending(self) -> int:
        """Sends without an answer."""
        return len(self.outbox)

    async def send(self, conv: str, body: str) -> None:
        """Queue a message, and send it if there is a connection."""
        id_ = protocol.new_message_id()
        self.outbox[id_] = (conv, body)
        self._record.invoke(conv, id_, body)
        self._unsent.append(id_)
        await self._send_on()

    async def repeat(self) -> None:
        """Send something that is under way once more, on the same connection."""
        under_way = [id_ for id_ in self.outbox if id_ not in self._unsent]
        if under_way:
            self._unsent.append(self._dice.choice(under_way))
            await self._send_on()

    async def _send_on(self) -> None:
        wire = self._wire
        if wire is not None:
            with contextlib.suppress(WireClosed):  # who reads from it hears it too
                await self._write_unsent(wire)

    def start(self) -> None:
        """Connect, and stay so."""
        self._task = asyncio.create_task(self._keep_connected(), name=self.name)

    def lazy(self, on: bool) -> None:
        """Whether acknowledgements come late."""
        self._lazy = on

    async def acknowledge(self) -> None:
        """Say all that was not said yet."""
        wire = self._wire
        if wire is not None:
            with contextlib.suppress(WireClosed):
                for conv, seq in list(self.held.items()):
                    if self._acked.get(conv, 0) < seq:
                        await self._ack(wire, conv, seq)

    async def stop(self) -> None:
        """Go away. Raises: what went wrong in this device."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep_connected(self) -> None:
        while True:
            try:
                wire = await connect(websocket_url(self._url, self._record.user))
                try:
                    await self._session(wire)
                finally:
                    self._wire = None
                    self.caught_up = False
                    await wire.close()
            except WireClosed as closed:
                if closed.final and closed.code != 4409:  # an old connection may still be dying on the server
                    self._found("closed for good", f"{self.name}: {closed.code} {closed.reason}")
            await asyncio.sleep(self._dice.random() * RETRY_S_MAX)

    async def _session(self, wire: Wire) -> None:
        """One connection, to its end. Raises: WireClosed."""
        self.connects += 1
        connection = str(self.connects)
        watermarks = dict(self.held)
        self._record.asked(connection)
        await self._write(
            wire,
            protocol.Hello(
                token=self._token, incarnation=self._incarnation, since=self._since, watermarks=watermarks or None
            ),
        )
        welcome = await self._welcome(wire)
        self._incarnation = welcome.incarnation
        self._record.opened(connection, welcome.incarnation, reset=welcome.reset, watermarks=watermarks)
        try:
            if welcome.reset:
                self._found("reset", f"{self.name}: at {watermarks}")
                self.held, self._since = {}, None
            self._acked, self._n, self._unsent = dict(self.held), 0, list(self.outbox)
            self._wire = wire
            await self._write_unsent(wire)
            while True:
                data = await wire.receive()
                if data is not None and (frame := protocol.decode_server(data)) is not None:
                    self._record.received(connection, frame)
                    await self._take(wire, frame)
        finally:
            self._record.closed(connection)
            for id_, (conv, _) in self.outbox.items():
                self._record.unknown(conv, id_)

    async def _welcome(self, wire: Wire) -> protocol.Welcome:
        try:
            async with asyncio.timeout(WELCOME_S_MAX):
                while (data := await wire.receive()) is None:
                    continue
        except TimeoutError as exc:
            raise WireClosed(4408, "no welcome in time") from exc
        frame = protocol.decode_server(data)
        if isinstance(frame, protocol.Welcome):
            return frame
        if not isinstance(frame, protocol.Error):
            self._found("no welcome", f"{self.name}: {frame} came before it")
        raise WireClosed(1006, f"instead of welcome: {frame}")

    async def _take(self, wire: Wire, frame: protocol.ServerFrame) -> None:
        match frame:
            case protocol.Messages():
                self.held[frame.conv] = frame.messages[-1].seq
                await self._maybe_ack(wire, frame.conv)
            case protocol.Sent():
                self.outbox.pop(frame.id, None)
                if not frame.duplicate:
                    self.held[frame.conv] = frame.seq
                    await self._maybe_ack(wire, frame.conv)
            case protocol.CaughtUp():
                self._since = frame.since
                self.caught_up = True
            case protocol.Error() if frame.temporary:
                raise WireClosed(1006, f"refused for now: {frame.code}")  # all is sent again, in order
            case protocol.Error():
                self._found("refused", f"{self.name}: {frame}")
                self.outbox.pop(frame.id or "", None)

    async def _maybe_ack(self, wire: Wire, conv: str) -> None:
        seq = self.held[conv]
        if self._lazy and seq - self._acked.get(conv, 0) < UNACKED_MAX and self._dice.random() < 0.6:
            return
        await self._ack(wire, conv, seq)

    async def _ack(self, wire: Wire, conv: str, seq: int) -> None:
        read = self._dice.random() < 0.3
        self._acked[conv] = seq
        self._record.marked(conv, seq, read=read)
        await self._write(wire, protocol.Read(conv=conv, seq=seq) if read else protocol.Ack(conv=conv, seq=seq))

    async def _write_unsent(self, wire: Wire) -> None:
        while self._unsent:
            id_ = self._unsent.pop(0)
            if id_ in self.outbox:
                conv, body = self.outbox[id_]
                self._record.invoke(conv, id_, body)
                self._n += 1
                await self._write(wire, protocol.Send(id=id_, conv=conv, body=body, n=self._n))

    async def _write(self, wire: Wire, frame: protocol.ClientFrame) -> None:
        await wire.send(protocol.encode(frame))
