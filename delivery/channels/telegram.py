"""
Telegram by a bot: sendMessage of the Bot API (https://core.telegram.org/bots/api#sendmessage).

The words are escaped as its HTML asks (#html-style); the link is a button. It recognises no repetition. The
bot's token stands in the URL, so no URL and no exception of the client leaves this file.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from html import escape
from typing import Any

import aiohttp
import msgspec
import structlog

from core.outcome import Outcome, Retry, Sent, Unknown
from delivery.channel import Address, Message, Provider
from delivery.channels.codes import outcome
from delivery.channels.fitting import fit, plain, utf16_length
from delivery.channels.http_call import TIMEOUT, Answer, base_url, post

log = structlog.stdlib.get_logger("delivery.channels.telegram")

#: UTF-16 units of a message after its entities are read.
TEXT_MAX = 4096

_BUTTON_MAX = 64
_SECRET_MIN = 32
_TOKEN = re.compile(r"[0-9]{1,20}:[A-Za-z0-9_-]{20,128}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class TelegramSettings:
    """Telegram. From TELEGRAM_*."""

    bot_token: str | None = field(default=None, repr=False)  # of @BotFather
    bot_name: str | None = None  # without the @: of the links by which people connect their chats
    webhook_secret: str | None = field(
        default=None, repr=False
    )  # of at least 32 characters: what Telegram's own calls to us carry
    base_url: str = "https://api.telegram.org"  # of the Bot API
    concurrency: int = 30  # calls under way at once
    rate: float = 30.0  # messages per second: Telegram's own limit; 0: no limit of ours

    def __post_init__(self) -> None:
        if self.bot_token is not None and not _TOKEN.fullmatch(self.bot_token):
            raise ValueError("TELEGRAM_BOT_TOKEN is a number, a colon and letters, as @BotFather gives it")
        if self.bot_name is not None and not re.fullmatch(r"[A-Za-z0-9_]{5,32}", self.bot_name, re.ASCII):
            raise ValueError("TELEGRAM_BOT_NAME is the bot's name without the @")
        if self.webhook_secret is not None and not re.fullmatch(
            rf"[A-Za-z0-9_-]{{{_SECRET_MIN},256}}", self.webhook_secret, re.ASCII
        ):
            raise ValueError(f"TELEGRAM_WEBHOOK_SECRET has {_SECRET_MIN}-256 letters, digits, _ and -")
        base_url("TELEGRAM_BASE_URL", self.base_url)
        if self.concurrency < 1:
            raise ValueError("TELEGRAM_CONCURRENCY is 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A sendMessage before it is JSON."""

    chat_id: str = field(repr=False)
    message: Message
    is_html: bool = True
    has_button: bool = True

    def encoded(self) -> bytes:
        link = self.message.action_url or ""
        request: dict[str, Any] = {
            "chat_id": int(self.chat_id) if re.fullmatch(r"-?[0-9]{1,19}", self.chat_id) else self.chat_id,
            "text": text_of(self.message, "" if self.has_button else link, is_html=self.is_html),
            "link_preview_options": {"is_disabled": True},
        }
        if self.is_html:
            request["parse_mode"] = "HTML"
        if link and self.has_button:
            button = {"text": _label(self.message), "url": link}
            request["reply_markup"] = {"inline_keyboard": [[button]]}
        return msgspec.json.encode(request)


class TelegramBot:
    """One bot."""

    name = "telegram"

    def __init__(self, settings: TelegramSettings, token: str, http: aiohttp.ClientSession) -> None:
        self.concurrency = settings.concurrency
        self.rate = settings.rate or None
        self._bot = f"bot {token.partition(':')[0]}"
        self._url = f"{settings.base_url.rstrip('/')}/bot{token}/sendMessage"
        self._http = http

    def account_of(self, address: Address) -> str:
        return self._bot

    async def send(self, message: Message) -> Outcome:
        """
        Send it; once more at once where Telegram says what to do about its refusal: without markup when it
        cannot read that, without the button when it does not like the link, to the id a group has moved to.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (TIMEOUT.total or 0)
        request = _Request(chat_id=message.address.value, message=message)
        answer = await self._call(request, deadline - loop.time())
        if not isinstance(answer, Answer):
            return answer
        remedied = _remedied(request, answer)
        if remedied is not None and deadline > loop.time():
            again = await self._call(remedied, deadline - loop.time())
            if not isinstance(again, Answer):
                return again
            answer = again
        return _read(answer, message)

    async def _call(self, request: _Request, seconds: float) -> Answer | Retry | Unknown:
        return await post(
            self._http,
            self._url,
            request.encoded(),
            headers={"Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=TIMEOUT.sock_connect),
        )


def providers(settings: TelegramSettings, http: aiohttp.ClientSession) -> tuple[Provider, ...]:
    """The bot, when there is a token."""
    return (TelegramBot(settings, settings.bot_token, http),) if settings.bot_token else ()


def text_of(message: Message, link: str = "", *, is_html: bool = True) -> str:
    """
    Title and text within 4,096 UTF-16 units. They are counted before they are escaped, as Telegram counts
    after reading entities; so a cut never falls into an entity.
    """
    title, text = plain(message.title), plain(message.text)
    fitted = fit((title, text, link), lambda one: utf16_length(one) <= TEXT_MAX)
    body = "" if fitted is None else fitted.body
    if fitted is not None and fitted.dropped:
        log.info(
            "message_shortened",
            channel="telegram",
            delivery_id=str(message.delivery_id),
            dropped=fitted.dropped,
        )
    if not is_html:
        return body or "-"
    if title and body.startswith(title):
        return f"<b>{_escaped(title)}</b>{_escaped(body[len(title) :])}"
    return _escaped(body) or "-"


def _escaped(text: str) -> str:
    """For Telegram's HTML: & < and > only; its other named entities are not asked for."""
    return escape(text, quote=False)


def _label(message: Message) -> str:
    """What stands on the button."""
    given = message.metadata.get("action_label")
    label = plain(given) if isinstance(given, str) else ""
    return label[:_BUTTON_MAX] or "Open"


def _remedied(request: _Request, answer: Answer) -> _Request | None:
    """The request to send at once in place of one that was refused; None where nothing would help."""
    document = answer.json()
    if answer.status != 400:
        return None
    said = str(document.get("description", "")).casefold()
    moved = _parameter(document, "migrate_to_chat_id")
    if moved is not None:
        log.warning("telegram_chat_moved", delivery_id=str(request.message.delivery_id))
        return replace(request, chat_id=str(moved))
    if "can't parse entities" in said:
        return replace(request, is_html=False)
    if "button_url_invalid" in said or "inline keyboard button url" in said:
        return replace(request, has_button=False)
    return None


def _read(answer: Answer, message: Message) -> Outcome:
    """{"ok": true, "result": {"message_id": …}}, or {"ok": false, "error_code", "description", "parameters"}."""
    document = answer.json()
    if 200 <= answer.status < 300 and document.get("ok") is not False:
        match document.get("result"):
            case {"message_id": int(reference)}:
                # Telegram reports neither delivery nor reading: this is all that will be known.
                return Sent(provider_ref=str(reference), is_final=True)
        return Unknown(reason="taken, with an answer that cannot be read", code=str(answer.status))
    asked = _parameter(document, "retry_after")
    code = document.get("error_code")
    return outcome(
        "telegram",
        code if isinstance(code, int) else answer.status,
        status=answer.status,
        said=str(document.get("description", "")),
        attempt=message.attempt,
        after=answer.retry_after if asked is None else timedelta(seconds=min(max(asked, 0), 604_800)),
    )


def _parameter(document: Mapping[str, Any], name: str) -> int | None:
    """A number of ResponseParameters (https://core.telegram.org/bots/api#responseparameters)."""
    parameters = document.get("parameters")
    value = parameters.get(name) if isinstance(parameters, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
