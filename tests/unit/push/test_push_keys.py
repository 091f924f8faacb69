"""VAPID keys in every form that other tools write, and the settings that name them."""

from __future__ import annotations

import base64
import re

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from py_vapid import Vapid

from app.settings import BadSetting, read
from push.guard import overrides
from push.keys import (
    PushSettings,
    application_server_key,
    is_local,
    new_key,
    private_text,
    read_private,
    read_public,
    subject,
)

KEY = new_key()
RAW = KEY.private_key.private_numbers().private_value.to_bytes(32)
PKCS8 = KEY.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
SEC1 = KEY.private_key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
DER = KEY.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

FORMS = {
    "base64url": private_text(KEY),
    "base64": base64.b64encode(RAW).decode(),
    "padded base64url": base64.urlsafe_b64encode(RAW).decode(),
    "base64url of DER": base64.urlsafe_b64encode(DER).decode(),
    "PKCS #8": PKCS8,
    "SEC 1": SEC1,
    "PKCS #8 in one line": PKCS8.replace("\n", "\\n"),
    "SEC 1 in one line": SEC1.replace("\n", "\\n"),
    "line ends of Windows": PKCS8.replace("\n", "\\r\\n"),
    "with blanks around": f"  {private_text(KEY)}\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_private_key_is_read_in_the_forms_that_other_tools_write(form: str) -> None:
    found = read_private(FORMS[form])

    assert found == KEY
    assert private_text(found) == private_text(KEY)


def test_py_vapid_reads_what_we_write_and_has_the_same_public_key() -> None:
    theirs = Vapid.from_string(private_text(KEY))

    assert theirs.public_key.public_numbers() == KEY.private_key.public_key().public_numbers()


def test_a_small_private_key_keeps_its_32_bytes() -> None:
    small = read_private(base64.urlsafe_b64encode((7).to_bytes(32)).decode())

    assert len(base64.urlsafe_b64decode(private_text(small) + "=")) == 32
    assert read_private(private_text(small)) == small


def pem(key: object) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()  # type: ignore[attr-defined, no-any-return]  # any kind of private key


BAD = {
    "nothing": "",
    "words": "my secret key",
    "31 bytes": base64.urlsafe_b64encode(RAW[1:]).decode(),
    "33 bytes": base64.urlsafe_b64encode(b"\0" + RAW).decode(),
    "zero": base64.urlsafe_b64encode(bytes(32)).decode(),
    "the order of the curve": base64.urlsafe_b64encode(ORDER.to_bytes(32)).decode(),
    "beyond the order": base64.urlsafe_b64encode(b"\xff" * 32).decode(),
    "the public key": application_server_key(KEY),
    "another curve": pem(generate_private_key(SECP384R1())),
    "another kind": pem(Ed25519PrivateKey.generate()),
    "a cut PEM": PKCS8[:100],
    "PEM of nothing": "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----",
    "a password": KEY.private_key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    ).decode(),
    "no length of base64": "A" * 41,
}


@pytest.mark.parametrize("form", BAD)
def test_what_is_no_private_key_is_refused_without_being_repeated(form: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a private key") as caught:
        read_private(BAD[form])

    assert caught.value.__cause__ is None
    assert not BAD[form] or BAD[form] not in str(caught.value)


@given(st.one_of(st.text(), st.binary().map(lambda data: base64.b64encode(data).decode())))
def test_no_text_brings_the_reader_of_keys_down(text: str) -> None:
    for reader in (read_private, read_public):
        try:
            reader(text)
        except ValueError as error:
            assert str(error).startswith("must be a")  # noqa: PT017 - some texts are keys


@given(st.integers(1, ORDER - 1))
def test_every_private_number_is_read_back(number: int) -> None:
    text = base64.urlsafe_b64encode(number.to_bytes(32)).rstrip(b"=").decode()

    assert private_text(read_private(text)) == text


def test_a_key_is_named_after_its_public_half_and_hides_the_other() -> None:
    assert application_server_key(KEY).startswith(KEY.id)
    assert len(KEY.id) == 16
    assert private_text(KEY) not in repr(KEY)
    assert "private_key" not in repr(KEY)


def test_a_public_key_is_read_in_both_alphabets() -> None:
    text = application_server_key(KEY)

    assert read_public(text) == KEY.public_key
    assert read_public(base64.b64encode(KEY.public_key).decode()) == KEY.public_key
    for bad in ("", text[:-2], private_text(KEY), "B" * 87, "!" * 87):
        with pytest.raises(ValueError, match="65 bytes"):
            read_public(bad)


# --- the contact -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ("ops@school.example", "mailto:ops@school.example"),
        ("mailto:ops@school.example", "mailto:ops@school.example"),
        ("MAILTO:ops@school.example", "mailto:ops@school.example"),
        (" ops+push@school.example ", "mailto:ops+push@school.example"),
        ("https://school.example/contact", "https://school.example/contact"),
    ],
)
def test_a_contact_becomes_a_uri(given_: str, said: str) -> None:
    assert subject(given_) == said


@pytest.mark.parametrize(
    "contact",
    [
        "",
        "ops",
        "http://school.example",
        "https://",
        "https://user:password@school.example",
        "https://school.example/a b",
        "mailto:",
        "mailto:mailto:ops@school.example",
        "ops@",
        "@school.example",
        "a@b@school.example",
        "Ops <ops@school.example>",
        "ops@school.example, dev@school.example",
        "tel:+1",
    ],
)
def test_what_reaches_nobody_is_no_contact(contact: str) -> None:
    with pytest.raises(ValueError, match="a mail address or an https URL"):
        subject(contact)


@pytest.mark.parametrize(
    "contact",
    [
        "ops@localhost",
        "ops@LOCALHOST",
        "ops@printer.local",
        "ops@example.invalid",
        "ops@school.test",
        "ops@school.test.",
        "ops@intranet",
        "ops@127.0.0.1",
        "https://localhost/contact",
        "https://localhost:8003",
        "https://intranet",
        "https://192.168.1.1",
        "https://[::1]/",
    ],
)
def test_a_contact_that_nobody_outside_can_reach_is_told(contact: str) -> None:
    assert is_local(subject(contact))


@pytest.mark.parametrize("contact", ["ops@school.example", "https://school.ac.rw", "a@localhost.example"])
def test_a_contact_in_the_open_is_not(contact: str) -> None:
    assert not is_local(subject(contact))


# --- settings --------------------------------------------------------------------------------------------------------

PRODUCTION = {
    "CARILLON_ENV": "production",
    "DATABASE_URL": "postgresql://localhost/carillon",
    "JWT_SECRET_KEY": "s" * 40,
    "DELIVERY_ENCRYPTION_KEYS": "a:" + base64.b64encode(b"k" * 32).decode(),
}


def test_nothing_needs_to_be_set() -> None:
    settings = read({}).push

    assert settings == PushSettings()
    assert settings.key is None
    assert settings.subject is None
    assert "fcm.googleapis.com" in settings.hosts


def test_the_names_of_the_source_documents_fill_the_settings() -> None:
    settings = read(
        {
            "VAPID_PUBLIC_KEY": application_server_key(KEY),
            "VAPID_PRIVATE_KEY": private_text(KEY),
            "VAPID_EMAIL": "ops@school.example",
            "PUSH_HOSTS": "push.school.example",
            "PUSH_RESOLVE": "https://fcm.googleapis.com=127.0.0.1:4433,https://push.example=[::1]:1",
        }
    ).push

    assert settings.key == KEY
    assert settings.subject == "mailto:ops@school.example"
    assert settings.hosts == {"push.school.example"}
    assert overrides(settings) == {
        "https://fcm.googleapis.com": ("127.0.0.1", 4433),
        "https://push.example": ("::1", 1),
    }
    assert private_text(KEY) not in repr(settings)


@pytest.mark.parametrize(
    ("given_", "name", "problem"),
    [
        ({"VAPID_PRIVATE_KEY": "x"}, "VAPID_PRIVATE_KEY", "must be a private key of P-256"),
        ({"VAPID_PUBLIC_KEY": application_server_key(KEY)}, "VAPID_PRIVATE_KEY", "must be given"),
        (
            {
                "VAPID_PRIVATE_KEY": private_text(KEY),
                "VAPID_PUBLIC_KEY": application_server_key(new_key()),
            },
            "VAPID_PUBLIC_KEY",
            "is not the public key of",
        ),
        ({"VAPID_PRIVATE_KEY": private_text(KEY), "VAPID_PUBLIC_KEY": "x"}, "VAPID_PUBLIC_KEY", "65 bytes"),
        ({"VAPID_EMAIL": "ops"}, "VAPID_EMAIL", "must be a mail address"),
        ({"PUSH_TTL_HIGH": "9999999"}, "PUSH_TTL_HIGH", "at most 28 days"),
        ({"PUSH_BATCH_KEY": "0"}, "PUSH_BATCH_KEY", "above zero"),
        ({"PUSH_RESOLVE": "fcm=1"}, "PUSH_RESOLVE", "https://host=address:port"),
        ({**PRODUCTION, "VAPID_EMAIL": "ops@localhost"}, "VAPID_EMAIL", "public domain"),
        ({**PRODUCTION, "PUSH_RESOLVE": "https://a.example=127.0.0.1:1"}, "PUSH_RESOLVE", "production"),
    ],
)
def test_a_setting_that_cannot_be_used_stops_the_start_by_its_name(
    given_: dict[str, str], name: str, problem: str
) -> None:
    with pytest.raises(BadSetting, match=re.escape(problem)) as caught:
        read(given_)

    assert caught.value.name == name
    assert private_text(KEY) not in str(caught.value)


def test_development_takes_a_contact_of_this_machine() -> None:
    assert read({"VAPID_EMAIL": "ops@localhost"}).push.subject == "mailto:ops@localhost"
    assert read({**PRODUCTION, "VAPID_EMAIL": "ops@school.example"}).push.subject is not None
