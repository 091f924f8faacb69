"""
The page behind the links of mails: what somebody is sent, seen and changed without signing in.

The link is what one is let in by, so no cookie is read and no other site can make a browser act in somebody's name.
Mail scanners follow every link they see: a GET changes nothing and says nobody's name, address or message.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.responses import Response

from app import preferences_html
from app.api.operation import PUBLIC, THROTTLE, Call, Operation
from app.preferences_html import ALL_MAIL, MARK, POLICY, Form
from core.errors import ServiceError
from core.identity import Identity
from core.locale import is_timezone
from delivery.preferences_link import PATH, Visitor
from digest.store import Subscription
from digest.subscription import Wanted

MAX_BODY_BYTES = 32 * 1024
_MAX_FIELDS = 1500

#: How an opt-out that was made here is known by.
REASON = "preferences_page"

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow",
}


async def page(call: Call) -> Response:
    """What somebody is sent, as a form. It changes nothing, however often it is looked at and by whom."""
    visitor = await _visitor(call)
    if isinstance(visitor, Response):
        return visitor
    return _html(200, preferences_html.page(await _stored(call, visitor), visitor.locale))


async def act(call: Call) -> Response:
    """
    Save what the form says, and show it again; of what it cannot say, what is stored stays. What is posted and is not
    this form is answered with it and changes nothing.
    """
    visitor = await _visitor(call)
    if isinstance(visitor, Response):
        return visitor
    fields = await _fields(call)
    if fields.get(MARK[0]) != [MARK[1]]:
        return _html(200, preferences_html.page(await _stored(call, visitor), visitor.locale))
    form = preferences_html.sent_form(fields)
    try:
        await _save(call, visitor, form)
    except ServiceError as error:
        if error.code != "invalid":
            raise
        paths = {fault.path for fault in error.faults}
        faults = {path if path in preferences_html.FIELDS else "frequency" for path in paths}
        return _html(422, preferences_html.page(form, visitor.locale, faults=faults))
    stored = await _stored(call, visitor)
    return _html(200, preferences_html.page(stored, visitor.locale, is_saved=True))


def operations() -> tuple[Operation, ...]:
    pages = {404: "text/html", 410: "text/html", 429: "text/html"}
    return (
        Operation(
            method="GET",
            path=PATH + "{token}",
            handler=page,
            summary="What somebody is sent, by the link in a mail",
            tag="preferences",
            scopes=PUBLIC,
            answers={200: "text/html", **pages},
            problems=("unavailable",),
        ),
        Operation(
            method="POST",
            path=PATH + "{token}",
            handler=act,
            summary="Change what somebody is sent, by the link in a mail",
            tag="preferences",
            scopes=PUBLIC,
            answers={200: "text/html", 422: "text/html", **pages},
            problems=("payload_too_large", "unsupported_media_type", "conflict", "unavailable"),
        ),
    )


async def _visitor(call: Call) -> Visitor | Response:
    """Who comes by this link, or the page that says why nobody does. A person is held to their rate."""
    found = await call.services.delivery.preferences_links.visitor(call.path_params["token"])
    if found == "unknown":
        return _html(404, preferences_html.notice("unknown", _asked(call)))
    if found == "over":
        return _html(410, preferences_html.notice("over", _asked(call)))
    try:
        call.scope[THROTTLE].admit(Identity(tenant_id=found.tenant_id, user_id=found.user_id))
    except ServiceError as error:
        response = _html(429, preferences_html.notice("busy", found.locale))
        response.headers["Retry-After"] = str(int(error.retry_after or 0) + 1)
        return response
    return found


def _asked(call: Call) -> str:
    """The language that a browser would like best: of somebody who is not known."""
    return call.headers.get("accept-language", "en").partition(",")[0].partition(";")[0].strip()[:35]


async def _fields(call: Call) -> Mapping[str, list[str]]:
    """The fields of a form. Raises ServiceError: unsupported_media_type, payload_too_large, bad_request."""
    media_type = call.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/x-www-form-urlencoded":
        raise ServiceError("unsupported_media_type", "The request body must be a form.")
    body = bytearray()
    async for part in call.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise ServiceError("payload_too_large")
    try:
        return parse_qs(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
        )
    except ValueError:
        raise ServiceError("bad_request", "The form cannot be read.") from None


async def _stored(call: Call, visitor: Visitor) -> Form:
    stored = await call.services.digests.get(visitor.tenant_id, visitor.user_id)
    return preferences_html.stored_form(_wanted(stored, visitor), await _opt_outs(call, visitor))


def _wanted(stored: Subscription | None, visitor: Visitor) -> Wanted:
    """What is wanted now; of somebody who has never said it, nothing, in their own zone."""
    if stored is not None:
        return stored.wanted
    known = visitor.timezone is not None and is_timezone(visitor.timezone)
    return Wanted(is_enabled=False, timezone=visitor.timezone if known and visitor.timezone else "UTC")


async def _opt_outs(call: Call, visitor: Visitor) -> dict[str, tuple[str, str]]:
    """Those by which mails are held back: scope and value, by `scope:value`."""
    found = await call.services.delivery.preferences.opt_outs(visitor.tenant_id, visitor.user_id)
    every = {f"{one.scope}:{one.value}": (one.scope, one.value) for one in found}
    return {name: one for name, one in every.items() if name in ("all:", ALL_MAIL) or _is_of_mail(*one)}


def _is_of_mail(scope: str, value: str) -> bool:
    return scope == "channel_type" and value.startswith("email:")


async def _save(call: Call, visitor: Visitor, form: Form) -> None:
    """Raises ServiceError (invalid), and then nothing is changed."""
    tenant_id, user_id, actor = visitor.tenant_id, visitor.user_id, f"person:{visitor.user_id}"
    stored = await call.services.digests.get(tenant_id, user_id)
    before = _wanted(stored, visitor)
    wanted = preferences_html.wishes(form, before)
    if wanted != before:
        await call.services.digests.put(tenant_id, user_id, wanted, actor)
    preferences, standing = call.services.delivery.preferences, await _opt_outs(call, visitor)
    lifted = {one for one in form.known if one not in form.stopped}
    if form.mail_on:
        lifted.add(ALL_MAIL)
    elif ALL_MAIL not in standing:
        scope, _, value = ALL_MAIL.partition(":")
        await preferences.opt_out(tenant_id, user_id, scope, value, reason=REASON, actor=actor)
    for name in sorted(lifted & standing.keys()):
        try:
            await preferences.lift(tenant_id, user_id, *standing[name], actor=actor)
        except ServiceError as error:
            if error.code != "not_found":  # it has been lifted meanwhile
                raise


def _html(status: int, text: str) -> Response:
    return Response(text, status, _HEADERS, "text/html")
