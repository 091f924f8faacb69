"""Mail by SendGrid: the body its reference asks for, and what each of its answers means."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from core.outcome import Fail, Halt, Outcome, Retry, Sent, Unknown
from delivery.channels.email import EmailSettings, SendGridProvider, SmtpProvider, providers
from tests.loop_time import in_vain
from tests.messages import message
from tests.providers.sendgrid import SendGrid, faults
from tests.providers.server import Hold, Refuse, Reset

MESSAGE = message("email", "ada@example.com")


@pytest.fixture
async def sendgrid() -> AsyncIterator[SendGrid]:
    async with SendGrid(senders=frozenset({"hub@example.org"})) as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def provider_of(server: SendGrid, http: aiohttp.ClientSession, **settings: Any) -> SendGridProvider:
    values: dict[str, Any] = {
        "email_from": "hub@example.org",
        "email_from_name": "Carillon",
        "email_reply_to": "office@example.org",
        "sendgrid_api_key": "SG.test",
        "sendgrid_base_url": server.url,
    }
    [made] = providers(EmailSettings(**(values | settings)), http)
    assert isinstance(made, SendGridProvider)
    return made


async def test_a_mail_is_asked_for_as_the_reference_says(
    sendgrid: SendGrid, http: aiohttp.ClientSession
) -> None:
    outcome = await provider_of(sendgrid, http).send(MESSAGE)

    [accepted] = sendgrid.accepted
    assert outcome == Sent(provider_ref=accepted.message_id)
    content = accepted.body.pop("content")
    assert accepted.body == {
        "personalizations": [{"to": [{"email": "ada@example.com", "name": "Ada Lovelace"}]}],
        "from": {"email": "hub@example.org", "name": "Carillon"},
        "reply_to": {"email": "office@example.org"},
        "subject": "Grüße an Ada",
        "headers": {
            "Message-ID": "<018f-7@example.org>",
            "Auto-Submitted": "auto-generated",
            "List-Id": "<plan-ready.school.example.org>",
            "Feedback-ID": "plan-ready:school:normal:carillon",
            "List-Unsubscribe": "<https://hub.example/u/token>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        },
        "custom_args": {"delivery_id": str(MESSAGE.delivery_id), "tenant": "school"},
        "tracking_settings": {
            "click_tracking": {"enable": False, "enable_text": False},
            "open_tracking": {"enable": False},
            "subscription_tracking": {"enable": False},
            "ganalytics": {"enable": False},
        },
    }
    assert [part["type"] for part in content] == ["text/plain", "text/html"]
    assert content[0]["value"].startswith("Grüße an Ada\n\nThe plan\n.is <ready> & waits.")
    assert ".is &lt;ready&gt; &amp; waits." in content[1]["value"]
    [request] = sendgrid.received
    assert request.headers.getall("Authorization") == ["Bearer SG.test"]
    assert request.headers.getall("Content-Type") == ["application/json"]


async def test_a_hostile_title_is_never_asked_for(sendgrid: SendGrid, http: aiohttp.ClientSession) -> None:
    for title in ("a\r\nBcc: eve@example.com", "=?utf-8?q?a=0d=0aBcc:_x?=", "a\u2028b"):
        assert isinstance(
            await provider_of(sendgrid, http).send(message("email", "a@b.c", title=title)), Fail
        )

    assert sendgrid.received == []


@pytest.mark.parametrize(
    ("status", "field", "expected"),
    [
        (400, "subject", Fail(reason="SendGrid refuses the request: subject", code="400")),
        (400, None, Fail(reason="SendGrid refuses the request", code="400")),
        (400, "ada@example.com", Fail(reason="SendGrid refuses the request", code="400")),
        (
            400,
            "personalizations.0.to.0.email",
            Fail(
                reason="SendGrid refuses the request: personalizations.0.to.0.email",
                code="400",
                address_is_dead=True,
            ),
        ),
        (401, None, Halt(reason="SendGrid refuses the API key, or the account has no credits", code="401")),
        (403, "from", Halt(reason="SendGrid refuses this sender, or the API key may not send", code="403")),
        (404, None, Fail(reason="SendGrid does not take such requests", code="404")),
        (408, None, Retry(reason="SendGrid did not get the request in time", code="408")),
        (413, None, Fail(reason="the mail is too big for SendGrid", code="413")),
        (429, None, Retry(reason="SendGrid has had enough for now", code="429", throttled=True)),
        (500, None, Retry(reason="SendGrid has an error of its own", code="500")),
        (502, None, Unknown(reason="SendGrid's gateway lost the answer", code="502")),
        (503, None, Retry(reason="SendGrid has an error of its own", code="503")),
        (504, None, Unknown(reason="SendGrid's gateway lost the answer", code="504")),
        (302, None, Fail(reason="SendGrid does not take such requests", code="302")),
    ],
)
async def test_every_answer_has_a_meaning(
    sendgrid: SendGrid, http: aiohttp.ClientSession, status: int, field: str | None, expected: Outcome
) -> None:
    said = {"errors": [{"message": "ada@example.com is bad", "field": field, "help": None}]}
    sendgrid.faults.append(Refuse(status=status, body=said, headers={"Location": "/v3/mail/send"}))

    assert await provider_of(sendgrid, http).send(MESSAGE) == expected
    assert len(sendgrid.received) == 1


@pytest.mark.parametrize("body", ["", "{", "[]", '{"errors": []}', '{"errors": "x"}', "[" * 100_000, "\x00"])
async def test_whatever_stands_in_a_refusal_it_is_one(
    sendgrid: SendGrid, http: aiohttp.ClientSession, body: str
) -> None:
    sendgrid.faults.append(Refuse(status=400, body=body))

    assert await provider_of(sendgrid, http).send(MESSAGE) == Fail(
        reason="SendGrid refuses the request", code="400"
    )


@pytest.mark.parametrize(
    ("headers", "after"),
    [
        ({"Retry-After": "7"}, timedelta(seconds=7)),
        ({"X-RateLimit-Reset": "1792660830", "Date": "Thu, 22 Oct 2026 09:20:00 GMT"}, timedelta(seconds=30)),
        ({"X-RateLimit-Reset": "1", "Date": "Thu, 22 Oct 2026 09:20:00 GMT"}, timedelta(0)),
        ({"X-RateLimit-Reset": "soon"}, None),
        ({}, None),
    ],
)
async def test_a_throttled_account_waits_as_long_as_it_is_told(
    sendgrid: SendGrid, http: aiohttp.ClientSession, headers: dict[str, str], after: timedelta | None
) -> None:
    sendgrid.faults.append(Refuse(status=429, headers=headers))

    outcome = await provider_of(sendgrid, http).send(MESSAGE)

    assert outcome == Retry(reason="SendGrid has had enough for now", code="429", after=after, throttled=True)


async def test_a_wrong_key_halts_the_account(sendgrid: SendGrid, http: aiohttp.ClientSession) -> None:
    outcome = await provider_of(sendgrid, http, sendgrid_api_key="SG.hunter2").send(MESSAGE)

    assert isinstance(outcome, Halt)
    assert "hunter2" not in repr(outcome)


async def test_a_sender_that_is_not_verified_halts_the_account(
    sendgrid: SendGrid, http: aiohttp.ClientSession
) -> None:
    assert isinstance(await provider_of(sendgrid, http, email_from="eve@example.org").send(MESSAGE), Halt)


@pytest.mark.parametrize("taken", [True, False])
async def test_a_lost_answer_may_have_been_a_mail(
    sendgrid: SendGrid, http: aiohttp.ClientSession, taken: bool
) -> None:
    sendgrid.faults.append(Reset(taken=taken))

    assert isinstance(await provider_of(sendgrid, http).send(MESSAGE), Unknown)


async def test_a_slow_answer_may_have_been_a_mail(sendgrid: SendGrid, http: aiohttp.ClientSession) -> None:
    sendgrid.faults.append(Hold())

    sending = provider_of(sendgrid, http).send(MESSAGE)

    assert isinstance(await in_vain(sending, lambda: not sendgrid.faults), Unknown)


async def test_nobody_there_is_tried_again(sendgrid: SendGrid, http: aiohttp.ClientSession) -> None:
    provider = provider_of(sendgrid, http)
    await sendgrid.stop()

    assert isinstance(await provider.send(MESSAGE), Retry)


async def test_providers_are_those_with_credentials_in_the_order_that_is_asked_for(
    http: aiohttp.ClientSession,
) -> None:
    both: dict[str, Any] = {
        "email_from": "hub@example.org", "smtp_host": "127.0.0.1", "smtp_tls": "off", "sendgrid_api_key": "SG.x",
    }  # fmt: skip

    assert providers(EmailSettings(), http) == ()
    assert providers(EmailSettings(email_from="hub@example.org"), http) == ()
    assert [one.name for one in providers(EmailSettings(**both), http)] == ["smtp", "sendgrid"]
    turned = providers(EmailSettings(**both, email_prefer="sendgrid"), http)
    assert [type(one) for one in turned] == [SendGridProvider, SmtpProvider]


@pytest.mark.parametrize(
    "bad",
    [
        {"smtp_host": "mail.example"},
        {"sendgrid_api_key": "SG.x"},
        {"email_from": "Hub <hub@example.org>"},
        {"email_from": "hub@example.org\r\nBcc: x"},
        {"email_from": "hub@example.org", "email_from_name": "a\nb"},
        {"email_from": "hub@example.org", "email_reply_to": "nobody"},
        {
            "email_from": "hub@example.org",
            "smtp_host": "mail.example",
            "smtp_tls": "off",
            "smtp_password": "x",
        },
        {"email_from": "hub@example.org", "smtp_host": "mail.example", "smtp_port": 65536},
        {"sendgrid_base_url": "https://api.sendgrid.com/v3"},
        {"sendgrid_base_url": "ftp://api.sendgrid.com"},
    ],
)
def test_settings_that_cannot_send_stop_the_start(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as refused:
        EmailSettings(**bad)

    assert "Bcc" not in str(refused.value)


def test_secrets_stay_out_of_what_is_shown() -> None:
    shown = repr(EmailSettings(email_from="a@b.c", smtp_password="hunter2", sendgrid_api_key="SG.hunter2"))

    assert "hunter2" not in shown


def test_control_the_provider_of_the_tests_refuses_what_sendgrid_refuses() -> None:
    good: dict[str, Any] = {
        "personalizations": [{"to": [{"email": "a@b.c"}]}],
        "from": {"email": "a@b.c"},
        "subject": "s",
        "content": [{"type": "text/plain", "value": "x"}],
    }
    assert list(faults(good)) == []
    bad: dict[str, Any]
    for bad in (
        {"personalizations": []},
        {"personalizations": [{"to": [{"email": "nobody"}]}]},
        {"from": {"name": "a"}},
        {"subject": ""},
        {"content": [{"type": "text/html", "value": "x"}, {"type": "text/plain", "value": "x"}]},
        {"headers": {"Subject": "x"}},
        {"headers": {"X-Number": 1}},
        {"custom_args": {"a": 1}},
        {"tracking_settings": {"click_tracking": {"enable": "no"}}},
        {"unheard_of": 1},
    ):
        assert list(faults({**good, **bad})) != [], bad
