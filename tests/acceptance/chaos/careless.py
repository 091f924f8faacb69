"""
A service whose hub believes its broker: it compares nothing with the store unless a gap shows itself.

    python -m tests.acceptance.chaos.careless serve --port 0
"""

from __future__ import annotations

import asyncio
import sys

import app.build
from app.__main__ import main
from hub.hub import Hub


class Careless(Hub):
    """The mutant that the checker must catch."""

    async def _audit_loop(self) -> None:
        await asyncio.Event().wait()


if __name__ == "__main__":
    app.build.Hub = Careless  # type: ignore[misc]  # the one place where a test puts a mutant in its place
    sys.exit(main())
