"""Fan-out: who is connected here, and what of a commit goes to whom. No await, no task a device, encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Protocol

from msgspec.structs import replace

from chatd import protocol
from chatd.errors import Overloaded
from chatd.metrics import Metrics
from chatd.model import Advance, Appended, Grown, Message, members_of
from chatd.presence.service import Listener

MARKS_TOLD_MAX = 100_000


class Recipient(Listener, Protocol):
    """A connected device as delivery sees it."""

    def live(self, message: Message, payload: bytes) -> None:
        """A committed message; ``payload`` is its frame."""

    def receipt(self, grown: Grown, payload: bytes) -> None:
        """A user's marks grew; ``payload`` is the frame."""

    @property
    def since_us(self) -> int:
        """When it said hello, Unix µs: two hellos may be less than a millisecond apart."""

    def reconcile(self) -> None:
        """Hints may have been lost: look into the store for what this device lacks."""

    def end(self, code: int, reason: str) -> None:
        """Close the connection."""


class Delivery:
    """The connected devices of this process, by user."""

    def __init__(self, metrics: Metrics, *, connections_per_user_max: int) -> None:
        self._metrics = metrics
        self._latencies = metrics.latencies
        self._per_user_max = connections_per_user_max
        self._users: dict[str, dict[str, Recipient]] = {}
        self._told: OrderedDict[tuple[str, str], tuple[int, int]] | None = None

    def add(self, one: Recipient) -> None:
        """A device came; an older connection of the same device is closed. Raises: Overloaded – too many."""
        devices = self._users.setdefault(one.user, {})
        old = devices.pop(one.device, None)
        if len(devices) >= self._per_user_max:
            raise Overloaded("this user has too many connections", retry_after_ms=5_000)
        devices[one.device] = one
        if old is not None:
            old.end(4409, "the same device connected again")

    def remove(self, one: Recipient) -> None:
        """A device went; nothing happens if another connection took its place."""
        devices = self._users.get(one.user)
        if devices is not None and devices.get(one.device) is one:
            del devices[one.device]
            if not devices:
                del self._users[one.user]

    @property
    def users(self) -> int:
        """Users with a connection here."""
        return len(self._users)

    def has(self, user: str) -> bool:
        """Whether a device of this user is connected."""
        return user in self._users

    def connected(self, user: str | None = None) -> Iterator[Recipient]:
        """The devices connected now, of one user or of all."""
        for devices in [self._users.get(user, {})] if user is not None else list(self._users.values()):
            yield from list(devices.values())

    def end(self, user: str, device: str | None, code: int) -> None:
        """Close a user's connections, or one device's."""
        for one in self.connected(user):
            if device is None or one.device == device:
                one.end(code, protocol.CLOSE_CODES[code].meaning)

    def message(self, result: Appended, origin: object) -> None:
        """A new message, to every device of both users but the one that sent it."""
        message, weight = result.message, self._metrics.weight
        payloads: dict[bool, bytes] = {}
        for user in dict.fromkeys(members_of(message.conv) or ()):
            devices = self._users.get(user)
            if devices is None:
                continue
            whole = not message.hidden or user == message.sender
            if weight and user != message.sender and whole:
                self._latencies.live(message.conv, user, message.seq, weight=weight)
            for one in list(devices.values()) if len(devices) > 1 else devices.values():
                if one is origin:
                    continue
                payload = payloads.get(whole)
                if payload is None:
                    payload = payloads[whole] = protocol.encode(protocol.messages(message.conv, (message,), user))
                one.live(message, payload)

    def message_to(self, user: str, message: Message) -> None:
        """A message that another process committed, to the devices of one user here."""
        devices = self._users.get(user)
        if devices is not None:
            if user != message.sender and not message.hidden and (weight := self._metrics.pick()):
                self._latencies.live_elsewhere(user, message, weight=weight)
            payload = protocol.encode(protocol.messages(message.conv, (message,), user))
            for one in list(devices.values()):
                one.live(message, payload)

    def remember_marks(self) -> None:
        """From now on marks also come from other processes, in any order: what was told is not to be taken back."""
        self._told = OrderedDict()

    def _not_less(self, user: str, grown: Grown) -> Grown | None:
        """These marks, and what ``user``'s devices were told of them before; None: they say nothing new."""
        if self._told is None:
            return grown
        key = (user, f"{grown.conv} {grown.user}")
        delivered, read = self._told.get(key, (0, 0))
        if grown.delivered <= delivered and grown.read <= read:
            return None
        new = (max(delivered, grown.delivered), max(read, grown.read))
        self._told[key] = new
        self._told.move_to_end(key)
        if len(self._told) > MARKS_TOLD_MAX:
            self._told.popitem(last=False)
        return replace(grown, delivered=new[0], read=new[1])

    def receipt_to(self, user: str, grown: Grown, know: frozenset[str]) -> None:
        """Marks that grew in another process, to the devices of one user here but those that know."""
        if user == grown.user:
            self._latencies.heard(grown.conv, user, grown.delivered, grown.read)
        told = self._not_less(user, grown)
        if told is None:
            return
        grown = told
        frame = protocol.Receipt(conv=grown.conv, user=grown.user, delivered=grown.delivered, read=grown.read)
        payload = protocol.encode(frame)
        for one in list(self._users.get(user, {}).values()):
            if user != grown.user or one.device not in know:
                self._metrics.receipts_sent += 1
                one.receipt(grown, payload)

    def replaced(self, user: str, device: str, at_us: int) -> None:
        """A device connected to another process: an older connection of it here is closed."""
        one = self._users.get(user, {}).get(device)
        if one is not None and one.since_us < at_us:
            one.end(4409, protocol.CLOSE_CODES[4409].meaning)

    def receipt(self, grown: Grown, advances: Sequence[Advance]) -> None:
        """Marks that grew, to every device of both users but those that know: whose own ack is the user's mark now."""
        self._latencies.grew(grown.conv, grown.user, grown.delivered, grown.read)
        know = {a.device for a in advances if max(a.delivered, a.read) >= grown.delivered and a.read >= grown.read}
        payload = b""
        if self._told is not None:
            for user in dict.fromkeys(members_of(grown.conv) or ()):
                if not grown.private or user == grown.user:
                    self.receipt_to(user, grown, frozenset(know))
            return
        for user in dict.fromkeys(members_of(grown.conv) or ()):
            if grown.private and user != grown.user:
                continue
            for one in list(self._users.get(user, {}).values()):
                if user == grown.user and one.device in know:
                    continue
                if not payload:
                    frame = protocol.Receipt(
                        conv=grown.conv, user=grown.user, delivered=grown.delivered, read=grown.read
                    )
                    payload = protocol.encode(frame)
                self._metrics.receipts_sent += 1
                one.receipt(grown, payload)
