"""SMS go out by Twilio as its documents ask, and end as it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from core.outcome import Fail, Fallback, Halt, Retry, Sent, Suppress, Unknown
from delivery.channels.segments import segments
from delivery.channels.sms import SmsSettings, providers
from delivery.channels.twilio import TwilioSettings
from tests.outgoing import message
from tests.providers.server import Refuse
from tests.providers.twilio import TwilioServer, error

SENDER = "+15550001111"


@pytest.fixture
async def server() -> AsyncIterator[TwilioServer]:
    async with TwilioServer() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def sms(server, http, *, settings=None, **account):
    given = {
        "account_sid": server.account_sid,
        "auth_token": server.auth_token,
        "phone_number": frozenset({SENDER}),
        "base_url": server.url,
        **account,
    }
    (provider,) = providers(SmsSettings(twilio=TwilioSettings(**given), **(settings or {})), http)
    return provider


async def test_a_message_is_the_form_that_twilio_documents(server, http):
    provider = sms(server, http)

    ended = await provider.send(
        message(
            "sms",
            title="Disk almost full",
            text="db-1 has 3 % left.",
            action_url="https://app.example/disks/1",
            callback_url="https://hub.example/webhooks/twilio/status?d=7",
        )
    )

    assert ended == Sent(provider_ref=server.accepted[0].sid)
    (request,) = server.received
    assert request.path == f"/2010-04-01/Accounts/{server.account_sid}/Messages.json"
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.form() == {
        "To": "+14155550199",
        "From": SENDER,
        "Body": "Disk almost full\ndb-1 has 3 % left.\nhttps://app.example/disks/1",
        "StatusCallback": "https://hub.example/webhooks/twilio/status?d=7",
    }
    assert provider.account_of(message("sms").address) == server.account_sid


async def test_without_a_public_url_no_report_is_asked_for(server, http):
    ended = await sms(server, http).send(message("sms"))

    assert isinstance(ended, Sent)
    assert ended.is_final
    assert "StatusCallback" not in server.received[0].form()


@pytest.mark.parametrize(("left", "asked"), [(90, True), (-5, True), (36_010, False), (None, False)])
async def test_what_expires_does_not_wait_longer_in_twilios_queue(server, http, left, asked):
    expires_at = None if left is None else datetime.now(UTC) + timedelta(seconds=left)

    await sms(server, http).send(message("sms", expires_at=expires_at))

    fields = server.accepted[0].fields
    assert ("ValidityPeriod" in fields) is asked
    assert 1 <= int(fields.get("ValidityPeriod", 1)) <= 90


async def test_a_message_that_is_created_as_failed_has_failed(server, http):
    server.faults.append(Refuse(status=201, body={"sid": "SM1x", "status": "failed", "error_code": 30006}))

    ended = await sms(server, http).send(message("sms"))

    assert isinstance(ended, Fallback)
    assert ended.address_is_dead


async def test_a_messaging_service_picks_the_sender_itself(server, http):
    server.messaging_services.add("MG0123")

    ended = await sms(server, http, messaging_service_sid="MG0123").send(message("sms"))

    assert isinstance(ended, Sent)
    assert server.accepted[0].fields["MessagingServiceSid"] == "MG0123"
    assert "From" not in server.accepted[0].fields


async def test_a_pool_is_used_evenly_and_one_person_hears_from_one_number(server, http):
    pool = frozenset(f"+1555000{number:04}" for number in range(4))
    provider = sms(server, http, phone_number=pool)
    people = [f"+1415555{number:04}" for number in range(200)]

    for number in [*people, *people]:
        await provider.send(message("sms", value=number))

    senders = {taken.to: taken.sender for taken in server.accepted}
    assert all(senders[taken.to] == taken.sender for taken in server.accepted)
    assert Counter(senders.values()).keys() == pool
    assert min(Counter(senders.values()).values()) > 25


@pytest.mark.parametrize(
    "text",
    ["word " * 300, "слово " * 300, "x" * 2000, "🚨" * 300, "€" * 400],
    ids=["gsm", "ucs2", "one word", "emoji", "extension"],
)
async def test_what_is_too_long_is_shortened_to_the_sms_that_are_allowed_and_keeps_its_link(
    server, http, text
):
    ended = await sms(server, http).send(message("sms", text=text, action_url="https://app.example/1"))

    body = server.accepted[0].fields["Body"]
    assert isinstance(ended, Sent)
    assert segments(body).parts == 3
    assert body.startswith("Disk almost full\n")
    assert body.endswith(("...\nhttps://app.example/1", "…\nhttps://app.example/1"))
    assert segments(body).encoding == segments(text).encoding


async def test_what_is_too_long_is_refused_where_nothing_may_be_shortened(server, http):
    provider = sms(server, http, settings={"too_long": "refuse", "max_segments": 1})

    ended = await provider.send(message("sms", text="x" * 200))

    assert ended == Fail(reason="longer than 1 SMS", code="too_long")
    assert server.received == []


@pytest.mark.parametrize(
    ("number", "kind"), [("+123", Fail), (SENDER, Fail)], ids=["no number", "its own sender"]
)
async def test_a_number_that_twilio_refuses_fails(server, http, number, kind):
    assert isinstance(await sms(server, http).send(message("sms", value=number)), kind)


async def test_a_person_who_has_answered_stop_is_not_written_to_again(server, http):
    server.stopped.add("+14155550199")

    assert await sms(server, http).send(message("sms")) == Suppress(
        reason="the person has answered STOP", code="21610"
    )


async def test_wrong_credentials_halt_the_account(server, http):
    ended = await sms(server, http, auth_token="wrong").send(message("sms"))

    assert ended == Halt(reason="the credentials are refused", code="20003")


@pytest.mark.parametrize(
    ("fault", "ended"),
    [
        (
            error(429, 20429, **{"Retry-After": "12"}),
            Retry(
                reason="too many requests at once", code="20429", after=timedelta(seconds=12), throttled=True
            ),
        ),
        (error(400, 21408), Fallback(reason="the account may not send to this country", code="21408")),
        (error(400, 99999), Fail(reason="answered 400", code="99999")),
        (Refuse(status=503, body="busy"), Retry(reason="answered 503", code="503")),
        (
            Refuse(status=200, body="<html>a portal</html>"),
            Unknown(reason="taken, with an answer that cannot be read", code="200"),
        ),
    ],
    ids=["rate", "country", "unknown code", "down", "a portal"],
)
async def test_an_attempt_ends_as_twilio_says(server, http, fault, ended):
    server.faults.append(fault)

    assert await sms(server, http).send(message("sms")) == ended


async def test_the_signature_of_the_stand_in_is_the_one_of_twilios_documents():
    server = TwilioServer()
    server.auth_token = "12345"
    fields = {
        "CallSid": "CA1234567890ABCDE",
        "Caller": "+14158675310",
        "Digits": "1234",
        "From": "+14158675310",
        "To": "+18005551212",
    }

    # https://www.twilio.com/docs/usage/security#validating-requests
    assert (
        server.signature("https://example.com/myapp.php?foo=1&bar=2", fields)
        == "L/OH5YylLD5NRKLltdqwSvS0BnU="
    )


def test_without_credentials_or_a_sender_there_is_no_provider():
    http = None
    assert providers(SmsSettings(), http) == ()
    assert providers(SmsSettings(twilio=TwilioSettings(account_sid="AC1", auth_token="t")), http) == ()


def test_settings_that_cannot_be_right_are_refused():
    for given in (
        {"account_sid": "AC1"},
        {"auth_token": "t"},
        {"account_sid": "AC1/../x", "auth_token": "t"},
        {"account_sid": "AC1", "auth_token": "a\nb"},
        {"base_url": "http://api.twilio.com"},
    ):
        with pytest.raises(ValueError, match=r"TWILIO|SID"):
            TwilioSettings(**given)
    assert "t0ken" not in repr(TwilioSettings(account_sid="AC1", auth_token="t0ken"))
