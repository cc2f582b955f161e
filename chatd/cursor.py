"""What one device was sent and has acknowledged: a position in each log, within one window. Pure.

A live message goes out at once when it is the next one of its log and the window is open. Everything else makes the
log *behind*: it is read from the store when there is room. So a slow device costs a number, never a queue.
"""

from __future__ import annotations

UNKNOWN = -1
LOGS_MAX = 10_000


class _Log:
    __slots__ = ("acked", "confirmed", "head", "others", "sent")

    def __init__(self, position: int, head: int) -> None:
        self.sent = position
        self.others = position  # the last that was sent as `messages`: what follows is the device's own
        self.acked = position  # for the window: own messages count as held when nothing before them is in flight
        self.confirmed = position  # what the device itself said
        self.head = head


class Cursor:
    """One connection's place in every log it has met.

    ``window_messages_max``: messages in flight (sent, not acknowledged) over all logs. ``congested``: the socket owes
    its client too much; nothing new goes out until it drains.
    """

    __slots__ = ("_behind", "_logs", "_window", "congested", "in_flight")

    def __init__(self, window_messages_max: int) -> None:
        self._window = window_messages_max
        self._logs: dict[str, _Log] = {}
        self._behind: dict[str, None] = {}  # an ordered set: first fallen behind, first read
        self.in_flight = 0
        self.congested = False

    @property
    def behind(self) -> bool:
        """Whether any log has messages that this device was not sent."""
        return bool(self._behind)

    @property
    def room(self) -> int:
        """Messages that may still be sent before the device must acknowledge some."""
        return 0 if self.congested else max(0, self._window - self.in_flight)

    @property
    def logs(self) -> int:
        """Conversations that are remembered, at most LOGS_MAX after `trim`."""
        return len(self._logs)

    def start(self, conv: str, position: int, head: int = 0) -> None:
        """Place the cursor of a log; what is between position and head is missing. A log that moved stays."""
        log = self._logs.get(conv)
        if log is None:
            log = self._logs[conv] = _Log(position, max(position, head))
        elif log.sent == UNKNOWN:
            log.sent = log.others = log.acked = log.confirmed = position
            log.head = max(log.head, position, head)
        else:
            log.head = max(log.head, head)
        if log.head > log.sent:
            self._behind[conv] = None
        else:
            self._behind.pop(conv, None)

    def knows(self, conv: str) -> bool:
        """Whether the position in this log is known."""
        log = self._logs.get(conv)
        return log is not None and log.sent != UNKNOWN

    def offer(self, conv: str, seq: int) -> bool:
        """A message was committed. True: send it now, it counts as sent. False: it was sent before, or must wait."""
        log = self._logs.get(conv)
        if log is None:
            log = self._logs[conv] = _Log(UNKNOWN, seq)
            self._behind[conv] = None
            return False
        if seq > log.head:
            log.head = seq
        if conv in self._behind:
            return False
        if seq != log.sent + 1 or self.congested or self.in_flight >= self._window:
            if seq > log.sent:
                self._behind[conv] = None
            return False
        log.sent = log.others = seq
        self.in_flight += 1
        return True

    def own(self, conv: str, seq: int) -> bool:
        """This device's own send was committed. True: its ``sent`` is its delivery. False: the log is behind."""
        log = self._logs.get(conv)
        if log is None and seq == 1:
            log = self._logs[conv] = _Log(0, 0)
        if log is None or conv in self._behind or seq != log.sent + 1:
            self.offer(conv, seq)
            return False
        log.head = max(log.head, seq)
        if log.acked == log.sent:
            log.acked = seq
        else:
            self.in_flight += 1
        log.sent = seq
        return True

    def ack(self, conv: str, seq: int) -> bool:
        """The device holds everything up to seq. True: a log is behind and there is room to read it now."""
        log = self._logs.get(conv)
        if log is not None and log.sent != UNKNOWN:
            held = min(seq, log.sent)
            log.confirmed = max(log.confirmed, held)
            if held >= log.others:
                held = log.sent  # only own messages follow, and who sent them holds them
            if held > log.acked:
                self.in_flight -= held - log.acked
                log.acked = held
        return bool(self._behind) and self.room > 0

    def next(self) -> tuple[str, int] | None:
        """The log to read next and the position to read after (UNKNOWN: ask the store first); None: nothing to do."""
        if not self._behind or self.room == 0:
            return None
        conv = next(iter(self._behind))
        return conv, self._logs[conv].sent

    def postpone(self) -> None:
        """The log to read next cannot be read now: the others come first."""
        if self._behind:
            conv = next(iter(self._behind))
            del self._behind[conv]
            self._behind[conv] = None

    def took(self, conv: str, last: int) -> None:
        """The log was read and sent up to ``last``; nothing came: ``last`` is where it stood."""
        log = self._logs[conv]
        self.in_flight += last - log.sent
        empty = last == log.sent
        log.sent = log.others = last
        del self._behind[conv]
        if log.head > last and not empty:
            self._behind[conv] = None  # to the end of the line: no log starves the others

    def trim(self) -> bool:
        """Forget logs with nothing in flight until LOGS_MAX remain. False: too many cannot be forgotten."""
        if len(self._logs) > LOGS_MAX:
            for conv, log in list(self._logs.items()):
                if log.confirmed == log.sent and conv not in self._behind:
                    del self._logs[conv]
                    if len(self._logs) <= LOGS_MAX:
                        break
        return len(self._logs) <= LOGS_MAX
