"""What `carillon serve` prints in development: where to look, and commands that work as printed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from app.console import LOOPBACK
from app.own_tokens import own_token
from app.settings import Settings
from delivery.sandbox import BANNER

#: How long the printed token lives.
TOKEN_LIFE = timedelta(hours=12)


def welcome(settings: Settings, port: int, notices: Sequence[str]) -> str:
    """The text of the first minute with Carillon."""
    url = _url(settings, port)
    lines = ["", f"  Carillon is ringing at {url}", ""]
    if settings.process.host not in LOOPBACK:
        notices = [*notices, "other machines reach this port; CARILLON_ENV=production is for where they may"]
    if settings.sandbox.is_on:
        notices = [BANNER, *notices]
    lines += [f"  note: {notice}" for notice in notices]
    secret = settings.secrets.jwt_secret_key
    if secret is None:
        return "\n".join([*lines, ""])
    token = own_token(settings, secret, "curl", life=TOKEN_LIFE, roles=["service"])
    internal = (
        url if settings.process.internal_port is None else _url(settings, settings.process.internal_port)
    )
    broadcast = _curl(
        f"{internal}/internal/broadcast",
        "$TOKEN",
        '{"broadcast_to_tenant": true, "tenant_id": "default", "title": "Ding", "message": "The bell works."}',
    )
    directed = _curl(
        f"{url}/api/v1/notifications",
        "$TOKEN",
        '{"user_id": "demo", "title": "For you", "message": "Only demo sees this.", "priority": "high"}',
    )
    return "\n".join(
        [
            *lines,
            "",
            f"  Open {url} in a browser, then make its bell ring from another terminal.",
            f"  The token is a service's and good for {TOKEN_LIFE.total_seconds() / 3600:.0f} hours; `carillon token` makes others.",
            "",
            f"TOKEN={token}",
            "",
            broadcast,
            "",
            directed,
            "",
            f"  API: {url}/docs   health: {url}/health   protocol: {url}/asyncapi.json   Ctrl-C ends it.",
            "",
        ]
    )


def _url(settings: Settings, port: int) -> str:
    host = settings.process.host
    if host in ("127.0.0.1", "0.0.0.0", "::", "::1"):
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _curl(url: str, token: str, body: str) -> str:
    return (
        f"curl -sS {url} \\\n"
        f'  -H "Authorization: Bearer {token}" -H "Content-Type: application/json" \\\n'
        f"  -d '{body}'"
    )
