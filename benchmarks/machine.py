"""Cores, CPU time and stolen time of this machine, read from /proc (Linux)."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where. The server has its core to itself as far as we decide it."""

    server: int
    receivers: tuple[int, ...]  # one receiving process each
    others: int  # publishers, and what a server needs beside it (PostgreSQL)

    @classmethod
    def of_this_machine(cls) -> "Cores":
        """Raises RuntimeError on fewer than two cores: a load generator beside the server proves nothing."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise RuntimeError("a benchmark needs two cores: one for the server, one for the load")
        others, server, *rest = cores
        return cls(server=server, receivers=tuple(rest[:2]) or (others,), others=others)


@contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """Processes that are started inside run on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def process_tree(root: int) -> list[int]:
    """The process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for stat in PROC.glob("[0-9]*/stat"):
        try:
            fields = _stat_fields(stat)
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    tree = [root]
    for pid in tree:
        tree += children.get(pid, [])
    return tree


def cpu_seconds(root: int) -> float:
    """
    CPU time (user and system, all threads) that the process tree has used so far.

    Living processes are read from their CPU clocks (nanoseconds; the user + system of /proc is the same
    figure in steps of 10 ms), children that have ended from what their parent has collected of them.
    """
    total = 0.0
    for pid in process_tree(root):
        try:
            collected = sum(int(ticks) for ticks in _stat_fields(PROC / str(pid) / "stat")[13:15])
            # clock_getcpuclockid(3): the complement of the pid, CPUCLOCK_SCHED in the low bits.
            total += time.clock_gettime((~pid << 3) | 2) + collected / TICKS
        except OSError:
            continue  # ended between the two looks; its parent has collected it
    return total


def core_wait_seconds(pid: int) -> float:
    """How long the process's first thread has been ready to run while another had its core."""
    return int((PROC / str(pid) / "schedstat").read_text().split()[1]) / 1e9


def _stat_fields(stat: Path) -> list[str]:
    """The fields after the command's name, which may itself hold spaces; the first is the state."""
    return stat.read_text().rpartition(")")[2].split()


@dataclass(frozen=True, slots=True)
class Ticks:
    """The first line of /proc/stat: what all cores have done since the start, in clock ticks."""

    total: int
    stolen: int  # the hypervisor gave the core to somebody else

    @classmethod
    def now(cls) -> "Ticks":
        fields = [int(value) for value in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
        return cls(total=sum(fields), stolen=fields[7])

    def stolen_share_since(self, before: "Ticks") -> float:
        """0 to 1."""
        return (self.stolen - before.stolen) / max(1, self.total - before.total)


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


def settle(root: int, *, quiet: float = 0.02, within: float = 10.0) -> None:
    """
    Waits until the process tree has used less than `quiet` of a core for 250 ms, so that work left over from
    the handshakes is not counted as delivery. Raises TimeoutError when it never rests.
    """
    deadline = time.monotonic() + within
    before, at = cpu_seconds(root), time.monotonic()
    while at < deadline:
        time.sleep(0.25)
        now, used = time.monotonic(), cpu_seconds(root)
        if (used - before) / (now - at) < quiet:
            return
        before, at = used, now
    raise TimeoutError(f"the server is still busy {within:.0f} s after the last handshake")
