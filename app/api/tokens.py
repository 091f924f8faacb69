"""Tokens that shall be good no longer, before they expire."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints, model_validator
from starlette.responses import Response

from app.api.auth import tenant_of
from app.api.models import Body, Moment, TenantId, UserId, one_of
from app.api.operation import Call, nothing
from app.api.reading import read


class Revocation(Body):
    """Everything that one person was given until now, or one token."""

    model_config = ConfigDict(json_schema_extra=one_of("user_id", "token_id"))

    user_id: UserId | None = None
    token_id: (
        Annotated[str, StringConstraints(min_length=1, max_length=255, pattern="^[!-~]([ -~]*[!-~])?$")]
        | None
    ) = Field(default=None, description="The claim `jti`.")
    expires_at: Moment | None = Field(
        default=None, description="Of the token, where that is known: it is remembered no longer."
    )
    tenant_id: TenantId | None = Field(
        default=None, description="Another tenant than the token's needs the scope tenants:all."
    )

    @model_validator(mode="after")
    def _names_one(self) -> Revocation:
        if (self.user_id is None) == (self.token_id is None):
            raise ValueError("Give either user_id or token_id.")
        return self


async def revoke(call: Call) -> Response:
    """Refuse tokens from now on, on every node, and end the connections that were made with them."""
    wanted = await read(call, Revocation)
    store = call.services.revocations
    tenant_id = tenant_of(call.identity, wanted.tenant_id)
    if wanted.user_id is not None:
        call.services.announce(await store.revoke_user(tenant_id, wanted.user_id))
    elif wanted.token_id is not None:
        until = math.inf if wanted.expires_at is None else wanted.expires_at.timestamp()
        call.services.announce(await store.revoke_token(tenant_id, wanted.token_id, until))
    return nothing()
