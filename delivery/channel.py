"""
A way out: what the worker hands to a provider, and what comes back.

One file in delivery/channels/ per channel. A file makes providers out of its settings: none, when it has no
credentials, and then the channel is *not configured*, which is no failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol
from uuid import UUID

from core.notification import DELIVERY_CHANNELS, SHOWN
from core.outcome import Outcome

#: What is done about an attempt of which nobody knows the end (RELIABILITY 5.6). `repeat`: the other side
#: recognises our reference, so the same is sent again. `reconcile`: wait for a receipt, then decide.
UnknownPolicy = Literal["repeat", "reconcile"]

#: A Message-ID and a webhook-id are recognised on the other side; the others recognise nothing.
UNKNOWN: Mapping[str, UnknownPolicy] = {
    "push": "repeat",
    "email": "repeat",
    "sms": "reconcile",
    "whatsapp": "reconcile",
    "telegram": "reconcile",
    "webhook": "repeat",
}

#: No address is longer than the longest URL that is taken.
MAX_ADDRESS = 2048

#: The channels that need a provider, by their stored names.
PROVIDER_CHANNELS = tuple(name for name in DELIVERY_CHANNELS if name not in SHOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """
    Where one channel reaches one person. The value and the secret stay out of `repr`, logs and answers.

    value: as core/addresses normalises it: an e-mail address, E.164, a chat id, an https URL.
    hint: the masked form, which may be shown. secret: of a webhook, `whsec_…`.
    window_until: until then WhatsApp takes free text (24 h after the person's last message).
    """

    id: UUID | None
    channel: str
    value: str = field(repr=False)
    hint: str
    secret: str | None = field(default=None, repr=False)
    window_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """
    What one provider is to send. It renders and escapes the words for its own format.

    reference: stays the same over all attempts of a delivery; what a provider can recognise a repetition by.
    action_url: absolute, or None. unsubscribe_url: one-click (RFC 8058), or None where there is no public URL.
    preferences_url: of a mail: where the person changes what they are sent, without signing in.
    callback_url: where the provider is asked to report what becomes of it, with the delivery in it; None where
    there is no public URL, and then no receipts are asked for.
    html: a fragment of HTML that a mail shows in place of `text`; from a renderer of ours, never from a caller.
    event: of an outgoing webhook event: its body, in place of the words.

    Of push: home: where the application is; None: where the page is. collapse_key: what has the same one replaces
    it. privacy: how much may be seen of it. reads: notifications that were read elsewhere and may still be shown.
    unread: how many are not read, for a badge; None: not counted.
    """

    tenant_id: str
    delivery_id: UUID
    attempt: int
    reference: str
    address: Address
    title: str = field(repr=False)
    text: str = field(repr=False)
    notification_id: UUID | None
    notification_type: str
    priority: str
    action_url: str | None = field(default=None, repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    created_at: datetime
    expires_at: datetime | None = None
    html: str | None = field(default=None, repr=False)
    recipient_id: str | None = None
    recipient_name: str | None = field(default=None, repr=False)
    locale: str | None = None
    unsubscribe_url: str | None = field(default=None, repr=False)
    preferences_url: str | None = field(default=None, repr=False)
    callback_url: str | None = field(default=None, repr=False)
    event: Mapping[str, Any] | None = field(default=None, repr=False)
    home: str | None = None
    collapse_key: str | None = field(default=None, repr=False)
    privacy: Literal["full", "title_only", "private"] = "full"
    reads: tuple[UUID, ...] = ()
    unread: int | None = None


class Provider(Protocol):
    """
    One account by which one channel sends.

    name: "twilio", "smtp", …: stored with attempts and a label of metrics. concurrency: calls under way at
    once. rate: messages per second, None without a limit.
    """

    @property
    def name(self) -> str: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def rate(self) -> float | None: ...

    def account_of(self, address: Address) -> str:
        """
        Which account this goes by, in a form that may be shown and stored; a breaker belongs to (channel,
        provider, account). One and the same for every address, but for webhooks: the receiving host.
        """
        ...

    async def send(self, message: Message) -> Outcome:
        """
        Hand one message over, within the worker's deadline (it cancels what takes longer and counts it as
        Unknown). Never raises for what the network or the provider does. Cancelled before a byte of the
        request went out it may raise CancelledError; the worker takes any cancellation for Unknown.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A way out with its providers in the order in which they are tried."""

    name: str
    providers: Sequence[Provider]
    unknown: UnknownPolicy

    @property
    def is_configured(self) -> bool:
        return bool(self.providers)
