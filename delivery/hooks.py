"""What the webhooks of providers are held to: the secrets that sign them, and the address they were told."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from delivery.channels.telegram import TelegramSettings
from delivery.channels.twilio import TwilioSettings
from delivery.signatures import sendgrid_key


@dataclass(frozen=True, slots=True, kw_only=True)
class HookSettings:
    """What providers sign their reports with, besides TWILIO_AUTH_TOKEN and TELEGRAM_WEBHOOK_SECRET."""

    whatsapp_app_secret: str | None = field(
        default=None, repr=False
    )  # of the app at Meta: signs its webhooks
    whatsapp_verify_token: str | None = field(
        default=None, repr=False
    )  # any text that is also entered at Meta, where the webhook is set up
    sendgrid_webhook_key: str | None = (
        None  # the verification key of SendGrid's Event Webhook, as it is shown there
    )

    def __post_init__(self) -> None:
        if self.sendgrid_webhook_key is not None:
            try:
                sendgrid_key(self.sendgrid_webhook_key)
            except ValueError as error:
                raise ValueError(f"SENDGRID_WEBHOOK_KEY {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """
    What each provider's webhook is held to; None where it is not configured, and then there is no such path.

    public_url: how the providers reach us. A signature is over the address that they were told, which no header of a
    request may say.
    """

    public_url: str | None = None
    twilio_token: str | None = field(default=None, repr=False)
    meta_secret: str | None = field(default=None, repr=False)
    meta_verify_token: str | None = field(default=None, repr=False)
    telegram_secret: str | None = field(default=None, repr=False)
    telegram_bot: str | None = None  # its name, without the @
    sendgrid_key: EllipticCurvePublicKey | None = None

    @property
    def telegram_path(self) -> str | None:
        """The last part of the path that Telegram is told: as hard to guess as the secret it is made from."""
        if self.telegram_secret is None:
            return None
        return hmac.new(self.telegram_secret.encode(), b"path", "sha256").hexdigest()[:32]


def hooks(
    public_url: str | None, twilio: TwilioSettings, telegram: TelegramSettings, settings: HookSettings
) -> Hooks:
    """From the settings."""
    key = settings.sendgrid_webhook_key
    return Hooks(
        public_url=None if public_url is None else public_url.rstrip("/"),
        twilio_token=twilio.auth_token,
        meta_secret=settings.whatsapp_app_secret,
        meta_verify_token=settings.whatsapp_verify_token,
        telegram_secret=telegram.webhook_secret,
        telegram_bot=telegram.bot_name,
        sendgrid_key=None if key is None else sendgrid_key(key),
    )
