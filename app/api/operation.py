"""One line of the table of routes, and what serves the lines of one path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.auth import Unauthorized, authorise, credential
from app.api.services import Services
from core.identity import Identity

#: Where the application keeps what its handlers work with.
SERVICES = "carillon.services"

#: Where the outermost layer finds which line of the table a request met: a label of metrics.
ROUTE = "carillon.route"

#: Where the application keeps what holds people to their rate.
THROTTLE = "carillon.throttle"

#: Where the caller is kept, once known.
IDENTITY = "carillon.identity"

EVENT_STREAM = "text/event-stream"

#: Any caller with a valid token or API key; a handler says what they may do to whom.
ANYONE: tuple[str, ...] = ()

#: Also a caller without a token.
PUBLIC: None = None


class Call(Request):
    """A request to one operation: who calls, and what there is to call."""

    @property
    def services(self) -> Services:
        services: Services = self.scope[SERVICES]
        return services

    @property
    def identity(self) -> Identity:
        """The caller. Raises ServiceError (unauthorized) where the operation is public and none is known."""
        identity = self.known
        if identity is None:
            raise Unauthorized(presented=False)
        return identity

    @property
    def known(self) -> Identity | None:
        """The caller, where the operation asks for none and a token came all the same."""
        identity: Identity | None = self.scope.get(IDENTITY)
        return identity

    def id_in_path(self, name: str = "notification_id") -> UUID:
        value: UUID = self.path_params[name]
        return value


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """
    One method of one path.

    scopes: what the caller's token must hold, all of it; ANYONE or PUBLIC.
    answers: the successful statuses and their bodies: a model, a media type, or None without a body.
    also: another media type in which the answer exists.
    problems: codes of core.errors besides those that follow from the rest.
    headers: request headers by name with their JSON Schema.
    optional_token: a public operation that says more to some; a token that is presented must be right.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    scopes: Sequence[str] | None = ANYONE
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    headers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    answers: Mapping[int, type[BaseModel] | str | None] = field(default_factory=lambda: {200: None})
    also: str | None = None
    problems: Sequence[str] = ()
    examples: Mapping[str, Any] = field(default_factory=dict)
    optional_token: bool = False
    internal: bool = False  # may be bound to its own listener


class Resource:
    """The ASGI application of one path: checks the method and the caller, then hands over."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = {operation.method: operation for operation in operations}
        got = self._operations.get("GET")
        if got is not None and got.also != EVENT_STREAM:  # of which there is no head without an end
            self._operations["HEAD"] = got
        self._allow = ", ".join(sorted({*self._operations, "OPTIONS"}))
        self._path = operations[0].path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ROUTE] = self._path
        operation = self._operations.get(scope["method"])
        if operation is None:
            if scope["method"] == "OPTIONS":
                await Response(status_code=204, headers={"Allow": self._allow})(scope, receive, send)
                return
            raise HTTPException(405, headers={"Allow": self._allow})
        call = Call(scope, receive)
        if operation.scopes is not None or (operation.optional_token and credential(call) is not None):
            services = call.services
            identity = await authorise(
                call, services.authenticate, operation.scopes or ANYONE, services.metrics.token_refused
            )
            scope[THROTTLE].admit(identity)
            scope[IDENTITY] = identity
        response = await operation.handler(call)
        await response(scope, receive, send)


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON: of a model, a struct, or plain values; bytes are JSON already."""
    if isinstance(content, BaseModel):
        encoded = content.model_dump_json().encode()
    elif isinstance(content, bytes):
        encoded = content
    else:
        encoded = msgspec.json.encode(content)
    return Response(encoded, status, headers, "application/json")


def nothing() -> Response:
    return Response(status_code=204)
