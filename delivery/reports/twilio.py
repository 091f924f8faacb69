"""
Twilio's forms: status callbacks and incoming messages. Pure.

https://www.twilio.com/docs/messaging/guides/track-outbound-message-status
https://www.twilio.com/docs/messaging/guides/webhook-request
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from delivery.inbound import Inbound, Report, Told
from delivery.receipts import Receipt, ReportedState
from delivery.reports.reading import name, number

PROVIDER = "twilio"

#: Every status of an outgoing message; what is not here (accepted, scheduled, queued, sending) moves nothing.
_STATES: Mapping[str, ReportedState] = {
    "sent": "sent",
    "delivered": "delivered",
    "partially_delivered": "delivered",
    "read": "read",
    "undelivered": "undelivered",
    "failed": "failed",
    "canceled": "failed",
}

#: Where Twilio's own opt-out handling has understood a keyword.
_OPT_OUT: Mapping[str, Told] = {"STOP": "stop", "START": "start"}


def status(form: Mapping[str, str], delivery: tuple[str, UUID] | None) -> Report:
    """A status callback. delivery: as the URL that we gave names it."""
    sid, said = _sid(form), name(form, "MessageStatus") or name(form, "SmsStatus")
    if not sid or not said:
        return Report()
    # Twilio sends "delivered" of WhatsApp messages, then the same with EventType READ (or the status "read").
    said = "read" if form.get("EventType") == "READ" else said.lower()
    receipt = Receipt(
        provider=PROVIDER,
        event_id=sid,
        status=said,
        state=_STATES.get(said),
        ref=sid,
        delivery=delivery,
        code=name(form, "ErrorCode"),
    )
    return Report(receipts=[receipt])


def inbound(form: Mapping[str, str]) -> Report:
    """An incoming message, by SMS or WhatsApp. One from no number (a short code, a name) is nobody's."""
    sid, sender = _sid(form), form.get("From", "")
    scheme, _, caller = sender.rpartition(":")
    channel = "whatsapp" if scheme == "whatsapp" else "sms"
    address = number(caller)
    if sid is None or address is None:
        return Report()
    payload = form.get("ButtonPayload")
    message = Inbound(
        provider=PROVIDER,
        provider_id=sid,
        channel=channel,
        address=address,
        told=_OPT_OUT.get(form.get("OptOutType", ""), "words" if payload is None else "tap"),
        text=form.get("Body") or form.get("ButtonText", ""),
        payload=payload,
        answers=name(form, "OriginalRepliedMessageSid"),
    )
    return Report(inbound=[message])


def _sid(form: Mapping[str, str]) -> str | None:
    return name(form, "MessageSid") or name(form, "SmsSid")
