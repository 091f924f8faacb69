"""
Chats that take messages at a URL (incoming webhooks): whose URL it is, and the body that it asks for. Pure.

The URL is the secret there, so nothing is signed. Words are escaped, so that nobody is called by them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from delivery.channel import Message


class TooLong(ValueError):
    """The chat does not take so much; nothing is cut in silence."""


@dataclass(frozen=True, slots=True)
class Words:
    """What a message says, whether it is for a person or an event."""

    title: str
    text: str
    link: str | None


@dataclass(frozen=True, slots=True)
class Chat:
    """
    One kind of incoming webhook.

    body: of the words; raises TooLong. is_refused: whether an answer with 200 is a refusal all the same.
    """

    name: str
    body: Callable[[Words], Mapping[str, Any]]
    is_refused: Callable[[bytes], bool] = lambda _body: False


def chat_of(url: str) -> Chat | None:
    """The chat whose incoming webhook this is; None for everybody else."""
    parts = urlsplit(url)
    host, path = (parts.hostname or "").lower(), parts.path
    if host in ("hooks.slack.com", "hooks.slack-gov.com"):
        return SLACK
    if host in _DISCORD and re.match(r"/api(/v\d+)?/webhooks/", path):
        return DISCORD
    if host.endswith(".webhook.office.com") and "/IncomingWebhook/" in path:
        return TEAMS
    if host.endswith((".logic.azure.com", ".api.powerplatform.com")) and "/workflows/" in path:
        return TEAMS
    return None


def words_of(message: Message) -> Words:
    """Of an event: its type, and its data a line each."""
    if message.event is None:
        return Words(message.title, message.text, message.action_url)
    data = message.event.get("data")
    lines = (
        [f"{name}: {_plain(value)}" for name, value in data.items() if value is not None]
        if isinstance(data, Mapping)
        else []
    )
    return Words(str(message.event.get("type", "event")), "\n".join(lines), None)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


# --- Slack: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks ---------------------------------

#: Longer texts are cut by Slack (https://docs.slack.dev/reference/methods/chat.postMessage#truncating).
_SLACK_MAX = 40_000


def slack_body(words: Words) -> dict[str, Any]:
    """`&`, `<` and `>` begin what calls people (`<!channel>`), and links."""
    text = f"*{_slack(words.title)}*\n{_slack(words.text)}"
    if words.link is not None:
        text += f"\n<{_slack(words.link).replace('|', '%7C')}>"
    if len(text) > _SLACK_MAX:
        raise TooLong("the message is longer than Slack takes")
    return {"text": text, "unfurl_links": False, "unfurl_media": False}


def _slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# --- Discord: https://discord.com/developers/docs/resources/webhook#execute-webhook ----------------------------------

_DISCORD = frozenset({"discord.com", "discordapp.com", "canary.discord.com", "ptb.discord.com"})
_DISCORD_TITLE, _DISCORD_TEXT, _DISCORD_TOTAL = 256, 4096, 6000

#: What Discord's Markdown begins something with, a mention or a link among it.
_MARKDOWN = re.compile(r"([\\`*_~|>#\[\]()<@-])")


def discord_body(words: Words) -> dict[str, Any]:
    """One embed. No mention in it calls anybody."""
    title, text = _MARKDOWN.sub(r"\\\1", words.title), _MARKDOWN.sub(r"\\\1", words.text)
    if _units(title) > _DISCORD_TITLE:
        title, text = "", f"**{title}**\n{text}"
    if _units(text) > _DISCORD_TEXT or _units(title) + _units(text) > _DISCORD_TOTAL:
        raise TooLong("the message is longer than Discord takes")
    embed = {"title": title, "description": text, "url": words.link}
    return {
        "embeds": [{name: value for name, value in embed.items() if value}],
        "allowed_mentions": {"parse": []},
    }


def _units(text: str) -> int:
    """The length in UTF-16, which is never below that in characters."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


# --- Teams: https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using ------

#: Of the whole message, by Microsoft's page.
_TEAMS_MAX_BYTES = 28 * 1024


def teams_body(words: Words) -> dict[str, Any]:
    """An Adaptive Card. Its RichTextBlocks show words as they are; a TextBlock would read Markdown in them."""
    blocks = [
        {
            "type": "RichTextBlock",
            "inlines": [{"type": "TextRun", "text": words.title, "weight": "Bolder", "size": "Medium"}],
        },
        *(
            {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": line}]}
            for line in words.text.splitlines()
            if line.strip()
        ),
    ]
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": blocks,
    }
    if words.link is not None:
        card["actions"] = [{"type": "Action.OpenUrl", "title": "Open", "url": words.link}]
    body = {
        "type": "message",
        "attachments": [
            {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
        ],
    }
    if len(msgspec.json.encode(body)) > _TEAMS_MAX_BYTES:
        raise TooLong("the message is longer than Teams takes")
    return body


def _teams_refused(body: bytes) -> bool:
    """A connector answers 200 also where it was throttled, with the error in its words."""
    return b"Webhook message delivery failed" in body


SLACK = Chat("slack", slack_body)
DISCORD = Chat("discord", discord_body)
TEAMS = Chat("teams", teams_body, _teams_refused)
