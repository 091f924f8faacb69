"""How a provider's report names its delivery: by a sealed token that we hand over with the message. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit
from uuid import UUID

from core.vault import SealBroken, Vault

#: The parameter of a callback URL that says of which delivery it is.
PARAMETER = "d"

#: Where each provider's reports come in, under HUB_PUBLIC_URL.
PATHS: Mapping[str, str] = {
    "twilio": "/webhooks/twilio/status",
    "meta": "/webhooks/meta",
}

_ID_LENGTH = 36


def callback_url(public_url: str, vault: Vault, provider: str, tenant_id: str, delivery_id: UUID) -> str:
    """
    Where a provider is asked to report what becomes of a delivery.

    public_url: how the provider reaches us (HUB_PUBLIC_URL). The report finds its delivery by the token in it, also
    when it is here before the provider's answer to us. A provider that is told of no URL with each message, but
    returns a text of ours (Meta), is given the token alone: see `token_in`.
    """
    scheme, netloc, path, _, _ = urlsplit(public_url)
    query = urlencode({PARAMETER: delivery_token(vault, provider, tenant_id, delivery_id)})
    path = path.rstrip("/") + PATHS.get(provider, f"/webhooks/{provider}")
    return urlunsplit((scheme, netloc, path, query, ""))


def token_in(url: str | None) -> str | None:
    """The token of a callback URL."""
    return None if url is None else next(iter(parse_qs(urlsplit(url).query).get(PARAMETER, ())), None)


def delivery_token(vault: Vault, provider: str, tenant_id: str, delivery_id: UUID) -> str:
    """Which delivery this is, sealed: at most 300 characters of base64url."""
    return vault.token(f"{delivery_id}{tenant_id}", "receipt", provider)


def read_delivery_token(vault: Vault, provider: str, token: str) -> tuple[str, UUID] | None:
    """(tenant id, delivery id); None for what was not sealed here for this provider."""
    try:
        text = vault.read_token(token, "receipt", provider)
    except SealBroken:
        return None
    return text[_ID_LENGTH:], UUID(text[:_ID_LENGTH])
