"""Chats: whose URL it is, the body it asks for, and that no word calls anybody."""

from __future__ import annotations

from typing import Any

import pytest

from core.outcome import Fail, Retry, Sent
from delivery.channels.chats import DISCORD, SLACK, TEAMS, Chat, TooLong, chat_of, words_of
from delivery.channels.http_call import Answer
from delivery.channels.webhook import outcome_of
from tests.messages import message

WORDS = words_of(message("webhook", "https://x.example/"))


@pytest.mark.parametrize(
    ("url", "chat"),
    [
        ("https://hooks.slack.com/services/T0/B0/x", SLACK),
        ("https://hooks.slack.com/triggers/T0/1/x", SLACK),
        ("https://discord.com/api/webhooks/1/x", DISCORD),
        ("https://discordapp.com/api/v10/webhooks/1/x?wait=true", DISCORD),
        ("https://school.webhook.office.com/webhookb2/1@2/IncomingWebhook/3/4", TEAMS),
        ("https://prod-1.westus.logic.azure.com:443/workflows/x/triggers/manual/paths/invoke?sig=y", TEAMS),
        (
            "https://x.1.environment.api.powerplatform.com:443/powerautomate/automations/direct/workflows/y",
            TEAMS,
        ),
        ("https://hooks.slack.com.evil.example/services/x", None),
        ("https://evil.example/hooks.slack.com/services/x", None),
        ("https://discord.com/channels/1", None),
        ("https://webhook.office.com/IncomingWebhook/", None),
        ("https://evil-logic.azure.com/workflows/x", None),
        ("https://hook.example/", None),
    ],
)
def test_a_chat_is_known_by_its_url(url: str, chat: Chat | None) -> None:
    assert chat_of(url) is chat


def test_slack_gets_text_that_calls_nobody() -> None:
    body = SLACK.body(words_of(message("webhook", "x", title="<!channel> a", text="b & <@U1>")))

    assert body == {
        "text": "*&lt;!channel&gt; a*\nb &amp; &lt;@U1&gt;\n<https://app.example/plans/7?a=1&amp;b=2>",
        "unfurl_links": False,
        "unfurl_media": False,
    }


def test_discord_gets_one_embed_that_calls_nobody() -> None:
    body = DISCORD.body(words_of(message("webhook", "x", title="@everyone *a*", text="<@1> [x](y)")))

    assert body == {
        "embeds": [
            {
                "title": "\\@everyone \\*a\\*",
                "description": "\\<\\@1\\> \\[x\\]\\(y\\)",
                "url": "https://app.example/plans/7?a=1&b=2",
            }
        ],
        "allowed_mentions": {"parse": []},
    }


def test_teams_gets_a_card_whose_words_are_read_as_words() -> None:
    body = TEAMS.body(WORDS)

    [attachment] = body["attachments"]
    assert body["type"] == "message"
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert [block["inlines"][0]["text"] for block in card["body"]] == [
        "Grüße an Ada",
        "The plan",
        ".is <ready> & waits.",
    ]
    assert {block["type"] for block in card["body"]} == {"RichTextBlock"}
    assert card["actions"] == [
        {"type": "Action.OpenUrl", "title": "Open", "url": "https://app.example/plans/7?a=1&b=2"}
    ]


@pytest.mark.parametrize(("chat", "length"), [(SLACK, 40_001), (DISCORD, 4097), (TEAMS, 28 * 1024)])
def test_what_a_chat_does_not_take_is_refused_and_not_cut(chat: Chat, length: int) -> None:
    with pytest.raises(TooLong):
        chat.body(words_of(message("webhook", "x", text="a" * length)))


def test_a_title_too_long_for_discord_stands_in_its_text() -> None:
    [embed] = DISCORD.body(words_of(message("webhook", "x", title="t" * 300, action_url=None)))["embeds"]

    assert set(embed) == {"description"}
    assert embed["description"].startswith("**" + "t" * 300 + "**\n")


def test_an_event_is_told_in_words() -> None:
    event: dict[str, Any] = {"type": "delivery.failed", "data": {"channel": "sms", "code": None, "n": 1}}

    words = words_of(message("webhook", "x", event=event))

    assert (words.title, words.text, words.link) == ("delivery.failed", "channel: sms\nn: 1", None)


def test_answers_of_chats_mean_what_chats_mean() -> None:
    def answered(status: int, body: bytes = b"") -> Answer:
        return Answer(status=status, headers={}, body=body)

    assert outcome_of(answered(404), SLACK) == Fail(
        reason="the chat has no such webhook", code="404", address_is_dead=True
    )
    assert outcome_of(answered(200, b"1"), TEAMS) == Sent(is_final=True)
    throttled = (
        b"Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429"
    )
    assert isinstance(outcome_of(answered(200, throttled), TEAMS), Retry)
    assert outcome_of(answered(204), DISCORD) == Sent(is_final=True)
