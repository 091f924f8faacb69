"""Keys and tokens for tests: good ones, and the parts to make bad ones of."""

from __future__ import annotations

import hmac
import json
from datetime import timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from core.identity import TokenSettings, Verifier
from core.keys import Key, KeySet, encode_base64url, read_jwks
from core.revocation import Revocations

NOW = 1_800_000_000.0
HOUR = timedelta(hours=1)
SECRET = "a secret of this test, 32 bytes or more"
ISSUER = "https://login.example"
AUDIENCE = "carillon"

RSA_KEY = rsa.generate_private_key(65537, 2048)
RSA_PEM = RSA_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
STRANGER = rsa.generate_private_key(65537, 2048)


def jwk(public: Any, **members: Any) -> dict[str, Any]:
    algorithm = {
        rsa.RSAPublicKey: RSAAlgorithm,
        ec.EllipticCurvePublicKey: ECAlgorithm,
        ed25519.Ed25519PublicKey: OKPAlgorithm,
    }
    writer = next(writer for kind, writer in algorithm.items() if isinstance(public, kind))
    return {**{k: v for k, v in writer.to_jwk(public, as_dict=True).items() if k != "key_ops"}, **members}


JWKS = json.dumps(
    {
        "keys": [
            jwk(RSA_KEY.public_key(), kid="rsa", use="sig"),
            jwk(EC_KEY.public_key(), kid="ec"),
            jwk(ED_KEY.public_key(), kid="ed", alg="EdDSA"),
        ]
    }
).encode()

HMAC_KEY = Key.secret(SECRET)
KEYS = KeySet([HMAC_KEY]) | read_jwks(JWKS).keys
SETTINGS = TokenSettings(issuer=ISSUER, audiences=frozenset({AUDIENCE}))
CLAIMS: dict[str, Any] = {
    "sub": "anna",
    "exp": int(NOW) + 600,
    "iat": int(NOW),
    "iss": ISSUER,
    "aud": AUDIENCE,
    "jti": "token-1",
}


def segment(value: Any) -> str:
    return encode_base64url(value if isinstance(value, bytes) else json.dumps(value).encode())


def signed(
    claims: Any, header: Any = None, *, secret: bytes = SECRET.encode(), hash_name: str = "sha256"
) -> str:
    """An HMAC token of exactly these parts; parts given as bytes stand as they are."""
    text = f"{segment(header or {'alg': 'HS256', 'typ': 'JWT'})}.{segment(claims)}"
    return f"{text}.{encode_base64url(hmac.digest(secret, text.encode(), hash_name))}"


def public(claims: dict[str, Any], key: Any, algorithm: str, kid: str | None, **header: Any) -> str:
    """A token signed by PyJWT itself with a private key."""
    return jwt.encode(claims, key, algorithm, headers={**({"kid": kid} if kid else {}), **header})


def claims(**changed: Any) -> dict[str, Any]:
    """The good claims with some changed, and those that are `...` left out."""
    return {name: value for name, value in {**CLAIMS, **changed}.items() if value is not ...}


GOOD = signed(CLAIMS)


def verifier(settings: TokenSettings = SETTINGS, keys: KeySet = KEYS) -> Verifier:
    return Verifier(keys, settings, Revocations())
