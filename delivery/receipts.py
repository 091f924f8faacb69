"""
What providers report about a delivery, and where that takes it. Pure.

Reports come late, several times and in any order. They form a chain of ranks, and a delivery only ever climbs: so the
same reports lead to the same end in whatever order they come (X-56).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from urllib.parse import urlencode, urlsplit, urlunsplit
from uuid import UUID

from core.vault import SealBroken, Vault

ReportedState = Literal["sent", "delivered", "read", "undelivered", "failed"]

#: What a report says about the person rather than the message. `bounced`: the address does not exist. `complained`:
#: it was called spam. `unsubscribed`: they want no more of this channel.
Effect = Literal["bounced", "complained", "unsubscribed"]

#: A delivery takes the state of the higher rank. A failure ends it: `delivered` after it is the report of something
#: older (a mail server that took the message before it bounced). What was called off and went out all the same is what
#: the report says it is.
RANKS: Mapping[str, int] = {
    "queued": 0,
    "deferred": 0,
    "processing": 0,
    "unknown": 0,
    "cancelled": 0,
    "expired": 0,
    "sent": 1,
    "delivered": 2,
    "read": 3,
    "undelivered": 4,
    "failed": 5,
    "suppressed": 6,
}

FAILURES = frozenset({"undelivered", "failed"})

#: Where a failure that is reported is about an attempt before: the next one is still to come.
_TRIED_AGAIN = frozenset({"queued", "deferred"})

#: The parameter of a callback URL that says of which delivery it is.
PARAMETER = "d"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """
    One thing that a provider reports.

    event_id, status: by which it is known when it comes again. state: what it says about the delivery; None: nothing
    that moves it. ref: how the provider calls the message. delivery: (tenant id, delivery id), where the report
    carries them. occurred_at: by the provider's clock.
    """

    provider: str
    event_id: str
    status: str
    state: ReportedState | None
    ref: str | None = None
    delivery: tuple[str, UUID] | None = None
    code: str | None = None
    effect: Effect | None = None
    occurred_at: datetime | None = None


def advanced(state: str, reported: ReportedState, *, is_of_last_attempt: bool = True) -> str:
    """
    The state of a delivery after a report.

    is_of_last_attempt: of the message that the last attempt has sent. A message of an attempt before it that did
    arrive has arrived; that it did not says nothing any more.
    """
    if reported in FAILURES and (state in _TRIED_AGAIN or not is_of_last_attempt):
        return state
    return reported if RANKS[reported] > RANKS[state] else state


def delivery_token(vault: Vault, provider: str, tenant_id: str, delivery_id: UUID) -> str:
    """Which delivery this is, sealed: for what a provider sends back to us as it was (at most 250 characters)."""
    return vault.token(f"{delivery_id}{tenant_id}", "receipt", provider)


def read_delivery_token(vault: Vault, provider: str, token: str) -> tuple[str, UUID] | None:
    """(tenant id, delivery id); None for what was not sealed here for this provider."""
    try:
        text = vault.read_token(token, "receipt", provider)
    except SealBroken:
        return None
    return text[36:], UUID(text[:36])


def callback_url(public_url: str, vault: Vault, provider: str, tenant_id: str, delivery_id: UUID) -> str:
    """
    Where a provider is asked to report what becomes of a delivery.

    public_url: how the provider reaches us (HUB_PUBLIC_URL). The report finds its delivery by the token in it, also
    when it is here before the provider's answer to us.
    """
    scheme, netloc, path, _, _ = urlsplit(public_url)
    query = urlencode({PARAMETER: delivery_token(vault, provider, tenant_id, delivery_id)})
    return urlunsplit(
        (scheme, netloc, f"{path.rstrip('/')}{PATHS.get(provider, f'/webhooks/{provider}')}", query, "")
    )


#: Where each provider's reports come in.
PATHS: Mapping[str, str] = {
    "twilio": "/webhooks/twilio/status",
    "meta": "/webhooks/meta",
    "sendgrid": "/webhooks/sendgrid",
    "telegram": "/webhooks/telegram",
}
