"""A real Chromium that can be pushed to: a profile of its own, connected to a stand-in for Google's services."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import BrowserContext, async_playwright

from tests.acceptance.browsers import ARGUMENTS
from tests.machine import program
from tests.providers.desktop import Desktop
from tests.providers.gcm import Gcm

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
