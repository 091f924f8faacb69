"""Who gets in: a table of tokens, every one-character change of a good one, and checkers that fail it."""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import identity as identity_module
from core.identity import (
    ACTING,
    ADMIN,
    SCOPES,
    ExpiredToken,
    Identity,
    InvalidToken,
    TokenSettings,
    UnknownKey,
    Verifier,
    expand,
    is_user_id,
    mint,
)
from core.keys import Key, KeySet, read_jwks
from core.revocation import Revocations
from core.streams import is_tenant_id
from tests.tokens import (
    AUDIENCE,
    CLAIMS,
    EC_KEY,
    ED_KEY,
    GOOD,
    HMAC_KEY,
    HOUR,
    ISSUER,
    JWKS,
    KEYS,
    NOW,
    RSA_KEY,
    RSA_PEM,
    SECRET,
    SETTINGS,
    STRANGER,
    claims,
    jwk,
    public,
    segment,
    signed,
    verifier,
)


def raw_claims(**changed: str) -> bytes:
    """The good claims as text, with JSON text appended as further members, whatever they are."""
    members = json.dumps(CLAIMS)[1:-1]
    return ("{" + members + "".join(f', "{name}": {text}' for name, text in changed.items()) + "}").encode()


FAR = "1" + "0" * 400

#: name: (token, the reason it is refused for)
HOSTILE: dict[str, tuple[str, str]] = {
    "empty": ("", "form"),
    "one part": ("abc", "form"),
    "two parts": (GOOD.rpartition(".")[0], "form"),
    "four parts": (GOOD + ".abc", "form"),
    "five parts, as an encrypted token has": (GOOD + ".abc.abc", "form"),
    "padded": (GOOD + "=", "form"),
    "with a line end": (GOOD + "\n", "form"),
    "with a space before": (" " + GOOD, "form"),
    "with a NUL": (GOOD[:20] + "\0" + GOOD[21:], "form"),
    "with a character that is not ASCII": ("é" + GOOD[1:], "form"),
    "with a lone surrogate": ("\ud800" + GOOD[1:], "form"),
    "standard base64 alphabet": ("+" + GOOD[1:], "form"),
    "header that is no JSON": (signed(CLAIMS, b"{alg:HS256}"), "form"),
    "header that is a list": (signed(CLAIMS, ["HS256"]), "form"),
    "header with alg twice": (signed(CLAIMS, b'{"alg":"none","alg":"HS256"}'), "form"),
    "header in UTF-16": (signed(CLAIMS, '{"alg":"HS256"}'.encode("utf-16")), "form"),
    "header nested 1,000 deep": (signed(CLAIMS, b'{"alg":' + b"[" * 1000 + b"]" * 1000 + b"}"), "form"),
    "alg none with an empty signature": (f"{segment({'alg': 'none'})}.{segment(CLAIMS)}.", "form"),
    "alg none with some signature": (f"{segment({'alg': 'none'})}.{segment(CLAIMS)}.AAAA", "key"),
    "alg None": (signed(CLAIMS, {"alg": "None"}), "key"),
    "alg nOnE": (signed(CLAIMS, {"alg": "nOnE"}), "key"),
    "alg empty": (signed(CLAIMS, {"alg": ""}), "key"),
    "alg null": (signed(CLAIMS, {"alg": None}), "header"),
    "alg a list": (signed(CLAIMS, {"alg": ["HS256"]}), "header"),
    "no alg": (signed(CLAIMS, {"typ": "JWT"}), "header"),
    "another HMAC than the configured one": (signed(CLAIMS, {"alg": "HS512"}, hash_name="sha512"), "key"),
    "RSA public key as HMAC secret": (
        signed(CLAIMS, {"alg": "HS256", "kid": "rsa"}, secret=RSA_PEM),
        "algorithm",
    ),
    "RSA public key as HMAC secret, no kid": (signed(CLAIMS, {"alg": "HS256"}, secret=RSA_PEM), "signature"),
    "HMAC under a public key's kid": (signed(CLAIMS, {"alg": "HS256", "kid": "ec"}), "algorithm"),
    "RS512 with a key for RS256": (public(CLAIMS, RSA_KEY, "RS512", "rsa"), "algorithm"),
    "PS256 with a key for RS256": (public(CLAIMS, RSA_KEY, "PS256", "rsa"), "algorithm"),
    "the EC key under the RSA kid": (public(CLAIMS, EC_KEY, "ES256", "rsa"), "algorithm"),
    "a stranger's key under a known kid": (public(CLAIMS, STRANGER, "RS256", "rsa"), "signature"),
    "a stranger's key in the header": (
        public(CLAIMS, STRANGER, "RS256", "rsa", jwk=jwk(STRANGER.public_key())),
        "signature",
    ),
    "a stranger's address in the header": (
        public(CLAIMS, STRANGER, "RS256", "new", jku="https://evil.example/jwks"),
        "key",
    ),
    "no kid for a public key": (public(CLAIMS, RSA_KEY, "RS256", None), "key"),
    "kid a path": (signed(CLAIMS, {"alg": "RS256", "kid": "../../dev/null"}, secret=b""), "key"),
    "kid a query": (signed(CLAIMS, {"alg": "RS256", "kid": "x' UNION SELECT 'k"}, secret=b"k"), "key"),
    "kid a number": (signed(CLAIMS, {"alg": "HS256", "kid": 1}), "header"),
    "kid of 300 characters": (signed(CLAIMS, {"alg": "HS256", "kid": "k" * 300}), "header"),
    "crit": (signed(CLAIMS, {"alg": "HS256", "crit": ["exp"], "exp": 1}), "header"),
    "crit empty": (signed(CLAIMS, {"alg": "HS256", "crit": []}), "header"),
    "b64 false": (signed(CLAIMS, {"alg": "HS256", "b64": False}), "header"),
    "a logout token": (signed(CLAIMS, {"alg": "HS256", "typ": "logout+jwt"}), "header"),
    "typ a number": (signed(CLAIMS, {"alg": "HS256", "typ": 1}), "header"),
    "another secret": (signed(CLAIMS, secret=b"another"), "signature"),
    "an empty secret": (signed(CLAIMS, secret=b""), "signature"),
    "half the signature": (GOOD[:-19], "signature"),
    "EC signature of zeros": (
        public(CLAIMS, EC_KEY, "ES256", "ec").rpartition(".")[0] + "." + segment(bytes(64)),
        "signature",
    ),
    "Ed25519 signature of zeros": (
        public(CLAIMS, ED_KEY, "EdDSA", "ed").rpartition(".")[0] + "." + segment(bytes(64)),
        "signature",
    ),
    "claims that are no JSON": (signed(b"{sub:anna}"), "claims"),
    "claims that are a text": (signed(b'"anna"'), "claims"),
    "sub twice": (signed(raw_claims(sub='"boris"')), "claims"),
    "exp twice": (signed(raw_claims(exp=str(int(NOW) + 9_999))), "claims"),
    "a member twice, deep inside": (signed(raw_claims(x='{"a": 1, "a": 2}')), "claims"),
    "NaN": (signed(raw_claims(x="NaN")), "claims"),
    "no sub": (signed(claims(sub=...)), "claims"),
    "sub null": (signed(claims(sub=None)), "claims"),
    "sub empty": (signed(claims(sub="")), "claims"),
    "sub a number": (signed(claims(sub=1)), "claims"),
    "sub a list": (signed(claims(sub=["anna"])), "claims"),
    "sub of 256 characters": (signed(claims(sub="a" * 256)), "claims"),
    "sub with a NUL": (signed(claims(sub="an\0na")), "claims"),
    "sub with a line end": (signed(claims(sub="anna\nadmin")), "claims"),
    "sub with a lone surrogate": (signed(raw_claims().replace(b'"anna"', b'"\\ud800"')), "claims"),
    "sub that turns the reading direction": (signed(claims(sub="anna\u202e")), "claims"),
    "sub with a space at its end": (signed(claims(sub="anna ")), "claims"),
    "no exp": (signed(claims(exp=...)), "claims"),
    "exp null": (signed(claims(exp=None)), "claims"),
    "exp a text": (signed(claims(exp=str(int(NOW) + 600))), "claims"),
    "exp with a fraction": (signed(claims(exp=NOW + 600.5)), "claims"),
    "exp true": (signed(claims(exp=True)), "claims"),
    "exp Infinity": (signed(raw_claims(x="1").replace(str(CLAIMS["exp"]).encode(), b"Infinity")), "claims"),
    "exp of 401 digits": (signed(raw_claims().replace(str(CLAIMS["exp"]).encode(), FAR.encode())), "claims"),
    "exp 0": (signed(claims(exp=0)), "claims"),
    "exp negative": (signed(claims(exp=-1)), "claims"),
    "expired for 10 s": (signed(claims(exp=int(NOW) - 10)), "expired"),
    "expired for a year": (signed(claims(exp=int(NOW) - 31_536_000)), "expired"),
    "iat in the future": (signed(claims(iat=int(NOW) + 11)), "not_yet_valid"),
    "iat a text": (signed(claims(iat=str(int(NOW)))), "claims"),
    "iat 1e999": (signed(raw_claims().replace(b'"iat": 1800000000', b'"iat": 1e999')), "claims"),
    "iat true": (signed(claims(iat=True)), "claims"),
    "nbf in the future": (signed(claims(nbf=int(NOW) + 11)), "not_yet_valid"),
    "nbf a text": (signed(claims(nbf="now")), "claims"),
    "no iss": (signed(claims(iss=...)), "issuer"),
    "another iss": (signed(claims(iss=ISSUER + "/")), "issuer"),
    "iss a list": (signed(claims(iss=[ISSUER])), "claims"),
    "no aud": (signed(claims(aud=...)), "audience"),
    "another aud": (signed(claims(aud="billing")), "audience"),
    "aud that only begins so": (signed(claims(aud="carillon2")), "audience"),
    "aud an object": (signed(claims(aud={"carillon": True})), "claims"),
    "aud with a number": (signed(claims(aud=["carillon", 1])), "claims"),
    "jti a number": (signed(claims(jti=1)), "claims"),
    "tenant a number": (signed(claims(tenant_id=7)), "claims"),
    "tenant null": (signed(claims(tenant_id=None)), "claims"),
    "tenant empty": (signed(claims(tenant_id="")), "claims"),
    "tenant with a slash": (signed(claims(tenant_id="acme/../other")), "claims"),
    "tenant with a line end": (signed(claims(tenant_id="acme\n")), "claims"),
    "scope a list": (signed(claims(scope=["admin"])), "claims"),
    "roles a text": (signed(claims(roles="admin")), "claims"),
    "roles with a number": (signed(claims(roles=["admin", 1])), "claims"),
    "longer than 4 KiB": (signed(claims(pad="x" * 4096)), "too_long"),
}

HONEST: dict[str, str] = {
    "HS256": GOOD,
    "HS256 with a kid of the issuer's": signed(CLAIMS, {"alg": "HS256", "kid": "2026-01"}),
    "RS256": public(CLAIMS, RSA_KEY, "RS256", "rsa"),
    "ES256": public(CLAIMS, EC_KEY, "ES256", "ec"),
    "EdDSA": public(CLAIMS, ED_KEY, "EdDSA", "ed"),
    "RFC 9068 type": signed(CLAIMS, {"alg": "HS256", "typ": "at+JWT"}),
    "no typ": signed(CLAIMS, {"alg": "HS256"}),
    "expired within the leeway": signed(claims(exp=int(NOW) - 9)),
    "iat within the leeway": signed(claims(iat=int(NOW) + 10)),
    "iat with a fraction": signed(claims(iat=NOW - 0.25)),
    "no iat, no jti": signed(claims(iat=..., jti=...)),
    "several audiences": signed(claims(aud=["billing", "carillon"])),
    "a public key's address in the header, unread": public(
        CLAIMS, RSA_KEY, "RS256", "rsa", jku="https://evil.example/jwks"
    ),
}

Check = Callable[[str], Any]


def accepted(check: Check, tokens: dict[str, str]) -> list[str]:
    """The names of the tokens that a checker lets in. Anything but a refusal is a bug of the checker."""
    names = []
    for name, token in tokens.items():
        try:
            check(token)
        except (InvalidToken, jwt.InvalidTokenError):
            continue
        names.append(name)
    return names


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_token_is_refused_for_its_reason_and_told_nothing(name: str) -> None:
    token, reason = HOSTILE[name]

    with pytest.raises(InvalidToken) as refused:
        verifier().verify(token, NOW)

    assert refused.value.reason == reason
    assert refused.value.code == "unauthorized"
    expected = "The token has expired." if reason == "expired" else "A valid token is required."
    assert str(refused.value) == expected
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_token_gets_in(name: str) -> None:
    identity = verifier().verify(HONEST[name], NOW)

    assert (identity.tenant_id, identity.user_id, identity.kind) == ("default", "anna", "user")
    assert identity.scopes == frozenset()
    assert identity.issuer == ISSUER


def test_an_honest_token_with_every_claim_says_who_calls() -> None:
    token = signed(claims(tenant_id="acme", scope="openid publish deliveries:read", roles=["teacher"]))

    identity = verifier().verify(token, NOW)

    assert identity == Identity(
        tenant_id="acme",
        user_id="anna",
        scopes=frozenset({"publish", "deliveries:read"}),
        expires_at=NOW + 600,
        token_id="token-1",
        issued_at=NOW,
        issuer=ISSUER,
        kind="service",
    )


@pytest.mark.parametrize("name", ["HS256", "RS256", "ES256", "EdDSA"])
def test_no_one_character_change_of_a_good_token_gets_in(name: str) -> None:
    token = HONEST[name]
    alphabet = string.ascii_letters + string.digits + "-_"
    changed = {}
    for at, character in enumerate(token):
        other = alphabet[(alphabet.find(character) + 1) % len(alphabet)]
        changed[f"{at} replaced"] = token[:at] + other + token[at + 1 :]
        changed[f"{at} left out"] = token[:at] + token[at + 1 :]
        changed[f"{at} flipped"] = token[:at] + chr(ord(character) ^ 1) + token[at + 1 :]

    assert len(changed) >= 470
    assert accepted(lambda token: verifier().verify(token, NOW), changed) == []


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["HS256", "RS256", "rsa", "anna", AUDIENCE, ISSUER, "admin", "JWT", 0, 2**53, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.text()
    | st.text("abcdefghijklmnop.-_=", max_size=60)
    | st.builds(lambda end: GOOD + end, st.text(min_size=1))
)
def test_any_text_is_refused_without_another_error(text: str) -> None:
    with pytest.raises(InvalidToken):
        verifier().verify(text, NOW)


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jku"]), JSON))
def test_any_header_is_refused_or_the_configured_one(header: dict[str, Any]) -> None:
    try:
        verifier().verify(signed(CLAIMS, header or {"typ": "JWT"}), NOW)
    except InvalidToken:
        return

    assert header["alg"] == "HS256"
    assert not {"crit", "b64"} & header.keys()


@given(st.dictionaries(st.sampled_from([*CLAIMS, "nbf", "scope", "roles", "tenant_id"]), JSON, max_size=3))
def test_any_claims_are_refused_or_make_a_caller_who_fits_everywhere(changed: dict[str, Any]) -> None:
    try:
        identity = verifier().verify(signed(claims(**changed)), NOW)
    except InvalidToken:
        return

    assert is_user_id(identity.user_id)
    assert is_tenant_id(identity.tenant_id)
    assert identity.expires_at + 10 > NOW
    assert identity.scopes <= SCOPES
    assert identity.issuer == ISSUER


# The checkers below are wrong on purpose, each in one well-known way: the table must catch every one.


def naive_pyjwt(token: str) -> Any:
    """What a tutorial shows: the right secret, the right algorithm, every other check as it comes."""
    return jwt.decode(
        token,
        SECRET,
        algorithms=["HS256"],
        audience=AUDIENCE,
        issuer=ISSUER,
        options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
    )


class AlgorithmFromToken(Verifier):
    """Takes the algorithm from the token, so that a public key serves as an HMAC secret."""

    def _key_of(self, header: dict[str, Any]) -> Key:
        if header.get("kid") == "rsa" and header.get("alg") == "HS256":
            return Key("HS256", RSA_PEM)
        return super()._key_of(header)


class AnyKeyOfTheHeader(Verifier):
    """Trusts the key that the token brings along."""

    def _key_of(self, header: dict[str, Any]) -> Key:
        if "jwk" in header:
            return read_jwks(json.dumps({"keys": [header["jwk"]]}).encode()).keys[0]
        return super()._key_of(header)


class NoSignature(Verifier):
    """Reads the claims and believes them."""

    def _key_of(self, header: dict[str, Any]) -> Any:
        class Gullible:
            def holds(self, signature: bytes, text: bytes) -> bool:
                return True

        return Gullible()


class ExtensionsIgnored(Verifier):
    """Does not look at crit."""

    def _key_of(self, header: dict[str, Any]) -> Key:
        return super()._key_of({name: value for name, value in header.items() if name not in ("crit", "b64")})


@pytest.mark.parametrize(
    ("mutant", "caught_by"),
    [
        (AlgorithmFromToken, "RSA public key as HMAC secret"),
        (AnyKeyOfTheHeader, "a stranger's key in the header"),
        (NoSignature, "another secret"),
        (ExtensionsIgnored, "crit"),
    ],
)
def test_the_table_catches_a_careless_verifier(mutant: type[Verifier], caught_by: str) -> None:
    careless = mutant(KEYS, SETTINGS, Revocations())

    let_in = accepted(
        lambda token: careless.verify(token, NOW), {name: token for name, (token, _) in HOSTILE.items()}
    )

    assert caught_by in let_in


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_the_table_catches_the_library_used_as_tutorials_do() -> None:
    let_in = accepted(naive_pyjwt, {name: token for name, (token, _) in HOSTILE.items() if token.isascii()})

    assert {"sub twice", "no exp", "exp a text", "padded", "a logout token", "sub with a NUL"} <= {*let_in}


def test_duplicate_members_let_in_by_a_lenient_reader_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_module, "read_object", json.loads)
    twice = {name: token for name, (token, _) in HOSTILE.items() if "twice" in name}

    let_in = accepted(lambda token: verifier().verify(token, NOW), twice)

    assert let_in == ["header with alg twice", "sub twice", "exp twice", "a member twice, deep inside"]


def test_a_token_of_8_megabytes_is_refused_before_anything_looks_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[str] = []

    def spy(name: str) -> Callable[..., Any]:
        def called(*_: Any, **__: Any) -> Any:
            looked.append(name)
            raise InvalidToken("form")

        return called

    monkeypatch.setattr(identity_module.hashlib, "sha256", spy("hash"))
    monkeypatch.setattr(identity_module, "read_object", spy("json"))
    monkeypatch.setattr(identity_module, "decode_base64url", spy("base64"))
    monkeypatch.setattr(Verifier, "_read", spy("read"))

    with pytest.raises(InvalidToken) as refused:
        verifier().verify("e" * 8_000_000, NOW)

    assert refused.value.reason == "too_long"
    assert looked == []


def test_the_longest_token_is_read_and_one_character_more_is_not() -> None:
    settings = replace(SETTINGS, max_bytes=len(GOOD))

    assert verifier(settings).verify(GOOD, NOW).user_id == "anna"
    with pytest.raises(InvalidToken):
        verifier(replace(settings, max_bytes=len(GOOD) - 1)).verify(GOOD, NOW)


def test_expiry_counts_from_the_leeway_on_and_for_remembered_tokens_too() -> None:
    checker = verifier()
    end = CLAIMS["exp"] + 10

    assert checker.verify(GOOD, NOW) is checker.verify(GOOD, end - 0.001)
    with pytest.raises(ExpiredToken):
        checker.verify(GOOD, end)
    with pytest.raises(ExpiredToken):
        verifier().verify(GOOD, end)


def test_an_unknown_kid_is_told_apart_for_whoever_fetches_keys() -> None:
    with pytest.raises(UnknownKey):
        verifier().verify(public(CLAIMS, STRANGER, "RS256", "tomorrow"), NOW)


@pytest.mark.parametrize(
    "name", ["alg nOnE", "another HMAC than the configured one", "no kid for a public key"]
)
def test_a_key_that_nobody_could_publish_is_not_worth_fetching(name: str) -> None:
    with pytest.raises(InvalidToken) as refused:
        verifier().verify(HOSTILE[name][0], NOW)

    assert not isinstance(refused.value, UnknownKey)


def test_without_a_configured_issuer_and_audience_only_tokens_for_nobody_else_get_in() -> None:
    checker = verifier(TokenSettings())

    assert checker.verify(signed(claims(aud=..., iss="anyone")), NOW).issuer == "anyone"
    assert checker.verify(signed(claims(aud=..., iss=...)), NOW).issuer is None
    with pytest.raises(InvalidToken):
        checker.verify(signed(claims(aud="billing")), NOW)


@pytest.mark.parametrize(
    ("changed", "gets_in"),
    [({"exp": int(NOW) + 900}, True), ({"exp": int(NOW) + 901}, False), ({"iat": ...}, False)],
)
def test_a_maximal_life_is_measured_from_the_issue(changed: dict[str, Any], gets_in: bool) -> None:
    checker = verifier(replace(SETTINGS, max_life=timedelta(minutes=15)))

    assert accepted(lambda token: checker.verify(token, NOW), {"token": signed(claims(**changed))}) == (
        ["token"] if gets_in else []
    )


@pytest.mark.parametrize(
    ("said", "scopes", "kind"),
    [
        ({}, frozenset(), "user"),
        ({"scope": ""}, frozenset(), "user"),
        ({"scope": "openid profile"}, frozenset(), "user"),
        ({"scope": "deliveries:read"}, {"deliveries:read"}, "user"),
        ({"scope": "broadcast"}, {"broadcast"}, "service"),
        ({"scope": "admin"}, ADMIN, "service"),
        ({"scope": "tenants:all"}, {"tenants:all"}, "service"),
        ({"roles": ["service"]}, ACTING, "service"),
        ({"roles": ["admin"]}, ADMIN, "service"),
        ({"roles": ["teacher"]}, frozenset(), "user"),
        ({"roles": ["service"], "scope": "tenants:all"}, ACTING | {"tenants:all"}, "service"),
        ({"roles": ["broadcast"]}, frozenset(), "user"),
        ({"scope": "service"}, frozenset(), "user"),
    ],
)
def test_scopes_and_roles_stand_for_what_the_table_says(
    said: dict[str, Any], scopes: frozenset[str], kind: str
) -> None:
    identity = verifier().verify(signed(claims(**said)), NOW)

    assert identity.scopes == scopes
    assert identity.kind == kind
    assert identity.is_service is (kind == "service")


def test_admin_stands_for_every_scope_but_all_tenants() -> None:
    assert frozenset({"tenants:all"}) == SCOPES - ADMIN
    assert expand({"admin"}) == ADMIN


@pytest.mark.parametrize(
    ("audience", "scopes"),
    [
        ("carillon", {"deliveries:read"}),
        ("carillon-services", {"publish", "deliveries:read"}),
        ("carillon-admin", ADMIN),
        (["carillon-services", "carillon-admin"], ADMIN),
    ],
)
def test_services_and_admins_need_their_own_audience_where_one_is_set(
    audience: Any, scopes: frozenset[str]
) -> None:
    settings = replace(SETTINGS, service_audience="carillon-services", admin_audience="carillon-admin")
    token = signed(claims(aud=audience, scope="publish deliveries:read admin"))

    assert verifier(settings).verify(token, NOW).scopes == scopes


def test_without_an_admin_audience_the_service_audience_guards_admins_too() -> None:
    settings = replace(SETTINGS, service_audience="carillon-services")

    identity = verifier(settings).verify(signed(claims(roles=["admin", "service"])), NOW)

    assert identity.scopes == frozenset()


def test_a_caller_stays_in_its_tenant_unless_it_may_enter_all() -> None:
    anna = Identity(tenant_id="acme", user_id="anna", scopes=ADMIN)

    assert anna.may_enter("acme")
    assert not anna.may_enter("other")
    assert replace(anna, scopes=frozenset({"tenants:all"})).may_enter("other")


def test_two_clients_never_share_a_name() -> None:
    callers = [
        Identity(tenant_id="a", user_id="b:c", issuer="x"),
        Identity(tenant_id="a", user_id="c", issuer="x:b"),
        Identity(tenant_id="a", user_id="c", issuer="x"),
        Identity(tenant_id="a", user_id="c"),
        Identity.of_api_key("c", tenant_id="a", scopes=(), created_at=0),
    ]

    assert len({caller.client for caller in callers}) == len(callers)


# --- memory of verified tokens


class Counting(Verifier):
    """Counts how often a token is read in full."""

    reads = 0

    def _read(self, token: str, now: float) -> Identity:
        self.reads += 1
        return super()._read(token, now)


def test_a_returning_token_is_not_read_again() -> None:
    checker = Counting(KEYS, SETTINGS, Revocations())

    for _ in range(5):
        checker.verify(GOOD, NOW)

    assert checker.reads == 1


def test_a_refused_token_leaves_nothing_behind() -> None:
    checker = Counting(KEYS, SETTINGS, Revocations())

    assert accepted(lambda token: checker.verify(token, NOW), dict.fromkeys("abc", GOOD[:-9])) == []
    assert checker.reads == 3


def test_the_memory_is_bounded_and_forgets_the_oldest() -> None:
    checker = Counting(KEYS, replace(SETTINGS, remembered=2), Revocations())
    one, two, three = (signed(claims(jti=name)) for name in ("one", "two", "three"))

    for token in (one, two, three, two, three, one):
        checker.verify(token, NOW)

    assert checker.reads == 4


def test_other_keys_empty_the_memory_and_equal_ones_do_not() -> None:
    checker = Counting(KEYS, SETTINGS, Revocations())
    token = HONEST["RS256"]
    checker.verify(token, NOW)

    checker.replace_keys(KeySet([HMAC_KEY]) | read_jwks(JWKS).keys)
    checker.verify(token, NOW)

    assert checker.reads == 1

    checker.replace_keys(KeySet([HMAC_KEY]))

    with pytest.raises(UnknownKey):
        checker.verify(token, NOW)


# --- minting


def test_a_minted_token_is_what_the_verifier_accepts() -> None:
    token = mint(
        HMAC_KEY,
        "anna",
        now=NOW + 0.5,
        life=HOUR,
        tenant_id="acme",
        scopes=["publish"],
        roles=["service"],
        issuer=ISSUER,
        audience=AUDIENCE,
        token_id="t1",
    )

    identity = verifier().verify(token, NOW)

    assert (identity.tenant_id, identity.user_id, identity.token_id) == ("acme", "anna", "t1")
    assert identity.scopes == ACTING
    assert identity.expires_at == NOW + 3600
    assert (
        jwt.decode(token, SECRET, ["HS256"], options={"verify_aud": False, "verify_iat": False})["sub"]
        == "anna"
    )


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_every_hmac_that_may_be_configured_works_with_a_short_secret_too(algorithm: str) -> None:
    key = Key.secret("your-jwt-secret-key", algorithm)

    token = mint(key, "anna", now=NOW, life=HOUR)

    assert verifier(TokenSettings(), KeySet([key])).verify(token, NOW).user_id == "anna"


@pytest.mark.parametrize(
    "wrong",
    [
        {"user_id": ""},
        {"user_id": "a\n"},
        {"tenant_id": "a b"},
        {"scopes": ["everything"]},
        {"roles": ["king"]},
        {"key": next(key for key in KEYS if key.kid == "rsa")},
    ],
)
def test_what_no_token_may_say_is_not_minted(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        mint(**{"key": HMAC_KEY, "user_id": "anna", "now": NOW, "life": HOUR, **wrong})


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("anna", True),
        ("auth0|5f7c8ec7", True),
        ("a@b.example", True),
        ("Zoë Ω", True),
        ("x" * 255, True),
        ("x" * 256, False),
        ("", False),
        (" anna", False),
        ("\u00a0anna", False),
        ("an\u2028na", False),
        ("an\u200dna", False),
        ("\ud800", False),
        (None, False),
        (b"anna", False),
    ],
)
def test_a_person_is_named_by_what_can_be_printed(name: object, fits: bool) -> None:
    assert is_user_id(name) is fits


def test_an_identity_is_small_and_cannot_be_changed() -> None:
    identity = verifier().verify(GOOD, NOW)

    with pytest.raises(AttributeError):
        identity.scopes = ADMIN  # type: ignore[misc]  # what this test is about
    assert not hasattr(identity, "__dict__")
    assert sys.getsizeof(identity) <= 120
