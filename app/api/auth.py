"""Who is calling: a bearer token or an API key -> Identity and its scopes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request

from core.errors import ServiceError
from core.identity import Identity, InvalidToken

#: A token or an API key in; InvalidToken out where it opens nothing.
Authenticate = Callable[[str], Awaitable[Identity]]

REALM = 'Bearer realm="carillon"'


class Unauthorized(ServiceError):
    """No token, or one that opens nothing; the answer names the way to present one (RFC 6750 section 3)."""

    def __init__(self, message: str | None = None, *, presented: bool) -> None:
        super().__init__("unauthorized", message)
        self.headers = {"WWW-Authenticate": f'{REALM}, error="invalid_token"' if presented else REALM}


class InsufficientScope(ServiceError):
    """The token is right and does not reach."""

    def __init__(self, scopes: Sequence[str]) -> None:
        needed = " ".join(scopes)
        super().__init__("forbidden", f"This needs a token with the scope {needed}.")
        self.headers = {"WWW-Authenticate": f'{REALM}, error="insufficient_scope", scope="{needed}"'}


def credential(request: Request) -> str | None:
    """
    What the caller presents: `Authorization: Bearer <token or API key>`, or `X-API-Key: <API key>`.

    Raises Unauthorized when both are given (which would count?) or the scheme is another one.
    """
    authorization = request.headers.get("authorization")
    api_key = request.headers.get("x-api-key")
    if authorization is None:
        return api_key
    if api_key is not None:
        raise Unauthorized("Present a bearer token or an API key, not both.", presented=True)
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized(presented=True)
    return token.strip()


async def authorise(
    request: Request, authenticate: Authenticate, scopes: Sequence[str], on_refused: Callable[[str], None]
) -> Identity:
    """
    The caller, if they hold these scopes.

    on_refused: is told why a token opens nothing, a word of a closed set, for metrics.

    Raises Unauthorized and InsufficientScope; ServiceError (unavailable) when an API key cannot be looked up.
    """
    presented = credential(request)
    if presented is None:
        raise Unauthorized(presented=False)
    try:
        identity = await authenticate(presented)
    except InvalidToken as error:
        on_refused(error.reason)
        raise Unauthorized(error.message, presented=True) from error
    if not all(identity.has(scope) for scope in scopes):
        raise InsufficientScope(scopes)
    return identity


def tenant_of(identity: Identity, wanted: str | None) -> str:
    """
    The tenant that a caller acts in: their own, or with `tenants:all` the one they name.

    Raises ServiceError (not_found) for any other, whether it exists or not.
    """
    if wanted is None or identity.may_enter(wanted):
        return wanted or identity.tenant_id
    raise ServiceError("not_found", "There is no such tenant.")
