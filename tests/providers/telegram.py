"""
Telegram's Bot API on loopback: sendMessage, with its own reading of HTML, and updates to a webhook.

https://core.telegram.org/bots/api#sendmessage, #html-style, #setwebhook
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from tests.providers.server import ProviderServer, Received, Refuse, answer

_TAGS = {
    "b",
    "strong",
    "i",
    "em",
    "u",
    "ins",
    "s",
    "strike",
    "del",
    "code",
    "pre",
    "tg-spoiler",
    "blockquote",
    "a",
}
_TOKEN = re.compile(
    r"<(/?)([a-z-]+)[^>]*>|&(lt|gt|amp|quot|#[0-9]+|#x[0-9a-f]+);|([^<&]|&(?![a-z#]))", re.IGNORECASE
)
_ENTITIES = {"lt": "<", "gt": ">", "amp": "&", "quot": '"'}


class NoMarkup(ValueError):
    """Telegram cannot parse it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A message that was sent. text: as the person reads it. body: the JSON of the request."""

    message_id: int
    chat_id: int | str
    text: str
    body: Mapping[str, Any]


class TelegramServer(ProviderServer):
    """
    One bot.

    chats: that it was started in. blocked: chats whose people have blocked it. moved: groups that have become
    supergroups, with their new ids.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.token = "123456:ABC-DEF1234ghIkl-zyx57W2v1u123ew11"
        self.secret = "s" * 40
        self.chats: set[int | str] = set()
        self.blocked: set[int | str] = set()
        self.moved: dict[int | str, int] = {}

    async def take(self, request: Received) -> web.Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return answer(refusal.status, refusal.body)
        body = request.json()
        text = shown(body["text"]) if body.get("parse_mode") == "HTML" else body["text"]
        taken = Taken(
            message_id=1000 + len(self.accepted), chat_id=body["chat_id"], text=text.strip(), body=body
        )
        self.accepted.append(taken)
        result = {
            "message_id": taken.message_id,
            "from": {"id": 123456, "is_bot": True, "first_name": "Bot", "username": "a_bot"},
            "chat": {"id": taken.chat_id, "type": "private"},
            "date": 1_780_000_000,
            "text": taken.text,
        }
        return answer(200, {"ok": True, "result": result})

    async def update(
        self, http: aiohttp.ClientSession, url: str, update: Mapping[str, Any], *, secret: str | None = None
    ) -> int:
        """Post an update to the webhook; the status of our answer."""
        headers = {"X-Telegram-Bot-Api-Secret-Token": secret or self.secret}
        async with http.post(url, json=update, headers=headers, allow_redirects=False) as response:
            return response.status

    def _refusal(self, request: Received) -> Refuse | None:
        bot = re.fullmatch(r"/bot([0-9]+:[A-Za-z0-9_-]{20,})/(\w+)", request.path)
        if bot is None or bot[2] != "sendMessage":
            return error(404, "Not Found")
        if bot[1] != self.token:
            return error(401, "Unauthorized")
        body = request.json() if request.headers.get("Content-Type") == "application/json" else {}
        return self._bad_chat(body.get("chat_id")) or self._bad_text(body) or self._bad_button(body)

    def _bad_chat(self, chat: Any) -> Refuse | None:
        if chat in (None, ""):
            return error(400, "Bad Request: chat_id is empty")
        if chat in self.moved:
            return error(
                400,
                "Bad Request: group chat was upgraded to a supergroup chat",
                migrate_to_chat_id=self.moved[chat],
            )
        if chat in self.blocked:
            return error(403, "Forbidden: bot was blocked by the user")
        if chat not in self.chats and chat not in self.moved.values():
            return error(400, "Bad Request: chat not found")
        return None

    def _bad_text(self, body: Mapping[str, Any]) -> Refuse | None:
        text = body.get("text")
        if not isinstance(text, str) or body.get("parse_mode") not in (None, "HTML"):
            return error(400, "Bad Request: unsupported parse_mode")
        try:
            read = shown(text) if body.get("parse_mode") == "HTML" else text
        except NoMarkup as problem:
            return error(400, f"Bad Request: can't parse entities: {problem}")
        if not read.strip():
            return error(400, "Bad Request: message text is empty")
        if len(read.encode("utf-16-le")) // 2 > 4096:
            return error(400, "Bad Request: message is too long")
        return None

    def _bad_button(self, body: Mapping[str, Any]) -> Refuse | None:
        for row in body.get("reply_markup", {}).get("inline_keyboard", []):
            for button in row:
                url = urlsplit(button["url"])
                if (
                    not button["text"]
                    or url.scheme not in ("https", "http")
                    or "." not in (url.hostname or "")
                ):
                    return error(400, "Bad Request: BUTTON_URL_INVALID")
        return None


def shown(html: str) -> str:
    """What people read of Telegram's HTML. Raises NoMarkup, in the words of Telegram's parser."""
    text, place, opened = "", 0, list[str]()
    while place < len(html):
        token = _TOKEN.match(html, place)
        if token is None:
            raise NoMarkup(f"unexpected character at byte offset {place}")
        closing, tag, entity, character = token.groups()
        if tag is not None:
            if tag.lower() not in _TAGS:
                raise NoMarkup(f'Unsupported start tag "{tag}" at byte offset {place}')
            if not closing:
                opened.append(tag)
            elif not opened or opened.pop() != tag:
                raise NoMarkup(f'Unmatched end tag at byte offset {place}, expected "</{tag}>"')
        elif entity is not None:
            number = (
                int(entity[2:], 16)
                if entity[1:2].lower() == "x"
                else int(entity[1:] or 0)
                if entity[0] == "#"
                else 0
            )
            text += chr(number) if entity[0] == "#" else _ENTITIES[entity.lower()]
        else:
            text += character
        place = token.end()
    if opened:
        raise NoMarkup(f'Can\'t find end tag corresponding to start tag "{opened[-1]}"')
    return text


def error(status: int, description: str, **parameters: int) -> Refuse:
    """A refusal, also to be put among the faults."""
    body: dict[str, Any] = {"ok": False, "error_code": status, "description": description}
    if parameters:
        body["parameters"] = parameters
    return Refuse(status=status, body=body)
