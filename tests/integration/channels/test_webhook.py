"""Webhooks: signed as Standard Webhooks asks, in the form of a chat, and never into a network that is not public."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from core.outcome import Fail, Outcome, Retry, Sent, Unknown
from delivery.channel import Message
from delivery.channels.webhook import BadSecret, WebhookProvider, WebhookSettings, signed_headers
from tests.loop_time import in_vain
from tests.messages import message
from tests.providers.certificates import certificate
from tests.providers.server import Hold, Refuse, Reset
from tests.providers.webhook_receiver import WebhookReceiver
from tests.unit.test_networks import CLOSED

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OPEN_HERE = WebhookSettings(http=True, private=True)
REFUSED = Fail(reason="the webhook leads into a network that is not public")


class Names(AbstractResolver):
    """A resolver that answers each question with the next list of addresses, and at the end with the last."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=0,
            )
            for address in answer
        ]

    async def close(self) -> None:
        return


@asynccontextmanager
async def calling(settings: WebhookSettings = OPEN_HERE, **more: Any) -> AsyncIterator[WebhookProvider]:
    provider = WebhookProvider(settings, **more)
    try:
        yield provider
    finally:
        await provider.close()


def to(url: str, **changed: Any) -> Message:
    return message("webhook", url, secret=SECRET, **changed)


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_a_signature_is_the_one_of_the_reference_implementation() -> None:
    """The vector of standard-webhooks/libraries."""
    headers = signed_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', secret=SECRET
    )

    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_???", "whsec_YQ", "hunter2!"])
def test_a_secret_that_cannot_sign_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(BadSecret) as refused:
        signed_headers("m", 1, b"{}", secret=secret)

    assert secret.removeprefix("whsec_") == "" or secret not in str(refused.value)


async def test_a_notification_arrives_signed_and_whole() -> None:
    async with WebhookReceiver(SECRET) as receiver, calling() as provider:
        outcome = await provider.send(to(f"{receiver.url}/hook?a=b"))

        assert outcome == Sent(is_final=True)
        assert receiver.accepted == [
            {
                "type": "notification",
                "timestamp": "2026-01-01T12:00:00Z",
                "data": {
                    "id": "00000000-0000-0000-0000-000000000008",
                    "delivery_id": "00000000-0000-0000-0000-000000000007",
                    "user_id": "ada",
                    "title": "Grüße an Ada",
                    "message": "The plan\n.is <ready> & waits.",
                    "notification_type": "plan_ready",
                    "priority": "normal",
                    "action_url": "https://app.example/plans/7?a=1&b=2",
                    "metadata": {"plan": 7},
                    "created_at": "2026-01-01T12:00:00Z",
                    "expires_at": None,
                },
            }
        ]
        [request] = receiver.received
        assert (request.path, request.query) == ("/hook", {"a": "b"})
        assert request.headers.getall("webhook-id") == ["018f-7"]


async def test_an_event_arrives_as_it_is() -> None:
    event = {
        "type": "delivery.sent",
        "timestamp": "2026-01-01T00:00:00Z",
        "data": {"channel": "sms", "code": None},
    }
    async with WebhookReceiver(SECRET) as receiver, calling() as provider:
        assert await provider.send(to(receiver.url, event=event)) == Sent(is_final=True)

        assert receiver.received[0].body == msgspec.json.encode(event)


async def test_a_repetition_is_recognised_by_its_id_and_signed_anew() -> None:
    moments = iter([1000.0, 1200.0])
    async with (
        WebhookReceiver(SECRET, now=lambda: 1100.0) as receiver,
        calling(now=lambda: next(moments)) as provider,
    ):
        receiver.faults.append(Reset(taken=True))

        assert isinstance(await provider.send(to(receiver.url)), Unknown)
        assert isinstance(await provider.send(to(receiver.url, attempt=2)), Sent)

        assert (len(receiver.accepted), receiver.repeated) == (1, 1)
        first, second = (request.headers["webhook-signature"] for request in receiver.received)
        assert first != second


async def test_control_the_receiver_refuses_another_secret() -> None:
    async with WebhookReceiver("whsec_b3RoZXIgc2VjcmV0") as receiver, calling() as provider:
        assert await provider.send(to(receiver.url)) == Fail(reason="the receiver refuses it", code="401")
        assert receiver.accepted == []


async def test_without_a_secret_nothing_is_signed() -> None:
    async with WebhookReceiver() as receiver, calling() as provider:
        await provider.send(message("webhook", receiver.url))

        assert "webhook-signature" not in receiver.received[0].headers


async def test_by_tls_the_name_must_be_that_of_the_certificate(tmp_path: Path) -> None:
    tls, trusted = certificate(tmp_path, "hook.test")
    settings = WebhookSettings(private=True, ca_file=trusted)
    async with WebhookReceiver(SECRET, tls=tls) as receiver:
        async with calling(settings, resolver=Names(["127.0.0.1"])) as provider:
            good = await provider.send(to(f"https://hook.test:{receiver.port}/"))
            other = await provider.send(to(f"https://other.test:{receiver.port}/"))
        async with calling(WebhookSettings(private=True)) as provider:
            stranger = await provider.send(to(receiver.url))

        assert good == Sent(is_final=True)
        assert receiver.received[0].headers["Host"] == f"hook.test:{receiver.port}"
        assert other == stranger == Retry(reason="the provider's certificate was refused")
        assert len(receiver.received) == 1


# --- where it may lead -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", [one for one in CLOSED if one.strip() == one and "\x00" not in one and one]
)
async def test_no_name_and_no_address_leads_inside(address: str) -> None:
    """As a literal in the URL and as what a name stands for; loopback has a listener, which nobody reaches."""
    async with WebhookReceiver() as receiver:
        literal = f"[{address.partition('%')[0]}]" if ":" in address.strip("[]") else address
        literal = address if address.startswith("[") else literal
        async with calling(WebhookSettings(http=True)) as provider:
            outcome = await provider.send(to(f"http://{literal}:{receiver.port}/"))
            assert isinstance(outcome, Fail | Retry)
        if address[0] in "0123456789:" and ("." in address or ":" in address) and address.isascii():
            async with calling(WebhookSettings(http=True), resolver=Names([address])) as provider:
                outcome = await provider.send(to(f"http://hook.example:{receiver.port}/"))
                assert outcome == REFUSED

        assert receiver.received == []
        assert receiver.connections == 0


async def test_a_name_is_judged_by_where_the_connection_goes_and_not_by_an_earlier_answer() -> None:
    """DNS rebinding: a public address for whoever checks, a private one for whoever connects."""
    names = Names(["93.184.216.34"], ["127.0.0.1"])
    async with WebhookReceiver() as receiver, calling(WebhookSettings(http=True), resolver=names) as provider:
        checked = await names.resolve("hook.example")
        outcome = await provider.send(to(f"http://hook.example:{receiver.port}/"))

        assert checked[0]["host"] == "93.184.216.34"
        assert outcome == REFUSED
        assert names.asked == 2  # once here, once for the connection: there is no check that could go stale
        assert receiver.connections == 0


async def test_every_dispatch_is_judged_anew() -> None:
    names = Names(["127.0.0.1"])
    async with WebhookReceiver() as receiver:
        async with calling(WebhookSettings(http=True), resolver=names) as provider:
            for _ in range(3):
                assert await provider.send(to(f"http://hook.example:{receiver.port}/")) == REFUSED
        assert names.asked == 3
        assert receiver.connections == 0


async def test_a_private_address_beside_a_public_one_is_not_connected_to() -> None:
    names = Names(["127.0.0.1", "::1", "203.0.113.1"])
    async with WebhookReceiver() as receiver, calling(WebhookSettings(http=True), resolver=names) as provider:
        assert await provider.send(to(f"http://hook.example:{receiver.port}/")) == REFUSED
        assert receiver.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with WebhookReceiver() as inside, WebhookReceiver() as receiver, calling() as provider:
        receiver.faults.append(Refuse(status=status, headers={"Location": f"{inside.url}/metadata"}))

        outcome = await provider.send(to(receiver.url))

        assert outcome == Fail(
            reason="the webhook leads elsewhere, and redirects are not followed", code=str(status)
        )
        assert inside.received == []


async def test_plain_http_is_refused_unless_it_is_allowed() -> None:
    async with WebhookReceiver() as receiver, calling(WebhookSettings(private=True)) as provider:
        assert await provider.send(to(receiver.url)) == Fail(reason="the webhook is not https")
        assert receiver.received == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a.example/", "gopher://a.example/", "hook", ""])
async def test_other_schemes_are_refused(url: str) -> None:
    async with calling() as provider:
        assert await provider.send(to(url)) == Fail(reason="the webhook is not https")


async def test_a_receiver_that_talks_without_end_is_cut_off() -> None:
    async with WebhookReceiver() as receiver, calling() as provider:
        receiver.faults.append(Refuse(status=200, body="x" * 5_000_000))

        assert await provider.send(to(receiver.url)) == Sent(is_final=True)


async def test_cookies_of_one_receiver_are_nobodys() -> None:
    async with WebhookReceiver() as receiver, calling() as provider:
        receiver.faults.append(Refuse(status=200, headers={"Set-Cookie": "a=b; Path=/"}))
        await provider.send(to(receiver.url))
        await provider.send(to(receiver.url))

        assert "Cookie" not in receiver.received[1].headers


# --- what is answered ------------------------------------------------------------------------------------------------

DATE = "Thu, 22 Oct 2026 09:20:00 GMT"


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {}, Sent(is_final=True)),
        (201, {}, Sent(is_final=True)),
        (204, {}, Sent(is_final=True)),
        (400, {}, Fail(reason="the receiver refuses it", code="400")),
        (404, {}, Fail(reason="the receiver refuses it", code="404")),
        (408, {}, Retry(reason="the receiver was not ready", code="408")),
        (410, {}, Fail(reason="the webhook is gone", code="410", address_is_dead=True)),
        (425, {}, Retry(reason="the receiver was not ready", code="425")),
        (
            429,
            {"Retry-After": "30"},
            Retry(
                reason="the receiver has had enough for now",
                code="429",
                after=timedelta(seconds=30),
                throttled=True,
            ),
        ),
        (
            429,
            {"Retry-After": "Thu, 22 Oct 2026 09:21:30 GMT", "Date": DATE},
            Retry(
                reason="the receiver has had enough for now",
                code="429",
                after=timedelta(seconds=90),
                throttled=True,
            ),
        ),
        (
            429,
            {"Retry-After": "?"},
            Retry(reason="the receiver has had enough for now", code="429", throttled=True),
        ),
        (
            503,
            {"Retry-After": "999999999"},
            Retry(
                reason="the receiver is not available", code="503", after=timedelta(hours=1), throttled=True
            ),
        ),
        (503, {}, Retry(reason="the receiver is not available", code="503")),
        (500, {}, Retry(reason="the receiver has an error of its own", code="500")),
        (599, {}, Retry(reason="the receiver has an error of its own", code="599")),
    ],
)
async def test_every_answer_has_a_meaning(status: int, headers: dict[str, str], expected: Outcome) -> None:
    async with WebhookReceiver() as receiver, calling() as provider:
        receiver.faults.append(Refuse(status=status, headers=headers))

        assert await provider.send(to(receiver.url)) == expected


@pytest.mark.parametrize("taken", [True, False])
async def test_a_reset_after_the_request_leaves_it_unknown(taken: bool) -> None:
    async with WebhookReceiver() as receiver, calling() as provider:
        receiver.faults.append(Reset(taken=taken))

        assert await provider.send(to(receiver.url)) == Unknown(
            reason="the connection to the provider broke after it was sent"
        )


async def test_no_answer_leaves_it_unknown() -> None:
    async with WebhookReceiver() as receiver, calling() as provider:
        receiver.faults.append(Hold())

        assert await in_vain(provider.send(to(receiver.url)), lambda: not receiver.faults) == Unknown(
            reason="no answer from the provider in time after it was sent"
        )


async def test_what_never_left_is_tried_again() -> None:
    receiver = WebhookReceiver()
    await receiver.start()
    await receiver.stop()
    async with calling() as provider:
        assert await provider.send(to(receiver.url)) == Retry(reason="no connection to the provider")


def test_the_account_is_the_host() -> None:
    provider = WebhookProvider(WebhookSettings())

    assert provider.account_of(to("https://hook.example/secret/path?token=x").address) == "hook.example"
    assert provider.account_of(to("https://hook.example:8443/").address) == "hook.example:8443"


@pytest.mark.parametrize(
    "end",
    [
        lambda receiver: receiver.faults.append(Refuse(status=400, body="hunter2")),
        lambda receiver: receiver.faults.append(Reset(taken=True)),
    ],
)
async def test_no_outcome_says_where_it_went_or_what_was_said(end: Callable[[WebhookReceiver], None]) -> None:
    async with WebhookReceiver() as receiver, calling() as provider:
        end(receiver)

        said = repr(await provider.send(to(f"{receiver.url}/hunter2?token=hunter2", title="hunter2")))

        assert "hunter2" not in said
        assert str(receiver.port) not in said
