"""A browser's and a push service's side of Web Push: decryption (RFC 8188, 8291) and the check of VAPID (RFC 8292).

Written from the primitives of ``cryptography`` alone: it shares no line with what chatd encrypts and signs with.
"""

from __future__ import annotations

import base64
import json
import re

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_VAPID = re.compile(r"vapid t=([\w-]+\.[\w-]+\.[\w-]+), ?k=([\w-]+)", re.ASCII)
_POINT_BYTES = 65


class PushFault(ValueError):
    """A request that a push service or a browser would not take; the message says why."""


def encode_base64url(data: bytes) -> str:
    """Without padding, as JWTs and push subscriptions have it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_base64url(text: str) -> bytes:
    """With or without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def point_of(key: EllipticCurvePublicKey) -> bytes:
    """A public key as 65 bytes: 4, x, y."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def decrypt(body: bytes, key: EllipticCurvePrivateKey, auth: bytes) -> bytes:
    """Decrypt an ``aes128gcm`` body with a subscription's private key and its 16 bytes of secret.

    Raises: PushFault – cut off, for somebody else, or not encrypted as RFC 8291 says.
    """
    salt, record_bytes, sender = body[:16], int.from_bytes(body[16:20], "big"), body[21 : 21 + _POINT_BYTES]
    records = body[21 + _POINT_BYTES :]
    if len(body) < 21 + _POINT_BYTES or body[20] != _POINT_BYTES:
        raise PushFault("the header of the body is cut off, or names no P-256 key")
    if len(records) > record_bytes:
        raise PushFault("more than one record: RFC 8291 §4 allows one")
    try:
        shared = key.exchange(ECDH(), EllipticCurvePublicKey.from_encoded_point(SECP256R1(), sender))
    except ValueError as exc:
        raise PushFault("the sender's key is not on the curve") from exc
    info = b"WebPush: info\0" + point_of(key.public_key()) + sender
    secret = _derive(shared, auth, info, 32)
    content_key = _derive(secret, salt, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _derive(secret, salt, b"Content-Encoding: nonce\0", 12)  # of record 0, whose number changes nothing
    try:
        padded = AESGCM(content_key).decrypt(nonce, records, None)
    except InvalidTag as exc:
        raise PushFault("not encrypted for this subscription") from exc
    plain = padded.rstrip(b"\0")
    if not plain.endswith(b"\2"):
        raise PushFault("the last record does not end with 2: RFC 8188 §2")
    return plain[:-1]


def _derive(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)


def check_vapid(authorization: str, *, audience: str, now_s: float) -> tuple[str, dict[str, object]]:
    """Check an Authorization header as a push service of that origin does, at that Unix time.

    Returns: the key, in base64url, and the token's claims. Raises: PushFault.
    """
    match = _VAPID.fullmatch(authorization)
    if match is None:
        raise PushFault("Authorization: not vapid t=…, k=…")
    token, key = match.groups()
    head, claims_text, signature_text = token.split(".")
    try:
        signature = decode_base64url(signature_text)
        public = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), decode_base64url(key))
        header, claims = json.loads(decode_base64url(head)), json.loads(decode_base64url(claims_text))
    except ValueError as exc:
        raise PushFault("the key or the token cannot be read") from exc
    if header.get("alg") != "ES256" or len(signature) != 64:
        raise PushFault("the token is not signed with ES256")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        public.verify(encode_dss_signature(r, s), f"{head}.{claims_text}".encode(), ECDSA(SHA256()))
    except InvalidSignature as exc:
        raise PushFault("the token is not signed by the key") from exc
    if claims.get("aud") != audience:
        raise PushFault(f"aud: {claims.get('aud')!r} instead of {audience!r}")
    end_s = claims.get("exp")
    if not isinstance(end_s, int) or not now_s < end_s <= now_s + 86_400:
        raise PushFault(f"exp: {end_s!r} is past, or more than 24 h ahead")
    return key, claims
