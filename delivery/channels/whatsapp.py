"""
WhatsApp by three ways behind one channel: Meta's Cloud API, Twilio, and an HTTP API of one's own.

Free text goes only within 24 h after the person's last message; else a template that Meta has approved goes,
with the words as its parameters (https://developers.facebook.com/docs/whatsapp/cloud-api/guides/send-messages).
None of them recognises a repetition.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog

from core.outcome import Fallback, Halt, Outcome, Sent, Unknown
from delivery.callbacks import token_in
from delivery.channel import Address, Message, Provider
from delivery.channels.codes import by_status, outcome
from delivery.channels.fitting import fit, one_line, plain, shorten, utf16_length
from delivery.channels.http_call import Answer, base_url, post
from delivery.channels.twilio import TwilioMessages, TwilioSettings, twilio_messages

log = structlog.stdlib.get_logger("delivery.channels.whatsapp")

#: Characters of a text (text.body of the messages API); Twilio takes 1,600 of a free-form one.
TEXT_MAX = 4096
_TWILIO_TEXT_MAX = 1600

#: Characters of a template's body with its parameters filled in are 1,024; what may stand around them.
_PARAMETERS_MAX = 900

#: The template of the older systems: its parameters, {{1}} first.
DEFAULT_VARIABLES = ("subject_name", "alert_type", "content", "action_required")

#: For a parameter that has no value: Meta takes no empty one (131008).
_NOTHING = "-"

_CLICK_TO_CHAT = frozenset({"api.whatsapp.com", "wa.me", "web.whatsapp.com", "chat.whatsapp.com"})
_VARIABLE = re.compile(
    r"subject_name|alert_type|content|action_required|title|text|url|metadata\.\w{1,64}", re.ASCII
)
_LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Za-z0-9]{2,4})?", re.ASCII)
_CONTENT_SID = re.compile(r"HX[0-9a-fA-F]{32}", re.ASCII)


class Template(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A template that Meta has approved. name and language: as Meta knows it. content_sid: as Twilio does.
    variables: what its {{1}}, {{2}}, … are.
    """

    name: str | None = None
    language: str = "en"
    content_sid: str | None = None
    variables: tuple[str, ...] = DEFAULT_VARIABLES


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatsAppSettings:
    """WhatsApp. From WHATSAPP_*, and the account of Twilio from TWILIO_*."""

    twilio: TwilioSettings = field(default_factory=TwilioSettings)
    phone_number_id: str | None = None  # of the sender at Meta, with WHATSAPP_ACCESS_TOKEN
    access_token: str | None = field(default=None, repr=False)  # of a system user at Meta
    graph_url: str = "https://graph.facebook.com/v23.0"  # of Meta's Graph API, with its version
    from_: str | None = None  # the sender at Twilio, +E.164, with TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN
    api_url: str | None = None  # an HTTP API of one's own, which takes {"phone", "message"}
    api_token: str | None = field(default=None, repr=False)  # its bearer token
    templates: str | None = None  # JSON by notification type, or "*"; see docs/channels.md
    concurrency: int = 32  # calls under way at once, by each of the three
    rate: float = 80.0  # messages per second, by each of the three; 0: no limit of ours

    def __post_init__(self) -> None:
        if (self.phone_number_id is None) != (self.access_token is None):
            raise ValueError(
                "WHATSAPP_PHONE_NUMBER_ID needs WHATSAPP_ACCESS_TOKEN beside it, and the other way round"
            )
        if self.phone_number_id is not None and not (
            self.phone_number_id.isascii() and self.phone_number_id.isdigit()
        ):
            raise ValueError("WHATSAPP_PHONE_NUMBER_ID has digits only: it is an id, not the number")
        for name, token in (("ACCESS", self.access_token), ("API", self.api_token)):
            if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
                raise ValueError(f"WHATSAPP_{name}_TOKEN is printable ASCII")
        if self.from_ is not None and not re.fullmatch(r"(whatsapp:)?\+[0-9]{6,15}", self.from_, re.ASCII):
            raise ValueError("WHATSAPP_FROM is a number such as +14155238886")
        base_url("WHATSAPP_GRAPH_URL", self.graph_url)
        if self.api_url is not None:
            _check_api_url(self.api_url)
        if self.concurrency < 1:
            raise ValueError("WHATSAPP_CONCURRENCY is 1 or more")
        read_templates(self.templates)


def read_templates(text: str | None) -> Mapping[str, Template | None]:
    """WHATSAPP_TEMPLATES, with `notification_alert` for what it does not name. Raises ValueError."""
    try:
        given = msgspec.json.decode(text or "{}", type=dict[str, Template | None])
    except (msgspec.DecodeError, RecursionError):
        raise ValueError(
            'WHATSAPP_TEMPLATES is {"<type or *>": {"name", "language", "content_sid", "variables"}} in JSON'
        ) from None
    for template in given.values():
        if template is not None:
            _check_template(template)
    return {"*": Template(name="notification_alert"), **given}


class MetaCloud:
    """Meta's Cloud API: POST /{phone number id}/messages."""

    name = "meta"

    def __init__(self, settings: WhatsAppSettings, http: aiohttp.ClientSession) -> None:
        self.concurrency = settings.concurrency
        self.rate = settings.rate or None
        self._settings = settings
        self._templates = read_templates(settings.templates)
        self._http = http
        self._url = f"{settings.graph_url.rstrip('/')}/{settings.phone_number_id}/messages"
        self._headers = {
            "Authorization": f"Bearer {settings.access_token}",
            "Content-Type": "application/json",
        }

    def account_of(self, address: Address) -> str:
        return str(self._settings.phone_number_id)

    async def send(self, message: Message) -> Outcome:
        content = self._content(message)
        if content is None:
            return _NO_WAY
        request = {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": message.address.value,
            **content,
            # It comes back with every status of this message, however the answer to this call ended.
            "biz_opaque_callback_data": token_in(message.callback_url) or str(message.delivery_id),
        }
        answer = await post(self._http, self._url, msgspec.json.encode(request), headers=self._headers)
        return _read_meta(answer, message) if isinstance(answer, Answer) else answer

    def _content(self, message: Message) -> Mapping[str, Any] | None:
        if is_window_open(message):
            return {"type": "text", "text": {"preview_url": False, "body": free_text(message, TEXT_MAX)}}
        template = _template(self._templates, message)
        if template is None or template.name is None:
            return None
        values = parameters(template, message)
        body = [{"type": "text", "text": value} for value in values]
        components = [{"type": "body", "parameters": body}] if body else []
        return {
            "type": "template",
            "template": {
                "name": template.name,
                "language": {"code": template.language},
                "components": components,
            },
        }


class TwilioWhatsApp:
    """WhatsApp by Twilio: templates are its Content resources."""

    name = "twilio"

    def __init__(self, settings: WhatsAppSettings, messages: TwilioMessages) -> None:
        self.concurrency = settings.concurrency
        self.rate = settings.rate or None
        self._templates = read_templates(settings.templates)
        self._messages = messages
        self._from = f"whatsapp:{(settings.from_ or '').removeprefix('whatsapp:')}"

    def account_of(self, address: Address) -> str:
        return self._messages.sid

    async def send(self, message: Message) -> Outcome:
        content = self._content(message)
        if content is None:
            return _NO_WAY
        to = f"whatsapp:{message.address.value}"
        return await self._messages.create(message, [("To", to), ("From", self._from), *content])

    def _content(self, message: Message) -> Sequence[tuple[str, str]] | None:
        if is_window_open(message):
            return [("Body", free_text(message, _TWILIO_TEXT_MAX))]
        template = _template(self._templates, message)
        if template is None or template.content_sid is None:
            return None
        values = parameters(template, message)
        numbered = {str(number): value for number, value in enumerate(values, 1)}
        variables = [("ContentVariables", msgspec.json.encode(numbered).decode())] if numbered else []
        return [("ContentSid", template.content_sid), *variables]


class HttpWhatsApp:
    """
    An HTTP API of one's own: POST {"phone", "message"} with a bearer token; any 2xx means taken.

    It has no templates: whatever stands behind it is asked to take free text, and reports nothing later.
    """

    name = "http"

    def __init__(self, settings: WhatsAppSettings, http: aiohttp.ClientSession) -> None:
        self.concurrency = settings.concurrency
        self.rate = settings.rate or None
        self._url = settings.api_url or ""
        self._http = http
        token = {"Authorization": f"Bearer {settings.api_token}"} if settings.api_token else {}
        self._headers = {"Content-Type": "application/json", **token}

    def account_of(self, address: Address) -> str:
        return urlsplit(self._url).hostname or ""

    async def send(self, message: Message) -> Outcome:
        request = {"phone": message.address.value, "message": free_text(message, TEXT_MAX)}
        answer = await post(self._http, self._url, msgspec.json.encode(request), headers=self._headers)
        if not isinstance(answer, Answer):
            return answer
        if 200 <= answer.status < 300:
            return Sent(provider_ref=_reference(answer.json()), is_final=True)
        if answer.status in (403, 404, 405):
            # Nothing goes out by this address, whoever it is for.
            return Halt(
                reason=f"answered {answer.status}: is WHATSAPP_API_URL right?", code=str(answer.status)
            )
        return by_status(answer.status, after=answer.retry_after)


def providers(settings: WhatsAppSettings, http: aiohttp.ClientSession) -> tuple[Provider, ...]:
    """In the order in which they are tried, each only with its credentials."""
    found: list[Provider] = []
    if settings.phone_number_id is not None:
        found.append(MetaCloud(settings, http))
    twilio = twilio_messages(settings.twilio, http)
    if twilio is not None and settings.from_ is not None:
        found.append(TwilioWhatsApp(settings, twilio))
    if settings.api_url is not None:
        found.append(HttpWhatsApp(settings, http))
    return tuple(found)


def is_window_open(message: Message) -> bool:
    """Whether free text may go: 24 h after the person's last message, by this machine's clock."""
    until = message.address.window_until
    return until is not None and datetime.now(UTC) < until


def free_text(message: Message, limit: int) -> str:
    """Title, text and link within so many UTF-16 units, which are never fewer than characters."""
    parts = (plain(message.title), plain(message.text), message.action_url or "")
    fitted = fit(parts, lambda text: utf16_length(text) <= limit)
    if fitted is None:  # a link has 2,048 characters at most
        return _NOTHING
    if fitted.dropped:
        _log_shortened(message, fitted.dropped)
    return fitted.body or _NOTHING


def parameters(template: Template, message: Message) -> Sequence[str]:
    """
    The values of {{1}}, {{2}}, …: on one line each, never empty, and together within what a template takes.

    Meta refuses line ends, tabs and more than four spaces in a row in a parameter (132012 and 100).
    """
    values = [one_line(_value(variable, message)) or _NOTHING for variable in template.variables]
    excess = sum(map(len, values)) - _PARAMETERS_MAX
    while excess > 0:
        longest = max(range(len(values)), key=lambda place: len(values[place]))
        room = max(len(values[longest]) - excess, _PARAMETERS_MAX // len(values))
        shorter = shorten(values[longest], lambda text, room=room: len(text) <= room) or "…"  # type: ignore[misc]  # a default binds the room of this turn
        _log_shortened(message, len(values[longest]) - len(shorter))
        values[longest] = shorter
        excess = sum(map(len, values)) - _PARAMETERS_MAX
    return values


#: Neither free text nor a template may go.
_NO_WAY = Fallback(
    reason="outside the 24 h window, and no template is set up for this type", code="no_template"
)


def _value(variable: str, message: Message) -> str:
    match variable:
        case "subject_name":
            return _said_by_keryu(variable, message) or message.recipient_name or ""
        case "alert_type":
            return _text(message.metadata.get("alert_type")) or message.notification_type
        case "content":
            whole = ": ".join(part for part in (message.title, message.text) if part)
            return _said_by_keryu(variable, message) or whole
        case "action_required":
            return _text(message.metadata.get("action_required")) or message.action_url or ""
        case "title":
            return message.title
        case "text":
            return message.text
        case "url":
            return message.action_url or ""
    return _text(message.metadata.get(variable.removeprefix("metadata.")))


def _said_by_keryu(variable: str, message: Message) -> str:
    """What a client of Keryu's gave for this place of its one template; to others such a name means nothing."""
    is_its = message.notification_type == "notification_alert"
    return _text(message.metadata.get(variable)) if is_its else ""


def _text(value: object) -> str:
    """A value of the metadata as words; nothing for lists and objects."""
    if isinstance(value, bool) or value is None:
        return ""
    return str(value) if isinstance(value, str | int | float) else ""


def _template(templates: Mapping[str, Template | None], message: Message) -> Template | None:
    return templates.get(message.notification_type, templates["*"])


def _read_meta(answer: Answer, message: Message) -> Outcome:
    """{"messages": [{"id": "wamid.…"}]}, or {"error": {"code", "message", "error_data", …}}."""
    document = answer.json()
    if 200 <= answer.status < 300:
        match document.get("messages"):
            case [{"id": str(reference)}, *_]:
                return Sent(provider_ref=reference[:256], is_final=message.callback_url is None)
        return Unknown(reason="taken, with an answer that cannot be read", code=str(answer.status))
    error = document.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return outcome("meta", code, status=answer.status, attempt=message.attempt, after=answer.retry_after)


def _reference(document: Mapping[str, Any]) -> str | None:
    """How an API of one's own calls the message, where it says so in the usual places."""
    for name in ("id", "message_id", "messageId"):
        found = document.get(name)
        if isinstance(found, str) and re.fullmatch(r"[\w.:-]{1,128}", found, re.ASCII):
            return found
    return None


def _check_api_url(url: str) -> None:
    host = (urlsplit(url).hostname or "").lower() if "://" in url else ""
    if host in _CLICK_TO_CHAT:
        raise ValueError(
            f"WHATSAPP_API_URL: https://{host} opens a chat in a person's browser and sends nothing. "
            "Set WHATSAPP_PHONE_NUMBER_ID and WHATSAPP_ACCESS_TOKEN (Meta's Cloud API), or TWILIO_ACCOUNT_SID, "
            "TWILIO_AUTH_TOKEN and WHATSAPP_FROM, or the address of an HTTP API of your own"
        )
    base_url("WHATSAPP_API_URL", url.partition("?")[0])


def _check_template(template: Template) -> None:
    if template.name is not None and not re.fullmatch(r"[a-z0-9_]{1,512}", template.name, re.ASCII):
        raise ValueError("WHATSAPP_TEMPLATES: a name has lower-case letters, digits and _")
    if not _LANGUAGE.fullmatch(template.language):
        raise ValueError("WHATSAPP_TEMPLATES: a language is a code of Meta's, such as en or pt_BR")
    if template.content_sid is not None and not _CONTENT_SID.fullmatch(template.content_sid):
        raise ValueError("WHATSAPP_TEMPLATES: a content_sid is HX and 32 hexadecimal digits")
    if not all(_VARIABLE.fullmatch(variable) for variable in template.variables):
        raise ValueError(
            "WHATSAPP_TEMPLATES: a variable is subject_name, alert_type, content, action_required, title, text, "
            "url or metadata.<key>"
        )


def _log_shortened(message: Message, dropped: int) -> None:
    log.info("message_shortened", channel="whatsapp", delivery_id=str(message.delivery_id), dropped=dropped)
