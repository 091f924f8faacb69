"""What needs the machine alone has it, and waits for it no longer than for the tests under way."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from tests.turns import turn

SOON = 0.2  # seconds in which nothing happens that must not


class Test:
    """One that goes on until it is told to end. (A lock belongs to who opened the file, a thread as well.)"""

    __test__ = False

    def __init__(self, threads: ThreadPoolExecutor, folder: Path, *, alone: bool = False) -> None:
        self._goes_on, self._may_end = Event(), Event()
        self._ended: Future[None] = threads.submit(self._run, folder, alone)

    def _run(self, folder: Path, alone: bool) -> None:
        with turn(folder, alone=alone):
            self._goes_on.set()
            assert self._may_end.wait(60)

    def begins(self, seconds: float = 60) -> bool:
        return self._goes_on.wait(seconds)

    def end(self) -> None:
        self._may_end.set()
        self._ended.result(60)


@pytest.fixture
def threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor()


def test_others_go_on_beside_each_other(threads: ThreadPoolExecutor, tmp_path: Path) -> None:
    one, other = Test(threads, tmp_path), Test(threads, tmp_path)

    assert one.begins()
    assert other.begins()
    one.end()
    other.end()


def test_who_is_to_be_alone_waits_for_the_others_and_they_for_it(
    threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    before = Test(threads, tmp_path)
    assert before.begins()
    alone = Test(threads, tmp_path, alone=True)
    assert not alone.begins(SOON)

    before.end()
    assert alone.begins()
    after = Test(threads, tmp_path)
    assert not after.begins(SOON)

    alone.end()
    assert after.begins()
    after.end()


def test_who_comes_later_does_not_keep_it_waiting(threads: ThreadPoolExecutor, tmp_path: Path) -> None:
    before = Test(threads, tmp_path)
    assert before.begins()
    alone = Test(threads, tmp_path, alone=True)
    assert not alone.begins(SOON)
    later = Test(threads, tmp_path)
    assert not later.begins(SOON)

    before.end()
    assert alone.begins()
    assert not later.begins(SOON)
    alone.end()
    assert later.begins()
    later.end()
