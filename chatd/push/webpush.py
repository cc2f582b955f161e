"""Web Push to browsers: RFC 8030, encrypted as RFC 8291 says, signed with VAPID (RFC 8292). Extra: ``push``.

A subscription's endpoint and keys are those of a browser's ``PushSubscription.toJSON()``; ``GET /v1/push`` tells the
key that ``pushManager.subscribe`` wants as ``applicationServerKey``.
"""

from __future__ import annotations

import base64
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from msgspec import Struct
from yarl import URL

from chatd.errors import BadFrame, ConfigError
from chatd.model import Subscription
from chatd.push.base import Clear, Context, MissingExtra, Notification, Outcome, Payload, Test
from chatd.push.fitting import shorten
from chatd.push.guard import Guard

PLAINTEXT_BYTES_MAX = 3_993
"""What fits the 4,096 bytes that every push service must take: RFC 8291 §4."""

TTL_S_MAX = 2_419_200
"""Four weeks: the longest that the services keep a message."""

VAPID_KEY_NAME = "vapid"
TOKEN_S = 43_200
TOKEN_LEFT_S_MIN = 3_600
"""A token is made for 12 hours, and used while an hour of it is left; the services allow 24."""

ORIGINS_MAX = 256
"""Tokens are kept for so many push services."""

_RECORD_BYTES = 4_096
_URGENCY = {Notification: "high", Clear: "low", Test: "high"}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+={0,2}")
_WRONG_KEY = Outcome("refused", "the push service refuses our VAPID key or its token: the device must subscribe again")

Encrypt = Callable[[bytes, EllipticCurvePublicKey, bytes], bytes]
"""Plaintext, the device's key, its secret → the body of the request."""


async def make(context: Context) -> WebPush:
    """A `chatd.push.base.Factory`. Raises: MissingExtra; ConfigError."""
    encrypt = _encryption()
    contact = context.settings.contact
    if contact and not contact.startswith(("mailto:", "https://")):
        raise ConfigError(f"push.contact: {contact!r} is neither mailto:… nor https://…")
    fresh = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    kept = await context.store.keep(VAPID_KEY_NAME, fresh.decode())
    guard = Guard(private=context.settings.private_endpoints, now_ms=context.now_ms)
    return WebPush(guard, Vapid(_read_key(kept), contact=contact, now_ms=context.now_ms), encrypt)


def _encryption() -> Encrypt:
    try:
        import http_ece  # type: ignore[import-untyped]
    except ImportError as exc:
        raise MissingExtra("Web Push needs the extra: pip install 'chatd[push]'") from exc

    def encrypt(plain: bytes, device_key: EllipticCurvePublicKey, secret: bytes) -> bytes:
        once = generate_private_key(SECP256R1())
        body: bytes = http_ece.encrypt(
            plain, private_key=once, dh=device_key, auth_secret=secret, rs=_RECORD_BYTES, version="aes128gcm"
        )
        return body

    return encrypt


def _read_key(pem: str) -> EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"the store keeps a VAPID key that cannot be read: {exc}") from exc
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ConfigError("the store keeps a VAPID key that is not one of P-256")
    return key


class Vapid:
    """Says to push services who we are. ``key``: base64url of the public key. ``contact``: "" or a URL."""

    def __init__(self, key: EllipticCurvePrivateKey, *, contact: str, now_ms: Callable[[], int]) -> None:
        self._key, self._contact, self._now_ms = key, contact, now_ms
        self._tokens: OrderedDict[str, tuple[str, int]] = OrderedDict()  # origin → token, its end; least used first
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.key = base64.urlsafe_b64encode(point).rstrip(b"=").decode()

    def authorization(self, endpoint: URL) -> str:
        """The Authorization header for an endpoint: RFC 8292 §3."""
        return f"vapid t={self._token(_origin(endpoint))}, k={self.key}"

    def _token(self, origin: str) -> str:
        now_s = self._now_ms() // 1000
        token, end_s = self._tokens.get(origin, ("", 0))
        # The upper bound: after our clock was set back, a kept token would be from a future too far for the services.
        if not TOKEN_LEFT_S_MIN < end_s - now_s <= TOKEN_S:
            end_s = now_s + TOKEN_S
            claims: dict[str, object] = {"aud": origin, "exp": end_s}
            if self._contact:
                claims["sub"] = self._contact
            token = jwt.encode(claims, self._key, algorithm="ES256")
            self._tokens[origin] = (token, end_s)
            if len(self._tokens) > ORIGINS_MAX:
                self._tokens.popitem(last=False)
        self._tokens.move_to_end(origin)
        return token


def _origin(url: URL) -> str:
    """As browsers write it (RFC 6454): lower case, without the scheme's usual port."""
    return str(URL.build(scheme=url.scheme, host=url.host or "", port=url.explicit_port))


class _Keys(Struct, frozen=True):
    device: EllipticCurvePublicKey
    secret: bytes


class WebPush:
    """The notifier ``webpush``."""

    every_user = False

    def __init__(self, guard: Guard, vapid: Vapid, encrypt: Encrypt) -> None:
        self._guard, self._vapid, self._encrypt = guard, vapid, encrypt
        self.public = {"vapid": vapid.key}

    def check(self, endpoint: str, keys: dict[str, str]) -> None:
        """Raises: BadFrame – the endpoint, ``p256dh`` or ``auth`` is wrong."""
        self._guard.check(endpoint)
        _read_keys(keys)

    async def send(self, payload: Payload, subscription: Subscription | None, ttl_s: int) -> Outcome:
        """See `chatd.push.base.Notifier`. A body that does not fit is cut."""
        if subscription is None:
            return Outcome("refused", "Web Push needs a subscription")
        try:
            endpoint, keys = self._guard.check(subscription.endpoint), _read_keys(subscription.keys)
        except BadFrame as exc:
            return Outcome("refused", exc.message)
        plain = fit(payload)
        if plain is None:
            return Outcome("refused", f"more than {PLAINTEXT_BYTES_MAX} bytes even without its text")
        headers = {
            "Authorization": self._vapid.authorization(endpoint),
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "TTL": str(min(max(ttl_s, 0), TTL_S_MAX)),
            "Urgency": _URGENCY[type(payload)],
            "Topic": payload.tag,
        }
        body = self._encrypt(plain, keys.device, keys.secret)
        return await self._guard.post(subscription.endpoint, body, headers, special={401: _WRONG_KEY, 403: _WRONG_KEY})

    async def close(self) -> None:
        """Close the connections."""
        await self._guard.close()


def fit(payload: Payload) -> bytes | None:
    """A payload's JSON in at most 3,993 bytes, its text cut if need be. None: it does not fit even without."""
    name = "text" if isinstance(payload, Test) else "body"
    text = getattr(payload, name, None)
    plain = msgspec.json.encode(payload)
    if len(plain) <= PLAINTEXT_BYTES_MAX:
        return plain

    def encode(text: str) -> bytes:
        return msgspec.json.encode(msgspec.structs.replace(payload, **{name: text}))

    short = None if text is None else shorten(text, lambda one: len(encode(one)) <= PLAINTEXT_BYTES_MAX)
    return None if short is None else encode(short)


def _read_keys(keys: Mapping[str, str]) -> _Keys:
    if keys.keys() != {"p256dh", "auth"}:
        raise BadFrame("keys: must be p256dh and auth, as in PushSubscription.toJSON()")
    point, secret = (_decode(name, keys[name]) for name in ("p256dh", "auth"))
    if len(secret) != 16:
        raise BadFrame("keys.auth: must be 16 bytes in base64url")
    if len(point) != 65 or point[0] != 4:
        raise BadFrame("keys.p256dh: must be an uncompressed point, 65 bytes in base64url")
    try:
        return _Keys(EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point), secret)
    except ValueError as exc:
        raise BadFrame("keys.p256dh: not a point on the curve P-256") from exc


def _decode(name: str, text: str) -> bytes:
    bare = text.rstrip("=")
    if len(text) > 128 or not _BASE64URL.fullmatch(text) or len(bare) % 4 == 1:
        raise BadFrame(f"keys.{name}: not base64url")
    return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
