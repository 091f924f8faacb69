"""An HTTP API for WhatsApp of one's own on loopback: POST /send {"phone", "message"} with a bearer token."""

from __future__ import annotations

import re
import ssl
from uuid import uuid4

from aiohttp import web

from tests.providers.server import ProviderServer, Received, answer


class WhatsAppHttpServer(ProviderServer):
    """accepted: the bodies it has taken."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.token = uuid4().hex

    @property
    def api_url(self) -> str:
        return f"{self.url}/send"

    async def take(self, request: Received) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return answer(401, {"error": "unauthorized"})
        if (request.method, request.path) != ("POST", "/send"):
            return answer(404, {"error": "not found"})
        body = request.json()
        if body.keys() != {"phone", "message"} or not re.fullmatch(r"\+[0-9]{7,15}", body["phone"]):
            return answer(400, {"error": "phone and message are needed"})
        if not body["message"]:
            return answer(400, {"error": "message is empty"})
        self.accepted.append(body)
        return answer(200, {"success": True, "id": uuid4().hex})
