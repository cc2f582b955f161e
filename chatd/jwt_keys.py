"""JSON Web Tokens of a host application, which brings its own users: RFC 7519, checked against a JWK Set file.

A token names its key by ``kid``; the key alone says which algorithm is right (HS256, RS256 or EdDSA), so a token cannot
choose a weaker one, nor ``none``. Claims: ``sub`` the user, ``exp``, ``aud`` and ``iss`` required and checked, ``nbf``
checked when there, ``device`` optional.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import msgspec
from msgspec import Struct

from chatd.errors import ConfigError, Unauthenticated
from chatd.model import SEQ_MAX, is_device, is_user

DEVICE = "jwt"
"""The device of a token that names none."""

NOT_BEFORE_SKEW_S = 60
"""A token may be this much younger than our clock says: hosts' clocks differ. ``exp`` has no such grace."""

_ALGORITHM = {"oct": "HS256", "RSA": "RS256", "OKP": "EdDSA"}
_HMAC_BYTES_MIN = 32
_RSA_BITS_MIN = 2048
_OPTIONS: Any = {
    "require": ["sub", "exp", "aud", "iss"],
    # These compare with the wall clock behind our back; `verify` does it with the time it is given.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}


class Claims(Struct, frozen=True):
    """What a valid token says. ``expires_ms``: Unix ms."""

    user: str
    device: str
    expires_ms: int


class JwtKeys:
    """The keys of a host, by kid, and the audience and issuer its tokens must carry."""

    def __init__(self, keys: Mapping[str, jwt.PyJWK], *, audience: str, issuer: str) -> None:
        self._keys = dict(keys)
        self._audience = audience
        self._issuer = issuer

    def verify(self, token: str, now_ms: int) -> Claims:
        """Check a token at a time. Raises: Unauthenticated – one line that says what is wrong with it."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = self._keys.get(kid) if isinstance(kid, str) else None
            if key is None:
                raise Unauthenticated("the token's kid names no known key")
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                options=_OPTIONS,
            )
        except (jwt.PyJWTError, ValueError, RecursionError) as exc:  # the last: JSON a thousand brackets deep
            raise Unauthenticated(f"the token is not valid: {exc}"[:200]) from exc
        return _claims(claims, now_ms)


def load(path: Path, *, audience: str, issuer: str) -> JwtKeys:
    """Read a JWK Set file. Raises: ConfigError – it names the file, the key and what is wrong with it."""
    where = f"accounts.jwt_keys: {path}"
    try:
        whole = msgspec.json.decode(path.read_bytes())
    except OSError as exc:
        raise ConfigError(f"{where}: {exc.strerror or exc}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{where}: not JSON: {exc}") from exc
    rows = whole.get("keys") if isinstance(whole, dict) else None
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f'{where}: not a JWK Set: it needs "keys": a list with at least one key')
    keys: dict[str, jwt.PyJWK] = {}
    for number, row in enumerate(rows, 1):
        here = f"{where}: key {number}"
        kid = row.get("kid") if isinstance(row, dict) else None
        if not isinstance(kid, str) or not kid:
            raise ConfigError(f'{here}: it needs a "kid"')
        if kid in keys:
            raise ConfigError(f"{here}: kid {kid!r} is there twice")
        keys[kid] = _key(row, f"{here} (kid {kid!r})")
    return JwtKeys(keys, audience=audience, issuer=issuer)


def _key(row: dict[str, Any], where: str) -> jwt.PyJWK:
    kind = row.get("kty")
    algorithm = _ALGORITHM.get(kind) if isinstance(kind, str) else None
    if algorithm is None or row.get("crv", "Ed25519") != "Ed25519":
        raise ConfigError(f"{where}: use kty oct (HS256), RSA (RS256) or OKP with crv Ed25519 (EdDSA)")
    if row.get("alg", algorithm) != algorithm:
        raise ConfigError(f"{where}: alg {row['alg']!r} does not go with kty {kind}: it would be {algorithm}")
    if "d" in row:
        raise ConfigError(f'{where}: this is a private key: keep "d" with the host, give only the public half')
    try:
        key = jwt.PyJWK(row, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as exc:
        raise ConfigError(f"{where}: not a usable {kind} key: {exc}") from exc
    if kind == "oct" and len(key.key) < _HMAC_BYTES_MIN:
        raise ConfigError(f"{where}: a shared secret needs at least {_HMAC_BYTES_MIN} bytes, it has {len(key.key)}")
    if kind == "RSA" and key.key.key_size < _RSA_BITS_MIN:
        raise ConfigError(f"{where}: an RSA key needs at least {_RSA_BITS_MIN} bits, it has {key.key.key_size}")
    return key


def _claims(claims: Mapping[str, Any], now_ms: int) -> Claims:
    user, device = claims["sub"], claims.get("device", DEVICE)
    expires_ms, starts_ms = _unix_ms(claims["exp"], "exp"), _unix_ms(claims.get("nbf", 0), "nbf")
    if now_ms >= expires_ms:
        raise Unauthenticated("the token has expired")
    if now_ms < starts_ms - NOT_BEFORE_SKEW_S * 1000:
        raise Unauthenticated("the token is not valid yet")
    if not isinstance(user, str) or not is_user(user):
        raise Unauthenticated("the token's sub is no user name")
    if not isinstance(device, str) or not is_device(device):
        raise Unauthenticated("the token's device is no device id")
    return Claims(user, device, expires_ms)


def _unix_ms(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= SEQ_MAX / 1000:
        raise Unauthenticated(f"the token's {name} is no time")
    return int(value * 1000)
