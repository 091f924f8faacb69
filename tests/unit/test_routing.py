"""Where alerts go, by the rules of routes.json (YOO-4, X-84)."""

from __future__ import annotations

import json

import pytest

from core.notification import Priority
from delivery.routing import OUR_ROUTES, SEVERITIES, AlertSettings, read_routes, text, title

EVERY = AlertSettings().active


@pytest.mark.parametrize("severity", ["warning", "error", "critical"])
def test_a_warning_and_anything_worse_goes_to_whatsapp_and_telegram(severity):
    assert OUR_ROUTES.channels(severity, None, EVERY) == ("whatsapp", "telegram")


@pytest.mark.parametrize("action", ["BUY", "SELL", "sell"])
def test_an_order_goes_to_telegram(action):
    assert OUR_ROUTES.channels("info", action, EVERY) == ("telegram",)


def test_a_severe_order_goes_each_way_once():
    assert OUR_ROUTES.channels("error", "SELL", EVERY) == ("whatsapp", "telegram")


@pytest.mark.parametrize("action", [None, "HOLD"])
@pytest.mark.parametrize("severity", ["debug", "info"])
def test_everything_else_goes_to_the_inbox(severity, action):
    assert OUR_ROUTES.channels(severity, action, EVERY) == ("in_app",)


def test_a_channel_that_is_switched_off_is_left_out():
    assert OUR_ROUTES.channels("critical", None, {"telegram"}) == ("telegram",)


def test_what_has_no_way_left_goes_to_the_inbox_and_is_not_lost():
    assert OUR_ROUTES.channels("critical", "SELL", {"email"}) == ("in_app",)


def test_the_order_of_severities_is_that_of_their_priorities():
    assert [OUR_ROUTES.priority(one) for one in SEVERITIES] == [
        Priority.LOW,
        Priority.LOW,
        Priority.HIGH,
        Priority.URGENT,
        Priority.URGENT,
    ]


def routes(**changed):
    given = json.loads(
        """{"severities": [{"name": "debug", "priority": "low"}, {"name": "info", "priority": "low"},
                           {"name": "warning", "priority": "high"}, {"name": "error", "priority": "urgent"},
                           {"name": "critical", "priority": "urgent"}],
            "routes": [{"severity": "error", "actions": ["SELL"], "channels": ["sms"]}], "otherwise": ["websocket"]}"""
    )
    return json.dumps(given | changed)


def test_a_route_fits_when_all_that_it_says_does():
    own = read_routes(routes())

    assert own.channels("error", "SELL", EVERY) == ("sms",)
    assert own.channels("error", "BUY", EVERY) == ("websocket",)
    assert own.channels("warning", "SELL", EVERY) == ("websocket",)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"severities": []}, "in this order"),
        ({"routes": [{"channels": ["fax"]}]}, "channels must be"),
        ({"routes": [{"channels": []}]}, "channels must be"),
        ({"routes": [{"severity": "grave", "channels": ["sms"]}]}, "a severity must be"),
        ({"routes": [{"actions": ["sell"], "channels": ["sms"]}]}, "upper case"),
        ({"routes": [{"sevrity": "error", "channels": ["sms"]}]}, "sevrity"),
        ({"otherwise": ["sms"]}, "never switched off"),
        ({"more": 1}, "more"),
    ],
)
def test_routes_that_cannot_be_meant_are_refused(changed, problem):
    with pytest.raises(ValueError, match=problem):
        read_routes(routes(**changed))


def test_the_routes_tell_which_channels_there_are_to_look_after():
    assert OUR_ROUTES.named == ("whatsapp", "telegram")
    assert read_routes(routes()).named == ("sms",)


def test_an_alert_without_a_title_is_called_by_what_it_is():
    assert title("warning", None) == "WARNING"
    assert title("info", "BUY") == "INFO: BUY"


def test_what_is_known_besides_the_message_stands_below_it():
    facts = {"price": 187.25, "qty": 10, "pnl": None, "hedged": False}

    assert text("Limit reached", facts) == "Limit reached\nprice: 187.25\nqty: 10\nhedged: no"
    assert text(None, {"pnl": -3}) == "pnl: -3"


def test_the_default_route_is_nothing_that_a_log_may_show():
    settings = AlertSettings(whatsapp_to="+14155552671", telegram_chat_id="4711")

    assert settings.addresses == {"whatsapp": "+14155552671", "telegram": "4711"}
    assert "4155552671" not in repr(settings)
    assert "4711" not in repr(settings)
