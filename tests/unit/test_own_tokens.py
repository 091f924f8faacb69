"""What the installation signs itself is let in by its own rules, and what it prints leads there."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from app.own_tokens import own_token
from app.settings import read
from app.welcome import welcome
from core.clock import SystemClock
from core.identity import Verifier
from core.keys import Key, KeySet
from core.revocation import Revocations
from delivery.sandbox import BANNER

SECRET = "a secret of this test, 32 bytes or more"


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"JWT_ISSUER": "https://id.example"},
        {"JWT_AUDIENCE": "hub,other"},
        {"JWT_SERVICE_AUDIENCE": "hub-services"},
        {"JWT_AUDIENCE": "hub", "JWT_SERVICE_AUDIENCE": "hub-services", "JWT_ADMIN_AUDIENCE": "hub-admin"},
    ],
    ids=lambda rules: " ".join(rules) or "none",
)
def test_a_token_of_our_own_opens_what_it_names_whatever_tokens_must_say(rules: dict[str, str]) -> None:
    settings = read({"JWT_SECRET_KEY": SECRET, **rules})
    verifier = Verifier(KeySet([Key.secret(SECRET, "HS256")]), settings.tokens, Revocations())
    now = SystemClock().now().timestamp()

    person = own_token(settings, SECRET, "ada", life=timedelta(hours=1))
    service = own_token(settings, SECRET, "svc", life=timedelta(hours=1), roles=["service"])
    admin = own_token(settings, SECRET, "root", life=timedelta(hours=1), scopes=["admin"])

    assert verifier.verify(person, now).scopes == frozenset()
    assert verifier.verify(service, now).has("broadcast")
    assert verifier.verify(admin, now).has("admin")


@pytest.mark.parametrize(
    ("environment", "page", "broadcast"),
    [
        ({}, "http://localhost:8003", "http://localhost:8003"),
        ({"HUB_INTERNAL_PORT": "9003"}, "http://localhost:8003", "http://localhost:9003"),
        ({"HOST": "fd00::7"}, "http://[fd00::7]:8003", "http://[fd00::7]:8003"),
    ],
)
def test_the_printed_commands_go_where_they_are_served(
    environment: dict[str, str], page: str, broadcast: str
) -> None:
    printed = welcome(read({"JWT_SECRET_KEY": SECRET, **environment}), 8003, [])

    assert f"Open {page} in a browser" in printed
    assert re.findall(r"^curl -sS (\S+)", printed, re.MULTILINE) == [
        f"{broadcast}/internal/broadcast",
        f"{page}/api/v1/notifications",
    ]


def test_a_sandbox_says_on_its_first_page_that_it_is_one() -> None:
    environment = {"JWT_SECRET_KEY": SECRET, "DELIVERY_MODE": "sandbox"}

    assert f"note: {BANNER}" in welcome(read(environment), 8003, [])
    assert BANNER not in welcome(read({"JWT_SECRET_KEY": SECRET}), 8003, [])
