"""What the settings say of alerts is known when the service starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.alerting import alerting, know_operators
from app.settings import BadSetting
from core.vault import Vault
from delivery.recipients_store import Recipients
from delivery.routing import AlertSettings
from tests.stores import open_stores

WHATSAPP, TELEGRAM = "+14155552671", "471104711"


async def test_the_two_addresses_are_those_of_one_recipient(database: str) -> None:
    async with open_stores(database) as stores:
        recipients = Recipients(stores.database, Vault({"test": b"v" * 32}))
        settings = AlertSettings(whatsapp_to=f"whatsapp:{WHATSAPP}", telegram_chat_id=TELEGRAM)

        await know_operators(recipients, settings)
        await know_operators(recipients, settings)  # the next start, or another node

        known = await recipients.get("default", "operators")
        assert [(one.channel, one.hint) for one in known.addresses] == [
            ("telegram", "***11"),
            ("whatsapp", "+14***71"),
        ]
        assert all(one.is_primary and one.verified_at for one in known.addresses)


async def test_another_address_after_a_restart_is_the_one_that_is_used(database: str) -> None:
    async with open_stores(database) as stores:
        recipients = Recipients(stores.database, Vault({"test": b"v" * 32}))

        for number in (WHATSAPP, "+250788123456"):
            await know_operators(recipients, AlertSettings(whatsapp_to=number, recipient="desk"))

        known = await recipients.get("default", "desk")
        assert [one.hint for one in known.addresses if one.is_primary] == ["+25***56"]


async def test_nobody_is_made_up_where_no_address_is_set(database: str) -> None:
    async with open_stores(database) as stores:
        await know_operators(Recipients(stores.database, Vault({"test": b"v" * 32})), AlertSettings())

        assert await stores.query("SELECT FROM recipients") == []


def test_routes_of_ones_own_take_the_place_of_ours(tmp_path: Path) -> None:
    own = tmp_path / "routes.json"
    own.write_text(
        '{"severities": [{"name": "debug", "priority": "low"}, {"name": "info", "priority": "low"},'
        ' {"name": "warning", "priority": "normal"}, {"name": "error", "priority": "high"},'
        ' {"name": "critical", "priority": "urgent"}],'
        ' "routes": [{"severity": "critical", "channels": ["sms"]}], "otherwise": ["in_app"]}'
    )

    routes = alerting(AlertSettings(routes=own)).routes

    assert routes.channels("critical", None, AlertSettings().active) == ("sms",)
    assert routes.channels("error", "SELL", AlertSettings().active) == ("in_app",)


@pytest.mark.parametrize("text", [None, "{", '{"severities": [], "routes": [], "otherwise": ["in_app"]}'])
def test_routes_that_cannot_be_used_stop_the_start_by_name(tmp_path: Path, text: str | None) -> None:
    own = tmp_path / "routes.json"
    if text is not None:
        own.write_text(text)

    with pytest.raises(BadSetting) as refused:
        alerting(AlertSettings(routes=own))

    assert refused.value.name == "DELIVERY_ALERT_ROUTES"
