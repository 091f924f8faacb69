"""
Draw the pictures of docs/elements.md anew, for somebody to look at.

    python -m tests.acceptance.elements_images
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.async_api import Browser, expect

from tests.acceptance.browsers import chromium
from tests.acceptance.elements_server import ElementsServer
from tests.acceptance.test_demo_page import serving

IMAGES = Path(__file__).parents[2] / "docs" / "images"
BODY = "<notify-bell></notify-bell><notify-toasts></notify-toasts>"

#: Title, message, type, priority; the newest first.
ENGLISH = (
    (
        "Your signature is needed",
        "IEP of J. D., annual review. Please sign before Friday.",
        "signature_request",
        "urgent",
    ),
    ("Assessment complete", "Reading, grade 4: the results are in.", "assessment_complete", "normal"),
    ("Maintenance on Sunday", "The gradebook is read-only from 06:00 to 07:30.", "maintenance", "high"),
    (
        "Welcome to Carillon",
        "Everything that happens while you are away waits for you here.",
        "system",
        "normal",
    ),
)
ARABIC = (
    ("توقيعك مطلوب", "المراجعة السنوية. يرجى التوقيع قبل يوم الجمعة.", "طلب توقيع", "urgent"),
    ("اكتمل التقييم", "القراءة، الصف الرابع: ظهرت النتائج.", "تقييم", "normal"),
    ("صيانة يوم الأحد", "سجل الدرجات للقراءة فقط من 06:00 إلى 07:30.", "صيانة", "high"),
    ("مرحبًا بك في Carillon", "كل ما يحدث أثناء غيابك ينتظرك هنا.", "النظام", "normal"),
)
LOOKS = {"light": ("en", "ltr", ENGLISH), "dark": ("en", "ltr", ENGLISH), "rtl": ("ar", "rtl", ARABIC)}
PLACED = """
() => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync("h1 { display: none; } main { display: flex; justify-content: end; } body { padding: 1rem; }");
  document.adoptedStyleSheets.push(sheet);
}
"""


NOTIFY = """async (words) => {
    const { token } = await (await fetch("/demo/session")).json();
    const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
    await fetch("/api/v1/notifications", { method: "POST", headers, body: JSON.stringify(words) });
}"""


async def draw(browser: Browser, look: str) -> None:
    language, direction, told = LOOKS[look]
    server = ElementsServer(BODY, lang=language, direction=direction)
    async with server.serve():
        page = await browser.new_page(
            viewport={"width": 460, "height": 620},
            color_scheme="dark" if look == "dark" else "light",
            device_scale_factor=2,
            reduced_motion="reduce",
        )
        now = datetime.now(UTC)
        for place, (title, message, kind, priority) in reversed(list(enumerate(told))):
            words = {"title": title, "message": message, "notification_type": kind, "priority": priority}
            await server.notify(**words, created_at=(now - timedelta(minutes=5 * place**3)).isoformat())
        next(iter(server.items.values()))["read"] = True
        await page.goto(server.url)
        await page.evaluate(PLACED)
        await page.locator("html[data-ready]").wait_for()
        await page.locator("notify-bell button").first.click()
        await expect(page.locator("article")).to_have_count(4)
        await page.locator("article").nth(1).hover()
        await page.screenshot(path=IMAGES / f"inbox-{look}.png")

        await page.keyboard.press("Escape")
        await page.set_viewport_size({"width": 460, "height": 320})
        await page.wait_for_function("() => hub.state.state === 'open'")
        for title, message, kind, priority in told[1::-1]:
            await server.notify(title=title, message=message, notification_type=kind, priority=priority)
        await expect(page.locator("notify-toasts [part~=toast]")).to_have_count(2)
        await page.mouse.move(230, 100)
        await page.screenshot(path=IMAGES / f"toasts-{look}.png")
        await page.close()


async def draw_digest(browser: Browser, look: str) -> None:
    language, direction, told = LOOKS[look]
    kinds = ["signature_request", "assessment_complete", "maintenance"]
    body = f'<notify-digest-settings types="{" ".join(kinds)}"></notify-digest-settings>'
    server = ElementsServer(body, lang=language, direction=direction)
    server.digest |= {
        "delivery_times": ["07:00", "17:30"],
        "exclude_types": ["maintenance"],
        "channels": ["in_app", "email", "push"],
    }
    server.runs = [
        {
            "at": f"2027-03-{day}T05:00:00Z",
            "local": f"2027-03-{day}T{time}",
            "is_clock_change": day == 28,
        }
        for day in range(27, 32)
        for time in ("07:00", "17:30")
    ]
    server.waiting = [
        {"title": title, "notification_type": kind} for (title, *_), kind in zip(told, kinds, strict=False)
    ]
    async with server.serve():
        page = await browser.new_page(
            viewport={"width": 640, "height": 900},
            color_scheme="dark" if look == "dark" else "light",
            device_scale_factor=2,
            reduced_motion="reduce",
            timezone_id="America/New_York",
        )
        await page.goto(server.url)
        await page.locator("html[data-ready]").wait_for()
        await page.evaluate(PLACED.replace("display: flex; justify-content: end;", ""))
        if look == "rtl":
            names = {kind: told[place][2] for place, kind in enumerate(kinds)}
            await page.evaluate(
                "(types) => { document.querySelector('notify-digest-settings').texts = { types }; }", names
            )
        await expect(page.locator("[part~=run]")).to_have_count(10)
        await expect(page.locator("[part~=pending-item]")).to_have_count(3)
        await page.screenshot(path=IMAGES / f"digest-settings-{look}.png", full_page=True)
        await page.close()


async def draw_demo_page(browser: Browser) -> None:
    """The page of the README, at a hub of its own."""
    with TemporaryDirectory() as folder:
        async with serving(Path(folder)) as hub:
            page = await browser.new_page(viewport={"width": 1080, "height": 800}, reduced_motion="reduce")
            await page.goto(hub.url)
            await expect(page.locator("#light")).to_have_text("Live")
            for title, message, kind, priority in reversed(ENGLISH):
                words = {"title": title, "message": message, "notification_type": kind, "priority": priority}
                await page.evaluate(NOTIFY, words)
            inbox = page.locator("#inbox")
            await expect(inbox.locator("article")).to_have_count(len(ENGLISH))
            for title in ("Welcome to Carillon", "Maintenance on Sunday"):
                await inbox.get_by_role("button", name=f"Mark read: “{title}”").press("Enter")
            await page.get_by_role("button", name="Send it from here").click()
            await expect(page.locator("notify-bell [part=badge]")).to_have_text("3")
            await page.reload()
            await expect(page.locator("#light")).to_have_text("Live")
            await expect(page.get_by_role("switch").first).to_be_visible()
            await page.screenshot(path=IMAGES / "demo.png", full_page=True)
            await page.close()


async def main() -> None:
    async with chromium() as browser:
        await draw_demo_page(browser)
        for look in LOOKS:
            await draw(browser, look)
            await draw_digest(browser, look)


if __name__ == "__main__":
    asyncio.run(main())
