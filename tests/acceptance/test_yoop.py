"""
Every request of YoopRL's plan (YOO-9) and what its hooks report (YOO-8), with the names of its environment, against
a running service: what goes to WhatsApp (by Twilio) and to Telegram, and what the status page is told.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest

from tests.process import Node, admin, nodes, service
from tests.providers import twilio as providers
from tests.providers.telegram import TelegramServer
from tests.providers.twilio import TwilioServer

PHONE, SENDER, CHAT = "+14155552671", "+14155238886", 471104711
CONTENT_SID = "HX" + "0123456789abcdef" * 2

ROOT = "/api/monitoring/notifications"


class Yoop(NamedTuple):
    """A trading system, and where its alerts go."""

    node: Node
    twilio: TwilioServer
    telegram: TelegramServer

    async def test(self, **payload: Any) -> Any:
        answer = await self.node.ask("POST", f"{ROOT}/test", payload or None, as_=admin())
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def alert(self, **alert: Any) -> Any:
        answer = await self.node.ask("POST", f"{ROOT}/alerts", alert, as_=service())
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def status(self, wanted: Callable[[Any], bool] = lambda found: True) -> Any:
        """The status page, as soon as it is as wanted; another process changes it: there is nothing to await."""
        async with asyncio.timeout(90):
            while True:
                answer = await self.node.ask("GET", f"{ROOT}/status", as_=admin())
                assert answer.status_code == 200, answer.text
                if wanted(found := answer.json()):
                    return found
                await asyncio.sleep(0.02)


@pytest.fixture
async def settings() -> AsyncIterator[tuple[TwilioServer, TelegramServer, dict[str, str]]]:
    """The environment of YoopRL's document, and where ours keeps its templates and its base addresses."""
    async with TwilioServer() as twilio, TelegramServer() as telegram:
        twilio.templates[CONTENT_SID] = 1
        telegram.chats.add(CHAT)
        template = {"content_sid": CONTENT_SID, "variables": ["content"]}
        yield (
            twilio,
            telegram,
            {
                "TWILIO_ACCOUNT_SID": twilio.account_sid,
                "TWILIO_AUTH_TOKEN": twilio.auth_token,
                "WHATSAPP_FROM": SENDER,
                "WHATSAPP_TO": PHONE,
                "TELEGRAM_BOT_TOKEN": telegram.token,
                "TELEGRAM_CHAT_ID": str(CHAT),
                "TWILIO_BASE_URL": twilio.url,
                "TELEGRAM_BASE_URL": telegram.url,
                "WHATSAPP_TEMPLATES": json.dumps({"*": template}),
            },
        )


@pytest.fixture
async def yoop(
    database: str, settings: tuple[TwilioServer, TelegramServer, dict[str, str]]
) -> AsyncIterator[Yoop]:
    twilio, telegram, environment = settings
    async with nodes(database, **environment) as [node]:
        yield Yoop(node, twilio, telegram)


def said(yoop: Yoop) -> list[str]:
    return [json.loads(taken.fields["ContentVariables"])["1"] for taken in yoop.twilio.accepted]


async def test_the_test_alert_arrives_by_both_channels(yoop: Yoop) -> None:
    taken = await yoop.test()

    await asyncio.gather(yoop.twilio.wait_for(1, accepted=True), yoop.telegram.wait_for(1, accepted=True))

    assert [way["channel"] for way in taken["channels"]] == ["whatsapp", "telegram"]
    [whatsapp], [telegram] = yoop.twilio.accepted, yoop.telegram.accepted
    assert (whatsapp.to, whatsapp.sender) == (f"whatsapp:{PHONE}", f"whatsapp:{SENDER}")
    assert said(yoop) == ["Test alert: This is a test alert. Nothing has happened."]
    assert telegram.chat_id == CHAT
    assert telegram.text == "Test alert\nThis is a test alert. Nothing has happened."


async def test_an_order_arrives_by_telegram_alone_with_what_is_known_of_it(yoop: Yoop) -> None:
    await yoop.alert(action="SELL", notification_type="agent_action", price=187.2, qty=10, pnl=-3.5)
    await yoop.telegram.wait_for(1, accepted=True)
    await yoop.status(lambda found: found["backlog"] == 0)

    assert yoop.telegram.accepted[0].text == "INFO: SELL\nprice: 187.2\nqty: 10\npnl: -3.5"
    assert yoop.twilio.received == []


async def test_a_risk_event_says_what_it_says_whatever_signs_it_holds(yoop: Yoop) -> None:
    await yoop.alert(
        severity="WARNING", notification_type="risk_event", message="drawdown_limit <b>*reached*</b> & _more_"
    )

    await asyncio.gather(yoop.twilio.wait_for(1, accepted=True), yoop.telegram.wait_for(1, accepted=True))

    assert yoop.telegram.accepted[0].text == "WARNING\ndrawdown_limit <b>*reached*</b> & _more_"
    assert said(yoop) == ["WARNING: drawdown_limit <b>*reached*</b> & _more_"]


async def test_the_channel_that_fails_is_tried_again_and_the_other_is_not_sent_twice(yoop: Yoop) -> None:
    yoop.twilio.faults.append(providers.error(400, 21656, "The Content Variables Parameter is Invalid"))

    await yoop.alert(severity="critical", message="Position limit")
    found = await yoop.status(lambda found: found["backlog"] == 0)

    assert found["last_alert"]["outcome"] == {"whatsapp": "failed", "telegram": "sent"}
    assert len(yoop.telegram.accepted) == 1


async def test_the_status_tells_channels_errors_backlog_and_the_last_alert(yoop: Yoop) -> None:
    before = await yoop.status()
    taken = await yoop.test()
    after = await yoop.status(
        lambda found: found["backlog"] == 0 and found["last_alert"]["outcome"].get("telegram") == "sent"
    )

    assert before["active_channels"] == ["whatsapp", "telegram"]
    assert before["last_error"] == {"whatsapp": None, "telegram": None}
    assert (before["backlog"], before["last_alert"]) == (0, None)
    shown = {one["channel"]: (one["state"], one["to"]) for one in before["channels"]}
    assert shown == {"whatsapp": ("ok", "+14***71"), "telegram": ("ok", "***11")}
    assert after["last_alert"]["id"] == taken["id"]
    assert after["last_alert"]["outcome"] == {"whatsapp": "sent", "telegram": "sent"}


async def test_an_account_that_is_refused_is_an_error_on_the_status_page(yoop: Yoop) -> None:
    yoop.twilio.fault_of = lambda _: providers.error(401, 20003, "Authenticate")

    await yoop.test()
    found = await yoop.status(lambda found: found["last_error"]["whatsapp"] is not None)

    [whatsapp] = [one for one in found["channels"] if one["channel"] == "whatsapp"]
    assert whatsapp["state"] == "error"
    assert found["last_error"]["whatsapp"]["code"] == "20003"
    assert found["last_error"]["telegram"] is None


async def test_a_setting_switches_a_channel_off_without_a_change_of_code(
    database: str, settings: tuple[TwilioServer, TelegramServer, dict[str, str]]
) -> None:
    twilio, telegram, environment = settings
    async with nodes(database, **environment, NOTIFICATION_CHANNELS="telegram") as [node]:
        yoop = Yoop(node, twilio, telegram)
        taken = await yoop.test()
        await telegram.wait_for(1, accepted=True)
        found = await yoop.status(lambda found: found["backlog"] == 0)

    assert [way["channel"] for way in taken["channels"]] == ["telegram"]
    assert found["active_channels"] == ["telegram"]
    assert twilio.received == []
