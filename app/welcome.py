"""What `carillon serve` prints in development: where to look, and commands that work as printed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from app.settings import Settings
from core.clock import SystemClock
from core.identity import mint
from core.keys import Key

#: How long the printed token lives.
TOKEN_LIFE = timedelta(hours=12)


def welcome(settings: Settings, port: int, notices: Sequence[str]) -> str:
    """The text of the first minute with Carillon."""
    host = settings.process.host
    url = f"http://{'localhost' if host in ('127.0.0.1', '0.0.0.0', '::', '::1') else host}:{port}"
    lines = ["", f"  Carillon is ringing at {url}", ""]
    lines += [f"  note: {notice}" for notice in notices]
    secret = settings.secrets.jwt_secret_key
    if secret is None:
        return "\n".join([*lines, ""])
    key = Key.secret(secret, settings.secrets.jwt_algorithm)
    token = mint(
        key,
        "curl",
        now=SystemClock().now().timestamp(),
        life=TOKEN_LIFE,
        roles=["service"],
        issuer=settings.tokens.issuer,
        audience=next(iter(sorted(settings.tokens.audiences)), None),
    )
    broadcast = _curl(
        f"{url}/internal/broadcast",
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


def _curl(url: str, token: str, body: str) -> str:
    return (
        f"curl -sS {url} \\\n"
        f'  -H "Authorization: Bearer {token}" -H "Content-Type: application/json" \\\n'
        f"  -d '{body}'"
    )
