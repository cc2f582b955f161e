"""One notification to one place: who is to get it, and one bounded attempt."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import structlog
from msgspec import Struct

from chatd.errors import OutcomeUnknown, Refusal
from chatd.metrics import Metrics
from chatd.model import Subscription
from chatd.push.base import Notifier, Outcome, Payload
from chatd.settings import PushSettings
from chatd.store.base import PushStore

NOT_SUBSCRIBED_CACHED_MAX = 50_000
HOST_SHARE = 0.75
HOST_AGAIN_S = 1.0

CROWDED = Outcome("later", "its push service has too many under way", HOST_AGAIN_S)
"""It was not tried, for want of a slot and not by its fault."""

log = structlog.get_logger("chatd.push")


class Target(Struct, frozen=True):
    """Where one notification goes: a device's subscription, or a notifier that gets every user's (None)."""

    kind: str
    subscription: Subscription | None

    @property
    def name(self) -> tuple[str, str, str]:
        """What it is called while the process lives; another endpoint is another target."""
        one = self.subscription
        return (self.kind, "", "") if one is None else (self.kind, one.device, one.endpoint)


class Sender:
    """The notifiers, and what is known of who has none."""

    def __init__(
        self,
        store: PushStore,
        notifiers: Mapping[str, Notifier],
        settings: PushSettings,
        metrics: Metrics,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._notifiers = notifiers
        self._settings = settings
        self._metrics = metrics
        self._now_ms = now_ms
        self.every_user = [kind for kind, one in notifiers.items() if one.every_user]
        self._not_subscribed: OrderedDict[str, None] = OrderedDict()
        self._subscribed = 0  # how often somebody did
        self._hosts: Counter[str] = Counter()  # sends under way
        self._complained: set[str] = set()  # kinds whose notifier raised: told once each

    def is_in_vain(self, user: str) -> bool:
        """Whether this user is known to have nowhere to be told."""
        return user in self._not_subscribed

    def subscribed(self, user: str) -> None:
        """A user has a subscription now."""
        self._not_subscribed.pop(user, None)
        self._subscribed += 1

    async def close(self) -> None:
        """Close the notifiers, each whatever becomes of the others."""
        for kind, notifier in self._notifiers.items():
            try:
                await notifier.close()
            except Exception as exc:
                log.exception("notifier_not_closed", kind=kind, exc_info=exc)

    async def targets(self, user: str) -> dict[object, Target]:
        """Where this user is to be told: its subscriptions, and who hears of every user."""
        targets = [Target(kind, None) for kind in self.every_user]
        subscribed = self._subscribed
        subscriptions = await self._store.subscriptions(user, self._now_ms())
        targets += [Target(one.kind, one) for one in subscriptions if one.kind in self._notifiers]
        if not targets and subscribed == self._subscribed:  # else it may be this user who did meanwhile
            self._not_subscribed[user] = None
            if len(self._not_subscribed) > NOT_SUBSCRIBED_CACHED_MAX:
                self._not_subscribed.popitem(last=False)
        return {target.name: target for target in targets}

    async def send(self, payload: Payload, target: Target, ttl_s: int) -> Outcome:
        """One attempt, with a bound on its time and on how many one push service may hold up."""
        one = target.subscription
        host = target.kind if one is None else _host(one.endpoint)
        if self._hosts[host] >= max(1, int(self._settings.sends_max * HOST_SHARE)):
            return CROWDED
        self._hosts[host] += 1
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                outcome = await self._notifiers[target.kind].send(payload, one, ttl_s)
            if not isinstance(outcome, Outcome):
                raise TypeError(f"a notifier returned {type(outcome).__name__}, not an Outcome")
        except TimeoutError:
            outcome = Outcome("later", f"no answer within {self._settings.timeout_s:g} s")
        except Exception as exc:  # others' code: whatever it raises, it is tried again
            if target.kind not in self._complained:
                self._complained.add(target.kind)
                log.exception("notifier_failed", kind=target.kind, exc_info=exc)
            outcome = Outcome("later", f"{type(exc).__name__}: {exc}")
        finally:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
        if outcome.result == "gone" and one is not None:
            self._metrics.push_gone += 1
            await self._remove(one)
        if outcome.result != "delivered":
            tell = log.debug if outcome.result == "later" else log.info  # a service that is down is told by the metrics
            tell("push_not_delivered", kind=target.kind, host=host, result=outcome.result, reason=outcome.reason)
        return outcome

    async def _remove(self, one: Subscription) -> None:
        try:
            await self._store.remove_subscription(one.user, one.device, one.endpoint)
        except (Refusal, OutcomeUnknown) as exc:  # the next notification finds it dead again
            self._metrics.store_failed(exc)
            log.warning("subscription_stays", error=str(exc), user=one.user, device=one.device)


def _host(endpoint: str) -> str:
    """What is shared by the subscriptions of one push service. An endpoint need not be a URL."""
    try:
        return urlsplit(endpoint).netloc
    except ValueError:
        return ""
