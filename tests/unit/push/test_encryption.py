"""Bodies of push messages: by the letter of the RFCs, and as other implementations read and write them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import http_ece
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    SECP384R1,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from pywebpush import WebPusher

from core.keys import decode_base64url
from push.encryption import (
    BUCKETS,
    MAX_PLAINTEXT,
    SenderKey,
    SenderKeys,
    bucket,
    derive,
    derive_record,
    encrypt,
    public_key,
)
from tests.push_browser import Browser, Undecipherable

_FILE = Path(__file__).parents[2] / "vectors" / "webpush.json"


def vector(name: str) -> SimpleNamespace:
    members = json.loads(_FILE.read_text())[name]
    return SimpleNamespace(
        **{key: decode_base64url(value) for key, value in members.items() if key != "source"}
    )


RFC8291 = vector("rfc8291")
#: Every size that a push message may have.
SIZES = range(MAX_PLAINTEXT + 1)
TEXT = bytes(range(256)) * 16


@pytest.fixture(scope="module")
def browser() -> Browser:
    return Browser()


def sender(vector: SimpleNamespace) -> SenderKey:
    return SenderKey.of(derive_private_key(int.from_bytes(vector.sender_private), SECP256R1()))


# --- the RFCs --------------------------------------------------------------------------------------------------------


def test_every_value_on_the_way_is_that_of_rfc_8291() -> None:
    ours = sender(RFC8291)
    shared = ours.private_key.exchange(ECDH(), public_key(RFC8291.browser_public))

    found = derive(shared, RFC8291.auth, RFC8291.browser_public, ours.public_key, RFC8291.salt)

    assert ours.public_key == RFC8291.sender_public
    assert shared == RFC8291.shared
    assert found._asdict() == {name: getattr(RFC8291, name) for name in found._fields}
    sealed = AESGCM(found.cek).encrypt(found.nonce, RFC8291.plaintext + b"\x02", None)
    assert sealed == RFC8291.ciphertext


def test_the_body_is_that_of_rfc_8291() -> None:
    body = encrypt(
        RFC8291.plaintext, RFC8291.browser_public, RFC8291.auth, sender=sender(RFC8291), salt=RFC8291.salt
    )

    assert body == RFC8291.body
    assert len(body) == 144


def test_the_tests_own_browser_reads_the_body_of_rfc_8291() -> None:
    theirs = Browser.of(RFC8291.browser_private, RFC8291.auth)

    assert theirs.p256dh == RFC8291.browser_public
    assert theirs.decrypt(RFC8291.body) == RFC8291.plaintext


def test_the_keys_of_a_record_are_those_of_rfc_8188() -> None:
    one = vector("rfc8188_one_record")

    prk, cek, nonce = derive_record(one.ikm, one.salt)

    assert (prk, cek, nonce) == (one.prk, one.cek, one.nonce)
    assert one.body == one.salt + (4096).to_bytes(4) + b"\x00" + AESGCM(cek).encrypt(
        nonce, one.plaintext + b"\x02", None
    )


def test_the_keys_of_records_are_those_of_rfc_8188_where_there_are_two() -> None:
    two = vector("rfc8188_two_records")
    _, cek, nonce = derive_record(two.ikm, two.salt)
    records = two.body[16 + 4 + 1 + 2 :]
    second = nonce[:-1] + bytes([nonce[-1] ^ 1])

    opened = [
        AESGCM(cek).decrypt(nonce, records[:25], None),
        AESGCM(cek).decrypt(second, records[25:], None),
    ]

    assert opened[0].endswith(b"\x01\x00")
    assert opened[1].endswith(b"\x02")
    assert opened[0][:-2] + opened[1][:-1] == two.plaintext


# --- other implementations -------------------------------------------------------------------------------------------


def test_http_ece_reads_every_size_that_we_write(browser: Browser) -> None:
    shared = SenderKey.new()

    for size in SIZES:
        body = encrypt(TEXT[:size], browser.p256dh, browser.auth, sender=None if size % 8 else shared)
        opened = http_ece.decrypt(body, private_key=browser.private_key, auth_secret=browser.auth)
        assert opened == TEXT[:size], size
        assert len(body) == size + 103


def test_http_ece_reads_what_is_padded(browser: Browser) -> None:
    for size in range(0, MAX_PLAINTEXT + 1, 7):
        body = encrypt(TEXT[:size], browser.p256dh, browser.auth, pad_to=bucket(size))
        assert (
            http_ece.decrypt(body, private_key=browser.private_key, auth_secret=browser.auth) == TEXT[:size]
        )
        assert len(body) - 103 in BUCKETS


def test_we_read_every_size_that_pywebpush_writes(browser: Browser) -> None:
    theirs = WebPusher(browser.subscription())

    for size in SIZES[1:]:  # nothing is no message to pywebpush
        assert browser.decrypt(theirs.encode(TEXT[:size])["body"]) == TEXT[:size], size


# --- one record, 4096 bytes ------------------------------------------------------------------------------------------


def test_the_longest_message_fills_4096_bytes_and_a_longer_one_is_refused(browser: Browser) -> None:
    longest = encrypt(bytes(3993), browser.p256dh, browser.auth)

    assert MAX_PLAINTEXT == 3993
    assert len(longest) == 4096
    assert browser.decrypt(longest) == bytes(3993)
    for padding in (None, 3993, 4000):
        with pytest.raises(ValueError, match="at most 3993"):
            encrypt(bytes(3994), browser.p256dh, browser.auth, pad_to=padding)


def test_the_header_says_a_record_of_4096_and_our_key(browser: Browser) -> None:
    one = SenderKey.new()

    body = encrypt(b"hello", browser.p256dh, browser.auth, sender=one, salt=b"s" * 16)

    assert body[:86] == b"s" * 16 + b"\x00\x00\x10\x00\x41" + one.public_key


def test_a_second_record_is_refused_by_the_tests_own_browser(browser: Browser) -> None:
    two = http_ece.encrypt(
        TEXT[:200],
        private_key=generate_private_key(SECP256R1()),
        dh=browser.p256dh,
        auth_secret=browser.auth,
        rs=128,
    )

    with pytest.raises(Undecipherable, match="more than one record"):
        browser.decrypt(two)


# --- padding ---------------------------------------------------------------------------------------------------------


def test_a_bucket_holds_what_is_put_into_it_and_there_are_few() -> None:
    found = [bucket(size) for size in SIZES]

    assert all(length >= size for size, length in enumerate(found))
    assert found == sorted(found)
    assert set(found) == set(BUCKETS) == {256, 512, 1024, 2048, 2560, 3993}
    with pytest.raises(ValueError, match="at most 3993"):
        bucket(3994)


@given(st.binary(max_size=3993), st.integers(0, 3993))
def test_padding_changes_the_length_and_not_what_is_read(plaintext: bytes, pad_to: int) -> None:
    browser = _SHARED
    if pad_to < len(plaintext):
        with pytest.raises(ValueError, match="not padded"):
            encrypt(plaintext, browser.p256dh, browser.auth, pad_to=pad_to, sender=_SENDER)
        return

    opened = browser.open(encrypt(plaintext, browser.p256dh, browser.auth, pad_to=pad_to, sender=_SENDER))

    assert opened.plaintext == plaintext
    assert opened.padding == pad_to - len(plaintext)


_SHARED, _SENDER = Browser(), SenderKey.new()


def test_padding_beyond_the_record_is_refused(browser: Browser) -> None:
    with pytest.raises(ValueError, match="at most 3993"):
        encrypt(b"", browser.p256dh, browser.auth, pad_to=3994)


# --- keys ------------------------------------------------------------------------------------------------------------


def test_every_message_has_a_key_and_a_salt_of_its_own(browser: Browser) -> None:
    opened = [browser.open(encrypt(b"same", browser.p256dh, browser.auth)) for _ in range(50)]

    assert len({one.sender for one in opened}) == 50
    assert len({one.salt for one in opened}) == 50


def test_messages_of_a_batch_share_the_key_and_no_salt(browser: Browser) -> None:
    keys = SenderKeys(3)

    opened = [
        browser.open(encrypt(b"same", browser.p256dh, browser.auth, sender=keys.next(0.0))) for _ in range(6)
    ]

    senders = [one.sender for one in opened]
    assert senders[:3] == [senders[0]] * 3
    assert senders[3:] == [senders[3]] * 3
    assert senders[0] != senders[3]
    assert len({one.salt for one in opened}) == 6


def test_a_shared_key_is_forgotten_after_its_time_and_a_message_alone_gets_none() -> None:
    keys = SenderKeys(1000, seconds=60)

    first, second, later = keys.next(10.0), keys.next(69.9), keys.next(70.0)

    assert first is second
    assert later is not first
    assert SenderKeys(1).next(0.0) is None
    with pytest.raises(ValueError, match="one message or more"):
        SenderKeys(0)


def test_a_sender_key_does_not_show_its_private_half() -> None:
    assert "private" not in repr(SenderKey.new())


P = 2**256 - 2**224 + 2**192 + 2**96 - 1


def points() -> st.SearchStrategy[bytes]:
    """65 bytes that begin with 4: nearly none is on the curve."""
    return st.binary(min_size=64, max_size=64).map(lambda tail: b"\x04" + tail)


@given(points())
def test_a_point_that_is_not_on_the_curve_is_refused(point: bytes) -> None:
    x, y = int.from_bytes(point[1:33]), int.from_bytes(point[33:])
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    assert (y * y - x * x * x + 3 * x - b) % P or max(x, y) >= P

    with pytest.raises(ValueError, match="not on the curve"):
        encrypt(b"x", point, bytes(16))


@given(st.binary(max_size=130).filter(lambda data: len(data) != 65 or data[0] != 4))
def test_what_has_not_the_shape_of_a_point_is_refused(point: bytes) -> None:
    with pytest.raises(ValueError, match="65 bytes and begins with 4"):
        encrypt(b"x", point, bytes(16))


@given(st.binary(max_size=40).filter(lambda data: len(data) != 16))
def test_an_authentication_secret_of_another_length_is_refused(auth: bytes) -> None:
    with pytest.raises(ValueError, match="secret has 16 bytes"):
        encrypt(b"x", _SHARED.p256dh, auth)


def test_the_same_point_in_other_forms_is_refused(browser: Browser) -> None:
    public = browser.private_key.public_key()
    compressed = public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    hybrid = bytes([6 + browser.p256dh[-1] % 2]) + browser.p256dh[1:]
    other_curve = (
        generate_private_key(SECP384R1())
        .public_key()
        .public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    )
    shifted = b"\x04" + browser.p256dh[1:33] + (int.from_bytes(browser.p256dh[33:]) ^ 1).to_bytes(32)
    beyond = b"\x04" + P.to_bytes(32) + browser.p256dh[33:]

    for point in (compressed, hybrid, other_curve, b"\x00", b"\x04" + bytes(64), shifted, beyond):
        with pytest.raises(ValueError, match="public key"):
            encrypt(b"x", point, browser.auth)


def test_a_salt_of_another_length_is_refused(browser: Browser) -> None:
    with pytest.raises(ValueError, match="salt has 16"):
        encrypt(b"x", browser.p256dh, browser.auth, salt=bytes(15))


def test_a_body_that_was_changed_anywhere_is_not_read(browser: Browser) -> None:
    body = encrypt(b"hello", browser.p256dh, browser.auth)

    for position in range(len(body)):
        if position in range(16, 20):
            continue  # rs is not authenticated where it is larger than the record (RFC 8188 section 4.4)
        changed = bytearray(body)
        changed[position] ^= 1
        with pytest.raises(Undecipherable):
            browser.decrypt(bytes(changed))
    with pytest.raises(Undecipherable):
        Browser(browser.private_key).decrypt(body)  # another secret
    with pytest.raises(Undecipherable):
        Browser(auth=browser.auth).decrypt(body)  # another key
