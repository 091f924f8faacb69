"""
The WhatsApp Cloud API on loopback, and the webhooks it calls.

It refuses as the real one does (https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes).
A text outside the 24 h window it takes, as the real one does, and reports as failed later.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aiohttp
from aiohttp import web

from tests.providers.server import ProviderServer, Received, Refuse, answer

_NUMBER = re.compile(r"\+?[1-9][0-9]{6,14}", re.ASCII)
_BAD_TEXT = re.compile(r"[\n\t]| {5,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A message that was accepted. body: the JSON of the request."""

    wamid: str
    to: str
    body: Mapping[str, Any]


class MetaServer(ProviderServer):
    """
    One phone number.

    templates: parameters by (name, language). windows: numbers within 24 h of their last message.
    """

    version = "v23.0"

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.phone_number_id = str(uuid4().int)[:15]
        self.access_token = "EAA" + uuid4().hex
        self.app_secret = uuid4().hex
        self.verify_token = uuid4().hex
        self.templates: dict[tuple[str, str], int] = {("notification_alert", "en"): 4}
        self.windows: set[str] = set()

    @property
    def graph_url(self) -> str:
        return f"{self.url}/{self.version}"

    async def take(self, request: Received) -> web.Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return answer(refusal.status, refusal.body)
        body = request.json()
        digits = body["to"].removeprefix("+")
        taken = Taken(wamid=f"wamid.HBg{uuid4().hex.upper()}", to=body["to"], body=body)
        self.accepted.append(taken)
        return answer(
            200,
            {
                "messaging_product": "whatsapp",
                "contacts": [{"input": body["to"], "wa_id": digits}],
                "messages": [{"id": taken.wamid, "message_status": "accepted"}],
            },
        )

    def status(
        self, taken: Taken, status: str, *, code: int | None = None, timestamp: int = 1_780_000_000
    ) -> bytes:
        """The body of a webhook that tells what became of a message."""
        entry: dict[str, Any] = {
            "id": taken.wamid,
            "status": status,
            "timestamp": str(timestamp),
            "recipient_id": taken.to.removeprefix("+"),
        }
        if "biz_opaque_callback_data" in taken.body:
            entry["biz_opaque_callback_data"] = taken.body["biz_opaque_callback_data"]
        if code is not None:
            details = {"details": "Message failed to send."}
            entry["errors"] = [{"code": code, "title": "failed", "message": "failed", "error_data": details}]
        return self._webhook({"statuses": [entry]})

    def reply(self, sender: str, text: str, *, timestamp: int = 1_780_000_000) -> bytes:
        """The body of a webhook that brings what a person has written."""
        digits = sender.removeprefix("+")
        message = {
            "from": digits,
            "id": f"wamid.HBg{uuid4().hex.upper()}",
            "timestamp": str(timestamp),
            "type": "text",
            "text": {"body": text},
        }
        contact = {"profile": {"name": "A person"}, "wa_id": digits}
        return self._webhook({"contacts": [contact], "messages": [message]})

    def signature(self, body: bytes) -> str:
        """X-Hub-Signature-256: over the raw bytes."""
        return "sha256=" + hmac.digest(self.app_secret.encode(), body, hashlib.sha256).hex()

    async def call(self, http: aiohttp.ClientSession, url: str, body: bytes) -> int:
        """Post a webhook; the status of our answer."""
        headers = {"Content-Type": "application/json", "X-Hub-Signature-256": self.signature(body)}
        async with http.post(url, data=body, headers=headers, allow_redirects=False) as response:
            return response.status

    async def verify(
        self, http: aiohttp.ClientSession, url: str, token: str | None = None
    ) -> tuple[int, bool]:
        """Ask whether the webhook is meant (GET): the status, and whether the challenge came back."""
        challenge = str(uuid4().int)[:10]
        query = {
            "hub.mode": "subscribe",
            "hub.challenge": challenge,
            "hub.verify_token": token or self.verify_token,
        }
        async with http.get(url, params=query, allow_redirects=False) as response:
            return response.status, await response.text() == challenge

    def _webhook(self, value: Mapping[str, Any]) -> bytes:
        metadata = {"display_phone_number": "15550783881", "phone_number_id": self.phone_number_id}
        change = {
            "field": "messages",
            "value": {"messaging_product": "whatsapp", "metadata": metadata, **value},
        }
        body = {
            "object": "whatsapp_business_account",
            "entry": [{"id": "102290129340398", "changes": [change]}],
        }
        # As Meta writes it: slashes and what is not ASCII are escaped, so only the raw bytes can be signed.
        return json.dumps(body, separators=(",", ":")).replace("/", "\\/").encode()

    def _refusal(self, request: Received) -> Refuse | None:
        if request.headers.get("Authorization") != f"Bearer {self.access_token}":
            return error(401, 190, "Error validating access token")
        if (request.method, request.path) != ("POST", f"/{self.version}/{self.phone_number_id}/messages"):
            return error(400, 100, "Unsupported post request. Object does not exist")
        if request.headers.get("Content-Type") != "application/json":
            return error(400, 100, "The parameter messaging_product is required.")
        body = request.json()
        if body.get("messaging_product") != "whatsapp":
            return error(400, 100, "The parameter messaging_product is required.")
        if body.get("recipient_type", "individual") != "individual" or not _NUMBER.fullmatch(
            body.get("to", "")
        ):
            return error(400, 131009, "Parameter value is not valid")
        if len(body.get("biz_opaque_callback_data", "")) > 512:
            return error(400, 100, "biz_opaque_callback_data is too long")
        if body.get("type") == "text":
            return self._bad_text(body.get("text"))
        if body.get("type") == "template":
            return self._bad_template(body.get("template"))
        return error(400, 131051, "Unsupported message type")

    def _bad_text(self, text: Any) -> Refuse | None:
        if not isinstance(text, dict) or not text.get("body"):
            return error(400, 131008, "Required parameter is missing")
        if len(text["body"]) > 4096:
            return error(400, 100, "Param text['body'] must be at most 4096 characters long.")
        if not isinstance(text.get("preview_url", False), bool):
            return error(400, 131009, "Parameter value is not valid")
        return None

    def _bad_template(self, template: Any) -> Refuse | None:
        try:
            key = (template["name"], template["language"]["code"])
            components = template.get("components", [])
            (body,) = [one for one in components if one["type"] == "body"] or [{"parameters": []}]
            texts = [parameter["text"] for parameter in body["parameters"] if parameter["type"] == "text"]
        except (KeyError, TypeError, ValueError):
            return error(400, 131008, "Required parameter is missing")
        if key not in self.templates:
            return error(404, 132001, "Template name does not exist in the translation")
        if len(texts) != self.templates[key]:
            return error(400, 132000, "Number of parameters does not match the expected number of params")
        if not all(texts):
            return error(400, 131008, "Required parameter is missing")
        if any(_BAD_TEXT.search(text) for text in texts):
            return error(400, 132018, "Param text cannot have new-line/tab characters or more than 4 spaces")
        if sum(map(len, texts)) > 1024:
            return error(400, 132005, "Translated text too long")
        return None


def error(status: int, code: int, message: str = "refused", **headers: str) -> Refuse:
    """A refusal, also to be put among the faults."""
    body = {
        "message": f"(#{code}) {message}",
        "type": "OAuthException",
        "code": code,
        "error_data": {"messaging_product": "whatsapp", "details": message},
        "fbtrace_id": "Az8or2yhqkZfEZ-_4Qn_Bam",
    }
    return Refuse(status=status, body={"error": body}, headers=headers)
