"""Errors as answers: application/problem+json (RFC 9457), with `error` and `details` beside (X-88)."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
import structlog
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from core.errors import CODES, Fault, ServiceError

log = structlog.stdlib.get_logger("app.api")

MEDIA_TYPE = "application/problem+json"

#: So many faults are listed; a body of a thousand faulty members needs no longer answer.
MAX_FAULTS = 100

#: What Starlette's router and file server raise, in our words.
_CODE_OF_STATUS = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "payload_too_large",
}

#: What pydantic says of an unknown member is "Extra inputs are not permitted": true, and no help.
_WORDS = {"extra_forbidden": "There is no such member.", "missing": "This member is required."}


def type_of(code: str) -> str:
    """The URI of a kind of problem (RFC 9457 section 3.1.1): its place in the docs page of this server."""
    return f"/docs#error-{code.replace('_', '-')}"


def problem(error: ServiceError, request_id: UUID, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that was not served."""
    spec = CODES[error.code]
    body: dict[str, Any] = {
        "type": type_of(error.code),
        "title": spec.title,
        "status": spec.status,
        "detail": error.message,
        "instance": f"urn:uuid:{request_id}",
        "error": error.code,
        "details": [{"path": fault.path, "message": fault.message} for fault in error.faults[:MAX_FAULTS]],
    }
    response = Response(msgspec.json.encode(body), spec.status, dict(headers or {}), MEDIA_TYPE)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.code == "unauthorized":
        response.headers.setdefault("WWW-Authenticate", 'Bearer realm="carillon"')
    return response


def translated(
    error: Exception, request_id: UUID, route: str
) -> tuple[ServiceError, Mapping[str, str] | None]:
    """
    What an exception means to the caller, and the headers that go with it.

    One that nobody expected is logged here, once, with its type and place. Its own words are left
    out: they may quote a row, a token or a message.
    """
    if isinstance(error, ServiceError):
        return error, getattr(error, "headers", None)
    if isinstance(error, HTTPException):
        code = _CODE_OF_STATUS.get(error.status_code, "bad_request")
        return ServiceError(code), error.headers
    log.error(
        "request_failed",
        request_id=str(request_id),
        route=route,
        exception=" from ".join(_types(error)),
        where="".join(traceback.format_tb(error.__traceback__)),
    )
    return ServiceError("internal"), None


def _types(error: BaseException) -> Iterable[str]:
    """The type of an exception and of what it came from."""
    cause: BaseException | None = error
    while cause is not None:
        yield f"{type(cause).__module__}.{type(cause).__qualname__}"
        cause = cause.__cause__ or cause.__context__


def faulty(error: ValidationError, prefix: str = "") -> ServiceError:
    """Everything that a model refused, each with its path; none of it quotes a value."""
    faults = [
        Fault(_path(prefix, item["loc"]), _WORDS.get(item["type"], item["msg"].removeprefix("Value error, ")))
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return refused(faults)


def refused(faults: Sequence[Fault]) -> ServiceError:
    """The error for several faults; its message tells the first."""
    first = faults[0]
    message = f"{first.path}: {first.message}" if first.path else first.message
    if len(faults) > 1:
        message += f"; {len(faults) - 1} more in details"
    return ServiceError("invalid", message, faults=faults)


def _path(prefix: str, location: tuple[int | str, ...]) -> str:
    # Names of a caller's own invention stand in it; a long one is cut.
    parts = [str(part)[:64] for part in location if part != "[key]"]  # pydantic's word for a name itself
    return ".".join([prefix, *parts] if prefix else parts)
