"""A device of the model: a client that does what docs/protocol.md asks of it, and believes nothing it is told."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING

from chatd import protocol
from chatd.connection import Connection
from chatd.model import peer_of

if TYPE_CHECKING:
    from test_core_model import World


class FakeWire:
    """What the server wrote waits in ``frames`` until the client takes it. Nothing uncommitted may be among it."""

    def __init__(self, world: World, device: Device) -> None:
        self.frames: deque[protocol.ServerFrame] = deque()
        self.closed: int | None = None
        self._world = world
        self._device = device

    def write(self, payload: bytes) -> None:
        frame = protocol.decode_server(payload)
        assert frame is not None
        try:
            self._judge(frame)
        except AssertionError as exc:  # the sequencer guards itself against a wire that fails: the machine looks here
            self._world.violations.append(f"{self._device.user}/{self._device.name}: {exc or frame}")
        self.frames.append(frame)

    def close(self, code: int, reason: str) -> None:
        self.closed = code

    def hold(self, on: bool) -> None:
        """Frames that come all the same wait inside the connection."""

    def _judge(self, frame: protocol.ServerFrame) -> None:
        reference, viewer = self._world.reference, self._device.user
        match frame:
            case protocol.Messages():
                ends = [(entry.first or entry.seq, entry.seq) for entry in frame.messages]
                assert all(first == last + 1 for (_, last), (first, _) in pairwise(ends)), frame
                assert all(reference.entry_is_right(frame.conv, e, viewer) for e in frame.messages), frame
            case protocol.Sent():
                sender, id_, _, _ = reference.log[frame.conv][frame.seq - 1]
                assert (sender, id_) == (viewer, frame.id)
            case protocol.Receipt():
                self._judge_marks(frame.conv, frame.user, frame.delivered, frame.read)
            case protocol.ConversationList():
                for row in frame.conversations:
                    assert row.head <= len(reference.log[row.conv])
                    self._judge_marks(row.conv, viewer, row.delivered, row.read)
                    self._judge_marks(row.conv, row.peer, row.peer_delivered, row.peer_read)

    def _judge_marks(self, conv: str, user: str, delivered: int, read: int) -> None:
        most = self._world.reference.told(conv, user, self._device.user)
        assert delivered <= most[0], f"{user} in {conv}: {delivered} was told, {most[0]} is committed"
        assert read <= most[1]
        assert read <= delivered


class Device:
    """``held``: the last seq of each log. ``outbox``: id → (conv, body), in order. ``marks``: what it was told."""

    def __init__(self, world: World, user: str, name: str) -> None:
        self.user = user
        self.name = name
        self.held: dict[str, int] = {}
        self.outbox: dict[str, tuple[str, str]] = {}
        self.asked: dict[str, list[tuple[str, int]]] = {}  # conv: (id, what was held then), in order of the first time
        self.acked_ids: dict[str, tuple[str, int]] = {}
        self.reused: set[str] = set()
        self.reuse_answers = 0
        self.marks: dict[tuple[str, str], tuple[int, int]] = {}
        self.said: dict[str, tuple[int, int]] = {}  # own ack and read by conversation
        self.said_here: dict[str, tuple[int, int]] = {}  # on this connection
        self.caught_up = False
        self.stuck = False  # the server waits for a send that is answered: a new connection clears that
        self.wire: FakeWire | None = None
        self._connection: Connection | None = None
        self._acked: dict[str, int] = {}
        self._due: dict[str, int] = {}  # what was committed when it said hello
        self._since: str | None = None
        self._welcomed = False
        self._world = world

    # --- what it does ---

    def connect(self) -> None:
        """A new connection; an open one is left as it is, as when only the network knows that it is dead."""
        self.wire = FakeWire(self._world, self)
        self._connection = Connection(self._world.server.sockets.services, self.wire)
        self._world.connections.append(self._connection)
        self.caught_up = self.stuck = self._welcomed = False
        self._acked = dict(self.held)
        self._due = {c: len(log) for c, log in self._world.reference.log.items() if peer_of(c, self.user) is not None}
        self.said_here = {conv: (seq, 0) for conv, seq in self.held.items()}
        for conv, seq in self.held.items():
            self.said[conv] = (seq, self.said.get(conv, (0, 0))[1])
        self._tell(
            protocol.Hello(
                token=self._world.tokens[self.user, self.name],
                incarnation="i1",
                since=self._since,
                watermarks=dict(self.held) or None,
            )
        )
        self.resend()

    def lose(self) -> None:
        """The connection is cut, with everything that is under way to the client."""
        if self._connection is not None:
            self._connection.lost()
        self._gone()

    def _gone(self) -> None:
        self.wire = self._connection = None
        self.caught_up = False
        self.said_here = {}

    def send(self, conv: str, id_: str, body: str) -> None:
        """A new message."""
        self.outbox[id_] = (conv, body)
        self.asked.setdefault(conv, []).append((id_, self.held.get(conv, 0)))
        self._send(id_, conv, body)

    def resend(self) -> None:
        """All that is unanswered once more, in order."""
        for id_, (conv, body) in self.outbox.items():
            self._send(id_, conv, body)

    def reuse(self, id_: str) -> None:
        """An acked message's id with another body."""
        self.reused.add(id_)
        self._send(id_, self.acked_ids[id_][0], "another body")

    def ack(self, *, read: bool) -> None:
        """Say what is held and was not said on this connection; ``read``: all of it."""
        if self._connection is None:
            return
        for conv, seq in self.held.items():
            if read or seq > self._acked.get(conv, 0):
                self._acked[conv] = seq
                before = self.said.get(conv, (0, 0))
                self.said[conv] = (seq, seq if read else before[1])
                self.said_here[conv] = (seq, seq if read else self.said_here.get(conv, (0, 0))[1])
                self._tell(protocol.Read(conv=conv, seq=seq) if read else protocol.Ack(conv=conv, seq=seq))

    def congest(self, on: bool) -> None:
        """The socket is full, or drains."""
        if self._connection is not None and self._welcomed:
            self._connection.congested(on)

    def _send(self, id_: str, conv: str, body: str) -> None:
        self._tell(protocol.Send(id=id_, conv=conv, body=body))

    def _tell(self, frame: protocol.ClientFrame) -> None:
        if self._connection is not None and self.wire is not None and self.wire.closed is None:
            self._connection.receive(protocol.encode(frame))

    # --- what it hears ---

    def take(self, count: int) -> None:
        """The next frames arrive, and after them the end if the server closed."""
        wire = self.wire
        while count and wire is not None and wire.frames:
            count -= 1
            self._take(wire.frames.popleft())
        if wire is not None and not wire.frames and wire.closed is not None:
            assert wire.closed == 4409  # an older hello of this device took longer to be checked than this one
            self._gone()

    def _take(self, frame: protocol.ServerFrame) -> None:
        if not self._welcomed:
            if isinstance(frame, protocol.Error):
                assert frame.temporary, frame
                return
            assert isinstance(frame, protocol.Welcome), f"{frame} came before welcome"
            assert not frame.reset
            self._welcomed = True
            return
        match frame:
            case protocol.Messages():
                for entry in frame.messages:
                    self._next(frame.conv, entry.seq, entry.first)
            case protocol.Sent():
                self.outbox.pop(frame.id, None)
                first = self.acked_ids.setdefault(frame.id, (frame.conv, frame.seq))
                assert first == (frame.conv, frame.seq), "an id was answered with another seq"
                if not frame.duplicate:
                    self._next(frame.conv, frame.seq)
            case protocol.Receipt():
                self._hear(frame.conv, frame.user, frame.delivered, frame.read)
            case protocol.ConversationList():
                for row in frame.conversations:
                    self._hear(row.conv, self.user, row.delivered, row.read)
                    self._hear(row.conv, row.peer, row.peer_delivered, row.peer_read)
            case protocol.CaughtUp():
                assert not self.caught_up
                assert all(self.held.get(conv, 0) >= head for conv, head in self._due.items()), "caught up, and is not"
                self.caught_up, self._since = True, frame.since
            case protocol.Error():
                self._refused(frame)
            case _:
                raise AssertionError(f"nobody asked for {frame}")

    def _next(self, conv: str, seq: int, first: int | None = None) -> None:
        assert peer_of(conv, self.user) is not None
        assert (first or seq) == self.held.get(conv, 0) + 1, f"{conv}: #{seq} came after #{self.held.get(conv, 0)}"
        self.held[conv] = seq

    def _hear(self, conv: str, user: str, delivered: int, read: int) -> None:
        before = self.marks.get((conv, user), (0, 0))
        assert delivered >= before[0], f"{user} in {conv}: {delivered} after {before[0]}"
        assert read >= before[1]
        self.marks[conv, user] = (delivered, read)

    def _is_trimmed(self, id_: str | None) -> bool:
        conv, seq = self.acked_ids.get(id_ or "", ("", 1))
        return seq <= self._world.reference.trimmed[conv]

    def _refused(self, error: protocol.Error) -> None:
        if error.code == "id_reuse":
            assert error.id in self.reused or self._is_trimmed(error.id)
            self.reuse_answers += 1
        else:
            assert error.temporary, error
            assert error.code in ("unavailable", "out_of_order"), error
            first = next((id_ for id_, (conv, _) in self.outbox.items() if conv == error.conv), None)
            self.stuck = self.stuck or (error.code == "out_of_order" and error.id == first)
