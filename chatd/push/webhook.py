"""One webhook for all users: every notification is posted to a program of the operator's own, which may talk to APNs or
FCM. Signed as the Standard Webhooks specification says (https://www.standardwebhooks.com), so any of its libraries
can check it, or `verify` here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping

import msgspec

from chatd.errors import BadFrame, ConfigError
from chatd.model import Subscription
from chatd.push.base import Context, Outcome, Payload
from chatd.push.guard import Guard

TOLERANCE_S = 300
"""A receiver takes a request whose time differs from its own by at most this: an old one may be a replay."""

_PREFIX = "whsec_"
# There is no subscription that could be gone: a receiver that is not there may come back.
_SPECIAL = {404: Outcome("later", "no such page"), 410: Outcome("refused", "gone")}


class BadSignature(ValueError):
    """A request is not from the holder of the secret, or too old; the message says which."""


async def make(context: Context) -> Webhook | None:
    """A `chatd.push.base.Factory`. None: push.webhook_url is empty. Raises: ConfigError."""
    settings = context.settings
    if not settings.webhook_url:
        return None
    guard = Guard(private=True, now_ms=context.now_ms)
    try:
        guard.check(settings.webhook_url)
    except BadFrame as exc:
        raise ConfigError(f"push.webhook_url: {exc.message.removeprefix('endpoint: ')}") from exc
    try:
        key = _key(settings.webhook_secret)
    except ValueError as exc:
        raise ConfigError(f"push.webhook_secret: {exc}") from exc
    return Webhook(guard, settings.webhook_url, key, context.now_ms)


class Webhook:
    """The notifier ``webhook``. Not for subscriptions: it gets everything, once a user."""

    every_user = True

    def __init__(self, guard: Guard, url: str, key: bytes, now_ms: Callable[[], int]) -> None:
        self._guard, self._url, self._key, self._now_ms = guard, url, key, now_ms
        self.public: dict[str, str] = {}

    def check(self, endpoint: str, keys: dict[str, str]) -> None:
        """Raises: BadFrame, always: nobody subscribes to it."""
        raise BadFrame("kind: the webhook takes no subscriptions")

    async def send(self, payload: Payload, subscription: Subscription | None, ttl_s: int) -> Outcome:
        """See `chatd.push.base.Notifier`. One that is sent again has the same id and a new time and signature."""
        body = msgspec.json.encode(payload)
        message_id, timestamp = _message_id(payload), str(self._now_ms() // 1000)
        headers = {
            "Content-Type": "application/json",
            "Webhook-Id": message_id,
            "Webhook-Timestamp": timestamp,
            "Webhook-Signature": f"v1,{_sign(self._key, message_id, timestamp, body)}",
        }
        return await self._guard.post(self._url, body, headers, special=_SPECIAL)

    async def close(self) -> None:
        """Close the connections."""
        await self._guard.close()


def verify(
    secret: str, headers: Mapping[str, str], body: bytes, now_s: float, tolerance_s: float = TOLERANCE_S
) -> None:
    """Check a request that a receiver got: its headers, its body as it came, and the time it is now (Unix).

    Who has seen a ``Webhook-Id`` before has seen the notification. Raises: BadSignature; ValueError – not a secret.
    """
    key = _key(secret)
    found = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, timestamp, signatures = (found[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    except KeyError as exc:
        raise BadSignature(f"no header {exc.args[0]}") from exc
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise BadSignature("webhook-timestamp: not Unix seconds")
    expected = _sign(key, message_id, timestamp, body).encode()
    given = [one.encode() for version, _, one in (s.partition(",") for s in signatures.split()) if version == "v1"]
    if not any(hmac.compare_digest(expected, one) for one in given):
        raise BadSignature("webhook-signature: none of them fits the secret, the id, the time and the body")
    age_s = now_s - int(timestamp)
    if abs(age_s) > tolerance_s:
        raise BadSignature(f"webhook-timestamp: {abs(age_s):.0f} s {'old' if age_s > 0 else 'ahead'}")


def _key(secret: str) -> bytes:
    """``whsec_`` and base64, as the specification writes keys, or any text as it is."""
    if secret.startswith(_PREFIX):
        text = secret.removeprefix(_PREFIX).rstrip("=")
        try:
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError) as exc:
            raise ValueError("after whsec_ comes base64") from exc
    else:
        key = secret.encode()
    if not key:
        raise ValueError("empty")
    return key


def _sign(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def _message_id(payload: Payload) -> str:
    """The same for a notification that is sent again, and without a dot, which ends the id in what is signed."""
    kind = str(payload.__struct_config__.tag)
    return "msg_" + hashlib.sha256("\n".join((kind, payload.to, payload.key)).encode()).hexdigest()[:32]
