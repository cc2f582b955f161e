"""Push without a server: a store that is told what to refuse, a notifier that follows a script, virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from chatd.metrics import Metrics
from chatd.model import (
    Advance,
    Appended,
    Grown,
    Message,
    Owed,
    Pushed,
    Subscription,
    Unpushed,
    UnpushedPage,
    conv_of,
    members_of,
)
from chatd.push.base import Notifier, Outcome, Payload
from chatd.push.sender import Sender
from chatd.push.service import Push
from chatd.settings import PushSettings
from chatd.store.base import PushStore
from chatd.testing.virtual_time import VirtualLoop

START_MS = 1_760_000_000_000
DELIVERED = Outcome("delivered")
Script = Callable[[Payload, Subscription | None], "Outcome | Awaitable[Outcome]"]


class FakeStore:
    """What push asks of a store. ``fails``: method → what it raises; ``held``: writes of marks wait for it."""

    def __init__(self) -> None:
        self.logs: defaultdict[str, list[Message]] = defaultdict(list)
        self.delivered: dict[tuple[str, str], int] = {}
        self.marks: dict[tuple[str, str], int] = {}
        self.mark_calls: list[list[Pushed]] = []
        self.subscribed: defaultdict[str, dict[str, Subscription]] = defaultdict(dict)
        self.fails: dict[str, BaseException] = {}
        self.calls: Counter[str] = Counter()
        self.held: asyncio.Event | None = None

    def subscribe(self, user: str, device: str, *, endpoint: str = "", kind: str = "fake") -> None:
        endpoint = endpoint or f"https://{device}.example/{user}"
        self.subscribed[user][device] = Subscription(user, device, kind, endpoint, {}, 0)

    def _call(self, name: str) -> None:
        self.calls[name] += 1
        if name in self.fails:
            raise self.fails[name]

    async def subscriptions(self, user: str, now_ms: int) -> Sequence[Subscription]:
        self._call("subscriptions")
        return list(self.subscribed[user].values())

    async def remove_subscription(self, user: str, device: str, endpoint: str | None = None) -> bool:
        self._call("remove_subscription")
        if device in self.subscribed[user] and self.subscribed[user][device].endpoint == endpoint:
            del self.subscribed[user][device]
            return True
        return False

    async def owed(self, conv: str, user: str) -> Owed:
        self._call("owed")
        new = self._new(conv, user)
        return Owed(new[-1] if new else None, len(new), len(new))

    def _new(self, conv: str, user: str) -> list[Message]:
        told = max(self.delivered.get((conv, user), 0), self.marks.get((conv, user), 0))
        return [m for m in self.logs[conv] if m.sender != user and not m.hidden and m.seq > told]

    async def badge(self, user: str) -> int:
        self._call("badge")
        return 0

    async def pushed(self, marks: Sequence[Pushed]) -> None:
        self.mark_calls.append(list(marks))
        if self.held is not None:
            await self.held.wait()
        self._call("pushed")
        for one in marks:
            self.marks[one.conv, one.user] = max(self.marks.get((one.conv, one.user), 0), one.seq)

    async def unpushed(
        self, *, cursor: str | None = None, limit: int, newer_than_ms: int, every_user: bool
    ) -> UnpushedPage:
        self._call("unpushed")
        rows = [
            Unpushed(conv, user, new[-1].seq, 0)
            for conv in list(self.logs)
            for user in members_of(conv) or ()
            if (every_user or self.subscribed[user]) and (new := self._new(conv, user))
        ]
        return UnpushedPage(tuple(rows))


class FakeNotifier:
    """Does what ``script`` says. ``sent``: (virtual seconds, device, payload) of every attempt."""

    def __init__(self, *, every_user: bool = False) -> None:
        self.every_user = every_user
        self.public: dict[str, str] = {}
        self.sent: list[tuple[float, str, Payload]] = []
        self.script: Script = lambda payload, subscription: DELIVERED
        self.closed = False

    def check(self, endpoint: str, keys: dict[str, str]) -> None:
        """Everything has its form."""

    async def send(self, payload: Payload, subscription: Subscription | None, ttl_s: int) -> Outcome:
        now_s = asyncio.get_running_loop().time()
        self.sent.append((now_s, "" if subscription is None else subscription.device, payload))
        outcome = self.script(payload, subscription)
        return outcome if isinstance(outcome, Outcome) else await outcome

    async def close(self) -> None:
        self.closed = True

    def times(self, device: str = "phone") -> list[float]:
        """When a device was tried, to the hundredth of a second."""
        return [round(at_s, 2) for at_s, who, _ in self.sent if who == device]

    def keys(self) -> list[str]:
        return [payload.key for _, _, payload in self.sent]


class Rig:
    """Push over a `FakeStore` and one notifier of kind ``fake``; chance is always 0.5."""

    def __init__(self, settings: PushSettings | None = None, *, every_user: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self.now_s = loop.time
        self.store = FakeStore()
        self.notifier = FakeNotifier(every_user=every_user)
        self.metrics = Metrics()
        self.here: set[str] = set()
        self.broken: list[BaseException] = []
        self.settings = settings or PushSettings()
        store, notifiers = cast("PushStore", self.store), {"fake": cast("Notifier", self.notifier)}
        self.sender = Sender(store, notifiers, self.settings, self.metrics, now_ms=self.now_ms)
        self.push = Push(
            store,
            self.sender,
            self.settings,
            self.metrics,
            connected=self.here.__contains__,
            now_s=self.now_s,
            now_ms=self.now_ms,
            random=lambda: 0.5,
            on_broken=self.broken.append,
        )

    def now_ms(self) -> int:
        return START_MS + int(self.now_s() * 1000)

    def message(self, *, to: str = "bob", sender: str = "alice", hidden: bool = False) -> None:
        """A message is committed now."""
        conv = conv_of(sender, to)
        seq = len(self.store.logs[conv]) + 1
        message = Message(conv, seq, f"id-{seq}", sender, f"word {seq}", self.now_ms(), hidden)
        self.store.logs[conv].append(message)
        self.push.message(Appended(message), None)

    def acknowledge(self, conv: str, user: str, delivered: int, read: int = 0, *, device: str = "desk") -> None:
        """A device's marks are committed now."""
        self.store.delivered[conv, user] = max(delivered, read)
        grown = Grown(conv, user, max(delivered, read), read, True, False)
        self.push.receipt(grown, [Advance(conv, user, device, delivered, read)])

    async def until(self, at_s: float) -> None:
        """Let the clock run to there, and everything that is due then happen."""
        await asyncio.sleep(max(0.0, at_s - self.now_s()))
        for _ in range(20):
            await asyncio.sleep(0)


def virtual(scenario: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """A test in virtual time."""

    def test() -> None:
        async def run() -> None:
            await scenario()

        loop = VirtualLoop()
        try:
            loop.run_until_complete(run())
        finally:
            loop.close()

    test.__name__ = getattr(scenario, "__name__", "test")
    return test
