"""SMS by Twilio."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import aiohttp
import structlog

from core.outcome import Fail, Outcome
from delivery.channel import Address, Message, Provider
from delivery.channels.fitting import fit, plain
from delivery.channels.segments import is_gsm7, segments
from delivery.channels.twilio import TwilioMessages, TwilioSettings, twilio_messages

log = structlog.stdlib.get_logger("delivery.channels.sms")

#: What Twilio takes of one text; more is its error 21617.
_TWILIO_MAX = 1600

#: The longest ValidityPeriod.
_VALIDITY_MAX_S = 36_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SmsSettings:
    """SMS. From SMS_*, and the account from TWILIO_*."""

    twilio: TwilioSettings = field(default_factory=TwilioSettings)
    max_segments: int = 3  # a message of more SMS than this is too long
    too_long: Literal["shorten", "refuse"] = (
        "shorten"  # at a word, with an ellipsis and the link; or not sent at all
    )
    concurrency: int = 16  # calls under way at once
    rate: float = 10.0  # messages per second; 0: no limit of ours

    def __post_init__(self) -> None:
        if not 1 <= self.max_segments <= 10:
            raise ValueError("SMS_MAX_SEGMENTS is 1-10: Twilio takes 1,600 characters at most")
        if self.concurrency < 1:
            raise ValueError("SMS_CONCURRENCY is 1 or more")


class TwilioSms:
    """SMS by one account of Twilio's."""

    name = "twilio"

    def __init__(self, settings: SmsSettings, messages: TwilioMessages) -> None:
        self.concurrency = settings.concurrency
        self.rate = settings.rate or None
        self._settings = settings
        self._messages = messages

    def account_of(self, address: Address) -> str:
        return self._messages.sid

    async def send(self, message: Message) -> Outcome:
        body = self._body(message)
        if isinstance(body, Fail):
            return body
        fields = [("To", message.address.value), self._sender(message.address), ("Body", body)]
        return await self._messages.create(message, [*fields, *_validity(message, datetime.now(UTC))])

    def _body(self, message: Message) -> str | Fail:
        """Title, text and link within the SMS that are allowed."""
        parts = (plain(message.title), plain(message.text), message.action_url or "")
        allowed = self._settings.max_segments
        # The one character of an ellipsis would turn a text of GSM-7 into twice as many SMS.
        fitted = fit(
            parts,
            lambda text: len(text) <= _TWILIO_MAX and segments(text).parts <= allowed,
            ellipsis_="..." if is_gsm7("".join(parts)) else "…",
        )
        if fitted is None or (fitted.dropped and self._settings.too_long == "refuse"):
            return Fail(reason=f"longer than {allowed} SMS", code="too_long")
        if not fitted.body:
            return Fail(reason="has no text", code="no_text")
        if fitted.dropped:
            log.info(
                "message_shortened",
                channel="sms",
                delivery_id=str(message.delivery_id),
                dropped=fitted.dropped,
                segments=segments(fitted.body).parts,
            )
        return fitted.body

    def _sender(self, address: Address) -> tuple[str, str]:
        """The messaging service, or one of the pool's numbers: the same one for the same person."""
        twilio = self._settings.twilio
        if twilio.messaging_service_sid:
            return "MessagingServiceSid", twilio.messaging_service_sid
        return "From", min(twilio.phone_number, key=lambda sender: _rank(sender, address.value))


def providers(settings: SmsSettings, http: aiohttp.ClientSession) -> tuple[Provider, ...]:
    """Twilio, when there is an account and something to send from."""
    messages = twilio_messages(settings.twilio, http)
    twilio = settings.twilio
    if messages is None or not (twilio.messaging_service_sid or twilio.phone_number):
        return ()
    return (TwilioSms(settings, messages),)


def _validity(message: Message, now: datetime) -> Sequence[tuple[str, str]]:
    """How long Twilio may keep it in its queue, where that is less than the longest, which it does by itself."""
    if message.expires_at is None:
        return []
    seconds = int((message.expires_at - now).total_seconds())
    return [("ValidityPeriod", str(max(seconds, 1)))] if seconds < _VALIDITY_MAX_S else []


def _rank(sender: str, recipient: str) -> bytes:
    """Rendezvous hashing: a number that comes to the pool or leaves it moves its own share of people only."""
    return hashlib.sha256(f"{sender} {recipient}".encode()).digest()
