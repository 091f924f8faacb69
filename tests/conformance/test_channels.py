"""
What every provider promises the worker, each against a server that behaves like the real one.

It never raises for what the network or the provider does; it knows whether a byte of the message may have left;
it can be cancelled anywhere and goes on working; and nothing it says or logs holds an address, a secret or what
a message says.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args
from uuid import UUID, uuid4

import aiohttp
import pytest
import structlog

from app.pushing import open_push
from core.clock import Clock, SystemClock
from core.database import DatabaseSettings, open_database
from core.keys import encode_base64url
from core.outcome import Outcome, Retry, Sent, Unknown
from core.vault import Vault
from delivery.channel import Message, Provider
from delivery.channels import email, sms, telegram, webhook, whatsapp
from delivery.channels.simulator import Simulator, SimulatorSettings
from delivery.channels.twilio import TwilioSettings
from push.keys import PushSettings
from push.store import Offer
from tests.outgoing import ADDRESSES, message
from tests.postgres import TEMPLATE, PostgresServer
from tests.providers.meta import MetaServer
from tests.providers.push_service import PushService, Say, Silence
from tests.providers.push_service import Reset as PushReset
from tests.providers.sendgrid import SendGrid
from tests.providers.server import Hold, ProviderServer, Refuse, Reset
from tests.providers.smtp import SmtpServer
from tests.providers.telegram import TelegramServer
from tests.providers.twilio import TwilioServer
from tests.providers.webhook_receiver import WebhookReceiver
from tests.providers.whatsapp_http import WhatsAppHttpServer

CANARY = "canary-words"


@dataclass(kw_only=True)
class Stand:
    """
    One provider and the server behind it.

    secrets: that nobody may hear. down: stop the server. lose: the next answer, after the provider has acted.
    hold: the next answer, after the provider has acted. fail: the next message, for now.
    """

    channel: str
    provider: Provider
    accepted: Sequence[Any]
    secrets: tuple[str, ...]
    down: Callable[[], Awaitable[None]]
    lose: Callable[[], None]
    hold: Callable[[], None]
    fail: Callable[[], None]
    server: ProviderServer | None = None
    changes: dict[str, Any] = field(default_factory=dict)

    def message(self, **changes: Any) -> Message:
        """Each is another one."""
        given = {"delivery_id": uuid4(), "reference": str(uuid4()), **self.changes, **changes}
        return message(self.channel, **given)


def over_http(
    channel: str, provider: Provider, server: ProviderServer, *secrets: str, **changes: Any
) -> Stand:
    return Stand(
        channel=channel,
        provider=provider,
        accepted=server.accepted,
        secrets=secrets,
        down=server.stop,
        lose=lambda: server.faults.append(Reset(taken=True)),
        hold=lambda: server.faults.append(Hold()),
        fail=lambda: server.faults.append(Refuse(status=503)),
        server=server,
        changes=changes,
    )


# --- the stands ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def twilio_sms(http: aiohttp.ClientSession) -> AsyncIterator[Stand]:
    async with TwilioServer() as server:
        settings = sms.SmsSettings(twilio=_account(server))
        yield over_http("sms", sms.providers(settings, http)[0], server, server.auth_token)


@asynccontextmanager
async def meta_whatsapp(http: aiohttp.ClientSession) -> AsyncIterator[Stand]:
    async with MetaServer() as server:
        settings = whatsapp.WhatsAppSettings(
            phone_number_id=server.phone_number_id,
            access_token=server.access_token,
            graph_url=server.graph_url,
        )
        yield over_http("whatsapp", whatsapp.providers(settings, http)[0], server, server.access_token)


@asynccontextmanager
async def twilio_whatsapp(http: aiohttp.ClientSession) -> AsyncIterator[Stand]:
    async with TwilioServer() as server:
        settings = whatsapp.WhatsAppSettings(twilio=_account(server), from_="+14155238886")
        provider = whatsapp.providers(settings, http)[0]
        window = datetime.now(UTC) + timedelta(hours=1)
        yield over_http("whatsapp", provider, server, server.auth_token, window_until=window)


@asynccontextmanager
async def own_whatsapp(http: aiohttp.ClientSession) -> AsyncIterator[Stand]:
    async with WhatsAppHttpServer() as server:
        settings = whatsapp.WhatsAppSettings(api_url=server.api_url, api_token=server.token)
        yield over_http("whatsapp", whatsapp.providers(settings, http)[0], server, server.token)


@asynccontextmanager
async def telegram_bot(http: aiohttp.ClientSession) -> AsyncIterator[Stand]:
    async with TelegramServer() as server:
        server.chats.add(int(ADDRESSES["telegram"]))
        settings = telegram.TelegramSettings(bot_token=server.token, base_url=server.url)
        secret = server.token.partition(":")[2]
        yield over_http("telegram", telegram.providers(settings, http)[0], server, secret)


@asynccontextmanager
async def smtp(_http: aiohttp.ClientSession) -> AsyncIterator[Stand]:
    async with SmtpServer() as server:
        settings = email.EmailSettings(
            smtp_host="127.0.0.1", smtp_port=server.port, smtp_tls="off", email_from="hub@example.org"
        )
        provider = email.SmtpProvider(settings, "127.0.0.1")
        holds: list[Hold] = []

        def hold() -> None:
            holds.append(Hold())
            server.faults.append(("content", holds[-1]))

        yield Stand(
            channel="email",
            provider=provider,
            accepted=server.accepted,
            secrets=(),
            down=server.stop,
            lose=lambda: server.faults.append(("content", Reset(taken=True))),
            hold=hold,
            fail=lambda: server.faults.append(("mail", Refuse(status=451, body="4.3.0 later"))),
        )
        for one in holds:
            one.release.set()
        await provider.close()


@asynccontextmanager
async def sendgrid(http: aiohttp.ClientSession) -> AsyncIterator[Stand]:
    async with SendGrid("SG.canary-key") as server:
        settings = email.EmailSettings(
            sendgrid_api_key="SG.canary-key", sendgrid_base_url=server.url, email_from="hub@example.org"
        )
        yield over_http("email", email.providers(settings, http)[0], server, "SG.canary-key")


@asynccontextmanager
async def webhooks(_http: aiohttp.ClientSession) -> AsyncIterator[Stand]:
    secret = "whsec_" + b64encode(b"canary-key-of-at-least-24-bytes!").decode()
    async with WebhookReceiver(secret) as server:
        provider = webhook.WebhookProvider(webhook.WebhookSettings(http=True, private=True))
        yield over_http("webhook", provider, server, secret, value=f"{server.url}/canary-path", secret=secret)
        await provider.close()


@asynccontextmanager
async def browsers(_http: aiohttp.ClientSession, dsn: str) -> AsyncIterator[Stand]:
    """A person with one browser, whose push service stands behind a sender of ours."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        service = await stack.enter_async_context(PushService(folder))
        database = await open_database(DatabaseSettings(url=dsn, connections=4))
        stack.push_async_callback(database.close)
        vault, clock = Vault({"test": b"v" * 32}), SystemClock()
        settings = PushSettings(
            vapid_email="ops@example.org", ca_file=service.ca_file, resolve=service.resolve
        )
        push = await open_push(settings, database, vault, clock, stack)
        device = service.subscribe(push.keys.current)
        offer = Offer(
            endpoint=service.endpoint(device),
            origin=service.origin,
            p256dh=device.browser.p256dh,
            auth=device.browser.auth,
        )
        await push.subscriptions.subscribe("acme", ADDRESSES["push"], offer, push.keys.current.id)
        yield Stand(
            channel="push",
            provider=push.provider,
            accepted=device.pushes,
            secrets=(device.token, encode_base64url(device.browser.auth)),
            down=partial(service.__aexit__, None, None, None),
            lose=lambda: service.script.append(PushReset(taken=True)),
            hold=lambda: service.script.append(Silence()),
            fail=lambda: service.script.append(Say(503)),
        )
        assert not service.refusals, "it keeps to the RFCs"


@asynccontextmanager
async def simulated(_http: aiohttp.ClientSession) -> AsyncIterator[Stand]:
    provider = Scripted(SimulatorSettings(), "sms", SystemClock())
    yield Stand(
        channel="sms",
        provider=provider,
        accepted=provider.accepted,
        secrets=(),
        down=provider.go_down,
        lose=lambda: provider.words.append("reset_after_accept"),
        hold=lambda: provider.words.append("hang"),
        fail=lambda: provider.words.append("503"),
    )


class Scripted(Simulator):
    """Does next what stands first in `words`, and keeps what it has taken."""

    words: list[str]
    accepted: list[UUID]

    def __init__(self, settings: SimulatorSettings, channel: str, clock: Clock) -> None:
        super().__init__(settings, channel, clock)
        self.words = []
        self.accepted = []

    async def go_down(self) -> None:
        self.words.extend(["unreachable"] * 100)

    async def send(self, message: Message) -> Outcome:
        word = self.words.pop(0) if self.words else "ok"
        if word in ("ok", "hang", "reset_after_accept"):
            self.accepted.append(message.delivery_id)
        return await super().send(replace(message, metadata={"simulate": word}))


def _account(server: TwilioServer) -> TwilioSettings:
    return TwilioSettings(
        account_sid=server.account_sid,
        auth_token=server.auth_token,
        phone_number=frozenset({"+15550001111"}),
        base_url=server.url,
    )


STANDS = (
    smtp,
    sendgrid,
    twilio_sms,
    meta_whatsapp,
    twilio_whatsapp,
    own_whatsapp,
    telegram_bot,
    webhooks,
    browsers,
    simulated,
)


#: What push services answer is in tests/integration/push, by the same table for two transports.
HTTP_STANDS = tuple(stand for stand in STANDS if stand not in (smtp, browsers, simulated))

#: What answers may hold: nothing, a page, JSON of every other shape.
_BODIES = (
    "",
    "<html>",
    "{}",
    "[]",
    "null",
    '{"code": "x", "error": 7, "ok": [], "messages": {}, "result": 1, "parameters": []}',
    '{"code": 1e400, "error": {"code": -1}, "error_code": 9, "description": [], "sid": "../x"}',
    "\x00" * 99,
)

_FORMAT = logging.Formatter()

#: Who writes logs here and is not ours: the servers.
_OTHERS = ("aiohttp.access", "aiohttp.server", "mail.log")


@pytest.fixture(params=STANDS, ids=lambda stand: stand.__name__)
async def stand(request: pytest.FixtureRequest) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        given: list[Any] = [http]
        if request.param is browsers:
            postgres: PostgresServer = request.getfixturevalue("postgres")
            given.append(await stack.enter_async_context(postgres.database(template=TEMPLATE)))
        yield await stack.enter_async_context(request.param(*given))


# --- what they promise -----------------------------------------------------------------------------------------------


async def test_what_the_provider_takes_is_sent(stand: Stand) -> None:
    ended = await stand.provider.send(stand.message())

    assert isinstance(ended, Sent)
    assert len(stand.accepted) == 1


async def test_many_at_once_are_each_sent_once(stand: Stand) -> None:
    ends = await asyncio.gather(*(stand.provider.send(stand.message()) for _ in range(30)))

    assert {type(end) for end in ends} == {Sent}
    assert len(stand.accepted) == 30


async def test_a_provider_that_is_down_was_told_nothing(stand: Stand) -> None:
    await stand.down()

    ended = await stand.provider.send(stand.message())

    assert isinstance(ended, Retry)
    assert not ended.throttled
    assert len(stand.accepted) == 0


async def test_a_provider_that_goes_down_behind_a_kept_connection_was_told_nothing(stand: Stand) -> None:
    await stand.provider.send(stand.message())
    await stand.down()

    ended = await stand.provider.send(stand.message())

    assert isinstance(ended, Retry)
    assert len(stand.accepted) == 1


async def test_an_answer_that_is_lost_is_unknown_and_never_a_retry(stand: Stand) -> None:
    stand.lose()

    ended = await stand.provider.send(stand.message())

    assert isinstance(ended, Unknown)
    assert len(stand.accepted) == 1


async def test_a_trouble_of_the_providers_is_tried_again(stand: Stand) -> None:
    stand.fail()

    assert isinstance(await stand.provider.send(stand.message()), Retry)
    assert len(stand.accepted) == 0
    assert isinstance(await stand.provider.send(stand.message()), Sent)


async def test_a_call_can_be_cancelled_and_the_next_one_works(stand: Stand) -> None:
    stand.hold()
    sending = asyncio.create_task(stand.provider.send(stand.message()))
    while not stand.accepted:
        await asyncio.sleep(0.001)

    sending.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(sending, 60)
    assert isinstance(await stand.provider.send(stand.message()), Sent)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in others if "send" in repr(task.get_coro())]


async def test_a_call_can_be_cancelled_at_any_moment(stand: Stand) -> None:
    """After each turn of the loop in turn: what was cancelled leaves nothing behind that breaks the next."""
    for turns in range(25):
        sending = asyncio.create_task(stand.provider.send(stand.message()))
        for _ in range(turns):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert sending.cancelled() or isinstance(sending.result(), Sent | Unknown | Retry)

    assert isinstance(await stand.provider.send(stand.message()), Sent)


@pytest.mark.parametrize("stand", HTTP_STANDS, indirect=True, ids=lambda stand: stand.__name__)
@pytest.mark.parametrize("body", _BODIES, ids=range(len(_BODIES)))
async def test_any_answer_is_an_end_and_not_an_error(stand: Stand, body: str) -> None:
    assert stand.server is not None
    for status in (*range(200, 209), *range(300, 309), *range(400, 432), 451, *range(500, 512), 599):
        stand.server.faults.append(Refuse(status=status, body=body))

        ended = await stand.provider.send(stand.message())

        assert isinstance(ended, get_args(Outcome)), status
        if status >= 400:  # the provider has said that it did not take it; a gateway may not know
            assert not isinstance(ended, Sent), status
            assert status in (502, 504) or not isinstance(ended, Unknown), status


@pytest.mark.parametrize(
    "words",
    [
        "",
        " ",
        "\r\nBcc: eve@example.org\r\n\r\n",
        "\x00\x1b[2J\x07",
        "<script>&lt;</b>",
        "{{1}} %s ${x} `$(id)`",
        "\u202e\u2028\u200b\ufeff",
        "👨‍👩‍👧" * 2000,
        "x" * 100_000,
        '"\\',
    ],
    ids=["empty", "blank", "headers", "controls", "markup", "templates", "marks", "emoji", "long", "quotes"],
)
async def test_no_words_break_it(stand: Stand, words: str) -> None:
    hostile = stand.message(title=words, text=words, recipient_name=words, metadata={"action_label": words})

    assert isinstance(await stand.provider.send(hostile), get_args(Outcome))
    assert isinstance(await stand.provider.send(stand.message()), Sent)


async def test_nothing_that_is_said_of_a_message_holds_its_words_its_address_or_a_secret(
    stand: Stand, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    told = stand.message(
        title=CANARY, text=CANARY * 2000, action_url=f"https://app.example/{CANARY}", recipient_name=CANARY
    )
    said: list[object] = [repr(told), stand.provider.name, stand.provider.account_of(told.address)]

    with structlog.testing.capture_logs() as logs:
        said.append(await stand.provider.send(told))
        for fault in (stand.fail, stand.lose):
            fault()
            said.append(await stand.provider.send(told))
        if stand.server is not None:
            for status in (302, 400, 401, 403, 404, 410, 429, 500):
                echo = f"{told.address.value} {CANARY} {stand.secrets}"
                stand.server.faults.append(
                    Refuse(
                        status=status, body={"message": echo, "error": {"message": echo}, "description": echo}
                    )
                )
                said.append(await stand.provider.send(told))
        await stand.down()
        said.append(await stand.provider.send(told))

    heard = [_FORMAT.format(record) for record in caplog.records if record.name not in _OTHERS]
    everything = repr([said, logs, heard, repr(stand.provider)]) + "".join(capfd.readouterr())
    assert len(said) >= 7
    for canary in (CANARY, told.address.value, ADDRESSES[stand.channel], *stand.secrets):
        assert canary not in everything


async def test_it_says_how_much_it_can_take(stand: Stand) -> None:
    assert stand.provider.concurrency >= 1
    assert stand.provider.rate is None or stand.provider.rate > 0
    assert stand.provider.name.islower()
    assert stand.provider.account_of(stand.message().address)
