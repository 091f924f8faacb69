"""
Who is calling: a token and the time in, an Identity out (RFC 7519, RFC 8725, RFC 9068).

Nothing here reads a clock, an address or the environment. What a caller is told about a bad token is
always the same sentence; `reason` is for metrics.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeGuard
from urllib.parse import quote

from core.errors import ServiceError
from core.keys import Key, KeySet, decode_base64url, encode_base64url, is_kid, is_public
from core.revocation import GRACE_S, Revocations
from core.streams import is_tenant_id
from core.strict_json import read_object

DEFAULT_TENANT = "default"

#: Scopes that let a caller act for other people in its tenant.
ACTING = frozenset({"notifications:write", "broadcast", "publish"})

#: What `admin` stands for: everything inside one tenant.
ADMIN = ACTING | {"deliveries:read", "templates:write", "admin"}

#: Every scope of the service. `tenants:all` takes its other scopes into every tenant.
SCOPES = ADMIN | {"tenants:all"}

#: What a member of the claim `roles` stands for. Other roles are other services' business.
ROLES: dict[str, frozenset[str]] = {"service": ACTING, "admin": frozenset({"admin"})}

_SERVICE = ACTING | {"admin", "tenants:all"}
_NO_SCOPES: frozenset[str] = frozenset()

Kind = Literal["user", "service", "api_key"]

#: Why a token is refused: a closed set, a label of metrics, never shown to the caller.
Reason = Literal[
    "too_long",
    "form",
    "header",
    "key",
    "algorithm",
    "signature",
    "claims",
    "expired",
    "not_yet_valid",
    "issuer",
    "audience",
    "life",
    "revoked",
    "api_key",
]

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")

#: A token that says it is something else (a logout token, a proof) is not an access token (RFC 8725 section 3.11).
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})

#: The largest integer that every JSON reader understands alike (RFC 8259 section 6).
_MAX_TIME = 2**53


class InvalidToken(ServiceError):
    """The caller's token, or API key, opens nothing. The message does not say why."""

    def __init__(self, reason: Reason, message: str | None = None) -> None:
        super().__init__("unauthorized", message)
        self.reason = reason


class UnknownKey(InvalidToken):
    """The token names a key that is not known here; a new one may have been published."""

    def __init__(self) -> None:
        super().__init__("key")


class ExpiredToken(InvalidToken):
    """The token was right and its time is over: come back with a new one."""

    def __init__(self) -> None:
        super().__init__("expired", "The token has expired.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """What a token must say. From JWT_*."""

    issuer: str | None = None  # the only `iss` that is accepted; None: any
    audiences: frozenset[str] = frozenset()  # one of them must be in `aud`; empty: the token must name none
    service_audience: str | None = None  # only a token with it in `aud` acts for others; None: no such rule
    admin_audience: str | None = (
        None  # only a token with it in `aud` is an admin's; None: as service_audience
    )
    leeway: timedelta = timedelta(seconds=10)  # how far clocks may differ
    max_life: timedelta | None = None  # from `iat` to `exp`; None: whatever the issuer gives
    max_bytes: int = 4096  # longer tokens are refused unread
    remembered: int = 100_000  # verified tokens, so that a returning client costs no cryptography

    def __post_init__(self) -> None:
        if not 0 <= self.leeway.total_seconds() <= GRACE_S:
            raise ValueError(f"the leeway is 0 to {GRACE_S:.0f} seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A caller, once their token or API key has been found right."""

    tenant_id: str
    user_id: str
    scopes: frozenset[str] = _NO_SCOPES
    expires_at: float = math.inf  # epoch seconds
    token_id: str | None = None  # the claim `jti`, or the id of the API key
    issued_at: float | None = None  # epoch seconds
    issuer: str | None = None
    kind: Kind = "user"

    @classmethod
    def of_api_key(
        cls,
        key_id: str,
        *,
        tenant_id: str,
        scopes: Iterable[str],
        created_at: float,
        expires_at: float = math.inf,
    ) -> Identity:
        """The caller behind an API key whose secret has been compared. Its user is the key itself."""
        return cls(
            tenant_id=tenant_id,
            user_id=f"ck_{key_id}",
            scopes=expand(scopes),
            expires_at=expires_at,
            token_id=key_id,
            issued_at=created_at,
            kind="api_key",
        )

    def has(self, scope: str) -> bool:
        return scope in self.scopes

    def may_enter(self, tenant_id: str) -> bool:
        """Whether the scopes of this caller count in that tenant."""
        return tenant_id == self.tenant_id or "tenants:all" in self.scopes

    @property
    def client(self) -> str:
        """The stable name of the calling program, to which idempotency keys belong."""
        if self.kind == "api_key":
            return f"api_key:{self.token_id}"
        return f"jwt:{quote(self.issuer or '', safe='')}:{self.user_id}"

    @property
    def is_service(self) -> bool:
        """Whether this caller may act for others. A person acts for themselves only."""
        return not self.scopes.isdisjoint(_SERVICE)


def expand(scopes: Iterable[str]) -> frozenset[str]:
    """The scopes of ours among these, with all that `admin` stands for."""
    own = SCOPES.intersection(scopes)
    return ADMIN | own if "admin" in own else own or _NO_SCOPES


def is_user_id(value: object) -> TypeGuard[str]:
    """
    Whether a person may be called so: 1-255 printable characters, none of them white space at an end.

    Printable leaves out controls, line ends, invisible and direction-changing characters and lone
    surrogates: the name stands in stream names, logs and JSON as it is.
    """
    return isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable() and value == value.strip()


class Verifier:
    """
    Reads tokens. One per process: it remembers what it has found right, by SHA-256 of the token until
    the token expires; a changed key empties that memory. Revocations are looked up on every use.
    """

    __slots__ = ("_keys", "_known", "_leeway", "_max_bytes", "_remembered", "_settings", "revocations")

    def __init__(self, keys: KeySet, settings: TokenSettings, revocations: Revocations) -> None:
        self._keys = keys
        self._settings = settings
        self._leeway = settings.leeway.total_seconds()
        self._max_bytes = settings.max_bytes
        self._remembered = settings.remembered
        self._known: dict[bytes, Identity] = {}  # oldest first
        self.revocations = revocations

    @property
    def keys(self) -> KeySet:
        return self._keys

    def replace_keys(self, keys: KeySet) -> None:
        """Use these keys from now on. What the old ones had verified is verified anew."""
        if keys != self._keys:
            self._keys = keys
            self._known.clear()

    def verify(self, token: str, now: float) -> Identity:
        """
        The caller behind a token.

        now: epoch seconds.

        Raises ExpiredToken when only its age is wrong, UnknownKey when its `kid` is not known, and
        InvalidToken for everything else.
        """
        if len(token) > self._max_bytes:
            raise InvalidToken("too_long")
        if not token.isascii():
            raise InvalidToken("form")
        digest = hashlib.sha256(token.encode()).digest()
        identity = self._known.get(digest)
        if identity is None:
            identity = self._read(token, now)
            self._remember(digest, identity)
        elif now >= identity.expires_at + self._leeway:
            del self._known[digest]
            raise ExpiredToken
        if self.revocations.is_revoked(identity):
            raise InvalidToken("revoked")
        return identity

    def _remember(self, digest: bytes, identity: Identity) -> None:
        if self._remembered <= 0:
            return
        if len(self._known) >= self._remembered:
            del self._known[next(iter(self._known))]
        self._known[digest] = identity

    def _read(self, token: str, now: float) -> Identity:
        compact = _COMPACT.fullmatch(token)
        if compact is None:
            raise InvalidToken("form")
        head, body, tail = compact.groups()
        try:
            header = read_object(decode_base64url(head))
            signature = decode_base64url(tail)
            payload = decode_base64url(body)
        except ValueError:  # its cause quotes the token
            raise InvalidToken("form") from None
        if not self._key_of(header).holds(signature, f"{head}.{body}".encode()):
            raise InvalidToken("signature")
        try:
            claims = read_object(payload)
        except ValueError:
            raise InvalidToken("claims") from None
        return self._identity(claims, now)

    def _key_of(self, header: dict[str, Any]) -> Key:
        """The key that must have signed. Only `kid` and `alg` are read; `jku`, `jwk` and `x5u` never are."""
        if "crit" in header or "b64" in header:  # RFC 7515 section 4.1.11: we understand no extension
            raise InvalidToken("header")
        kind, kid, algorithm = header.get("typ", "JWT"), header.get("kid"), header.get("alg")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise InvalidToken("header")
        if not isinstance(algorithm, str) or not (kid is None or is_kid(kid)):
            raise InvalidToken("header")
        key = self._keys.find(kid, algorithm)
        if key is None:
            raise UnknownKey if kid is not None and is_public(algorithm) else InvalidToken("key")
        if key.algorithm != algorithm:
            raise InvalidToken("algorithm")
        return key

    def _identity(self, claims: dict[str, Any], now: float) -> Identity:
        """The caller that signed claims speak of. The order of the checks decides only the reason."""
        user_id, tenant_id = claims.get("sub"), claims.get("tenant_id", DEFAULT_TENANT)
        if not is_user_id(user_id) or not isinstance(tenant_id, str) or not is_tenant_id(tenant_id):
            raise InvalidToken("claims")
        token_id, issuer = _text(claims, "jti"), _text(claims, "iss")
        if self._settings.issuer is not None and issuer != self._settings.issuer:
            raise InvalidToken("issuer")
        audiences = self._audiences(claims)
        issued_at, expires_at = self._life(claims, now)
        scopes = self._scopes(claims, audiences)
        return Identity(
            tenant_id=sys.intern(tenant_id),
            user_id=user_id,
            scopes=scopes,
            expires_at=expires_at,
            token_id=token_id,
            issued_at=issued_at,
            issuer=issuer if issuer is None else sys.intern(issuer),
            kind="user" if scopes.isdisjoint(_SERVICE) else "service",
        )

    def _life(self, claims: dict[str, Any], now: float) -> tuple[float | None, float]:
        expires_at, issued_at, not_before = claims.get("exp"), _time(claims, "iat"), _time(claims, "nbf")
        if type(expires_at) is not int or not 0 < expires_at < _MAX_TIME:  # True is an int to isinstance
            raise InvalidToken("claims")
        if now >= expires_at + self._leeway:
            raise ExpiredToken
        if max(issued_at or 0, not_before or 0) > now + self._leeway:
            raise InvalidToken("not_yet_valid")
        limit = self._settings.max_life
        if limit is not None and (issued_at is None or expires_at - issued_at > limit.total_seconds()):
            raise InvalidToken("life")
        return issued_at, float(expires_at)

    def _audiences(self, claims: dict[str, Any]) -> frozenset[str]:
        """What `aud` names. A token for others is refused, also where none is configured (RFC 7519 section 4.1.3)."""
        value = claims.get("aud", [])
        named = [value] if isinstance(value, str) else value
        if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
            raise InvalidToken("claims")
        settings = self._settings
        accepted = settings.audiences | {
            name for name in (settings.service_audience, settings.admin_audience) if name is not None
        }
        found = frozenset(named)
        if (accepted or found) and accepted.isdisjoint(found):
            raise InvalidToken("audience")
        return found

    def _scopes(self, claims: dict[str, Any], audiences: frozenset[str]) -> frozenset[str]:
        scope, roles = claims.get("scope", ""), claims.get("roles", [])
        if not isinstance(scope, str) or not isinstance(roles, list):
            raise InvalidToken("claims")
        if not all(isinstance(role, str) for role in roles):
            raise InvalidToken("claims")
        if not scope and not roles:
            return _NO_SCOPES
        named = {*scope.split()}.union(*(ROLES.get(role, _NO_SCOPES) for role in roles))
        service, admin = self._settings.service_audience, self._settings.admin_audience
        may_serve = service is None or service in audiences
        may_administer = may_serve if admin is None else admin in audiences
        if not may_serve:
            named -= ACTING
        if not may_administer:
            named -= {"admin", "tenants:all"}
        return expand(named)


def _text(claims: dict[str, Any], name: str) -> str | None:
    """A claim that is a short text where it is given."""
    value = claims.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= 255 or not value.isprintable():
        raise InvalidToken("claims")
    return value


def _time(claims: dict[str, Any], name: str) -> float | None:
    """A claim that is an instant where it is given, whole or not (RFC 7519 section 2, NumericDate)."""
    value = claims.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not -_MAX_TIME < value < _MAX_TIME:
        raise InvalidToken("claims")
    return float(value)


def mint(
    key: Key,
    user_id: str,
    *,
    now: float,
    life: timedelta,
    tenant_id: str = DEFAULT_TENANT,
    scopes: Iterable[str] = (),
    roles: Iterable[str] = (),
    issuer: str | None = None,
    audience: str | Sequence[str] | None = None,
    token_id: str | None = None,
) -> str:
    """
    A token for development and for services that share our secret.

    now: epoch seconds. Raises ValueError for a name that no token may carry, an unknown scope or role,
    and a key that cannot sign.
    """
    scopes, roles = list(scopes), list(roles)
    if not is_user_id(user_id):
        raise ValueError("a user id is 1 to 255 printable characters")
    if not is_tenant_id(tenant_id):
        raise ValueError("a tenant id is 1 to 63 of A-Z a-z 0-9 . _ : -, the first a letter or digit")
    if unknown := {*scopes} - SCOPES | {*roles} - ROLES.keys():
        raise ValueError(f"no such scope or role: {', '.join(sorted(unknown))}")
    issued_at = math.floor(now)
    claims = {
        "sub": user_id,
        "tenant_id": tenant_id,
        "iat": issued_at,
        "exp": issued_at + math.ceil(life.total_seconds()),
        "scope": " ".join(scopes),
        "roles": roles,
        "iss": issuer,
        "aud": audience,
        "jti": token_id,
    }
    header = {"alg": key.algorithm, "typ": "JWT", "kid": key.kid}
    text = ".".join(_segment(part) for part in (header, claims))
    return f"{text}.{encode_base64url(key.sign(text.encode()))}"


def _segment(members: dict[str, Any]) -> str:
    """One part of a token, without the members that say nothing."""
    said = {name: value for name, value in members.items() if value not in (None, "", [])}
    return encode_base64url(json.dumps(said, separators=(",", ":")).encode())
