"""Schemathesis holds the running service to its own description, with every check that it has."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from app.api.routes import everything
from tests.api import admin, listening, serving

#: Where what is well formed may still not be meant: a moment that is past, a cursor that is nobody's, a link to a
#: site that is not ours, two audiences, keys of no browser; and a name that is printable by rules that the generator
#: only knows in part.
MEANING = [
    "/api/v1/notifications",
    "/api/v1/notifications/bulk",
    "/api/v1/notifications/{notification_id}",
    "/api/v1/notifications/{notification_id}/snooze",
    "/api/v1/api-keys",
    "/api/v1/deliveries",
    "/api/v1/inbound",
    "/api/v1/notifications/{notification_id}/deliveries",
    "/api/v1/preferences",
    "/api/v1/preferences/opt-outs",
    "/api/v1/presence",
    "/api/v1/push/receipts",
    "/api/v1/push/replace",
    "/api/v1/push/subscribe",
    "/api/v1/push/subscriptions/{subscription_id}",
    "/api/v1/digest/subscription",
    "/api/v1/recipients",
    "/api/v1/recipients/{user_id}",
    "/api/v1/recipients/{user_id}/addresses",
    "/api/v1/recipients/{user_id}/addresses/{address_id}",
    "/api/v1/recipients/{user_id}/addresses/{address_id}/verification/confirm",
    "/api/v1/tenant/settings",
    "/api/v1/tokens/revoke",
    "/api/v1/webhooks",
    "/api/v1/webhooks/{webhook_id}",
    "/internal/broadcast",
    "/api/notifications/create/",
    "/api/subjects/create/",
    "/api/subjects/{subject_id}/update/",
    "/api/monitoring/notifications/alerts",
    "/api/monitoring/notifications/test",
]

CONFIG = """
[[operations]]
include-path = {paths}
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422"]

# A stream of events has no end: the long poll of the same path is asked, and waits for nothing.
[[operations]]
include-path = "/api/v1/events"
headers = {{ Accept = "application/json" }}
parameters = {{ wait = 0 }}
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "422"]
"""


@pytest.mark.slow
async def test_the_service_does_what_its_description_says(database: str, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG.format(paths=MEANING))
    async with serving(database) as edge:
        # Revocations are stored and not acted on: the tool would lock itself out.
        async with listening(edge.with_services(announce=lambda _: None)) as address:
            tool = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).with_name("schemathesis")),
                *("--config-file", str(config), "--no-color", "run", f"{address}/openapi.json"),
                *("--header", f"Authorization: Bearer {admin()}"),
                *("--checks", "all", "--max-examples", "12", "--seed", "1", "--continue-on-failure"),
                cwd=tmp_path,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            async with asyncio.timeout(900):
                told, _ = await tool.communicate()

    assert tool.returncode == 0, told.decode()
    counted = re.search(r"Selected: (\d+)/(\d+)\s+Tested: (\d+)", told.decode())
    assert counted is not None
    selected, known, tried = map(int, counted.groups())
    assert selected == known == tried >= len(everything()) - 1  # the tool counts one fewer than it loads
