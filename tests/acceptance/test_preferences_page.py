"""The page behind the links of mails in a real Chromium, with and without scripts, in both directions and colours."""

from __future__ import annotations

import email
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.policy import default as mail_policy
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, expect

from delivery.preferences_link import Pass, make_token
from tests.acceptance import axe
from tests.acceptance.browsers import chromium
from tests.acceptance.test_digest_channels import a_digest, come_due, introduce, part, want
from tests.acceptance.test_five_channels import Providers, providers, settled
from tests.api import TENANT, Edge, listening, person, service, serving
from tests.process import Node, nodes, token

__all__ = ["providers"]  # a fixture

#: Set to draw the pictures of docs/digest.md anew.
IMAGES: Path | None = None


@asynccontextmanager
async def page_of_ada(
    database: str, *, locale: str = "en", scheme: str = "light", width: int = 640, has_scripts: bool = True
) -> AsyncIterator[tuple[Edge, Page]]:
    """Her page, which keeps to its policy or fails the test."""
    body = {"locale": locale, "addresses": [{"channel": "email", "value": "ada@example.test"}]}
    async with serving(database) as edge, listening(edge) as address, chromium() as browser:
        await edge.client(service()).put("/api/v1/recipients/ada", json=body)
        client = edge.client(person())
        wanted = {
            "delivery_times": ["07:00", "17:30"],
            "timezone": "Africa/Kigali",
            "channels": ["in_app", "email"],
        }
        await client.put("/api/v1/digest/subscription", json=wanted)
        for value in ("email:digest", "email:iep_update"):
            await client.post("/api/v1/preferences/opt-outs", json={"scope": "channel_type", "value": value})
        [row] = await edge.rows("SELECT id FROM recipient_addresses WHERE tenant_id = $1", TENANT)
        given = Pass(
            tenant_id=TENANT,
            user_id="ada",
            address_id=row["id"],
            expires_at=datetime.now(UTC) + timedelta(days=1),
        )
        complaints: list[str] = []
        context = await browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
            java_script_enabled=has_scripts,
            device_scale_factor=2,
        )
        page = await context.new_page()
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type == "error" else None
        )
        await page.goto(f"{address}/p/{make_token(edge.services.delivery.vault, given)}")
        yield edge, page
        assert [one for one in complaints if "favicon" not in one and "422" not in one] == []


async def test_without_a_script_the_digest_is_moved_and_mail_is_sent_again(database: str) -> None:
    async with page_of_ada(database, has_scripts=False) as (edge, page):
        await page.get_by_label("Time 3").fill("21:15")
        await page.get_by_label("How often").select_option("On working days")
        await page.get_by_label("Time zone").select_option("Europe/Berlin")
        await page.get_by_label("Telegram").check()
        await page.get_by_label("Iep update").uncheck()
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_role("status")).to_have_text("Saved.")
        await expect(page.get_by_label("Iep update")).to_have_count(0)

        now = (await edge.client(person()).get("/api/v1/digest/subscription")).json()
        assert now["delivery_times"] == ["07:00", "17:30", "21:15"]
        assert (now["frequency"], now["timezone"]) == ("weekdays", "Europe/Berlin")
        assert now["channels"] == ["in_app", "email", "telegram"]

        for channel in ("Inbox", "E-mail", "Telegram"):
            await page.get_by_label(channel, exact=True).uncheck()
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_role("alert")).to_contain_text("Nothing was saved.")
        await expect(page.get_by_role("group", name="By", exact=True)).to_have_accessible_description(
            "Please choose at least one."
        )


@pytest.mark.parametrize(
    ("locale", "scheme", "width"), [("en", "light", 640), ("en", "dark", 360), ("ar", "light", 640)]
)
async def test_axe_finds_nothing_and_nothing_is_cut_off(
    database: str, locale: str, scheme: str, width: int
) -> None:
    async with page_of_ada(database, locale=locale, scheme=scheme, width=width) as (_, page):
        if IMAGES is not None:
            await page.screenshot(path=IMAGES / f"preferences-page-{locale}-{scheme}.png", full_page=True)
        assert await axe.violations(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        for control in await page.locator("input:visible, select, button").all():
            box = await control.bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) >= 24, box  # WCAG 2.2, 2.5.8

        await page.locator("input[name=channel]:checked").first.uncheck()
        await page.locator("input[name=channel]:checked").first.uncheck()
        await page.locator("button").click()
        await page.get_by_role("alert").wait_for()
        assert await axe.violations(page) == []


@pytest.fixture
async def node(database: str, providers: Providers) -> AsyncIterator[Node]:
    """One process that sends mail, and looks for due digests often."""
    settings: dict[str, Any] = {**providers.settings(), "DIGEST_TICK": "0.2"}
    async with nodes(database, **settings) as [started]:
        yield started


async def test_the_link_in_the_mail_moves_the_digest_and_a_scanner_does_not(
    database: str, node: Node, providers: Providers
) -> None:
    await introduce(node, providers, locale="de")
    await want(node, channels=["in_app", "email"])
    await node.notify(user_id="ada")
    await come_due(database)
    await settled(node, (await a_digest(node))["id"], 1)
    [mail] = providers.smtp.accepted
    said = email.message_from_bytes(mail.content, policy=mail_policy)
    found = re.search(r"Was Sie bekommen: (https://notify\.example\.test/p/\S+)", part(said, "plain"))
    assert found is not None
    assert found[1] in part(said, "html")
    here = found[1].replace("https://notify.example.test", node.url)
    before = (await node.ask("GET", "/api/v1/digest/subscription", as_=token())).json()
    async with httpx.AsyncClient(timeout=30) as anybody:
        looked = [await anybody.request(method, here) for method in ("GET", "HEAD", "OPTIONS", "GET")]
        clicked = await anybody.post(here, data={"List-Unsubscribe": "One-Click"})
        same = (await node.ask("GET", "/api/v1/digest/subscription", as_=token())).json()
        form = {
            "form": "preferences",
            "is_enabled": "1",
            "frequency": "weekdays",
            "weekly_day": "0",
            "time": ["19:45"],
            "timezone": "Europe/Berlin",
            "channel": ["email"],
            "mail_on": "1",
        }
        saved = [await anybody.post(here, data=form) for _ in range(2)]
        assert not anybody.cookies

    assert [one.status_code < 300 for one in (*looked, clicked)] == [True] * 5
    assert "Was Sie bekommen" in looked[0].text
    assert same == before
    assert [one.status_code for one in saved] == [200, 200]
    now = (await node.ask("GET", "/api/v1/digest/subscription", as_=token())).json()
    assert (now["frequency"], now["delivery_times"], now["timezone"]) == (
        "weekdays",
        ["19:45"],
        "Europe/Berlin",
    )
    assert now["channels"] == ["email"]
