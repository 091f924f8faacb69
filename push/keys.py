"""The keys by which push services know this installation (RFC 8292), and the settings of Web Push."""

from __future__ import annotations

import binascii
import ipaddress
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from core.keys import encode_base64url
from push.encryption import public_key
from push.guard import overrides
from push.request import LIVES, LONGEST_LIFE

PRIVATE_KEY_BYTES = 32

#: Characters of a key's name. The first says only that the key is a point; the other 15 are 90 bits of it.
_ID_LENGTH = 16

_UNREADABLE = "must be a private key of P-256: base64url of 32 bytes, or PEM"

#: Hosts whose mail reaches nobody (RFC 6761, RFC 6762). Apple refuses tokens that name one.
_LOCAL = frozenset({"localhost", "local", "invalid", "test"})

_MAILBOX = re.compile(r"[^\s@<>,;:\"()\[\]\\]+@[^\s@<>,;:\"()\\]+")


@dataclass(frozen=True, slots=True)
class VapidKey:
    """One key pair. Browsers bind their subscriptions to the public key, push services check tokens with it."""

    id: str  # the first characters of the public key, base64url
    public_key: bytes  # an uncompressed point, 65 bytes
    private_key: EllipticCurvePrivateKey = field(repr=False, compare=False)

    @classmethod
    def of(cls, private_key: EllipticCurvePrivateKey) -> VapidKey:
        public = private_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return cls(key_id(public), public, private_key)


def new_key() -> VapidKey:
    """A key that nobody has had before."""
    return VapidKey.of(generate_private_key(SECP256R1()))


def key_id(public: bytes) -> str:
    """The name of a public key."""
    return encode_base64url(public)[:_ID_LENGTH]


def application_server_key(key: VapidKey) -> str:
    """The public key as `pushManager.subscribe` and the Authorization header have it: base64url."""
    return encode_base64url(key.public_key)


def private_text(key: VapidKey) -> str:
    """The private key as VAPID_PRIVATE_KEY may have it: base64url of its 32 bytes."""
    return encode_base64url(key.private_key.private_numbers().private_value.to_bytes(PRIVATE_KEY_BYTES))


def read_private(text: str) -> VapidKey:
    """
    A private key as other tools write it: base64 or base64url of its 32 bytes or of DER; PEM (PKCS #8 or SEC 1), whose
    line breaks may be written as `\\n`, as they are in one line of an environment file.

    Raises ValueError that repeats nothing of the text.
    """
    text = text.strip().replace("\\r", "").replace("\\n", "\n")
    try:
        if text.startswith("-----BEGIN"):
            loaded = load_pem_private_key(text.encode(), password=None)
        else:
            raw = _decode(text)
            if len(raw) == PRIVATE_KEY_BYTES:
                return VapidKey.of(derive_private_key(int.from_bytes(raw), SECP256R1()))
            loaded = load_der_private_key(raw, password=None)
    except TypeError:  # cryptography's way to ask for a password
        raise ValueError("must be a private key without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(_UNREADABLE) from None
    if not isinstance(loaded, EllipticCurvePrivateKey) or not isinstance(loaded.curve, SECP256R1):
        raise ValueError(_UNREADABLE)
    return VapidKey.of(loaded)


def read_public(text: str) -> bytes:
    """A public key of 65 bytes from base64 or base64url. Raises ValueError."""
    try:
        point = _decode(text.strip())
        public_key(point)
    except ValueError:
        raise ValueError("must be a public key of P-256: base64url of 65 bytes") from None
    return point


def _decode(text: str) -> bytes:
    """Base64 of either alphabet, padded or not. Raises ValueError."""
    bare = text.rstrip("=").replace("+", "-").replace("/", "_")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", bare):
        raise ValueError("not base64")
    try:
        return b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None


def subject(contact: str) -> str:
    """
    How push services reach the operator, as a URI (RFC 8292 section 2.1). A plain mail address gets its `mailto:`.

    Raises ValueError for what is neither a mail address nor an https URL.
    """
    scheme, colon, rest = contact.strip().partition(":")
    if colon and scheme.lower() == "https":
        url = urlsplit(contact.strip())
        if url.hostname and "@" not in url.netloc and not re.search(r"[\s<>\"]", contact.strip()):
            return contact.strip()
        raise ValueError("must be a mail address or an https URL")
    address = rest if colon and scheme.lower() == "mailto" else contact.strip()
    if not _MAILBOX.fullmatch(address):
        raise ValueError("must be a mail address or an https URL")
    return f"mailto:{address}"


def is_local(subject: str) -> bool:
    """Whether nobody outside can reach that subject: localhost, a name of one word, .local, .invalid, .test, an IP."""
    host = urlsplit(subject).hostname if subject.startswith("https:") else subject.rpartition("@")[2]
    labels = (host or "").rstrip(".").lower().split(".")
    if len(labels) < 2 or labels[-1] in _LOCAL:
        return True
    try:
        ipaddress.ip_address((host or "").strip("[]"))
    except ValueError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class PushSettings:
    """Web Push. From VAPID_PUBLIC_KEY, VAPID_PRIVATE_KEY, VAPID_EMAIL and PUSH_*."""

    vapid_public_key: str | None = None  # checked against VAPID_PRIVATE_KEY; not needed
    vapid_private_key: str | None = field(
        default=None, repr=False
    )  # base64url of 32 bytes, or PEM; None: made once and kept, sealed, in the database
    vapid_email: str | None = None  # how push services reach the operator: a mail address or an https URL
    hosts: frozenset[str] = frozenset(
        {
            "fcm.googleapis.com",
            "jmt17.google.com",
            "*.push.services.mozilla.com",
            "*.push.apple.com",
            "*.notify.windows.com",
        }
    )  # of push services that browsers may subscribe with; *. stands for any name below
    any_host: bool = False  # browsers may name any push service in the open internet
    ttl_low: timedelta = LIVES["low"]  # a push service keeps a message of that priority so long
    ttl_normal: timedelta = LIVES["normal"]  # the same, for priority normal
    ttl_high: timedelta = LIVES["high"]  # the same, for priority high
    ttl_urgent: timedelta = LIVES["urgent"]  # the same, for priority urgent
    timeout: timedelta = timedelta(seconds=6)  # one push, waiting included; below DELIVERY_PROVIDER_TIMEOUT
    batch_key: int = 1  # messages that one sender key encrypts: more is cheaper, and ties them together
    icon: str | None = None  # https URL, or path of the application, of a picture that notifications show
    badge: str | None = None  # the same, of a small one in one colour, for the status bar of phones
    unseen: timedelta = timedelta(
        days=60
    )  # a browser whose page was not opened for so long is pushed to no more
    ca_file: Path | None = None  # certificates of authorities to trust in place of the system's
    resolve: frozenset[str] = frozenset()  # https://host=address:port, for tests; refused in production

    def __post_init__(self) -> None:
        if self.vapid_private_key is not None:
            try:
                key = read_private(self.vapid_private_key)
            except ValueError as error:
                raise ValueError(f"VAPID_PRIVATE_KEY {error}") from None
            if self.vapid_public_key is not None and self._public() != key.public_key:
                raise ValueError("VAPID_PUBLIC_KEY is not the public key of VAPID_PRIVATE_KEY")
        elif self.vapid_public_key is not None:
            raise ValueError("VAPID_PRIVATE_KEY must be given where VAPID_PUBLIC_KEY is")
        if self.vapid_email is not None:
            try:
                subject(self.vapid_email)
            except ValueError as error:
                raise ValueError(f"VAPID_EMAIL {error}") from None
        for priority, life in self.lives.items():
            if life > LONGEST_LIFE:
                raise ValueError(f"PUSH_TTL_{priority.upper()} must be at most {LONGEST_LIFE.days} days")
        for one in self.resolve:
            if not re.fullmatch(r"https://[^\s=/]+=[^\s=/]+:\d{1,5}", one):
                raise ValueError("PUSH_RESOLVE must be https://host=address:port, comma-separated")
        try:
            overrides(self)
        except ValueError as error:
            raise ValueError(f"PUSH_RESOLVE {error}") from None

    def _public(self) -> bytes:
        assert self.vapid_public_key is not None
        try:
            return read_public(self.vapid_public_key)
        except ValueError as error:
            raise ValueError(f"VAPID_PUBLIC_KEY {error}") from None

    @cached_property
    def key(self) -> VapidKey | None:
        """The key that the environment gives."""
        return None if self.vapid_private_key is None else read_private(self.vapid_private_key)

    @cached_property
    def subject(self) -> str | None:
        """How push services reach the operator, as a URI."""
        return None if self.vapid_email is None else subject(self.vapid_email)

    @property
    def lives(self) -> Mapping[str, timedelta]:
        """What `push.request.ttl` takes, by priority."""
        return {
            "low": self.ttl_low,
            "normal": self.ttl_normal,
            "high": self.ttl_high,
            "urgent": self.ttl_urgent,
        }
