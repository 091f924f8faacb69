"""
How we introduce ourselves to push services: a token signed with our key (RFC 8292).

A token is the same for everybody who signs it in the same span of time: its end is taken from the clock's grid and
its signature is deterministic (RFC 6979). So restarts and several processes send no new ones, and a push service sees
one token per origin in 11 hours; Apple asks for at most one an hour.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from core.keys import encode_base64url
from push.keys import VapidKey, application_server_key

#: Of a token. Push services refuse one that lasts longer than 24 h (RFC 8292 section 2): what is between the two is
#: room for clocks that disagree.
LIFE = timedelta(hours=12)

#: What a token in use still has at least.
MARGIN = timedelta(hours=1)

_SPAN_S = int((LIFE - MARGIN).total_seconds())
_NUMBER_BYTES = 32  # r and s of a signature with P-256 (RFC 7518 section 3.4)
_REMEMBERED = 4096  # origins; an installation that allows any host meets any number of them

try:
    _ES256 = ECDSA(SHA256(), deterministic_signing=True)
except UnsupportedAlgorithm:  # OpenSSL before 3.2: each process then has a token of its own
    _ES256 = ECDSA(SHA256())


class Headers:
    """
    The Authorization headers of one sender, remembered.

    subject: how the operator is reached, a mailto: or https: URI. None: tokens without one, which Apple refuses.
    """

    def __init__(self, subject: str | None) -> None:
        self._subject = subject
        self._known: dict[tuple[str, str], tuple[int, str]] = {}

    def authorization(self, key: VapidKey, origin: str, now: datetime) -> str:
        """
        `vapid t=…, k=…` for requests to one push service, good for an hour at least.

        origin: https://host or https://host:port. Raises ValueError for anything else.
        """
        span = int(now.timestamp()) // _SPAN_S
        known = self._known.get((key.id, origin))
        if known is not None and known[0] == span:
            return known[1]
        token = sign(key, self._claims(origin, span))
        header = f"vapid t={token}, k={application_server_key(key)}"
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[key.id, origin] = span, header
        return header

    def _claims(self, origin: str, span: int) -> dict[str, str | int]:
        ends = span * _SPAN_S + int(LIFE.total_seconds())
        claims: dict[str, str | int] = {"aud": audience(origin), "exp": ends}
        if self._subject is not None:
            claims["sub"] = self._subject
        return claims


def audience(origin: str) -> str:
    """
    The origin as a push service writes its own (RFC 6454 section 6.1): lower case, no default port.

    Raises ValueError for what is no https origin, or more than one: user, path, query.
    """
    url = urlsplit(origin)
    if url.scheme != "https" or not url.hostname or "@" in url.netloc:
        raise ValueError("not an https origin")
    if url.path or url.query or url.fragment:
        raise ValueError("more than an origin")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"https://{host}" if url.port in (None, 443) else f"https://{host}:{url.port}"


def sign(key: VapidKey, claims: dict[str, str | int]) -> str:
    """The claims as a JWT, ES256 (RFC 7518 section 3.4)."""
    head = _part({"typ": "JWT", "alg": "ES256"})
    text = f"{head}.{_part(claims)}"
    r, s = decode_dss_signature(key.private_key.sign(text.encode(), _ES256))
    return f"{text}.{encode_base64url(r.to_bytes(_NUMBER_BYTES) + s.to_bytes(_NUMBER_BYTES))}"


def _part(members: dict[str, str | int] | dict[str, str]) -> str:
    return encode_base64url(json.dumps(members, separators=(",", ":")).encode())
