"""
Meta's WhatsApp webhooks: statuses and messages, several in one request. Pure.

https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks/payload-examples
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

from delivery.inbound import Inbound, Report, Told
from delivery.receipts import Receipt, ReportedState
from delivery.reports.reading import members, moment, name, number, text

PROVIDER = "meta"

_STATES: Mapping[str, ReportedState] = {
    "sent": "sent",
    "delivered": "delivered",
    "read": "read",
    "played": "read",
    "failed": "failed",
}

_PREFERENCES: Mapping[str, Told] = {"stop": "blocked", "resume": "unblocked"}

ReadToken = Callable[[str], tuple[str, UUID] | None]


def read(body: Any, delivery_of: ReadToken) -> Report:
    """delivery_of: which delivery a token is about that we sent along as biz_opaque_callback_data."""
    receipts: list[Receipt] = []
    inbound: list[Inbound] = []
    for value in _values(body):
        receipts += (one for status in members(value, "statuses") if (one := _receipt(status, delivery_of)))
        inbound += (sent for message in members(value, "messages") if (sent := _message(message)))
        inbound += (sent for said in members(value, "user_preferences") if (sent := _preference(said)))
    return Report(receipts=receipts, inbound=inbound)


def _values(body: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(body, dict) or body.get("object") != "whatsapp_business_account":
        return
    for entry in members(body, "entry"):
        for change in members(entry, "changes"):
            if isinstance(value := change.get("value"), dict):
                yield value


def _receipt(status: Mapping[str, Any], delivery_of: ReadToken) -> Receipt | None:
    ref, said = name(status, "id"), name(status, "status")
    if not ref or not said:
        return None
    codes = [error.get("code") for error in members(status, "errors")]
    token = name(status, "biz_opaque_callback_data")
    return Receipt(
        provider=PROVIDER,
        event_id=ref,
        status=said,
        state=_STATES.get(said),
        ref=ref,
        delivery=delivery_of(token) if token else None,
        code=next((str(code) for code in codes if isinstance(code, int)), None),
        occurred_at=moment(status.get("timestamp")),
    )


def _message(message: Mapping[str, Any]) -> Inbound | None:
    ref, address = name(message, "id"), number(f"+{text(message, 'from')}")
    if not ref or address is None:
        return None
    told, words, payload = _said(message)
    context = message.get("context")
    return Inbound(
        provider=PROVIDER,
        provider_id=ref,
        channel="whatsapp",
        address=address,
        told=told,
        text=words,
        payload=payload,
        answers=name(context, "id") if isinstance(context, dict) else None,
        occurred_at=moment(message.get("timestamp")),
    )


def _said(message: Mapping[str, Any]) -> tuple[Told, str, str | None]:
    """Words and payload. A picture has its caption; what has no words (a sticker, a place) is an empty reply."""
    kind = text(message, "type") or ""
    content = message.get(kind)
    if not isinstance(content, dict):
        return "words", "", None
    if kind == "button":
        return "tap", text(content, "text") or "", text(content, "payload")
    if kind == "interactive":
        chosen = content.get(text(content, "type") or "")
        if isinstance(chosen, dict):
            return "tap", text(chosen, "title") or "", text(chosen, "id")
    return "words", text(content, "body") or text(content, "caption") or "", None


def _preference(said: Mapping[str, Any]) -> Inbound | None:
    """Somebody has stopped or resumed the sender's marketing in the app."""
    address, told = number(f"+{text(said, 'wa_id')}"), _PREFERENCES.get(text(said, "value") or "")
    at = said.get("timestamp")
    if address is None or told is None:
        return None
    return Inbound(
        provider=PROVIDER,
        provider_id=f"preference:{address}:{at}:{told}",
        channel="whatsapp",
        address=address,
        told=told,
        occurred_at=moment(at),
    )
