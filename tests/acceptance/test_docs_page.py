"""The docs page in a real browser: readable, and clean under its own content security policy."""

from __future__ import annotations

from playwright.async_api import expect

from app.api.routes import everything
from core.errors import CODES
from tests.acceptance.browsers import chromium
from tests.api import listening, serving


async def test_the_docs_page_shows_every_operation_schema_and_error(database: str) -> None:
    complaints: list[str] = []
    async with serving(database) as edge, listening(edge) as address, chromium() as browser:
        page = await browser.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((address, "data:")) else complaints.append(asked.url),
        )

        await page.goto(f"{address}/docs")
        await expect(page.locator("#operations details")).to_have_count(len(everything()))
        await page.goto(f"{address}/docs#notifications_create")
        card = page.locator("#notifications_create")
        await expect(card).to_have_attribute("open", "")
        await expect(card.locator("pre")).to_contain_text(f"curl -X POST '{address}/api/v1/notifications'")
        await expect(card.get_by_text("Idempotency-Key", exact=True)).to_be_visible()
        await expect(page.locator("#errors tbody tr")).to_have_count(len(CODES))
        await expect(page.locator("#schema-NewNotification")).to_have_count(1)

    assert complaints == []
