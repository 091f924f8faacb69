"""
SendGrid's POST /v3/mail/send, strict about what its reference asks for.

https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send and …/mail-send/errors
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.providers.server import ProviderServer, Received, answer

MAX_BYTES = 30 * 1024 * 1024
MAX_CUSTOM_ARGS_BYTES = 10_000

_MEMBERS = {
    "personalizations", "from", "reply_to", "reply_to_list", "subject", "content", "attachments", "template_id",
    "headers", "categories", "custom_args", "send_at", "batch_id", "asm", "ip_pool_name", "mail_settings",
    "tracking_settings",
}  # fmt: skip
_TRACKING: dict[str, dict[str, type]] = {
    "click_tracking": {"enable": bool, "enable_text": bool},
    "open_tracking": {"enable": bool, "substitution_tag": str},
    "subscription_tracking": {"enable": bool, "text": str, "html": str, "substitution_tag": str},
    "ganalytics": {"enable": bool, "utm_source": str, "utm_medium": str},
}
_RESERVED = {
    "x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-transfer-encoding", "content-type", "to", "from",
    "subject", "reply-to", "cc", "bcc",
}  # fmt: skip
_ADDRESS = re.compile(r"[^@\s<>,;]+@[^@\s<>,;]+\.[^@\s<>,;]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedMail:
    """A mail that SendGrid has queued."""

    message_id: str
    recipient: str
    body: dict[str, Any] = field(repr=False)


class SendGrid(ProviderServer):
    """accepted: AcceptedMail. senders: who may write, verified; empty: everybody."""

    def __init__(self, api_key: str = "SG.test", senders: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._api_key = api_key
        self._senders = senders

    async def take(self, request: Received) -> web.Response:
        if (request.method, request.path) != ("POST", "/v3/mail/send"):
            return _refused(404, "not found")
        if request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return _refused(401, "The provided authorization grant is invalid, expired, or revoked")
        if request.headers.get("Content-Type") != "application/json":
            return _refused(415, "Content-Type should be application/json.")
        if len(request.body) > MAX_BYTES:
            return _refused(413, "The payload is too large.")
        try:
            body = json.loads(request.body)
        except ValueError:
            return _refused(400, "Bad Request")
        for name, problem in faults(body):
            return _refused(400, problem, name)
        if self._senders and body["from"]["email"] not in self._senders:
            return _refused(403, "The from address does not match a verified Sender Identity.", "from")
        message_id = f"{len(self.accepted) + 1:022}"
        self.accepted.append(
            AcceptedMail(
                message_id=message_id, recipient=body["personalizations"][0]["to"][0]["email"], body=body
            )
        )
        return answer(202, headers={"X-Message-Id": message_id})


def faults(body: Any) -> Iterator[tuple[str | None, str]]:
    """What SendGrid refuses in a body: the field, and its words."""
    if not isinstance(body, dict):
        yield None, "Bad Request"
        return
    if unknown := set(body) - _MEMBERS:
        yield sorted(unknown)[0], "Additional property is not allowed"
    people = body.get("personalizations")
    if not isinstance(people, list) or not 1 <= len(people) <= 1000:
        yield (
            "personalizations",
            "The personalizations field is required and must have at least one personalization.",
        )
        return
    for number, one in enumerate(people):
        if not isinstance(one.get("to"), list) or not one["to"]:
            yield (
                f"personalizations.{number}.to",
                "The to array is required and must have at least one email.",
            )
            continue
        for position, person in enumerate(one["to"]):
            yield from _person(f"personalizations.{number}.to.{position}", person)
    yield from _person("from", body.get("from"))
    if "reply_to" in body:
        yield from _person("reply_to", body["reply_to"])
    if not isinstance(body.get("subject"), str) or not body["subject"]:
        yield "subject", "The subject is required."
    yield from _content(body.get("content"))
    yield from _headers(body.get("headers", {}))
    arguments = body.get("custom_args", {})
    if not all(isinstance(value, str) for value in arguments.values()):
        yield "custom_args", "The custom_args values must be strings."
    if len(json.dumps(arguments)) > MAX_CUSTOM_ARGS_BYTES:
        yield "custom_args", "The custom_args are limited to 10,000 bytes."
    for name, given in body.get("tracking_settings", {}).items():
        known = _TRACKING.get(name, {})
        if not known or any(type(value) is not known.get(key) for key, value in given.items()):
            yield f"tracking_settings.{name}", "Invalid type."


def _person(path: str, person: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(person, dict) or set(person) - {"email", "name"}:
        yield path, "The object must have an email, and may have a name."
    elif not isinstance(person.get("email"), str) or not _ADDRESS.fullmatch(person["email"]):
        yield f"{path}.email", "Does not contain a valid address."
    elif not isinstance(person.get("name", ""), str):
        yield f"{path}.name", "Invalid type."


def _content(content: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(content, list) or not content:
        yield "content", "Unless a valid template_id is provided, the content parameter is required."
        return
    types = [part.get("type") for part in content]
    if types not in (["text/plain"], ["text/html"], ["text/plain", "text/html"]):
        yield "content", "If present, text/plain must be first, followed by text/html."
    for number, part in enumerate(content):
        if not isinstance(part.get("value"), str) or not part["value"]:
            yield (
                f"content.{number}.value",
                "The content value must be a string at least one character in length.",
            )


def _headers(headers: Any) -> Iterator[tuple[str, str]]:
    for name, value in headers.items():
        if name.lower() in _RESERVED:
            yield f"headers.{name}", f"The header {name} is reserved."
        if not isinstance(value, str) or not name.isascii() or not value.isascii():
            yield f"headers.{name}", "The headers must be strings in ASCII."


def _refused(status: int, message: str, name: str | None = None) -> web.Response:
    return answer(status, {"errors": [{"message": message, "field": name, "help": None}]})
