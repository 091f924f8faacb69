"""
`app` for any ASGI server: `uvicorn app.main:app`. There the hub runs without our protocol class, correct
and slower; `carillon serve` is the way to run it fast.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from app import logs
from app.build import running
from app.first_run import prepared
from app.settings import read
from app.version import VERSION
from core.locale import use_pinned_zones

log = structlog.stdlib.get_logger("app")


class Application:
    """Starts with the server's lifespan and ends with it (ASGI lifespan protocol 2.0)."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._app is None:
            raise RuntimeError(
                "the server does not speak the lifespan protocol, which starts this application"
            )
        else:
            await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        use_pinned_zones()
        async with AsyncExitStack() as stack:
            try:
                settings = read(os.environ, version=VERSION)
                logs.configure(settings.process.log_level, settings.process.log_format)
                settings = (await stack.enter_async_context(prepared(settings))).settings
                self._app = (await stack.enter_async_context(running(settings))).public
            except Exception as error:
                await send({"type": "lifespan.startup.failed", "message": logs.redact(str(error))})
                raise
            log.info(
                "ready", roles=sorted(settings.process.roles)
            )  # the server's own lines are quiet: logs.py
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
        await send({"type": "lifespan.shutdown.complete"})


app = Application()
