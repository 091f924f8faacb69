"""
Updates of a Telegram bot: messages, taps on buttons, chats that block it. Pure.

https://core.telegram.org/bots/api#update
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from delivery.inbound import Inbound, Report, Told
from delivery.reports.reading import moment, text

PROVIDER = "telegram"

#: What a bot must ask setWebhook for.
ALLOWED_UPDATES = ("message", "callback_query", "my_chat_member")

#: An id has at most 52 significant bits (Bot API, Chat).
_MAX_CHAT_ID = 2**52

#: A deep link's parameter (core.telegram.org/bots/features#deep-linking).
_START = re.compile(r"/start(?:@\w+)? ([A-Za-z0-9_-]{1,64})\s*")

#: What becomes of the bot in a private chat.
_MEMBERSHIP: Mapping[str, Told] = {"kicked": "blocked", "member": "unblocked"}


def read(body: Any) -> Report:
    """One update; of private chats alone, because a group is nobody's address."""
    update_id = body.get("update_id") if isinstance(body, dict) else None
    if not isinstance(update_id, int) or isinstance(update_id, bool):
        return Report()
    found = (
        _message(body.get("message"))
        or _tap(body.get("callback_query"))
        or _member(body.get("my_chat_member"))
    )
    if found is None:
        return Report()
    return Report(
        inbound=[Inbound(provider=PROVIDER, provider_id=str(update_id), channel="telegram", **found)]
    )


def _message(message: Any) -> dict[str, Any] | None:
    if (chat := _private_chat(message)) is None:
        return None
    words = text(message, "text") or text(message, "caption") or ""
    start = _START.fullmatch(words)
    return {
        "address": chat,
        "text": words.removeprefix("/"),  # commands look like /stop
        "link": start[1] if start else None,
        "answers": _reference(message.get("reply_to_message")),
        "occurred_at": moment(message.get("date")),
    }


def _tap(query: Any) -> dict[str, Any] | None:
    message = query.get("message") if isinstance(query, dict) else None
    if (chat := _private_chat(message)) is None:
        return None
    return {"address": chat, "told": "tap", "payload": text(query, "data"), "answers": _reference(message)}


def _member(changed: Any) -> dict[str, Any] | None:
    chat = _private_chat(changed)
    member = changed.get("new_chat_member") if isinstance(changed, dict) else None
    told = _MEMBERSHIP.get(text(member, "status") or "") if isinstance(member, dict) else None
    if chat is None or told is None:
        return None
    return {"address": chat, "told": told, "occurred_at": moment(changed.get("date"))}


def _private_chat(message: Any) -> str | None:
    chat = message.get("chat") if isinstance(message, dict) else None
    if not isinstance(chat, dict) or chat.get("type") != "private":
        return None
    chat_id = chat.get("id")
    return (
        str(chat_id) if isinstance(chat_id, int) and not isinstance(chat_id, bool) and chat_id > 0 else None
    )


def _reference(message: Any) -> str | None:
    """How a message is called within its chat."""
    number = message.get("message_id") if isinstance(message, dict) else None
    return str(number) if isinstance(number, int) else None
