"""WhatsApp goes out by three providers, each asked in the words of its own documents."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.outcome import Defer, Fail, Fallback, Halt, Retry, Sent, Suppress, Unknown
from delivery.channels.fitting import utf16_length
from delivery.channels.twilio import TwilioSettings
from delivery.channels.whatsapp import Template, WhatsAppSettings, free_text, parameters, providers
from tests.outgoing import message
from tests.providers import meta as cloud
from tests.providers import twilio as twilio_api
from tests.providers.meta import MetaServer
from tests.providers.server import Refuse, Reset
from tests.providers.twilio import TwilioServer
from tests.providers.whatsapp_http import WhatsAppHttpServer

CONTENT = "HX" + "0a" * 16


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def meta() -> AsyncIterator[MetaServer]:
    async with MetaServer() as server:
        yield server


@pytest.fixture
async def twilio() -> AsyncIterator[TwilioServer]:
    async with TwilioServer() as server:
        server.templates[CONTENT] = 4
        yield server


@pytest.fixture
async def own() -> AsyncIterator[WhatsAppHttpServer]:
    async with WhatsAppHttpServer() as server:
        yield server


def by_meta(server, http, **changes):
    given = {
        "phone_number_id": server.phone_number_id,
        "access_token": server.access_token,
        "graph_url": server.graph_url,
        **changes,
    }
    (provider,) = providers(WhatsAppSettings(**given), http)
    return provider


def by_twilio(server, http, **changes):
    account = TwilioSettings(
        account_sid=server.account_sid, auth_token=server.auth_token, base_url=server.url
    )
    (provider,) = providers(WhatsAppSettings(twilio=account, **{"from_": "+14155238886", **changes}), http)
    return provider


def by_http(server, http, **changes):
    given = {"api_url": server.api_url, "api_token": server.token, **changes}
    (provider,) = providers(WhatsAppSettings(**given), http)
    return provider


def in_window(**changes):
    return message("whatsapp", window_until=datetime.now(UTC) + timedelta(hours=1), **changes)


def outside(**changes):
    return message("whatsapp", window_until=datetime.now(UTC) - timedelta(seconds=1), **changes)


# --- Meta ------------------------------------------------------------------------------------------------------------


async def test_within_the_window_meta_gets_free_text(meta, http):
    provider = by_meta(meta, http)
    sent = in_window(action_url="https://app.example/1", callback_url="https://hub.example/webhooks/meta")

    ended = await provider.send(sent)

    assert ended == Sent(provider_ref=meta.accepted[0].wamid)
    (request,) = meta.received
    assert request.path == f"/v23.0/{meta.phone_number_id}/messages"
    assert request.headers["Authorization"] == f"Bearer {meta.access_token}"
    assert request.json() == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": "+14155550199",
        "type": "text",
        "text": {
            "preview_url": False,
            "body": "Disk almost full\ndb-1 has 3 % left.\nhttps://app.example/1",
        },
        "biz_opaque_callback_data": str(sent.delivery_id),
    }
    assert provider.account_of(sent.address) == meta.phone_number_id


async def test_outside_the_window_meta_gets_the_template_with_the_words_in_it(meta, http):
    ended = await by_meta(meta, http).send(
        outside(recipient_name="Anna", metadata={"alert_type": "Disk", "action_required": "Clean up"})
    )

    assert isinstance(ended, Sent)
    body = meta.accepted[0].body
    assert body["type"] == "template"
    assert body["template"] == {
        "name": "notification_alert",
        "language": {"code": "en"},
        "components": [
            {
                "type": "body",
                "parameters": [
                    {"type": "text", "text": "Anna"},
                    {"type": "text", "text": "Disk"},
                    {"type": "text", "text": "Disk almost full: db-1 has 3 % left."},
                    {"type": "text", "text": "Clean up"},
                ],
            }
        ],
    }


async def test_somebody_who_has_never_written_gets_a_template(meta, http):
    assert isinstance(await by_meta(meta, http).send(message("whatsapp")), Sent)

    assert meta.accepted[0].body["type"] == "template"


async def test_a_type_has_its_own_template_and_all_others_the_one_of_the_star(meta, http):
    meta.templates |= {("disk_full", "rw"): 2, ("other", "pt_BR"): 0}
    provider = by_meta(
        meta,
        http,
        templates=json.dumps(
            {
                "disk.full": {"name": "disk_full", "language": "rw", "variables": ["title", "metadata.host"]},
                "*": {"name": "other", "language": "pt_BR", "variables": []},
            }
        ),
    )

    await provider.send(outside(metadata={"host": "db-1"}))
    await provider.send(outside(notification_type="x"))

    first, second = (taken.body["template"] for taken in meta.accepted)
    assert first["components"][0]["parameters"] == [
        {"type": "text", "text": "Disk almost full"},
        {"type": "text", "text": "db-1"},
    ]
    assert (second["name"], second["components"]) == ("other", [])


async def test_without_a_template_another_channel_is_asked_and_meta_is_not(meta, http):
    provider = by_meta(meta, http, templates='{"*": null}')

    assert isinstance(await provider.send(outside()), Fallback)
    assert meta.received == []
    assert isinstance(await provider.send(in_window()), Sent)


@pytest.mark.parametrize("words", ["a\nb\tc      d", "", "\r\n\u2028", "x " * 3000])
async def test_parameters_are_as_meta_takes_them(meta, http, words):
    ended = await by_meta(meta, http).send(outside(title=words, text=words, recipient_name=words))

    assert isinstance(ended, Sent)


@given(st.lists(st.text(max_size=1500), min_size=1, max_size=8))
def test_any_parameters_are_on_one_line_never_empty_and_short_enough(values):
    template = Template(variables=tuple(f"metadata.k{number}" for number in range(len(values))))

    made = parameters(
        template, message("whatsapp", metadata={f"k{number}": value for number, value in enumerate(values)})
    )

    assert len(made) == len(values)
    assert all(made)
    assert sum(map(len, made)) <= 1024
    assert not any(character in text for text in made for character in "\n\t\r")


@pytest.mark.parametrize("text", ["x" * 5000, "word " * 2000, "🚨" * 4096])
async def test_free_text_is_shortened_to_4096(meta, http, text):
    ended = await by_meta(meta, http).send(in_window(text=text, action_url="https://app.example/1"))

    assert isinstance(ended, Sent)
    body = meta.accepted[0].body["text"]["body"]
    assert 4000 < utf16_length(body) <= 4096
    assert body.endswith("…\nhttps://app.example/1")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, 131026, Fallback),
        (400, 131047, Fallback),
        (400, 131050, Suppress),
        (429, 130429, Defer),
        (400, 131056, Defer),
        (500, 131000, Retry),
        (500, 3, Halt),
        (403, 131031, Halt),
        (400, 132000, Fail),
        (400, 424242, Fail),
        (500, 424242, Retry),
    ],
)
async def test_an_attempt_ends_as_meta_says(meta, http, status, code, kind):
    meta.faults.append(cloud.error(status, code))

    ended = await by_meta(meta, http).send(in_window())

    assert type(ended) is kind
    assert ended.code == str(code)


async def test_a_pair_that_is_told_too_much_waits_longer_each_time(meta, http):
    provider = by_meta(meta, http)
    meta.faults.extend(cloud.error(400, 131056) for _ in range(3))

    waits = [(await provider.send(in_window(attempt=attempt))).after for attempt in (1, 2, 3)]

    assert waits == [timedelta(seconds=1), timedelta(seconds=4), timedelta(seconds=16)]


async def test_a_template_that_meta_does_not_know_leads_to_another_channel(meta, http):
    meta.templates.clear()

    assert isinstance(await by_meta(meta, http).send(outside()), Fallback)


async def test_a_wrong_token_halts_the_account(meta, http):
    ended = await by_meta(meta, http, access_token="wrong").send(in_window())

    assert ended == Halt(reason="the access token has expired", code="190")


# --- Twilio ----------------------------------------------------------------------------------------------------------


async def test_within_the_window_twilio_gets_a_body(twilio, http):
    ended = await by_twilio(twilio, http).send(in_window(callback_url="https://hub.example/cb"))

    assert isinstance(ended, Sent)
    assert twilio.accepted[0].fields == {
        "To": "whatsapp:+14155550199",
        "From": "whatsapp:+14155238886",
        "Body": "Disk almost full\ndb-1 has 3 % left.",
        "StatusCallback": "https://hub.example/cb",
    }


async def test_outside_the_window_twilio_gets_a_content_sid_with_numbered_variables(twilio, http):
    provider = by_twilio(
        twilio,
        http,
        from_="whatsapp:+14155238886",
        templates=json.dumps({"*": {"content_sid": CONTENT}}),
    )

    ended = await provider.send(outside(recipient_name="Anna", text="Line 1\nline 2"))

    assert isinstance(ended, Sent)
    fields = twilio.accepted[0].fields
    assert fields.keys() == {"To", "From", "ContentSid", "ContentVariables"}
    assert fields["ContentSid"] == CONTENT
    assert json.loads(fields["ContentVariables"]) == {
        "1": "Anna",
        "2": "disk.full",
        "3": "Disk almost full: Line 1 line 2",
        "4": "-",
    }


async def test_without_a_content_sid_another_channel_is_asked(twilio, http):
    assert isinstance(await by_twilio(twilio, http).send(outside()), Fallback)
    assert twilio.received == []


async def test_twilio_takes_less_text_than_meta(twilio, http):
    await by_twilio(twilio, http).send(in_window(text="x" * 5000))

    assert len(twilio.accepted[0].fields["Body"]) == 1600


async def test_a_window_that_twilio_thinks_closed_leads_to_another_channel(twilio, http):
    twilio.faults.append(twilio_api.error(400, 63016))

    assert isinstance(await by_twilio(twilio, http).send(in_window()), Fallback)


# --- an HTTP API of one's own ----------------------------------------------------------------------------------------


async def test_an_api_of_ones_own_gets_a_phone_and_a_message(own, http):
    ended = await by_http(own, http).send(message("whatsapp", text="⚠ 50.0% of target"))

    assert isinstance(ended, Sent)
    assert ended.is_final
    assert own.accepted == [{"phone": "+14155550199", "message": "Disk almost full\n⚠ 50.0% of target"}]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Refuse(status=400), Fail),
        (Refuse(status=401), Halt),
        (Refuse(status=403), Halt),
        (Refuse(status=404), Halt),
        (Refuse(status=429, headers={"Retry-After": "3"}), Retry),
        (Refuse(status=500), Retry),
        (Refuse(status=301, headers={"Location": "https://elsewhere.example"}), Halt),
        (Refuse(status=204), Sent),
        (Reset(taken=True), Unknown),
    ],
)
async def test_an_attempt_ends_as_an_api_of_ones_own_says(own, http, fault, kind):
    own.faults.append(fault)

    assert type(await by_http(own, http).send(in_window())) is kind


async def test_a_wrong_token_of_ones_own_api_halts_it(own, http):
    assert isinstance(await by_http(own, http, api_token="wrong").send(in_window()), Halt)


# --- settings --------------------------------------------------------------------------------------------------------


def test_three_providers_stand_in_their_order_each_only_with_its_credentials():
    twilio = TwilioSettings(account_sid="AC1", auth_token="t")
    every = {
        "phone_number_id": "1",
        "access_token": "t",
        "from_": "+14155238886",
        "api_url": "https://wa.example/send",
    }

    assert [one.name for one in providers(WhatsAppSettings(twilio=twilio, **every), None)] == [
        "meta",
        "twilio",
        "http",
    ]
    assert [one.name for one in providers(WhatsAppSettings(twilio=twilio, from_="+14155238886"), None)] == [
        "twilio"
    ]
    assert providers(WhatsAppSettings(twilio=twilio), None) == ()
    assert providers(WhatsAppSettings(from_="+14155238886"), None) == ()


@pytest.mark.parametrize(
    "url",
    [
        "https://api.whatsapp.com/send",
        "https://API.whatsapp.com/send?phone=1",
        "http://api.whatsapp.com:443/send",
        "https://wa.me/14155550199",
    ],
)
def test_a_link_that_opens_a_chat_is_refused_with_the_way_out(url):
    with pytest.raises(ValueError, match=r"WHATSAPP_API_URL.*opens a chat.*WHATSAPP_PHONE_NUMBER_ID"):
        WhatsAppSettings(api_url=url)


@pytest.mark.parametrize(
    "given_",
    [
        {"phone_number_id": "1"},
        {"access_token": "canary"},
        {"phone_number_id": "+1415/canary", "access_token": "t"},
        {"phone_number_id": "1", "access_token": "canary\n"},
        {"api_url": "http://canary.example"},
        {"api_token": "ca nary"},
        {"from_": "canary"},
        {"templates": "canary"},
        {"templates": '{"*": {"nome": "canary"}}'},
        {"templates": '{"*": {"name": "Canary Name"}}'},
        {"templates": '{"*": {"variables": ["canary"]}}'},
        {"templates": '{"*": {"content_sid": "canary"}}'},
        {"templates": '{"*": {"language": "canary!"}}'},
    ],
)
def test_settings_that_cannot_be_right_are_refused_without_repeating_them(given_):
    with pytest.raises(ValueError, match="WHATSAPP") as refused:
        WhatsAppSettings(**given_)

    assert "canary" not in str(refused.value)


def test_no_words_at_all_are_something_to_send():
    assert free_text(in_window(title="", text=""), 10) == "-"
