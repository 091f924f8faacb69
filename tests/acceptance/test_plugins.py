"""A channel that somebody else has written: the one of the documentation, installed beside a real service."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from tests.acceptance.test_five_channels import settled
from tests.process import ROOT, SECRET, Node, ServiceProcess, StartRefused, admin, nodes, service, token
from tests.providers.server import ProviderServer, Received

PAGE = ROOT / "docs" / "channels.md"
NUMBER = "5550142"


class Pagers(ProviderServer):
    """Takes pages; away for the first of them."""

    async def take(self, request: Received) -> web.Response:
        self.accepted.append(request.body.decode())
        return web.Response(status=503 if len(self.accepted) == 1 else 204, headers={"Retry-After": "0"})


@pytest.fixture
async def pagers() -> AsyncIterator[Pagers]:
    async with Pagers() as server:
        yield server


def installed(folder: Path, name: str = "pager", value: str = "pager:Pager") -> str:
    """Where a package stands that has the class of the documentation; for PYTHONPATH."""
    [source] = re.findall(r"```python\n(# pager\.py\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "pager.py").write_text(source, encoding="utf-8")
    described = folder / "pager-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: pager\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(f"[carillon.channels]\n{name} = {value}\n")
    return str(folder)


async def reach(node: Node, value: str) -> int:
    body = {"channel": "pager", "value": value}
    answer = await node.ask("POST", "/api/v1/recipients/ada/addresses", body, as_=admin())
    return answer.status_code


async def test_the_channel_of_the_documentation_is_a_channel_as_any_other(
    database: str, pagers: Pagers, tmp_path: Path
) -> None:
    package, url = installed(tmp_path), f"{pagers.url}/page"
    async with nodes(database, PYTHONPATH=package, PAGER_URL=url, DELIVERY_RETRY_BASE="0.05") as [node]:
        await node.ask("PUT", "/api/v1/recipients/ada", {}, as_=admin())
        assert await reach(node, "not a pager") == 422
        assert await reach(node, NUMBER) == 201
        person = (await node.ask("GET", "/api/v1/recipients/ada", as_=service())).json()
        assert [(one["channel"], one["hint"]) for one in person["addresses"]] == [("pager", "*****42")]

        sent = await node.notify(
            "Fire", message="In the kitchen.", user_id="ada", channels=["in_app", "pager"]
        )
        deliveries = await settled(node, sent.json()["id"], 1)

        assert (deliveries["pager"]["state"], deliveries["pager"]["provider"]) == ("sent", "acme")
        assert pagers.accepted == [f"{NUMBER}:In the kitchen."] * 2, "and again after the 503"
        health = (await node.ask("GET", "/api/v1/channels", as_=admin())).json()["channels"]
        assert "pager" in [one["name"] for one in health]
        described = (await node.ask("GET", "/openapi.json")).text
        assert '"pager"' in described
        off = {"scope": "channel", "value": "pager"}
        opted = await node.ask("POST", "/api/v1/preferences/opt-outs?user_id=ada", off, as_=admin())
        assert opted.status_code == 201, opted.text


async def test_without_its_settings_it_is_not_configured(database: str, tmp_path: Path) -> None:
    async with nodes(database, PYTHONPATH=installed(tmp_path)) as [node]:
        health = (await node.ask("GET", "/api/v1/channels", as_=admin())).json()["channels"]

        assert {one["name"]: one["is_configured"] for one in health}["pager"] is False


async def test_what_a_plugin_leaves_behind_waits_for_it_and_is_in_nobodys_way(
    database: str, pagers: Pagers, tmp_path: Path
) -> None:
    package = installed(tmp_path)
    async with nodes(database, PYTHONPATH=package) as [node]:  # without PAGER_URL: nothing goes out
        await node.ask("PUT", "/api/v1/recipients/ada", {"email": "ada@example.test"}, as_=admin())
        assert await reach(node, NUMBER) == 201
        digest = {"is_enabled": True, "timezone": "UTC", "delivery_time": "07:30", "channels": ["pager"]}
        await node.ask("PUT", "/api/v1/digest/subscription", digest, as_=token("ada"))
        rule = {"matrix": {"*": {"pager": True}}}
        assert (await node.ask("PUT", "/api/v1/preferences", rule, as_=token("ada"))).status_code == 200
        off = {"scope": "channel", "value": "pager"}
        await node.ask("POST", "/api/v1/preferences/opt-outs", off, as_=token("ada"))
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        sent = await node.notify("Fire", user_id="ada", channels=["pager", "in_app"], scheduled_for=later)
        assert sent.status_code == 201, sent.text
        notification_id = sent.json()["id"]
    async with nodes(database) as [node]:
        person = await node.ask("GET", "/api/v1/recipients/ada", as_=service())
        assert [one["channel"] for one in person.json()["addresses"]] == ["pager"]
        preferences = await node.ask("GET", "/api/v1/preferences", as_=token("ada"))
        assert preferences.json()["matrix"] == {"*": {"pager": True}}
        connection = await asyncpg.connect(database)
        await connection.execute("UPDATE notifications SET scheduled_for = now() WHERE status = 'scheduled'")
        await connection.close()
        deliveries: list[dict[str, Any]] = []
        async with asyncio.timeout(90):
            while not deliveries:
                path = f"/api/v1/notifications/{notification_id}/deliveries"
                deliveries = (await node.ask("GET", path, as_=admin())).json()["deliveries"]
                await asyncio.sleep(0.05)  # another process: there is no event to await
        [waiting] = deliveries
        assert (waiting["state"], waiting["reason"]) == ("queued", "the channel is not installed")
        said = {"message": "It is out."}
        changed = await node.ask("PATCH", f"/api/v1/notifications/{notification_id}", said, as_=service())
        assert changed.status_code == 200, changed.text
        lift = "/api/v1/preferences/opt-outs?scope=channel&value=pager"
        assert (await node.ask("DELETE", lift, as_=token("ada"))).status_code == 204
        found = await node.ask("GET", "/api/v1/digest/subscription", as_=token("ada"))
        assert found.json()["channels"] == ["pager"]
    async with nodes(
        database, PYTHONPATH=package, PAGER_URL=f"{pagers.url}/page", DELIVERY_RETRY_BASE="0.05"
    ) as [node]:
        ended = await settled(node, notification_id, 1)
        assert ended["pager"]["state"] == "sent"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("pager", "pager:Missing", "cannot be loaded: AttributeError"),
        ("pager", "pager:PagerProvider", "lacks unknown, normalise, hint, providers"),
        ("sms", "pager:Pager", "has the name of a channel that comes with Carillon"),
        ("Pager", "pager:Pager", "must be named by 2-32 lower-case letters"),
    ],
)
async def test_a_class_that_cannot_be_used_stops_the_start(
    database: str, tmp_path: Path, name: str, value: str, says: str
) -> None:
    settings = {
        "DATABASE_URL": database,
        "JWT_SECRET_KEY": SECRET,
        "PYTHONPATH": installed(tmp_path, name, value),
    }

    with pytest.raises(StartRefused) as refused:
        async with ServiceProcess(settings=settings):
            pass

    assert says in refused.value.log
