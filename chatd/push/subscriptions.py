"""Who wants to be notified, and how: what a device subscribes with, checked by the notifier of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from chatd.errors import NotFound, Unsupported
from chatd.model import Subscription
from chatd.push.base import Notifier
from chatd.store.base import PushStore


class Subscriptions:
    """The subscriptions of the store. ``missing``: lines about notifiers that cannot be had, and the way out.

    ``on_subscribed`` hears of a user who has one more. Errors of the store pass through every method.
    """

    def __init__(
        self,
        store: PushStore,
        notifiers: Mapping[str, Notifier],
        missing: Sequence[str],
        *,
        now_ms: Callable[[], int],
        on_subscribed: Callable[[str], None],
    ) -> None:
        self._store = store
        self._notifiers = notifiers
        self._missing = missing
        self._now_ms = now_ms
        self._on_subscribed = on_subscribed

    async def kinds(self) -> dict[str, dict[str, str]]:
        """The kinds that a device may subscribe with, and what a client needs to know for each."""
        return {kind: dict(one.public) for kind, one in sorted(self._notifiers.items()) if not one.every_user}

    async def subscribe(self, user: str, device: str, kind: str, endpoint: str, keys: dict[str, str]) -> None:
        """Set the subscription of a device, in place of an older one.

        Raises: Unsupported – no such kind here; BadFrame – its notifier does not take it; NotFound – no such device.
        """
        notifier = self._notifiers.get(kind)
        if notifier is None or notifier.every_user:
            why = next((line for line in self._missing if line.startswith(f"{kind}:")), "see GET /v1/push")
            raise Unsupported(f"no subscriptions of kind {kind[:64]!a} here: {why}")
        notifier.check(endpoint, keys)
        made = Subscription(user, device, kind, endpoint, keys, self._now_ms())
        if not await self._store.put_subscription(made):
            raise NotFound("no such device")
        self._on_subscribed(user)

    async def of(self, user: str, device: str) -> Subscription:
        """The subscription of a device. Raises: NotFound."""
        for one in await self._store.subscriptions(user, self._now_ms()):
            if one.device == device:
                return one
        raise NotFound("this device has no subscription")

    async def unsubscribe(self, user: str, device: str) -> None:
        """Remove it. Raises: NotFound."""
        if not await self._store.remove_subscription(user, device):
            raise NotFound("this device has no subscription")
