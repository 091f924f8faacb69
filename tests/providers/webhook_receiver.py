"""Whoever receives webhooks: verifies them as Standard Webhooks says, and drops what it has seen already."""

from __future__ import annotations

import hmac
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import Callable

from aiohttp import web

from tests.providers.server import ProviderServer, Received, answer

#: How far the clocks of the two sides may be apart (Standard Webhooks, "Verifying timestamps").
TOLERANCE_S = 300


class WebhookReceiver(ProviderServer):
    """
    secret: `whsec_…`; None: takes what is not signed.

    accepted: the JSON of each webhook-id once; `repeated` counts those that came again.
    """

    def __init__(
        self,
        secret: str | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(tls)
        self.repeated = 0
        self._secret = secret
        self._now = now
        self._known: set[str] = set()

    async def take(self, request: Received) -> web.Response:
        if request.method != "POST" or request.headers.get("Content-Type") != "application/json":
            return answer(415, {"error": "POST JSON"})
        if self._secret is not None and not is_genuine(request, self._secret, self._now()):
            return answer(401, {"error": "signature"})
        reference = request.headers.get("webhook-id", "")
        if reference and reference in self._known:
            self.repeated += 1
            return answer(200)
        self._known.add(reference)
        self.accepted.append(request.json())
        return answer(204)


def is_genuine(request: Received, secret: str, now: float) -> bool:
    """As the reference implementation verifies."""
    reference, timestamp = request.headers.get("webhook-id"), request.headers.get("webhook-timestamp")
    given = request.headers.get("webhook-signature")
    if reference is None or timestamp is None or given is None or abs(int(timestamp) - now) > TOLERANCE_S:
        return False
    signed = f"{reference}.{timestamp}.{request.body.decode()}".encode()
    key = b64decode(secret.removeprefix("whsec_"))
    expected = b64encode(hmac.digest(key, signed, "sha256")).decode()
    return any(hmac.compare_digest(one, f"v1,{expected}") for one in given.split(" "))
