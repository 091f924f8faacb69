"""What browsers say of themselves, and what strangers say instead."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from push.subscription import BadSubscription, read_keys
from tests.push_browser import Browser

BROWSER = Browser()
KEY, AUTH = BROWSER.p256dh, BROWSER.auth


def url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


@pytest.mark.parametrize("encode", [url, lambda data: base64.b64encode(data).decode()])
@pytest.mark.parametrize("padding", [True, False])
def test_keys_are_read_in_either_alphabet_padded_or_not(encode: object, padding: bool) -> None:
    assert callable(encode)
    texts = [encode(KEY), encode(AUTH)]
    if not padding:
        texts = [text.rstrip("=") for text in texts]

    assert read_keys(*texts) == (KEY, AUTH)


COMPRESSED = generate_private_key(SECP256R1()).public_key().public_bytes(
    Encoding.X962, PublicFormat.CompressedPoint
)  # fmt: skip


BAD = {
    "a compressed point": (url(COMPRESSED), url(AUTH), "p256dh_key"),
    "a byte too few": (url(KEY[:-1]), url(AUTH), "p256dh_key"),
    "a byte too many": (url(KEY + b"x"), url(AUTH), "p256dh_key"),
    "a hybrid point": (url(b"\x06" + KEY[1:]), url(AUTH), "p256dh_key"),
    "a point beside the curve": (url(KEY[:33] + bytes(32)), url(AUTH), "p256dh_key"),
    "zeros": (url(b"\x04" + bytes(64)), url(AUTH), "p256dh_key"),
    "no key": ("", url(AUTH), "p256dh_key"),
    "letters of no alphabet": ("né" * 40, url(AUTH), "p256dh_key"),
    "signs of no alphabet": ("!" * 87, url(AUTH), "p256dh_key"),
    "a million letters": ("A" * 1_000_000, url(AUTH), "p256dh_key"),
    "padding in the middle": (url(KEY)[:40] + "=" + url(KEY)[40:], url(AUTH), "p256dh_key"),
    "a line's end": (url(KEY) + "\n", url(AUTH), "p256dh_key"),
    "a secret a byte too short": (url(KEY), url(AUTH[:-1]), "auth_key"),
    "a secret a byte too long": (url(KEY), url(AUTH + b"x"), "auth_key"),
    "no secret": (url(KEY), "", "auth_key"),
    "a secret of no alphabet": (url(KEY), "\x00" * 22, "auth_key"),
}


@pytest.mark.parametrize(("p256dh", "auth", "field"), BAD.values(), ids=BAD)
def test_keys_that_nothing_can_be_encrypted_for_are_refused_by_name(
    p256dh: str, auth: str, field: str
) -> None:
    with pytest.raises(BadSubscription) as refused:
        read_keys(p256dh, auth)

    assert refused.value.field == field
    assert p256dh not in str(refused.value) or not p256dh
