"""What one provider is to send, out of the facts: the words, the links, the references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple
from urllib.parse import urljoin

from core.notification import Content
from core.vault import Vault
from delivery.channel import Address, Message
from delivery.policy import Facts
from delivery.preferences_link import Pass, preferences_url
from delivery.receipts import callback_url
from delivery.unsubscribe import Subscription, unsubscribe_url


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """Where people and providers find us. From HUB_PUBLIC_URL and DELIVERY_SITE_URL."""

    public_url: str | None = (
        None  # of this service, as providers and mail readers reach it; None: no receipts and no one-click unsubscribing
    )
    site_url: str | None = (
        None  # of the application: what an action_url without a host belongs to; None: as HUB_PUBLIC_URL
    )
    preferences_life: timedelta = timedelta(
        days=30
    )  # how long a mail's link opens the page of preferences; unsubscribe links do not age

    def __post_init__(self) -> None:
        for url in (self.public_url, self.site_url):
            if url is not None and not url.startswith(("https://", "http://")):
                raise ValueError("must begin with https://")


#: Providers that report back, to a URL or with a token that is handed over with each message.
_CALLED_BACK = frozenset({"twilio", "meta", "simulator"})


#: Channels where the title is no more than a line above the text.
_ONE_TEXT = frozenset({"sms", "whatsapp", "telegram"})


class Rendered(NamedTuple):
    """Words that a type of notification has for a mail. html: a fragment for the layout of all mails."""

    title: str
    text: str
    html: str | None


#: The content, the person's language, and what a link without a host belongs to.
Renderer = Callable[[Content, str | None, str | None], Rendered]


class Composer:
    """Makes messages. renderers: of types that have mails of their own."""

    def __init__(
        self, vault: Vault, settings: LinkSettings, renderers: Mapping[str, Renderer] | None = None
    ) -> None:
        self._renderers = renderers or {}
        self._vault = vault
        self._public_url = settings.public_url
        self._site_url = settings.site_url or settings.public_url
        self._preferences_life = settings.preferences_life

    def __call__(self, facts: Facts, address: Address, provider: str) -> Message:
        """facts: with a content, as the policy has seen to. provider: its name."""
        claimed, content, recipient = facts.claimed, facts.content, facts.recipient
        assert content is not None, "the policy lets nothing pass that is gone"
        unsubscribe = preferences = callback = None
        if self._public_url is not None:
            if claimed.channel == "email" and recipient is not None:
                subscription = Subscription(
                    tenant_id=claimed.tenant_id,
                    user_id=recipient.user_id,
                    channel=claimed.channel,
                    notification_type=content.notification_type,
                    version=recipient.unsubscribe_version,
                )
                unsubscribe = unsubscribe_url(self._public_url, self._vault, subscription)
                if unsubscribe is not None and address.id is not None:
                    given = Pass(
                        tenant_id=claimed.tenant_id,
                        user_id=recipient.user_id,
                        address_id=address.id,
                        expires_at=facts.now + self._preferences_life,
                    )
                    preferences = preferences_url(self._public_url, self._vault, given)
            if provider in _CALLED_BACK:
                callback = callback_url(
                    self._public_url, self._vault, provider, claimed.tenant_id, claimed.id
                )
        locale = recipient.locale if recipient is not None else None
        title, text, html = content.title, content.message, None
        renderer = self._renderers.get(content.notification_type) if claimed.channel == "email" else None
        if renderer is not None and claimed.edited is None:
            title, text, html = renderer(content, locale, self._site_url)
        return Message(
            tenant_id=claimed.tenant_id,
            delivery_id=claimed.id,
            attempt=claimed.attempt,
            reference=str(claimed.id),
            address=address,
            title=_title(claimed.channel, title, text),
            text=text,
            html=html,
            notification_id=content.id,
            notification_type=content.notification_type,
            priority=content.priority,
            action_url=self._link(claimed.channel, content.action_url),
            metadata=content.metadata,
            created_at=content.created_at,
            expires_at=content.expires_at,
            recipient_id=claimed.user_id,
            recipient_name=recipient.name if recipient is not None else None,
            locale=locale,
            unsubscribe_url=unsubscribe,
            preferences_url=preferences,
            callback_url=callback,
            home=self._site_url,
            collapse_key=content.collapse_key,
            privacy=facts.privacy,
            reads=facts.reads,
            unread=facts.unread,
        )

    def _link(self, channel: str, action_url: str | None) -> str | None:
        """A browser that the application was opened in knows what a path belongs to."""
        absolute = self._absolute(action_url)
        return action_url if absolute is None and channel == "push" else absolute

    def _absolute(self, action_url: str | None) -> str | None:
        """A link that works outside the application; None where nobody knows what it belongs to."""
        if action_url is None or action_url.startswith(("https://", "http://")):
            return action_url
        return urljoin(self._site_url, action_url) if self._site_url is not None else None


def _title(channel: str, title: str, text: str) -> str:
    """The title, unless the text begins with it and it would be read twice: Keryu's messages have no other."""
    return "" if channel in _ONE_TEXT and text.startswith(title) else title
