"""API keys: their form, their hash, and who they are."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import pytest

from core.api_key import ApiKey, new_api_key
from core.identity import Identity, InvalidToken, is_user_id
from core.revocation import Revocations, TokenRevocation
from tests.tokens import NOW


def test_an_api_key_is_found_by_its_id_and_known_by_its_hash() -> None:
    key_id, text, stored = new_api_key()
    presented = ApiKey.parse(text)

    assert presented.id == key_id
    assert presented.matches(stored)
    assert not presented.matches(None)
    assert not presented.matches(new_api_key().hash)
    assert len(stored) == hashlib.sha256().digest_size
    assert text.rpartition("_")[2] not in repr(presented)


def test_api_keys_take_their_chance_from_outside() -> None:
    assert new_api_key(bytes).text == "ck_" + "0" * 16 + "_" + "A" * 43
    assert new_api_key() != new_api_key()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[3:],
        lambda text: text[:-1],
        lambda text: text + "A",
        lambda text: text + "\n",
        lambda text: text.replace("ck_", "CK_", 1),
        lambda text: text.replace("_", "-"),
        lambda text: "ck_" + "Z" * 16 + text[19:],
        lambda text: text * 100_000,
        lambda text: "ck_é" + text[4:],
    ],
)
def test_what_has_not_the_form_of_an_api_key_is_refused(change: Callable[[str], str]) -> None:
    with pytest.raises(InvalidToken) as refused:
        ApiKey.parse(change(new_api_key(bytes).text))

    assert refused.value.reason == "api_key"


def test_an_api_key_acts_as_itself_in_its_tenant() -> None:
    identity = Identity.of_api_key("00ff", tenant_id="acme", scopes=["broadcast", "nonsense"], created_at=NOW)

    assert identity.scopes == {"broadcast"}
    assert identity.is_service
    assert identity.client == "api_key:00ff"
    assert is_user_id(identity.user_id)
    assert identity.expires_at == math.inf

    revocations = Revocations()
    revocations.add(TokenRevocation("acme", "00ff", math.inf))
    assert revocations.is_revoked(identity)
