"""Telegram gets what its Bot API asks for, and its refusals are understood."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.outcome import Fail, Halt, Retry, Sent, Suppress, Unknown
from delivery.channels.fitting import plain, utf16_length
from delivery.channels.telegram import TelegramSettings, providers, text_of
from tests.loop_time import in_vain
from tests.outgoing import message
from tests.providers.server import Hold, Refuse, Reset
from tests.providers.telegram import TelegramServer, error, shown

CHAT = 7001001


@pytest.fixture
async def server() -> AsyncIterator[TelegramServer]:
    async with TelegramServer() as server:
        server.chats.add(CHAT)
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def bot(server, http, **changes):
    settings = TelegramSettings(**{"bot_token": server.token, "base_url": server.url, **changes})
    (provider,) = providers(settings, http)
    return provider


async def test_a_message_is_the_json_that_telegram_documents(server, http):
    provider = bot(server, http)

    ended = await provider.send(message("telegram", action_url="https://app.example/disks/1"))

    assert ended == Sent(provider_ref="1000", is_final=True)
    (request,) = server.received
    assert request.path == f"/bot{server.token}/sendMessage"
    assert request.json() == {
        "chat_id": CHAT,
        "text": "<b>Disk almost full</b>\ndb-1 has 3 % left.",
        "parse_mode": "HTML",
        "link_preview_options": {"is_disabled": True},
        "reply_markup": {"inline_keyboard": [[{"text": "Open", "url": "https://app.example/disks/1"}]]},
    }
    assert provider.account_of(message("telegram").address) == "bot 123456"


@pytest.mark.parametrize(
    "words",
    [
        "a < b && c > d",
        "<b>bold</b>",
        "*not* _bold_ `at` [all](x)",
        "&lt;&amp;&#60;",
        "</b><script>",
        "\"'",
        "<" * 3000,
        "&" * 4096,
    ],
)
async def test_words_arrive_as_they_were_written(server, http, words):
    await bot(server, http).send(message("telegram", title=words[:200], text=words))

    (taken,) = server.accepted
    assert taken.body["parse_mode"] == "HTML"
    assert taken.text.startswith(f"{words[:200]}\n{words[:3000]}")
    assert len(server.received) == 1


@given(st.text(max_size=300), st.text(max_size=6000))
def test_any_words_become_html_that_telegram_reads_and_that_is_not_too_long(title, text):
    made = text_of(message("telegram", title=title, text=text))

    read = shown(made)
    assert utf16_length(read) <= 4096
    whole = "\n".join(part for part in (plain(title), plain(text)) if part)
    assert read == (whole or "-") or read.endswith("…")


async def test_4096_is_counted_as_telegram_counts(server, http):
    provider = bot(server, http)

    for text in ("🚨" * 2048, "🚨" * 2049, "<" * 4096, "x" * 4097):
        assert isinstance(await provider.send(message("telegram", title="", text=text)), Sent)

    lengths = [utf16_length(taken.text) for taken in server.accepted]
    assert lengths == [4096, 4095, 4096, 4096]


async def test_markup_that_telegram_cannot_read_goes_once_more_as_plain_text(server, http):
    server.faults.append(error(400, "Bad Request: can't parse entities: Unsupported start tag"))

    ended = await bot(server, http).send(message("telegram", title="a < b"))

    assert isinstance(ended, Sent)
    assert "parse_mode" not in server.received[1].json()
    assert server.accepted[0].text == "a < b\ndb-1 has 3 % left."


async def test_plain_text_is_tried_once(server, http):
    refusal = error(400, "Bad Request: can't parse entities: whatever")
    server.faults.extend([refusal, refusal, refusal])

    ended = await bot(server, http).send(message("telegram"))

    assert ended == Fail(reason="Telegram cannot read the markup", code="400")
    assert len(server.received) == 2


async def test_a_link_that_is_refused_as_a_button_goes_in_the_text(server, http):
    ended = await bot(server, http).send(message("telegram", action_url="https://intranet/disks"))

    assert isinstance(ended, Sent)
    assert server.accepted[0].text.endswith("\nhttps://intranet/disks")
    assert "reply_markup" not in server.accepted[0].body


async def test_a_group_that_has_moved_is_followed_at_once(server, http):
    server.moved[-42] = -100_4242

    ended = await bot(server, http).send(message("telegram", value="-42"))

    assert isinstance(ended, Sent)
    assert server.accepted[0].chat_id == -100_4242


async def test_retry_after_is_obeyed_by_the_whole_bot(server, http):
    server.faults.append(error(429, "Too Many Requests: retry after 35", retry_after=35))

    ended = await bot(server, http).send(message("telegram"))

    assert ended == Retry(
        reason="too many messages at once", code="429", after=timedelta(seconds=35), throttled=True
    )


async def test_a_person_who_has_blocked_the_bot_is_not_written_to_again(server, http):
    server.blocked.add(CHAT)

    assert isinstance(await bot(server, http).send(message("telegram")), Suppress)


async def test_a_chat_that_does_not_exist_is_dead(server, http):
    ended = await bot(server, http).send(message("telegram", value="999"))

    assert isinstance(ended, Fail)
    assert ended.address_is_dead


async def test_a_channel_by_its_name_is_written_to(server, http):
    server.chats.add("@alerts")

    assert isinstance(await bot(server, http).send(message("telegram", value="@alerts")), Sent)


@pytest.mark.parametrize("token", ["654321:ABC-DEF1234ghIkl-zyx57W2v1u123ew11"])
async def test_a_wrong_token_halts_the_bot_and_is_told_to_nobody(server, http, token, capsys, caplog):
    ended = await bot(server, http, bot_token=token).send(message("telegram"))

    assert isinstance(ended, Halt)
    assert token.partition(":")[2] not in repr(ended) + capsys.readouterr().out + caplog.text


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Refuse(status=502, body="<html>Bad Gateway</html>"), Retry),
        (Refuse(status=200, body="<html>a portal</html>"), Unknown),
        (Refuse(status=200, body={"ok": False, "error_code": 403, "description": "Forbidden"}), Suppress),
        (Reset(taken=True), Unknown),
        (Reset(taken=False), Unknown),
        (Refuse(status=302, headers={"Location": "https://elsewhere.example"}), Halt),
    ],
)
async def test_an_attempt_ends_as_telegram_says(server, http, fault, kind):
    server.faults.append(fault)

    assert type(await bot(server, http).send(message("telegram"))) is kind


async def test_a_second_try_whose_answer_is_lost_is_unknown(server, http):
    server.faults.extend([error(400, "Bad Request: can't parse entities"), Reset(taken=True)])

    assert isinstance(await bot(server, http).send(message("telegram")), Unknown)


async def test_a_deadline_covers_both_tries(server, http):
    server.faults.extend([error(400, "Bad Request: can't parse entities"), Hold()])

    ended = await in_vain(bot(server, http).send(message("telegram")), lambda: not server.faults)

    assert isinstance(ended, Unknown)


def test_without_a_token_there_is_no_provider():
    assert providers(TelegramSettings(), None) == ()


@pytest.mark.parametrize(
    "given_",
    [
        {"bot_token": "canary"},
        {"bot_token": "1:canary/../canarycanarycanary"},
        {"webhook_secret": "canary"},
        {"webhook_secret": "canary " * 8},
        {"bot_name": "@canary_bot"},
        {"base_url": "http://canary.example"},
    ],
)
def test_settings_that_cannot_be_right_are_refused_without_repeating_them(given_):
    with pytest.raises(ValueError, match="TELEGRAM") as refused:
        TelegramSettings(**given_)

    assert "canary" not in str(refused.value)
