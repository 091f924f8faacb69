"""The errors of the service: one type, one table. Answers, replies and docs are made from it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """What one code means to a caller."""

    status: int  # of the HTTP answer (RFC 9110 section 15)
    temporary: bool  # the same request may succeed later
    title: str  # for people; the same for every occurrence (RFC 9457 section 3.1.3)


CODES: dict[str, ErrorSpec] = {
    "bad_request": ErrorSpec(400, False, "The request cannot be read."),
    "unauthorized": ErrorSpec(401, False, "A valid token is required."),
    "forbidden": ErrorSpec(403, False, "This token may not do that."),
    "not_found": ErrorSpec(404, False, "There is nothing here under that name."),
    "method_not_allowed": ErrorSpec(405, False, "This path does not know that method."),
    "not_acceptable": ErrorSpec(406, False, "The answer does not exist in an accepted form."),
    "conflict": ErrorSpec(409, False, "That is not possible in the present state."),
    "idempotency_in_flight": ErrorSpec(
        409, True, "A request with this Idempotency-Key is still being served."
    ),
    "payload_too_large": ErrorSpec(413, False, "The request body is too large."),
    "unsupported_media_type": ErrorSpec(415, False, "The request body must be application/json."),
    "invalid": ErrorSpec(422, False, "The request is understood but not acceptable."),
    "idempotency_mismatch": ErrorSpec(422, False, "This Idempotency-Key was used with another request."),
    "too_many_subscriptions": ErrorSpec(429, False, "This connection listens to as many channels as it may."),
    "rate_limited": ErrorSpec(429, True, "Too many requests."),
    "internal": ErrorSpec(500, True, "Something went wrong on our side."),
    "unavailable": ErrorSpec(503, True, "A part that this needs is away."),
    "overloaded": ErrorSpec(503, True, "More work is waiting than can be done in time."),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a request: where, and what, in words for people."""

    path: str  # of the member, as in "recipients.2.user_id"; "" for the whole body
    message: str


class ServiceError(Exception):
    """
    A request that cannot be served, and why.

    code: a key of CODES, stable for ever.
    message: one sentence for the person who reads the answer; carries no secret and no address.
    faults: for `invalid`, every fault that was found.
    retry_after: seconds after which the same request may succeed, where that is known.
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        faults: Sequence[Fault] = (),
        retry_after: float | None = None,
    ) -> None:
        spec = CODES[code]
        super().__init__(message or spec.title)
        self.code = code
        self.message = message or spec.title
        self.faults = tuple(faults)
        self.retry_after = retry_after

    @property
    def spec(self) -> ErrorSpec:
        return CODES[self.code]

    @property
    def temporary(self) -> bool:
        return self.spec.temporary


def invalid(path: str, message: str) -> ServiceError:
    """The error for one faulty member of a request."""
    return ServiceError("invalid", f"{path}: {message}" if path else message, faults=[Fault(path, message)])


def not_found(what: str = "notification") -> ServiceError:
    """The one answer for what is not there, is another tenant's, or is somebody else's."""
    return ServiceError("not_found", f"There is no such {what}.")
