"""A real Chromium that can be pushed to: a profile of its own, connected to a stand-in for Google's services."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import BrowserContext, Page, async_playwright

from tests.acceptance.browsers import ARGUMENTS
from tests.machine import program
from tests.process import token
from tests.providers.certificates import certificate
from tests.providers.desktop import Desktop
from tests.providers.gcm import HOSTS, Gcm

#: Playwright's own, which would keep Chromium from calling its push service.
_TOO_QUIET = ["--disable-background-networking", "--disable-component-update"]


@asynccontextmanager
async def pushable(profile: Path, gcm: Gcm, desktop: Desktop | None = None) -> AsyncIterator[BrowserContext]:
    """
    Windows of one profile, because private windows have no push. Where there is no Chromium the test is skipped.

    desktop: where it shows notifications. Without one it keeps them to itself, and nobody can click them.
    """
    path = program("chromium", "chromium-browser", "google-chrome")
    quiet = [one for one in ARGUMENTS if one not in _TOO_QUIET]
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(
            str(profile),
            executable_path=path,
            args=[*quiet, *gcm.arguments],
            ignore_default_args=_TOO_QUIET,
            env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": desktop.address if desktop else "disabled:"},
        )
        try:
            yield context
        finally:
            await context.close()


#: With a hub of the page's own beside what it has.
_HUB = """import("/static/client.js").then(({{ createHub }}) => {{
    window.hub = createHub({{ getToken: () => "{token}" }});
    return hub.push.{call}();
}})"""


@dataclass
class Chromium:
    """The browser, the desktop of whoever sits before it, and the push service between it and a hub."""

    windows: BrowserContext
    desktop: Desktop
    google: Gcm
    certificate: Path

    def settings(self) -> dict[str, str]:
        """Of a hub that pushes to it."""
        return {
            "PUSH_RESOLVE": ",".join(f"https://{host}=127.0.0.1:{self.google.port}" for host in HOSTS),
            "PUSH_CA_FILE": str(self.certificate),
            "VAPID_EMAIL": "push@example.com",
        }

    async def allow(self, *urls: str) -> None:
        for url in urls:
            await self.windows.grant_permissions(["notifications"], origin=url)

    async def push(self, page: Page, user_id: str, call: str) -> str:
        """Call `enable` or `status` in a page of the hub; the state that it answers."""
        status = await page.evaluate(_HUB.format(token=token(user_id), call=call))
        return str(status["state"])


@asynccontextmanager
async def at_desktop(folder: Path) -> AsyncIterator[Chromium]:
    for name in ("tls", "profile", "desktop"):
        (folder / name).mkdir()
    tls, pem = certificate(folder / "tls", *HOSTS)
    async with (
        Gcm(tls, pem) as google,
        Desktop(folder / "desktop") as desktop,
        pushable(folder / "profile", google, desktop) as windows,
    ):
        yield Chromium(windows, desktop, google, pem)
