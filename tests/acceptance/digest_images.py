"""
Draw the mails of tests/vectors anew, for somebody to look at: narrow and wide, light and dark.

    python -m tests.acceptance.digest_images
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser

from tests.acceptance.browsers import chromium
from tests.unit.digest.samples import HOSTILE, LANGUAGES, LONG, VECTORS, mail

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDTHS = (360, 1200)


async def main() -> None:
    async with chromium() as browser:
        for language in LANGUAGES:
            html = (VECTORS / f"digest-{language}.html").read_text(encoding="utf-8")
            for width in WIDTHS:
                await draw(browser, html, width, IMAGES / f"digest-{language}-{width}.png")
        for width in (320, *WIDTHS):  # what does not fit anywhere fits nevertheless
            for told, locale in ((LONG, "de"), (HOSTILE, "ar")):
                await draw(browser, mail(told, "Europe/Berlin", locale).html, width, None)
        english = (VECTORS / "digest-en.html").read_text(encoding="utf-8")
        await draw(browser, english, 360, IMAGES / "digest-en-360-dark.png", "dark")
        await draw(browser, mail(LONG, "Europe/Berlin", "de").html, 320, IMAGES / "digest-long-320.png")


async def draw(
    browser: Browser, html: str, width: int, path: Path | None, scheme: Literal["light", "dark"] = "light"
) -> None:
    page = await browser.new_page(
        viewport={"width": width, "height": 200},
        color_scheme=scheme,
        device_scale_factor=2 if width < 600 else 1,
    )
    await page.set_content(html)
    over = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert over <= 0, f"scrolls sideways at {width}"
    if path is not None:
        await page.screenshot(path=path, full_page=True)
    await page.close()


if __name__ == "__main__":
    asyncio.run(main())
