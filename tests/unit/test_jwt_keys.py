"""A host's tokens: what is taken, everything that is not, and key files that name their fault."""

from __future__ import annotations

import base64
import hmac
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

from chatd import jwt_keys
from chatd.errors import ConfigError, Unauthenticated
from chatd.jwt_keys import Claims, JwtKeys

NOW_MS = 1_700_000_000_000
SECRET = b"0123456789abcdef" * 4
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
RSA_SMALL = rsa.generate_private_key(public_exponent=65537, key_size=1024)
ED = ed25519.Ed25519PrivateKey.generate()
EC = ec.generate_private_key(ec.SECP256R1())
GOOD: dict[str, Any] = {"sub": "alice", "exp": 1_700_000_100, "aud": "chatd", "iss": "https://host.example"}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def oct_row(secret: bytes = SECRET, kid: str = "h") -> dict[str, Any]:
    return {"kid": kid, "kty": "oct", "k": b64(secret)}


def rsa_row(key: Any, kid: str = "r") -> dict[str, Any]:
    return {**json.loads(RSAAlgorithm.to_jwk(key)), "kid": kid}


def ed_row(key: Any, kid: str = "e") -> dict[str, Any]:
    return {**json.loads(OKPAlgorithm.to_jwk(key)), "kid": kid}


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "keys.json"
    path.write_text(json.dumps({"keys": rows}))
    return path


def load(path: Path) -> JwtKeys:
    return jwt_keys.load(path, audience="chatd", issuer="https://host.example")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> JwtKeys:
    folder = tmp_path_factory.mktemp("keys")
    return load(write(folder, oct_row(), rsa_row(RSA.public_key()), ed_row(ED.public_key())))


def sign(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", kid: str | None = "h") -> str:
    return jwt.encode(claims, key, algorithm, headers={} if kid is None else {"kid": kid})


def by_hand(claims: dict[str, Any], key: bytes = SECRET, **header: Any) -> str:
    """An HS256 token that the library would not make, with a right signature."""
    parts = [{"alg": "HS256", "kid": "h", "typ": "JWT", **header}, claims]
    text = ".".join(b64(json.dumps(part).encode()) for part in parts)
    return f"{text}.{b64(hmac.digest(key, text.encode(), 'sha256'))}"


@pytest.mark.parametrize(("key", "algorithm", "kid"), [(SECRET, "HS256", "h"), (RSA, "RS256", "r"), (ED, "EdDSA", "e")])
def test_each_algorithm_is_taken_by_its_kid(keys: JwtKeys, key: Any, algorithm: str, kid: str) -> None:
    token = sign(GOOD, key, algorithm, kid)
    assert keys.verify(token, NOW_MS) == Claims("alice", "jwt", 1_700_000_100_000)


def test_a_device_claim_names_the_device_and_an_audience_may_be_a_list(keys: JwtKeys) -> None:
    token = sign({**GOOD, "device": "phone-1", "aud": ["other", "chatd"], "nbf": 1_699_999_999, "iat": 0})
    assert keys.verify(token, NOW_MS).device == "phone-1"


def test_exp_is_checked_with_the_time_given(keys: JwtKeys) -> None:
    token = sign(GOOD)
    assert keys.verify(token, 1_700_000_099_999).user == "alice"
    with pytest.raises(Unauthenticated, match="expired"):
        keys.verify(token, 1_700_000_100_000)


def test_nbf_is_checked_with_a_minute_of_grace(keys: JwtKeys) -> None:
    token = sign({**GOOD, "nbf": 1_700_000_060})
    assert keys.verify(token, NOW_MS).user == "alice"
    with pytest.raises(Unauthenticated, match="not valid yet"):
        keys.verify(token, NOW_MS - 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": None},
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"exp": None},
        {"exp": "soon"},
        {"exp": True},
        {"exp": 1e300},
        {"exp": -1},
        {"nbf": "later"},
        {"sub": None},
        {"sub": 7},
        {"sub": "Alice"},
        {"sub": "alice:bob"},
        {"sub": ""},
        {"device": "no spaces"},
        {"device": ""},
        {"device": 7},
        {"device": None},
    ],
)
def test_a_claim_that_is_wrong_or_missing_is_refused(keys: JwtKeys, changes: dict[str, Any]) -> None:
    claims = {k: v for k, v in {**GOOD, **changes}.items() if v is not None or k == "device"}
    with pytest.raises(Unauthenticated):
        keys.verify(by_hand(claims), NOW_MS)


def test_none_is_no_algorithm(keys: JwtKeys) -> None:
    for kid in ("h", "r", "e", None):
        with pytest.raises(Unauthenticated):
            keys.verify(sign(GOOD, None, "none", kid), NOW_MS)


def test_a_key_takes_its_own_algorithm_only(keys: JwtKeys) -> None:
    public_text = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for token in (
        sign(GOOD, SECRET, "HS384", "h"),
        by_hand(GOOD, public_text, kid="r"),  # a public key as a shared secret: the classic confusion
        sign(GOOD, SECRET, "HS256", "r"),
        sign(GOOD, SECRET, "HS256", "e"),
        sign(GOOD, RSA, "RS256", "h"),
        sign(GOOD, RSA, "PS256", "r"),
        sign(GOOD, EC, "ES256", "e"),
    ):
        with pytest.raises(Unauthenticated):
            keys.verify(token, NOW_MS)


def test_another_signature_or_kid_is_refused(keys: JwtKeys) -> None:
    head, body, signature = sign(GOOD).split(".")
    other = b64(json.dumps({**GOOD, "sub": "mallory"}).encode())
    for token in (
        sign(GOOD, b"x" * 32),
        sign(GOOD, kid="unknown"),
        sign(GOOD, kid=None),
        f"{head}.{other}.{signature}",
        f"{head}.{body}.",
        "..",
        "a.b.c",
        f"{b64(b'[' * 4000)}.{body}.{signature}",  # a thousand brackets deep, from somebody unknown
        sign({**GOOD, "deep": 1}).replace(".", "..", 1),
    ):
        with pytest.raises(Unauthenticated):
            keys.verify(token, NOW_MS)


def test_an_unknown_critical_header_is_refused(keys: JwtKeys) -> None:
    assert keys.verify(by_hand(GOOD), NOW_MS).user == "alice"
    with pytest.raises(Unauthenticated):
        keys.verify(by_hand(GOOD, crit=["x"], x=1), NOW_MS)


@given(header=st.binary(max_size=60), body=st.text(max_size=20), tail=st.text(max_size=20))
def test_no_text_does_worse_than_be_refused(keys: JwtKeys, header: bytes, body: str, tail: str) -> None:
    with pytest.raises(Unauthenticated):
        keys.verify(f"{b64(header)}.{body}.{tail}", NOW_MS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "not a JWK Set"),
        (["x"], 'key 1: it needs a "kid"'),
        ([{"kty": "oct", "k": b64(SECRET)}], 'key 1: it needs a "kid"'),
        ([oct_row(), oct_row()], "key 2: kid 'h' is there twice"),
        ([{"kid": "x", "kty": "EC", "crv": "P-256"}], "use kty oct"),
        ([{"kid": "x", "kty": ["oct"]}], "use kty oct"),
        ([{"kid": "x", "kty": "OKP", "crv": "X25519", "x": b64(SECRET)}], "crv Ed25519"),
        ([{**oct_row(), "alg": "none"}], "alg 'none' does not go with kty oct: it would be HS256"),
        ([{**rsa_row(RSA.public_key()), "alg": "HS256"}], "it would be RS256"),
        ([oct_row(b"short")], "at least 32 bytes, it has 5"),
        ([rsa_row(RSA_SMALL.public_key())], "at least 2048 bits, it has 1024"),
        ([rsa_row(RSA)], "private key"),
        ([ed_row(ED)], "private key"),
        ([{"kid": "x", "kty": "RSA", "n": "!", "e": "AQAB"}], "not a usable RSA key"),
        ([{"kid": "x", "kty": "OKP", "crv": "Ed25519", "x": "AA"}], "not a usable OKP key"),
        ([{"kid": "x", "kty": "oct"}], "not a usable oct key"),
        ([{"kid": "x", "kty": "oct", "k": 7}], "not a usable oct key"),
    ],
)
def test_a_bad_key_file_names_the_key_and_its_fault(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(write(tmp_path, *rows))
    assert str(refused.value).startswith(f"accounts.jwt_keys: {tmp_path}/keys.json: ")
    assert message in str(refused.value)


def test_a_missing_file_and_a_file_that_is_no_json_say_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "absent.json")
    (tmp_path / "keys.json").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not JSON"):
        load(tmp_path / "keys.json")
    (tmp_path / "keys.json").write_text("[]")
    with pytest.raises(ConfigError, match="not a JWK Set"):
        load(tmp_path / "keys.json")
