"""Several processes of one node: starts them, replaces those that die, ends them in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

log = structlog.stdlib.get_logger("app.supervisor")

#: A process that dies sooner than this was never well: its successor waits longer each time.
_WELL_AFTER = 10.0  # seconds
_LONGEST_PAUSE = 30.0  # seconds


@dataclass(slots=True)
class Child:
    """
    One process of ours, whoever it is at the moment.

    nice: how far it gives way to others for processor time, 0 to 19 as nice(1) has it. own: variables of the
    environment that it has otherwise than the others.
    """

    name: str
    arguments: Sequence[str]
    nice: int = 0
    own: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    not_before: float = 0.0
    is_ranked: bool = True

    def start(self, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app", *self.arguments],
            env={**environment, **self.own},
            start_new_session=True,  # Ctrl-C reaches us, and we tell them
        )
        self.started = time.monotonic()
        if self.nice:
            own = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, self.process.pid, min(own + self.nice, 19))
            self.is_ranked = False
            self.rank()

    def rank(self) -> None:
        """
        Let it give way where Linux shares the processor among sessions, too (sched(7), autogroups): there its nice
        value would only count within its own session, which has nobody else.
        """
        if self.process is None or self.is_ranked:
            return
        self.is_ranked = True
        try:
            Path(f"/proc/{self.process.pid}/autogroup").write_text(f"{self.nice}\n")
        except BlockingIOError:  # the kernel takes one in a tenth of a second
            self.is_ranked = False
        except OSError:  # it has no such groups, or the process is gone
            pass

    def tell(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Keeps its children running until it is told to stop."""

    def __init__(self, children: Sequence[Child], environment: Mapping[str, str], *, patience: float) -> None:
        """patience: seconds that children get for draining and shutting down before they are killed."""
        self._children = children
        self._environment = environment
        self._patience = patience
        self._stopping = False

    def run(self) -> int:
        """Returns the exit code: 0 after an orderly end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        for child in self._children:
            child.start(self._environment)
        while not self._stopping:
            self._replace_the_dead()
            time.sleep(0.1)
        return self._end()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _replace_the_dead(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.running:
                child.rank()
                continue
            if child.process is not None:
                well = now - child.started >= _WELL_AFTER
                child.failures = 0 if well else child.failures + 1
                pause = 0.0 if well else min(0.5 * 2**child.failures, _LONGEST_PAUSE)
                log.error("process_died", name=child.name, code=child.process.returncode, pause_s=pause)
                child.not_before = now + pause
                child.process = None
            if now >= child.not_before:
                child.start(self._environment)

    def _end(self) -> int:
        for child in self._children:
            child.tell(signal.SIGTERM)
        deadline = time.monotonic() + self._patience
        while any(child.running for child in self._children) and time.monotonic() < deadline:
            time.sleep(0.05)
        overdue = [child for child in self._children if child.running]
        for child in overdue:
            log.error("process_killed", name=child.name)
            child.tell(signal.SIGKILL)
        for child in self._children:
            if child.process is not None:
                child.process.wait()
        return 1 if overdue else 0


def environment(**known: str) -> dict[str, str]:
    """Our own environment with what the parent has found out for its children."""
    return {**os.environ, **known}
