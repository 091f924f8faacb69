"""
Where unsubscribe links lead (RFC 8058): looking changes nothing, posting acts at once.

Mail scanners follow every link they see, so a GET only shows a button. A mail program's one-click POST comes
without cookies and without a person looking; the link itself is what it is let in by.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape

from starlette.responses import Response

from app.api.operation import PUBLIC, Call, Operation
from delivery.unsubscribe import PATH, Subscription

_STYLE = """
body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 32rem; margin: 15vh auto; padding: 0 1rem; color-scheme: light dark; }
button { font: inherit; padding: .6rem 1.2rem; cursor: pointer; }
"""

#: One style, known by its hash, and a form to where the page came from: no script, nothing from elsewhere.
POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow",
}

#: The channels as people call them.
_CHANNELS = {
    "push": "push notification",
    "email": "e-mail",
    "sms": "text message",
    "whatsapp": "WhatsApp",
    "telegram": "Telegram",
    "webhook": "webhook",
}


async def page(call: Call) -> Response:
    """A page with a button. It changes nothing, however often it is looked at and by whom."""
    subscription = await call.services.delivery.unsubscribing.look(call.path_params["token"])
    return _page(
        "Unsubscribe?",
        f"You will no longer be sent {_what(subscription)}.",
        '<form method="post"><input type="hidden" name="List-Unsubscribe" value="One-Click">'
        "<button>Unsubscribe</button></form>",
    )


async def act(call: Call) -> Response:
    """Unsubscribe at once, whatever the body is: the one-click of a mail program, or the button of the page."""
    subscription = await call.services.delivery.unsubscribing.act(call.path_params["token"])
    return _page("Unsubscribed", f"You are no longer sent {_what(subscription)}.")


def operations() -> tuple[Operation, ...]:
    path = PATH + "{token}"
    return (
        Operation(
            method="GET",
            path=path,
            handler=page,
            summary="Look where an unsubscribe link leads",
            tag="preferences",
            scopes=PUBLIC,
            answers={200: "text/html"},
            problems=("unavailable",),
        ),
        Operation(
            method="POST",
            path=path,
            handler=act,
            summary="Unsubscribe with one click",
            tag="preferences",
            scopes=PUBLIC,
            answers={200: "text/html"},
            problems=("unavailable",),
        ),
    )


def _what(subscription: Subscription) -> str:
    channel = _CHANNELS.get(subscription.channel, subscription.channel)
    return f"<strong>{escape(subscription.notification_type)}</strong> by {channel}"


def _page(title: str, said: str, form: str = "") -> Response:
    html = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
<h1>{title}</h1>
<p>{said}</p>
{form}
</html>
"""
    return Response(html, media_type="text/html", headers=_HEADERS)
