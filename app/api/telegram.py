"""Telegram: links that tie a chat to a person, and the bot's webhook."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field
from starlette.responses import Response

from app.api.auth import InsufficientScope
from app.api.models import Answer, Body, UserId
from app.api.operation import Call, Operation, answer, nothing
from app.api.reading import read
from core.errors import ServiceError


class NewTelegramLink(Body):
    """Whose chat it is to be."""

    user_id: UserId | None = Field(
        default=None, description="Without it, the caller; for anybody else it takes `notifications:write`."
    )


class TelegramLink(Answer):
    """To be opened by the person, on a device with Telegram; whoever opens it first is taken for them."""

    url: str
    expires_at: datetime


async def link(call: Call) -> Response:
    """A link that makes the chat in which it is opened an address of the person. Good once, for 15 minutes."""
    identity, wanted = call.identity, await read(call, NewTelegramLink)
    bot = call.services.delivery.hooks.telegram_bot
    if bot is None:
        raise ServiceError("conflict", "TELEGRAM_BOT_NAME is not set.")
    user_id = wanted.user_id or identity.user_id
    if user_id != identity.user_id and not identity.has("notifications:write"):
        raise InsufficientScope(["notifications:write"])
    issued = await call.services.delivery.telegram_links.issue(identity.tenant_id, user_id)
    return answer(
        TelegramLink(url=f"https://t.me/{bot}?start={issued.token}", expires_at=issued.expires_at), 201
    )


async def register(call: Call) -> Response:
    """Tell Telegram where the bot's updates go (setWebhook), with the secret that it is to present."""
    webhook = call.services.delivery.telegram_webhook
    if webhook is None:
        raise ServiceError("conflict", "Telegram is not configured.")
    await webhook.register()
    return nothing()


def operations() -> tuple[Operation, ...]:
    return (
        Operation(
            method="POST",
            path="/api/v1/telegram/link",
            handler=link,
            summary="Get a link that connects Telegram",
            tag="recipients",
            body=NewTelegramLink,
            answers={201: TelegramLink},
            problems=("conflict", "forbidden"),
            examples={"for oneself": {}, "for somebody": {"user_id": "ada"}},
        ),
        Operation(
            method="POST",
            path="/api/v1/channels/telegram/webhook",
            handler=register,
            summary="Set the webhook of the Telegram bot",
            tag="channels",
            scopes=("admin",),
            answers={204: None},
            problems=("conflict", "unavailable"),
        ),
    )
