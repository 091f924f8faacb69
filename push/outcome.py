"""What an answer of a push service means: one table (RFC 8030 §5, §8; RFC 8292 §4.2; Microsoft's for WNS). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Literal

from push.transport import Answer

#: sent       the push service has taken it
#: gone       the subscription has ended: forget it
#: refused    not this request; the subscription may be well, so it is counted and not forgotten at once
#: too_large  for this push service
#: throttled  too much, from us or for this browser: again after a while
#: retry      nothing was sent, and again soon may help
#: unknown    it was handed over and no answer came
#: blocked    the endpoint leads where nothing is sent to
Kind = Literal["sent", "gone", "refused", "too_large", "throttled", "retry", "unknown", "blocked"]

Service = Literal["fcm", "mozilla", "apple", "windows", "other"]

#: The longest that a push service is believed to ask for.
LONGEST_WAIT = timedelta(hours=1)

#: A date has 29 (RFC 9110 §5.6.7), and not many more in the form of before.
_DATE_MAX_CHARACTERS = 64

#: Words by which a push service says what it refuses (Apple's `reason`, FCM's text), and what they mean.
_CLUES = (
    (b"VapidPkHashMismatch", "it was made with another VAPID key"),
    (b"BadJwtToken", "the push service does not take our VAPID token: is VAPID_EMAIL a real address?"),
    (b"ExpiredJwtToken", "the VAPID token had expired: is the clock right?"),
    (b"UnauthorizedRegistration", "it was made with another VAPID key"),
    (b"do not correspond to the credentials", "it was made with another VAPID key"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """
    What became of one push to one browser.

    status: the push service's; None: it was not asked, or did not answer. retry_after: not before this is over.
    reason: a sentence for the operator, without the endpoint. is_held_back: it is the push service as a whole that is
    not sent to for now, which says nothing about this push.
    """

    kind: Kind
    status: int | None = None
    retry_after: timedelta | None = None
    reason: str = ""
    is_held_back: bool = False


_TAKEN = PushResult(kind="sent", status=201, reason="the push service has taken it")


def service_of(origin: str) -> Service:
    """Whose push service an origin is; a closed set, for metrics and for what only one of them wants."""
    host = origin.removeprefix("https://")
    if host in ("fcm.googleapis.com", "jmt17.google.com"):
        return "fcm"
    if host.endswith(".push.services.mozilla.com"):
        return "mozilla"
    if host.endswith(".push.apple.com"):
        return "apple"
    return "windows" if host.endswith(".notify.windows.com") else "other"


def result_of(answer: Answer, service: Service, now: datetime) -> PushResult:
    """What an answer means. now: aware, for a Retry-After that is a date where the answer has none of its own."""
    status = answer.status
    if status == 201:  # nearly all of them
        return _TAKEN
    kind, reason = _meaning(answer, service)
    wait = retry_after(answer, now) if kind in ("throttled", "retry") else None
    return PushResult(kind=kind, status=status, retry_after=wait, reason=reason)


def _meaning(answer: Answer, service: Service) -> tuple[Kind, str]:
    match answer.status:
        case 200 if answer.headers.get("x-wns-notificationstatus", "").lower() == "channelthrottled":
            return "throttled", "the browser has had enough for now"
        case status if 200 <= status < 300:
            return "sent", "the push service has taken it"
        case status if 300 <= status < 400:
            return "refused", "the push service leads elsewhere, and redirects are not followed"
        case 404 | 410:
            return "gone", "the subscription has ended"
        case 413:
            return "too_large", "the push service takes no message of this size"
        case 429:
            return "throttled", "the push service has had enough for now"
        case 406 if service == "windows":  # in place of 429
            return "throttled", "the push service has had enough for now"
        case 408 | 425:
            return "throttled", "the push service was not ready"
        case status if status >= 500:
            return "retry", "the push service has an error of its own"
        case 401 | 403:
            return "refused", _clue(answer) or "the push service does not take our VAPID key for this browser"
    return "refused", _clue(answer) or "the push service refuses it"


def _clue(answer: Answer) -> str | None:
    for word, meaning in _CLUES:
        if word in answer.body:
            return meaning
    if "cache-policy" in answer.headers.get("x-wns-error-description", "").lower():
        return "the push service wants another X-WNS-Cache-Policy for this TTL"
    return None


def retry_after(answer: Answer, now: datetime) -> timedelta | None:
    """
    Retry-After (RFC 9110 §10.2.3): seconds, or a date, which is read by the push service's own clock if it tells it.

    None: it does not say. Never longer than LONGEST_WAIT.
    """
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:9])), LONGEST_WAIT)
    until = _date(text)
    if until is None:
        return None
    return min(max(until - (_date(answer.headers.get("date", "")) or now), timedelta(0)), LONGEST_WAIT)


def _date(text: str) -> datetime | None:
    if len(text) > _DATE_MAX_CHARACTERS:
        return None
    try:
        read = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):  # the last for numbers that no clock shows
        return None
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)
