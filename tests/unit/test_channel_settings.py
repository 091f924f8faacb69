"""The credentials of the channels reach them by the names that the older systems have for them, and nobody else."""

from __future__ import annotations

import pytest

from app.settings import BadSetting, read
from delivery.channels import sms, telegram, whatsapp

TOKEN = "123456:ABC-DEF1234ghIkl-zyx57W2v1u123ew11"
GIVEN = {
    "TWILIO_ACCOUNT_SID": "AC0123",
    "TWILIO_AUTH_TOKEN": "canary-twilio",
    "TWILIO_PHONE_NUMBER": "+15550001111, +15550002222",
    "WHATSAPP_FROM": "+14155238886",
    "WHATSAPP_PHONE_NUMBER_ID": "106540352242922",
    "WHATSAPP_ACCESS_TOKEN": "canary-meta",
    "WHATSAPP_API_URL": "https://your-whatsapp-api.com/send",
    "WHATSAPP_API_TOKEN": "canary-own",
    "TELEGRAM_BOT_TOKEN": TOKEN,
    "TELEGRAM_WEBHOOK_SECRET": "canary-" * 6,
}


def test_the_names_of_the_older_systems_configure_the_channels():
    settings = read(GIVEN).ways

    assert [one.name for one in sms.providers(settings.sms, None)] == ["twilio"]
    assert [one.name for one in whatsapp.providers(settings.whatsapp, None)] == ["meta", "twilio", "http"]
    assert [one.name for one in telegram.providers(settings.telegram, None)] == ["telegram"]
    assert settings.sms.twilio.phone_number == {"+15550001111", "+15550002222"}


def test_without_them_nothing_is_configured():
    settings = read({}).ways

    assert sms.providers(settings.sms, None) == ()
    assert whatsapp.providers(settings.whatsapp, None) == ()
    assert telegram.providers(settings.telegram, None) == ()


def test_no_secret_is_shown_with_the_settings():
    shown = repr(read(GIVEN))

    assert "canary" not in shown
    assert TOKEN.partition(":")[2] not in shown


@pytest.mark.parametrize(
    ("changes", "name", "says"),
    [
        ({"WHATSAPP_API_URL": "https://api.whatsapp.com/send"}, "WHATSAPP_API_URL", "opens a chat"),
        ({"TWILIO_AUTH_TOKEN": ""}, "TWILIO_ACCOUNT_SID", "needs"),
        ({"TELEGRAM_WEBHOOK_SECRET": "short"}, "TELEGRAM_WEBHOOK_SECRET", "32-256"),
        ({"TELEGRAM_BASE_URL": "http://api.telegram.org"}, "TELEGRAM_BASE_URL", "https"),
        ({"SMS_MAX_SEGMENTS": "11"}, "SMS_MAX_SEGMENTS", "1-10"),
        ({"DELIVERY_SIMULATE": "fax"}, "DELIVERY_SIMULATE", "channels are"),
        ({"DELIVERY_SIMULATOR_SCRIPT": "[]"}, "DELIVERY_SIMULATOR_SCRIPT", "reset_after_accept"),
    ],
)
def test_a_value_that_cannot_be_used_stops_the_start_by_its_own_name(changes, name, says):
    with pytest.raises(BadSetting, match=says) as refused:
        read({**GIVEN, **changes})

    assert refused.value.name == name
    assert str(refused.value).count(name) == 1


def test_production_takes_no_simulator():
    production = {
        "CARILLON_ENV": "production",
        "JWT_SECRET_KEY": "a secret of this test, 32 bytes or more",
        "DATABASE_URL": "postgresql://hub@db/hub",
        "DELIVERY_ENCRYPTION_KEYS": "test:" + "dnZ2" * 10 + "dnY=",
    }
    assert read(production).production

    with pytest.raises(BadSetting, match="DELIVERY_SIMULATE") as refused:
        read({**production, "DELIVERY_SIMULATE": "sms"})

    assert refused.value.name == "DELIVERY_SIMULATE"
