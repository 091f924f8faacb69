"""The HTTP application: the table of routes behind one layer that gives every request an id and an end."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from app.api.operation import ROUTE, SERVICES, THROTTLE, Operation, Resource
from app.api.problems import problem, translated
from app.api.services import Services
from app.api.throttle import Throttle
from core.errors import ServiceError
from core.ids import uuid7

#: On every answer that says nothing else. A page has a policy of its own.
_DEFAULTS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)

_ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, X-API-Key"
_EXPOSED_HEADERS = "Date, Idempotent-Replayed, Location, Retry-After, X-Request-Id"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

#: Asked by address, by whoever watches over the process.
_ANY_HOST = frozenset({"/livez", "/health"})


class BrokenOff(Exception):
    """An answer had begun and could not be finished; why has been logged."""


class Edge:
    """
    The outermost layer of HTTP: an id for every request, its measure, the rules of host and origin, and
    every error as a problem. Another protocol passes through untouched.
    """

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._metrics = services.metrics
        self._hosts = services.settings.trusted_hosts
        self._origins = services.settings.cors_origins
        self._throttle = Throttle(services.settings.request_rate, services.clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid7()
        started = perf_counter()
        status = 0
        extra = [(b"x-request-id", str(request_id).encode())]
        if self._origins:
            extra += self._cors(scope)

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = [*message.get("headers", ()), *extra]
                names = {name for name, _ in given}
                given += [default for default in _DEFAULTS if default[0] not in names]
                message["headers"] = given
            await send(message)

        scope[SERVICES] = self._services
        scope[THROTTLE] = self._throttle
        try:
            if "\0" in scope["path"]:
                raise ServiceError("bad_request", "The path holds the character NUL.")
            if self._hosts and not self._is_trusted(scope):
                raise ServiceError("bad_request", "This server is not called by that Host.")
            if self._origins and scope["method"] == "OPTIONS" and self._is_preflight(scope):
                await Response(status_code=204)(scope, receive, observed)
            else:
                await self._app(scope, receive, observed)
        except ClientDisconnect:
            status = 499  # as proxies count it: nobody was left to answer
        except Exception as error:  # noqa: BLE001 - the one place where any error becomes an answer
            known, headers = translated(error, request_id, scope.get(ROUTE, "other"))
            if status:
                raise BrokenOff from None  # half an answer is out: only the connection's end can tell
            await problem(known, request_id, headers)(scope, receive, observed)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.answered(scope.get(ROUTE, "other"), method, status, perf_counter() - started)

    def _is_trusted(self, scope: Scope) -> bool:
        host = Headers(scope=scope).get("host", "")
        name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
        return name.lower() in self._hosts or scope["path"] in _ANY_HOST

    def _is_preflight(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        return "origin" in headers and "access-control-request-method" in headers

    def _cors(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """
        What a browser is told (Fetch standard, CORS protocol). Credentials are never allowed: ours are
        a header that the page sets itself.
        """
        found = [(b"vary", b"Origin")]
        origin = Headers(scope=scope).get("origin")
        if origin is None or not (origin in self._origins or "*" in self._origins):
            return found
        allowed = "*" if "*" in self._origins else origin
        found += [
            (b"access-control-allow-origin", allowed.encode("latin-1")),
            (b"access-control-expose-headers", _EXPOSED_HEADERS.encode()),
        ]
        if scope["method"] == "OPTIONS":
            found += [
                (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
                (b"access-control-allow-headers", _ALLOWED_HEADERS.encode()),
                (b"access-control-max-age", b"600"),
            ]
        return found


async def _raise(request: Request, error: Exception) -> Response:
    """What the router refuses goes the way of every error, to the outermost layer."""
    raise error


def routes(operations: Sequence[Operation]) -> list[BaseRoute]:
    """The Starlette routes: one for each path, in the order of the table."""
    by_path: dict[str, list[Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, []).append(operation)
    return [Route(path, Resource(group)) for path, group in by_path.items()]


def make_app(
    services: Services,
    operations: Sequence[Operation],
    *,
    before: Sequence[BaseRoute] = (),
    after: Sequence[BaseRoute] = (),
    lifespan: Lifespan[Starlette] | None = None,
) -> Starlette:
    """
    The application of one listener.

    operations: routes.everything(), or routes.public() and routes.internal() on a listener each.
    before, after: routes of others (the WebSocket, the pages), matched before and after ours.
    """
    app = Starlette(
        routes=[*before, *routes(operations), *after],
        middleware=[Middleware(Edge, services)],
        exception_handlers={HTTPException: _raise},
        lifespan=lifespan,
    )
    # A path with a slash too many is another path, not a redirect that loses the body.
    app.router.redirect_slashes = False
    return app
