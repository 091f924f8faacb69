"""Where a Telegram bot sends its updates: setWebhook (https://core.telegram.org/bots/api#setwebhook)."""

from __future__ import annotations

import aiohttp
import msgspec

from core.errors import ServiceError
from delivery.channels.http_call import Answer, post
from delivery.channels.telegram import TelegramSettings
from delivery.hooks import Hooks
from delivery.reports.telegram import ALLOWED_UPDATES


class TelegramWebhook:
    """Tells Telegram of us."""

    def __init__(self, settings: TelegramSettings, hooks: Hooks, http: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._hooks = hooks
        self._http = http

    async def register(self) -> None:
        """
        Doing it again changes nothing.

        Raises ServiceError: conflict, where a setting is missing or Telegram refuses; unavailable, where it cannot be
        reached.
        """
        token, public_url = self._settings.bot_token, self._hooks.public_url
        if token is None or public_url is None or self._hooks.telegram_path is None:
            raise ServiceError(
                "conflict", "TELEGRAM_BOT_TOKEN, TELEGRAM_WEBHOOK_SECRET and HUB_PUBLIC_URL must be set."
            )
        request = {
            "url": f"{public_url}/webhooks/telegram/{self._hooks.telegram_path}",
            "secret_token": self._hooks.telegram_secret,
            "allowed_updates": ALLOWED_UPDATES,
        }
        answer = await post(
            self._http,
            f"{self._settings.base_url.rstrip('/')}/bot{token}/setWebhook",
            msgspec.json.encode(request),
            headers={"Content-Type": "application/json"},
        )
        if not isinstance(answer, Answer) or answer.status >= 500:
            raise ServiceError("unavailable", "Telegram cannot be reached.", retry_after=5)
        if answer.status != 200 or answer.json().get("ok") is not True:
            raise ServiceError(
                "conflict", f"Telegram answered {answer.status} and has not taken the webhook."
            )
