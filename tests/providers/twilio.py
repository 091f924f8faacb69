"""
Twilio's Messages resource on loopback, and the calls it makes to us.

It refuses as the real one does (https://www.twilio.com/docs/api/errors), and signs what it sends
(https://www.twilio.com/docs/usage/security#validating-requests).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
from aiohttp import web

from tests.providers.server import ProviderServer, Received, Refuse, answer

_E164 = re.compile(r"(whatsapp:)?\+[1-9][0-9]{6,14}", re.ASCII)
_SENDER = re.compile(r"(whatsapp:)?\+[1-9][0-9]{6,14}|[A-Za-z0-9 ]{1,11}|[0-9]{5,6}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A message that was created. fields: of the form, as they came."""

    sid: str
    to: str
    sender: str
    fields: Mapping[str, str]

    @property
    def callback(self) -> str | None:
        return self.fields.get("StatusCallback")


class TwilioServer(ProviderServer):
    """
    One account.

    stopped: numbers that have answered STOP. templates: ContentSids, with how many variables each has.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.account_sid = "AC" + uuid4().hex
        self.auth_token = uuid4().hex
        self.messaging_services: set[str] = set()
        self.stopped: set[str] = set()
        self.templates: dict[str, int] = {}

    async def take(self, request: Received) -> web.Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return answer(refusal.status, refusal.body)
        fields = request.form()
        taken = Taken(
            sid=("SM" if not fields["To"].startswith("whatsapp:") else "MM") + uuid4().hex,
            to=fields["To"],
            sender=fields.get("From") or fields["MessagingServiceSid"],
            fields=fields,
        )
        self.accepted.append(taken)
        return answer(201, self._resource(taken))

    def signature(self, url: str, fields: Mapping[str, str]) -> str:
        """X-Twilio-Signature of a form that is posted to this URL."""
        signed = url + "".join(name + fields[name] for name in sorted(fields))
        return b64encode(hmac.digest(self.auth_token.encode(), signed.encode(), hashlib.sha1)).decode()

    async def report(
        self,
        http: aiohttp.ClientSession,
        taken: Taken,
        status: str,
        *,
        error_code: int | None = None,
        through: str | None = None,
    ) -> int:
        """
        Post a status to the message's StatusCallback; the status of our answer.

        through: the base of the server that public URL stands for; the signature is over the public one.
        """
        assert taken.callback is not None, "no StatusCallback was asked for"
        fields = {
            "AccountSid": self.account_sid,
            "ApiVersion": "2010-04-01",
            "From": taken.sender,
            "MessageSid": taken.sid,
            "MessageStatus": status,
            "SmsSid": taken.sid,
            "SmsStatus": status,
            "To": taken.to,
        }
        if error_code is not None:
            fields["ErrorCode"] = str(error_code)
        return await self._post(http, taken.callback, fields, through)

    async def reply(
        self,
        http: aiohttp.ClientSession,
        url: str,
        *,
        sender: str,
        to: str,
        body: str,
        through: str | None = None,
    ) -> int:
        """Post what a person has answered to the webhook of the number; the status of our answer."""
        sid = "SM" + uuid4().hex
        fields = {
            "AccountSid": self.account_sid,
            "ApiVersion": "2010-04-01",
            "Body": body,
            "From": sender,
            "MessageSid": sid,
            "NumMedia": "0",
            "NumSegments": "1",
            "SmsMessageSid": sid,
            "SmsSid": sid,
            "SmsStatus": "received",
            "To": to,
        }
        return await self._post(http, url, fields, through)

    async def _post(
        self, http: aiohttp.ClientSession, url: str, fields: Mapping[str, str], through: str | None
    ) -> int:
        parts = urlsplit(url)
        target = (
            url if through is None else f"{through}{parts.path}" + (f"?{parts.query}" if parts.query else "")
        )
        headers = {"X-Twilio-Signature": self.signature(url, fields)}
        async with http.post(target, data=dict(fields), headers=headers, allow_redirects=False) as response:
            return response.status

    def _refusal(self, request: Received) -> Refuse | None:
        expected = b64encode(f"{self.account_sid}:{self.auth_token}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {expected}":
            return _error(401, 20003, "Authenticate")
        if (request.method, request.path) != (
            "POST",
            f"/2010-04-01/Accounts/{self.account_sid}/Messages.json",
        ):
            return _error(404, 20404, f"The requested resource {request.path} was not found")
        if request.headers.get("Content-Type") != "application/x-www-form-urlencoded":
            return _error(400, 21604, "A 'To' phone number is required.")
        fields = request.form()
        return self._bad_parties(fields) or self._bad_content(fields)

    def _bad_parties(self, fields: Mapping[str, str]) -> Refuse | None:
        to, sender = fields.get("To", ""), fields.get("From", "")
        if not to:
            return _error(400, 21604, "A 'To' phone number is required.")
        if not _E164.fullmatch(to):
            return _error(400, 21211, f"The 'To' number {to} is not a valid phone number.")
        if fields.get("MessagingServiceSid", "") in self.messaging_services:
            pass
        elif not sender:
            return _error(400, 21603, "A 'From' phone number is required.")
        elif not _SENDER.fullmatch(sender) or to.startswith("whatsapp:") != sender.startswith("whatsapp:"):
            return _error(400, 21212, f"The 'From' number {sender} is not a valid phone number.")
        if to == sender:
            return _error(400, 21266, "'To' and 'From' number cannot be the same")
        if to in self.stopped:
            return _error(400, 21610, "Attempt to send to unsubscribed recipient")
        callback = fields.get("StatusCallback", "https://callback.example")
        if urlsplit(callback).scheme not in ("https", "http"):
            return _error(400, 21609, "The 'StatusCallback' URL is not a valid URL.")
        return None

    def _bad_content(self, fields: Mapping[str, str]) -> Refuse | None:
        body, content = fields.get("Body", ""), fields.get("ContentSid")
        if not 1 <= int(fields.get("ValidityPeriod", 36_000)) <= 36_000:
            return _error(400, 21623, "The validity period is not valid")
        if content is None and not body:
            return _error(400, 21619, "A text message body or media urls must be specified.")
        if len(body) > 1600:
            return _error(400, 21617, "The concatenated message body exceeds the 1600 character limit")
        if content is None:
            return None
        if content not in self.templates:
            return _error(400, 21655, "The ContentSid is Invalid")
        try:
            variables = json.loads(fields.get("ContentVariables", "{}"))
        except ValueError:
            return _error(400, 21656, "The Content Variables Parameter is Invalid")
        expected = {str(number) for number in range(1, self.templates[content] + 1)}
        clean = all(isinstance(value, str) and value and "\n" not in value for value in variables.values())
        if variables.keys() != expected or not clean:
            return _error(400, 21656, "The Content Variables Parameter is Invalid")
        return None

    def _resource(self, taken: Taken) -> Mapping[str, object]:
        path = f"/2010-04-01/Accounts/{self.account_sid}/Messages/{taken.sid}"
        service = taken.fields.get("MessagingServiceSid")
        return {
            "account_sid": self.account_sid,
            "api_version": "2010-04-01",
            "body": taken.fields.get("Body", ""),
            "date_created": "Thu, 24 Aug 2026 05:01:45 +0000",
            "date_sent": None,
            "date_updated": "Thu, 24 Aug 2026 05:01:45 +0000",
            "direction": "outbound-api",
            "error_code": None,
            "error_message": None,
            "from": taken.fields.get("From"),
            "messaging_service_sid": service,
            "num_media": "0",
            "num_segments": "1",
            "price": None,
            "price_unit": None,
            "sid": taken.sid,
            "status": "accepted" if service else "queued",
            "subresource_uris": {"media": f"{path}/Media.json"},
            "to": taken.to,
            "uri": f"{path}.json",
        }


def error(status: int, code: int, message: str = "refused", **headers: str) -> Refuse:
    """A refusal to be put among the faults."""
    return Refuse(status=status, body=_error(status, code, message).body, headers=headers)


def _error(status: int, code: int, message: str) -> Refuse:
    more = f"https://www.twilio.com/docs/errors/{code}"
    return Refuse(status=status, body={"code": code, "message": message, "more_info": more, "status": status})
