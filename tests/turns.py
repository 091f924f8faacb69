"""Who tests beside whom, where several processes test at once on one machine (pytest -n)."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """
    The time of one test: beside those of the other processes with this folder, or, alone, beside none.

    Everybody passes the door one by one. Who is to be alone stands in it until the room is empty: nobody enters
    meanwhile, so that it becomes empty. The locks are the kernel's, which takes them back from a process that dies.
    """
    with (folder / "room").open("w") as room:
        with (folder / "door").open("w") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
