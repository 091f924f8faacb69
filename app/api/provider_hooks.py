"""
What providers tell us: receipts and messages, by their own signed webhooks.

A request is read as bytes, held against its signature, and only then parsed. What a provider sends that we do not know
is taken and left alone: it would send it again for days. 2xx means that everything in it is durable.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import structlog
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from app.api.operation import PUBLIC, Call, Operation
from core.errors import ServiceError, not_found
from delivery.callbacks import PARAMETER, read_delivery_token
from delivery.inbound import Report
from delivery.reports import meta, sendgrid, telegram, twilio
from delivery.signatures import is_meta, is_sendgrid, is_telegram, is_twilio, is_twilio_json

log = structlog.stdlib.get_logger("app.api.provider_hooks")

#: Meta sends up to 3 MB, SendGrid under 1 MB; the others one thing at a time.
_META_BYTES = 3 * 1024 * 1024
_SENDGRID_BYTES = 1024 * 1024
_ONE_BYTES = 256 * 1024

#: Twilio is told to answer nobody.
_NO_REPLY = b'<?xml version="1.0" encoding="UTF-8"?><Response></Response>'

_FORM = "application/x-www-form-urlencoded"


class BadSignature(ServiceError):
    """The webhook does not come from whom it says; what exactly is wrong is nobody's business."""

    def __init__(self) -> None:
        super().__init__("unauthorized", "The signature is missing or wrong.")


class MetaVerification(BaseModel):
    """How Meta asks whether a webhook is ours (Graph API, "Verification Requests"); other parameters are ignored."""

    model_config = ConfigDict(extra="allow")

    mode: str | None = Field(default=None, alias="hub.mode")
    verify_token: str | None = Field(default=None, alias="hub.verify_token")
    challenge: str | None = Field(default=None, alias="hub.challenge")


async def twilio_status(call: Call) -> Response:
    """What became of an SMS or WhatsApp message. Signed by Twilio over HUB_PUBLIC_URL and the form."""
    form = await _twilio_form(call)
    token = call.query_params.get(PARAMETER)
    delivery = read_delivery_token(call.services.delivery.vault, twilio.PROVIDER, token) if token else None
    await _keep(call, twilio.status(form, delivery))
    return Response(status_code=204)


async def twilio_inbound(call: Call) -> Response:
    """What somebody has answered by SMS or WhatsApp. Signed as the status is; the answer is empty TwiML."""
    await _keep(call, twilio.inbound(await _twilio_form(call)))
    return Response(_NO_REPLY, media_type="text/xml")


async def meta_verification(call: Call) -> Response:
    """Meta asks whether this is ours: its challenge comes back when the verify token is right."""
    expected = call.services.delivery.hooks.meta_verify_token
    if expected is None:
        raise not_found("webhook")
    asked = call.query_params
    presented = asked.getlist("hub.verify_token")
    is_right = len(presented) == 1 and hmac.compare_digest(presented[0].encode(), expected.encode())
    if not is_right or asked.get("hub.mode") != "subscribe":
        raise ServiceError("forbidden", "The verify token is missing or wrong.")
    return Response(asked.get("hub.challenge", ""), media_type="text/plain")


async def meta_webhook(call: Call) -> Response:
    """Statuses and messages of WhatsApp, several at once. Signed by Meta over the bytes of the body."""
    secret = _configured(call.services.delivery.hooks.meta_secret)
    raw = await _body(call, _META_BYTES)
    if not is_meta(secret, _header(call, "x-hub-signature-256"), raw):
        raise BadSignature
    delivery_of = partial(read_delivery_token, call.services.delivery.vault, meta.PROVIDER)
    await _keep(call, meta.read(_json(raw), delivery_of))
    return Response(status_code=204)


async def telegram_webhook(call: Call) -> Response:
    """One update of the bot. Telegram presents the secret that setWebhook was given, at the path it was given."""
    hooks = call.services.delivery.hooks
    secret, path = _configured(hooks.telegram_secret), _configured(hooks.telegram_path)
    presented: str = call.path_params["hook"]
    if not hmac.compare_digest(presented.encode(), path.encode()):
        raise not_found("webhook")
    if not is_telegram(secret, call.headers.getlist("x-telegram-bot-api-secret-token")):
        raise BadSignature
    await _keep(call, telegram.read(_json(await _body(call, _ONE_BYTES))))
    return Response(status_code=204)


async def sendgrid_webhook(call: Call) -> Response:
    """Events of mail, several at once. Signed by SendGrid over its timestamp and the bytes of the body."""
    key = call.services.delivery.hooks.sendgrid_key
    if key is None:
        raise not_found("webhook")
    raw = await _body(call, _SENDGRID_BYTES)
    signature = _header(call, "x-twilio-email-event-webhook-signature")
    if not is_sendgrid(key, signature, _header(call, "x-twilio-email-event-webhook-timestamp"), raw):
        raise BadSignature
    await _keep(call, sendgrid.read(_json(raw)))
    return Response(status_code=204)


async def _keep(call: Call, report: Report) -> None:
    delivery = call.services.delivery
    if report.receipts:
        await delivery.receipts.record(report.receipts)
    if report.inbound:
        await delivery.inbound.record(report.inbound)


async def _twilio_form(call: Call) -> Mapping[str, str]:
    """The form, or the JSON object, that Twilio has signed. Of a name with several values, the last."""
    hooks = call.services.delivery.hooks
    token, public_url = _configured(hooks.twilio_token), _configured(hooks.public_url)
    raw = await _body(call, _ONE_BYTES)
    query = call.scope["query_string"].decode("latin-1")
    url = f"{public_url}{call.scope['path']}" + (f"?{query}" if query else "")
    signature = _header(call, "x-twilio-signature")
    if call.headers.get("content-type", "").partition(";")[0].strip().lower() == _FORM:
        pairs = _pairs(raw)
        if not is_twilio(token, signature, url, pairs):
            raise BadSignature
        return {name: value.replace("\0", "") for name, value in pairs}
    if not is_twilio_json(token, signature, url, raw):
        raise BadSignature
    document = _json(raw)
    members = document.items() if isinstance(document, dict) else ()
    return {name: value.replace("\0", "") for name, value in members if isinstance(value, str)}


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    """A form (WHATWG URL standard); Twilio's is UTF-8. Raises BadSignature: Twilio signs nothing else."""
    try:
        return parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError:
        raise BadSignature from None


def _json(raw: bytes) -> Any:
    """A body whose signature is right. Raises ServiceError (bad_request) for what is no JSON."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise ServiceError("bad_request", "The body is no JSON.") from None


def _configured(value: str | None) -> str:
    if value is None:
        raise not_found("webhook")
    return value


def _header(call: Call, name: str) -> str:
    """A header that stands once. Raises BadSignature."""
    values = call.headers.getlist(name)
    if len(values) != 1:
        raise BadSignature
    return values[0]


async def _body(call: Call, limit: int) -> bytes:
    """The bytes of the body, whatever they are. Raises ServiceError (payload_too_large)."""
    parts, size = [], 0
    async for part in call.stream():
        size += len(part)
        if size > limit:
            raise ServiceError("payload_too_large", f"The request body is larger than {limit // 1024} KiB.")
        parts.append(part)
    return b"".join(parts)


def operations() -> tuple[Operation, ...]:
    """The webhooks of providers. They hold no token: each request is signed."""
    problems = ("unauthorized", "not_found", "payload_too_large", "unavailable")

    def hook(path: str, handler: Any, summary: str, answers: Mapping[int, str | None]) -> Operation:
        return Operation(
            method="POST",
            path=path,
            handler=handler,
            summary=summary,
            tag="provider webhooks",
            scopes=PUBLIC,
            answers=answers,
            problems=problems,
        )

    return (
        hook("/webhooks/twilio/status", twilio_status, "A status from Twilio", {204: None}),
        hook("/webhooks/twilio/inbound", twilio_inbound, "A message from Twilio", {200: "text/xml"}),
        hook("/webhooks/meta", meta_webhook, "Statuses and messages from Meta", {204: None}),
        Operation(
            method="GET",
            path="/webhooks/meta",
            handler=meta_verification,
            summary="Meta's question whether this is ours",
            tag="provider webhooks",
            scopes=PUBLIC,
            query=MetaVerification,
            answers={200: "text/plain"},
            problems=("forbidden", "not_found"),
        ),
        hook("/webhooks/telegram/{hook}", telegram_webhook, "An update from Telegram", {204: None}),
        hook("/webhooks/sendgrid", sendgrid_webhook, "Events from SendGrid", {204: None}),
    )
