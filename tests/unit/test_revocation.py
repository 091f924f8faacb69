"""What is refused before it expires."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from core.identity import Identity, InvalidToken, TokenSettings
from core.revocation import Revocations, TokenRevocation, UserRevocation, refused_until
from tests.tokens import CLAIMS, GOOD, NOW, verifier

ANNA = Identity(tenant_id="acme", user_id="anna", token_id="t1", issued_at=100.0)


@pytest.mark.parametrize(
    ("revocation", "caller", "refused"),
    [
        (UserRevocation("acme", "anna", 100.0), ANNA, True),
        (UserRevocation("acme", "anna", 100.9), ANNA, True),
        (UserRevocation("acme", "anna", 99.9), ANNA, False),
        (UserRevocation("acme", "anna", 99.9), replace(ANNA, issued_at=None), True),
        (UserRevocation("acme", "boris", 200.0), ANNA, False),
        (UserRevocation("other", "anna", 200.0), ANNA, False),
        (TokenRevocation("acme", "t1", 500.0), ANNA, True),
        (TokenRevocation("acme", "t2", 500.0), ANNA, False),
        (TokenRevocation("other", "t1", 500.0), ANNA, False),
        (TokenRevocation("acme", "t1", 500.0), replace(ANNA, token_id=None), False),
    ],
)
def test_a_revocation_concerns_one_person_or_one_token_of_one_tenant(
    revocation: UserRevocation | TokenRevocation, caller: Identity, refused: bool
) -> None:
    revocations = Revocations()

    revocations.add(revocation)

    assert revocations.is_revoked(caller) is refused


def test_a_revoked_token_is_refused_also_when_it_is_remembered() -> None:
    checker = verifier()
    checker.verify(GOOD, NOW)

    checker.revocations.add(TokenRevocation("default", "token-1", NOW + 600))

    with pytest.raises(InvalidToken) as refused:
        checker.verify(GOOD, NOW)
    assert refused.value.reason == "revoked"


def test_a_reading_that_began_before_an_announcement_does_not_undo_it() -> None:
    revocations = Revocations()
    mark = revocations.mark()
    revocations.add(UserRevocation("acme", "anna", 100.0))

    revocations.replace([UserRevocation("acme", "boris", 50.0)], since=mark)

    assert revocations.is_revoked(ANNA)
    assert len(revocations) == 2

    revocations.replace([], since=revocations.mark())

    assert not revocations.is_revoked(ANNA)


def test_an_earlier_instant_does_not_let_back_in_what_a_later_one_refused() -> None:
    revocations = Revocations()

    revocations.add(UserRevocation("acme", "anna", 100.0))
    revocations.add(UserRevocation("acme", "anna", 50.0))

    assert revocations.is_revoked(ANNA)


def test_a_revoked_token_is_forgotten_when_it_has_expired() -> None:
    revocations = Revocations()
    revocations.add(TokenRevocation("acme", "t1", 500.0))

    revocations.forget_expired(499.0)
    assert len(revocations) == 1

    revocations.forget_expired(500.0)
    assert len(revocations) == 0


def test_a_revoked_token_does_not_come_back_in_the_leeway_after_its_time() -> None:
    checker = verifier()
    last = CLAIMS["exp"] + 9.9  # it would be accepted still
    checker.revocations.add(TokenRevocation("default", "token-1", refused_until(CLAIMS["exp"])))

    checker.revocations.forget_expired(last)

    with pytest.raises(InvalidToken) as refused:
        checker.verify(GOOD, last)
    assert refused.value.reason == "revoked"


@pytest.mark.parametrize("leeway", [timedelta(seconds=-1), timedelta(seconds=61)])
def test_a_leeway_longer_than_revocations_are_kept_stops_the_start(leeway: timedelta) -> None:
    with pytest.raises(ValueError):
        TokenSettings(leeway=leeway)
