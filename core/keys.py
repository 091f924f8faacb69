"""
The keys that tokens are checked with. A key knows its one algorithm; a token never chooses it.

The cryptography is PyJWT's. Threat: a token that names another algorithm for a known key, so that a
public key is taken for an HMAC secret (RFC 8725 section 2.1).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms
from jwt.exceptions import InvalidKeyError

from core.strict_json import read_object

#: What JWT_ALGORITHM may say; it belongs to JWT_SECRET_KEY.
SECRET_ALGORITHMS = ("HS256", "HS384", "HS512")

#: A shorter HMAC secret can be guessed from one token (RFC 7518 section 3.2). Production refuses it.
SECRET_MIN_BYTES = 32

RSA_MIN_BITS = 2048
RSA_MAX_BITS = 8192  # a larger key only makes every check slow

#: The algorithms a published key may have, by key type; the first where the key names none.
PUBLIC_ALGORITHMS: dict[str, tuple[str, ...]] = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256",),
    "OKP": ("EdDSA", "Ed25519"),  # RFC 8037, and its fully specified name (RFC 9864)
}

_ALGORITHMS = get_default_algorithms()
_ALGORITHMS["Ed25519"] = _ALGORITHMS["EdDSA"]

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")

#: The private parameters of every key type (RFC 7518 section 6).
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

Material = bytes | RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


class InvalidKey(ValueError):
    """A key that tokens cannot be checked with, or a document without a usable one."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key and the one algorithm it is for."""

    algorithm: str
    material: Material = field(repr=False)
    kid: str | None = None  # the issuer's name for it (RFC 7515 section 4.1.4)

    @classmethod
    def secret(cls, secret: str | bytes, algorithm: str = "HS256", kid: str | None = None) -> Key:
        """A shared secret. Raises InvalidKey when it is empty, a public key, or not for this algorithm."""
        if algorithm not in SECRET_ALGORITHMS:
            raise InvalidKey(f"a secret is used with one of {', '.join(SECRET_ALGORITHMS)}")
        hmac = _ALGORITHMS[algorithm]
        assert isinstance(hmac, HMACAlgorithm)
        try:
            return cls(algorithm, hmac.prepare_key(secret), kid)
        except InvalidKeyError as error:
            raise InvalidKey("a secret is a text of its own, neither empty nor a public key") from error

    def holds(self, signature: bytes, text: bytes) -> bool:
        """Whether this key made the signature over the text."""
        return _ALGORITHMS[self.algorithm].verify(text, self.material, signature)

    def sign(self, text: bytes) -> bytes:
        """A signature of ours. Only a secret can; ValueError else."""
        if not isinstance(self.material, bytes):
            raise InvalidKey("a public key cannot sign")
        return _ALGORITHMS[self.algorithm].sign(text, self.material)


class KeySet:
    """
    The keys of one installation, found by `kid`. A `kid` is a dictionary key and nothing else: no
    path, no query, no address.

    Raises InvalidKey when two keys could be meant by the same name.
    """

    __slots__ = ("_named", "_unnamed")

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._named: dict[str, Key] = {}
        self._unnamed: dict[str, Key] = {}  # by algorithm
        for key in keys:
            names, name = (self._unnamed, key.algorithm) if key.kid is None else (self._named, key.kid)
            if name in names:
                raise InvalidKey(f"two keys are called {name}")
            names[name] = key

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """
        The key that a token names, else the nameless key for its algorithm. None: there is none.

        The caller compares the found key's algorithm with the token's.
        """
        named = self._named.get(kid) if kid is not None else None
        return named or self._unnamed.get(algorithm)

    def __iter__(self) -> Iterator[Key]:
        yield from self._named.values()
        yield from self._unnamed.values()

    def __len__(self) -> int:
        return len(self._named) + len(self._unnamed)

    def __or__(self, other: Iterable[Key]) -> KeySet:
        """These keys and others. Raises InvalidKey when a name stands for two."""
        return KeySet([*self, *other])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeySet):
            return NotImplemented
        return self._named == other._named and self._unnamed == other._unnamed

    __hash__ = None  # type: ignore[assignment]  # a set of secrets is no dictionary key


class RefusedKey(NamedTuple):
    """A published key that is not used, and why."""

    kid: str | None
    reason: str


class Published(NamedTuple):
    """What a JWKS document holds."""

    keys: tuple[Key, ...]
    refused: tuple[RefusedKey, ...]


def read_jwks(document: bytes) -> Published:
    """
    The public keys of a JWKS document (RFC 7517): RSA of 2048 bits and more, P-256, Ed25519.

    Keys of other types or for other uses are passed over (section 5), and so is every key that must
    not be public: a shared secret, a private key. Raises InvalidKey for a document without a usable key.
    """
    try:
        members = read_object(document).get("keys")
    except ValueError as error:
        raise InvalidKey(f"not a JWKS document: {error}") from None
    if not isinstance(members, list):
        raise InvalidKey('not a JWKS document: no list "keys"')
    keys: list[Key] = []
    refused: list[RefusedKey] = []
    taken: set[tuple[str | None, str | None]] = set()
    for member in members:
        kid = member.get("kid") if isinstance(member, dict) else None
        kid = kid if isinstance(kid, str) and is_kid(kid) else None
        try:
            key = _public_key(member)
            name = (key.kid, None if key.kid is not None else key.algorithm)
            if name in taken:
                raise InvalidKey("another key has this name")
        except InvalidKey as error:
            refused.append(RefusedKey(kid, str(error)))
        else:
            taken.add(name)
            keys.append(key)
    if not keys:
        raise InvalidKey("the document holds no usable key")
    return Published(tuple(keys), tuple(refused))


def is_kid(value: object) -> bool:
    """Whether a token or a document may name a key so: 1-255 printable characters."""
    return isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable()


def is_public(algorithm: str) -> bool:
    """Whether keys for this algorithm can be published."""
    return any(algorithm in algorithms for algorithms in PUBLIC_ALGORITHMS.values())


def _public_key(jwk: Any) -> Key:
    """One member of a JWKS document. Raises InvalidKey with the reason it is not used."""
    if not isinstance(jwk, dict):
        raise InvalidKey("not an object")
    if _PRIVATE & jwk.keys() or jwk.get("kty") == "oct":
        raise InvalidKey("not a public key; it is known to everybody and must be replaced")
    uses = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(uses, list) or "verify" not in uses:
        raise InvalidKey("not for signatures")
    kid = jwk.get("kid")
    if kid is not None and not is_kid(kid):
        raise InvalidKey("its kid is not a short text")
    kty = jwk.get("kty")
    if not isinstance(kty, str) or kty not in PUBLIC_ALGORITHMS:
        raise InvalidKey("its type is not supported")
    algorithms = PUBLIC_ALGORITHMS[kty]
    algorithm = jwk.get("alg", algorithms[0])
    if algorithm not in algorithms:
        raise InvalidKey("its algorithm is not supported")
    return Key(algorithm, _material(kty, jwk), kid)


def _material(kty: str, jwk: dict[str, Any]) -> Material:
    curve = {"EC": "P-256", "OKP": "Ed25519"}.get(kty)
    if curve != jwk.get("crv"):
        raise InvalidKey("its curve is not supported")
    names = {"RSA": ("n", "e"), "EC": ("x", "y"), "OKP": ("x",)}[kty]
    public: dict[str, Any] = {"kty": kty, "crv": curve}
    for name in names:
        value = jwk.get(name)
        if not isinstance(value, str) or not _BASE64URL.fullmatch(value):
            raise InvalidKey(f"its member {name} is not base64url")
        public[name] = value
    try:
        if kty == "RSA":
            key: object = RSAAlgorithm.from_jwk(public)
        elif kty == "EC":
            key = ECAlgorithm.from_jwk(public)
        else:
            key = OKPAlgorithm.from_jwk(public)
    except (InvalidKeyError, ValueError) as error:
        raise InvalidKey("its numbers are no key of its type") from error
    if isinstance(key, RSAPublicKey) and not RSA_MIN_BITS <= key.key_size <= RSA_MAX_BITS:
        raise InvalidKey(f"its size is not {RSA_MIN_BITS} to {RSA_MAX_BITS} bits")
    assert isinstance(key, RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey)
    return key


def encode_base64url(data: bytes) -> str:
    """Without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_base64url(text: str) -> bytes:
    """
    The bytes of unpadded base64url text in its one spelling.

    Raises ValueError for any other spelling of the same bytes, so that nobody can vary a token that
    somebody else's key has signed.
    """
    if not _BASE64URL.fullmatch(text):
        raise ValueError("not base64url")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError("not base64url") from None
    if encode_base64url(data) != text:
        raise ValueError("not the one spelling of its bytes")
    return data
