"""
Twilio's Messages resource, which carries SMS and WhatsApp alike.

https://www.twilio.com/docs/messaging/api/message-resource#create-a-message-resource
It recognises no repetition: what was sent twice arrives twice.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

import aiohttp

from core.outcome import Outcome, Sent, Unknown
from delivery.channel import Message
from delivery.channels.codes import outcome
from delivery.channels.http_call import Answer, base_url, post

_SID = re.compile(r"[A-Za-z0-9]{2,64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwilioSettings:
    """Twilio, for SMS and for WhatsApp. From TWILIO_*. Raises ValueError for what cannot be right."""

    account_sid: str | None = None  # AC…; with TWILIO_AUTH_TOKEN
    auth_token: str | None = field(default=None, repr=False)  # also what its callbacks are signed with
    phone_number: frozenset[str] = frozenset()  # senders of SMS, +E.164 or names, comma-separated
    messaging_service_sid: str | None = None  # MG…: Twilio picks the sender, in place of TWILIO_PHONE_NUMBER
    base_url: str = "https://api.twilio.com"  # of its REST API

    def __post_init__(self) -> None:
        if (self.account_sid is None) != (self.auth_token is None):
            raise ValueError("TWILIO_ACCOUNT_SID needs TWILIO_AUTH_TOKEN beside it, and the other way round")
        for sid in (self.account_sid, self.messaging_service_sid):
            if sid is not None and not _SID.fullmatch(sid):
                raise ValueError("a SID of Twilio's has letters and digits only")
        if self.auth_token is not None and not (self.auth_token.isascii() and self.auth_token.isprintable()):
            raise ValueError("TWILIO_AUTH_TOKEN is printable ASCII")
        base_url("TWILIO_BASE_URL", self.base_url)


class TwilioMessages:
    """Creates messages by one account. account: its SID and token."""

    def __init__(self, url: str, account: tuple[str, str], http: aiohttp.ClientSession) -> None:
        self.sid, token = account
        self._url = f"{url.rstrip('/')}/2010-04-01/Accounts/{self.sid}/Messages.json"
        self._http = http
        credentials = b64encode(f"{self.sid}:{token}".encode()).decode()
        self._headers = {
            "Accept": "application/json",
            "Authorization": f"Basic {credentials}",
            "Content-Type": "application/x-www-form-urlencoded",
        }

    async def create(self, message: Message, fields: Sequence[tuple[str, str]]) -> Outcome:
        """
        Create a message with these form fields, and a StatusCallback where there is a public URL.

        message: the one it is; read for its attempt and its callback, the rest stands in the fields.
        """
        callback = [("StatusCallback", message.callback_url)] if message.callback_url else []
        body = urlencode([*fields, *callback]).encode()
        answer = await post(self._http, self._url, body, headers=self._headers)
        return _read(answer, message) if isinstance(answer, Answer) else answer


def twilio_messages(settings: TwilioSettings, http: aiohttp.ClientSession) -> TwilioMessages | None:
    """None without credentials."""
    if settings.account_sid is None or settings.auth_token is None:
        return None
    return TwilioMessages(settings.base_url, (settings.account_sid, settings.auth_token), http)


def _read(answer: Answer, message: Message) -> Outcome:
    document = answer.json()
    if 200 <= answer.status < 300:
        sid, code = document.get("sid"), document.get("error_code")
        if not isinstance(sid, str) or not _SID.fullmatch(sid):
            return Unknown(reason="taken, with an answer that cannot be read", code=str(answer.status))
        if code is not None and document.get("status") in ("failed", "undelivered"):
            return outcome("twilio", code, attempt=message.attempt)
        return Sent(provider_ref=sid, is_final=message.callback_url is None)
    return outcome(
        "twilio",
        document.get("code"),
        status=answer.status,
        attempt=message.attempt,
        after=answer.retry_after,
    )
