"""Which keys are used, and how they are found."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from core.identity import TokenSettings
from core.keys import InvalidKey, Key, KeySet, decode_base64url, read_jwks
from tests.tokens import (
    EC_KEY,
    ED_KEY,
    HMAC_KEY,
    NOW,
    RSA_KEY,
    RSA_PEM,
    SECRET,
    claims,
    jwk,
    segment,
    verifier,
)

WEAK = rsa.generate_private_key(65537, 1024)  # as weak as the test says
P384 = ec.generate_private_key(ec.SECP384R1())


@pytest.mark.parametrize(
    "secret", ["", RSA_PEM.decode(), json.dumps(jwk(RSA_KEY.public_key())), '{"kty": "oct", "k": "AAAA"}']
)
def test_an_empty_or_public_secret_stops_the_start(secret: str) -> None:
    with pytest.raises(InvalidKey):
        Key.secret(secret)


@pytest.mark.parametrize("algorithm", ["none", "RS256", "HS1", ""])
def test_a_secret_has_an_hmac_algorithm(algorithm: str) -> None:
    with pytest.raises(InvalidKey):
        Key.secret(SECRET, algorithm)


def test_a_key_shows_no_secret() -> None:
    assert SECRET not in repr(HMAC_KEY)


def test_one_name_stands_for_one_key() -> None:
    with pytest.raises(InvalidKey):
        KeySet([HMAC_KEY, Key.secret("another")])
    with pytest.raises(InvalidKey):
        KeySet([Key.secret("one", kid="a"), Key.secret("two", "HS512", kid="a")])


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ({"kty": "oct", "k": "c2VjcmV0", "kid": "x"}, "not a public key"),
        ({**jwk(RSA_KEY.public_key(), kid="x"), "d": "AAAA"}, "not a public key"),
        ({**jwk(EC_KEY.public_key(), kid="x"), "d": "AAAA"}, "not a public key"),
        (jwk(RSA_KEY.public_key(), kid="x", use="enc"), "not for signatures"),
        (jwk(RSA_KEY.public_key(), kid="x", key_ops=["encrypt"]), "not for signatures"),
        (jwk(RSA_KEY.public_key(), kid="x", key_ops=None), "not for signatures"),
        (jwk(RSA_KEY.public_key(), kid=1), "kid"),
        (jwk(RSA_KEY.public_key(), kid="rsa"), "another key has this name"),
        (jwk(RSA_KEY.public_key(), kid="x", alg="HS256"), "algorithm"),
        (jwk(RSA_KEY.public_key(), kid="x", alg=["RS256"]), "algorithm"),
        (jwk(RSA_KEY.public_key(), kid="x", n=1), "n is not base64url"),
        (jwk(RSA_KEY.public_key(), kid="x", e="AQ"), "numbers"),
        (jwk(WEAK.public_key(), kid="x"), "2048"),
        (jwk(P384.public_key(), kid="x"), "curve"),
        (jwk(EC_KEY.public_key(), kid="x", y="A" * 43), "numbers"),
        (jwk(EC_KEY.public_key(), kid="x", crv=["P-256"]), "curve"),
        (jwk(ED_KEY.public_key(), kid="x", x="AAAA"), "numbers"),
        (jwk(ED_KEY.public_key(), kid="x", crv="Ed448"), "curve"),
        ({"kty": ["RSA"], "kid": "x"}, "type"),
        ({"kid": "x"}, "type"),
        ("RSA", "not an object"),
    ],
)
def test_a_published_key_that_is_weak_private_or_foreign_is_passed_over(member: Any, reason: str) -> None:
    published = read_jwks(json.dumps({"keys": [jwk(RSA_KEY.public_key(), kid="rsa"), member]}).encode())

    assert [key.kid for key in published.keys] == ["rsa"]
    assert len(published.refused) == 1
    assert reason in published.refused[0].reason


TEXTS = st.text("AQZaz09-_", max_size=12) | st.sampled_from(
    ["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "sig", "AQAB", "A" * 43, "_" * 43, "_" * 342, "A" * 342]
)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["kty", "crv", "x", "y", "n", "e", "alg", "use", "kid"]),
            TEXTS | st.integers() | st.none() | st.lists(TEXTS, max_size=2),
        )
        | st.builds(
            lambda good, name, value: {**good, name: value},
            st.sampled_from([jwk(key.public_key()) for key in (RSA_KEY, EC_KEY, ED_KEY)]),
            st.sampled_from(["kty", "crv", "x", "y", "n", "e"]),
            TEXTS,
        ),
        max_size=3,
    )
)
def test_whatever_an_issuer_publishes_becomes_keys_or_reasons(members: list[dict[str, Any]]) -> None:
    try:
        published = read_jwks(json.dumps({"keys": members}).encode())
    except InvalidKey:
        return

    assert len(published.keys) + len(published.refused) == len(members)
    for key in KeySet(published.keys):
        assert not key.holds(b"no signature", b"some text")


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [1]}',
        b'{"keys": [], "keys": []}',
        b'{"keys": ' + b"[" * 30_000,
        b"\xff\xfe",
    ],
)
def test_a_document_without_usable_keys_is_refused(document: bytes) -> None:
    with pytest.raises(InvalidKey):
        read_jwks(document)


def test_the_fully_specified_name_of_ed25519_is_known() -> None:
    keys = read_jwks(json.dumps({"keys": [jwk(ED_KEY.public_key(), kid="ed", alg="Ed25519")]}).encode()).keys
    text = f"{segment({'alg': 'Ed25519', 'kid': 'ed'})}.{segment(claims(aud=...))}"
    token = f"{text}.{segment(ED_KEY.sign(text.encode()))}"

    assert verifier(TokenSettings(), KeySet(keys)).verify(token, NOW).user_id == "anna"


@pytest.mark.parametrize("text", ["", "A", "AB", "AAB", "AA=", "A A", "ÄÄ", "A+/A"])
def test_only_the_one_spelling_of_base64url_is_read(text: str) -> None:
    with pytest.raises(ValueError):
        decode_base64url(text)
