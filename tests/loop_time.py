"""Time that goes by for the timers of a loop, without anybody waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def goes_by(seconds: float) -> None:
    """From now on it is so much later for every timer of this loop. For asyncio's own; uvloop keeps its time itself."""
    loop = asyncio.get_running_loop()
    clock = loop.time
    loop.time = lambda: clock() + seconds  # type: ignore[method-assign]  # whose time it is


async def in_vain(waiting: Coroutine[Any, Any, T], has_come: Callable[[], bool], seconds: float = 3600) -> T:
    """
    The end of somebody's waiting for an answer that never comes: their time is over as soon as the question has come.

    So they may be as patient as they like, and a machine that is busy meanwhile ends nothing too early.
    """
    task = asyncio.create_task(waiting)
    while not has_come():
        assert not task.done(), f"it ended before: {task.result()!r}"
        await asyncio.sleep(0)
    goes_by(seconds)
    return await task
