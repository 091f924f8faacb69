"""
Whether a webhook comes from the provider whose name it bears. Pure.

Every comparison takes the same time wherever two values differ. Nothing is parsed before it is known to be genuine.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Iterable, Sequence
from hashlib import sha256
from urllib.parse import parse_qsl, urlsplit

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key


def is_twilio(token: str, signature: str, url: str, parameters: Iterable[tuple[str, str]]) -> bool:
    """
    X-Twilio-Signature of a form (Twilio, "Validating Signatures from Twilio").

    token: the auth token of the account. url: exactly as Twilio was told it, with its query. parameters: of the body,
    every name with every value; their order does not matter, and a value that stands twice counts once.
    """
    pairs = sorted(set(parameters))
    signed = url + "".join(name + value for name, value in pairs)
    return _is_same(signature, b64encode(hmac.digest(token.encode(), signed.encode(), "sha1")).decode())


def is_twilio_json(token: str, signature: str, url: str, body: bytes) -> bool:
    """X-Twilio-Signature of anything but a form: the URL alone is signed, and names the SHA-256 of the body in it."""
    hashes = [value for name, value in parse_qsl(urlsplit(url).query) if name == "bodySHA256"]
    if len(hashes) != 1 or not _is_same(hashes[0].lower(), sha256(body).hexdigest()):
        return False
    return is_twilio(token, signature, url, ())


def is_meta(secret: str, signature: str, body: bytes) -> bool:
    """
    X-Hub-Signature-256 over the bytes as they came (Meta, "Validate payloads").

    secret: of the app. Meta escapes what is not ASCII before it signs, so a body that is read and written anew has
    another signature.
    """
    return _is_same(signature, "sha256=" + hmac.new(secret.encode(), body, sha256).hexdigest())


def is_telegram(secret: str, presented: Sequence[str]) -> bool:
    """X-Telegram-Bot-Api-Secret-Token (Bot API, setWebhook). presented: every header of that name; one it must be."""
    return len(presented) == 1 and _is_same(presented[0], secret)


def is_sendgrid(key: EllipticCurvePublicKey, signature: str, timestamp: str, body: bytes) -> bool:
    """
    X-Twilio-Email-Event-Webhook-Signature: ECDSA over the timestamp's header and the bytes as they came
    (SendGrid, "Getting Started with the Event Webhook Security Features").
    """
    try:
        key.verify(b64decode(signature, validate=True), timestamp.encode() + body, ECDSA(SHA256()))
    except (InvalidSignature, Error, ValueError):
        return False
    return True


def sendgrid_key(text: str) -> EllipticCurvePublicKey:
    """The verification key as SendGrid shows it: base64 of a P-256 key. Raises ValueError that repeats none of it."""
    try:
        key = load_der_public_key(b64decode(text, validate=True))
    except (Error, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("must be the base64 of an ECDSA key on P-256, as SendGrid shows it")
    return key


def _is_same(presented: str, expected: str) -> bool:
    # As bytes: compare_digest takes no text beyond ASCII, and what is presented may be anything.
    return hmac.compare_digest(presented.encode(), expected.encode())
