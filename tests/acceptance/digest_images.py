"""
Draw the mails of tests/vectors anew, for somebody to look at: narrow and wide, light and dark.

    python -m tests.acceptance.digest_images
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.acceptance.browsers import chromium
from tests.unit.digest.samples import LANGUAGES, VECTORS

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDTHS = (360, 1200)


async def main() -> None:
    async with chromium() as browser:
        for language in LANGUAGES:
            for width, scheme in [*((width, "light") for width in WIDTHS), (360, "dark")]:
                if scheme == "dark" and language != "en":
                    continue
                page = await browser.new_page(
                    viewport={"width": width, "height": 200},
                    color_scheme="dark" if scheme == "dark" else "light",
                    device_scale_factor=2 if width < 600 else 1,
                )
                await page.set_content((VECTORS / f"digest-{language}.html").read_text(encoding="utf-8"))
                over = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert over <= 0, f"{language} at {width} scrolls sideways"
                name = f"digest-{language}-{width}{'-dark' if scheme == 'dark' else ''}.png"
                await page.screenshot(path=IMAGES / name, full_page=True)
                await page.close()


if __name__ == "__main__":
    asyncio.run(main())
