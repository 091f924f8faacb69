"""What the environment says is used, or stops the start with the name of its variable."""

from __future__ import annotations

import pytest

from app.settings import BadSetting, read

SECRET = "a secret of this test, 32 bytes or more"
PRODUCTION = {
    "CARILLON_ENV": "production",
    "JWT_SECRET_KEY": SECRET,
    "DATABASE_URL": "postgresql://hub@db/hub",
    "DELIVERY_ENCRYPTION_KEYS": "test:" + "dnZ2" * 10 + "dnY=",
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CARILLON_ENV", "prod"),
        ("CARILLON_ROLES", "web,cook"),
        ("CARILLON_WORKERS", "0"),
        ("CARILLON_WORKERS", "2"),  # without REDIS_URL
        ("DATABASE_URL", "sqlite:///hub.db"),
        ("HUB_CHANNELS", "{"),
        ("HUB_CHANNELS", '{"doc": {"publish": "anybody"}}'),
        ("EMAIL_FROM", "Hub <hub@example.org>"),
        ("EMAIL_RATE", "0"),
        ("HUB_AUDIT_BATCH", "0"),
        ("HUB_AUDIT_SHARE", "0"),
        ("HUB_DATABASE_CONNECTIONS", "0"),
        ("HUB_DRAIN", "-1"),
        ("HUB_DRAIN", "1e300"),
        ("HUB_INTERNAL_PORT", "8003"),  # PORT's own
        ("HUB_INTERNAL_PORT", "0"),
        ("HUB_INTERNAL_PORT", "65536"),
        ("HUB_MIGRATE", "perhaps"),
        ("HUB_REQUEST_RATE", "20"),
        ("HUB_SHUTDOWN", "inf"),
        ("HUB_SWEEP_INTERVAL", "0.0"),
        ("JWT_ALGORITHM", "none"),
        ("JWT_LEEWAY", "86400"),
        ("LOG_LEVEL", "loud"),
        ("NOTIFICATION_CHANNELS", "whatsapp,fax"),
        ("DELIVERY_ALERT_RECIPIENT", "a\u2028b"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("REDIS_URL", "http://redis"),
        ("SMTP_TLS", "maybe"),
        ("TELEGRAM_CHAT_ID", "me"),
        ("WHATSAPP_TO", "0788123456"),  # of no country
    ],
)
def test_a_value_that_cannot_be_used_stops_the_start_by_name(name: str, value: str) -> None:
    with pytest.raises(BadSetting) as refused:
        read({name: value})

    assert refused.value.name == name
    assert value not in str(refused.value).removeprefix(name).split(" ")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"JWT_SECRET_KEY": ""}, "JWT_SECRET_KEY"),
        ({"JWT_SECRET_KEY": "short"}, "JWT_SECRET_KEY"),
        ({"DATABASE_URL": ""}, "DATABASE_URL"),
        ({"DELIVERY_WEBHOOK_PRIVATE": "on"}, "DELIVERY_WEBHOOK_PRIVATE"),
        ({"HUB_FAILPOINTS": "publish"}, "HUB_FAILPOINTS"),
    ],
)
def test_production_refuses_what_is_made_for_a_first_try(changes: dict[str, str], name: str) -> None:
    assert read(PRODUCTION).production

    with pytest.raises(BadSetting, match=f"^{name}: "):
        read(PRODUCTION | changes)


def test_an_empty_variable_counts_as_absent() -> None:
    assert read({"PORT": " ", "HUB_INTERNAL_PORT": ""}) == read({})
