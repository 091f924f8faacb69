"""Tokens that this installation signs with its own key: for the demo page, the printed commands and `carillon token`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from app.settings import Settings
from core.clock import SystemClock
from core.identity import DEFAULT_TENANT, mint
from core.keys import Key


def own_token(
    settings: Settings,
    secret: str,
    user_id: str,
    *,
    life: timedelta,
    tenant_id: str = DEFAULT_TENANT,
    scopes: Iterable[str] = (),
    roles: Iterable[str] = (),
) -> str:
    """
    A token that says what JWT_ISSUER and the JWT_…AUDIENCE of these settings ask for, so that it opens what it names.

    Raises ValueError as core.identity.mint does.
    """
    tokens, scopes, roles = settings.tokens, list(scopes), list(roles)
    audiences = set(sorted(tokens.audiences)[:1])
    if scopes or roles or not audiences:  # with a right comes the audience that it needs
        audiences |= {name for name in (tokens.service_audience, tokens.admin_audience) if name is not None}
    return mint(
        Key.secret(secret, settings.secrets.jwt_algorithm),
        user_id,
        now=SystemClock().now().timestamp(),
        life=life,
        tenant_id=tenant_id,
        scopes=scopes,
        roles=roles,
        issuer=tokens.issuer,
        audience=sorted(audiences),
    )
