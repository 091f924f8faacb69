"""API keys of a tenant: made, listed, revoked. Their secret is shown once."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints
from starlette.responses import Response

from app.api.auth import InsufficientScope
from app.api.models import Answer, Body, Moment, unique
from app.api.operation import Call, answer, nothing
from app.api.reading import read
from core.errors import invalid, not_found
from delivery.api_keys_store import StoredKey

Scope = Literal[
    "notifications:write",
    "broadcast",
    "publish",
    "deliveries:read",
    "templates:write",
    "admin",
    "tenants:all",
]
Scopes = Annotated[
    list[Scope], Field(min_length=1, json_schema_extra={"uniqueItems": True}), AfterValidator(unique)
]

_ID = re.compile(r"[0-9a-f]{16}\Z")


class NewKey(Body):
    """What a key is for, and what it may do."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[!-~]([ -~]*[!-~])?$")]
    scopes: Scopes = Field(description="None that the caller does not hold.")
    expires_at: Moment | None = Field(default=None, description="In the future; without it, never.")


class Key(Answer):
    """A key, without its secret."""

    id: str
    name: str
    scopes: list[str]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class CreatedKey(Key):
    """A key, with its text: nobody can show it again."""

    key: str = Field(description="For `Authorization: Bearer` or `X-API-Key`.")


class Keys(Answer):
    """The newest first, revoked ones too."""

    api_keys: list[Key]


async def create(call: Call) -> Response:
    """Make a key of the caller's tenant. It can do nothing that the caller may not do."""
    wanted = await read(call, NewKey)
    if beyond := [scope for scope in wanted.scopes if not call.identity.has(scope)]:
        raise InsufficientScope(beyond)
    if wanted.expires_at is not None and wanted.expires_at <= call.services.clock.now():
        raise invalid("expires_at", "must be in the future")
    stored, text = await call.services.api_keys.create(
        call.identity, wanted.name, wanted.scopes, wanted.expires_at
    )
    return answer(CreatedKey(**_shown(stored).model_dump(), key=text), 201)


async def keys(call: Call) -> Response:
    """The newest 500 keys of the caller's tenant."""
    found = await call.services.api_keys.list(call.identity)
    return answer(Keys(api_keys=[_shown(key) for key in found]))


async def revoke(call: Call) -> Response:
    """Refuse a key from now on, and end its connections; twice is once."""
    key_id: str = call.path_params["key_id"]
    if not _ID.match(key_id):
        raise not_found("API key")
    call.services.announce(await call.services.api_keys.revoke(call.identity, key_id))
    return nothing()


def _shown(key: StoredKey) -> Key:
    return Key(
        id=key.id,
        name=key.name,
        scopes=list(key.scopes),
        created_by=key.created_by,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
    )
