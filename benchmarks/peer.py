"""A server under measurement."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.machine import Cores, pinned
from benchmarks.workload import Workload

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A server that accepts connections, and what the load generator must know of it."""

    port: int
    pid: int  # the root of the measured process tree
    targets: Sequence[str]  # handshake i asks for targets[i % len]; further header lines follow after TABs
    requests: Sequence[bytes]  # complete HTTP requests with a mark; publication i is requests[i % len]
    hellos: Sequence[str] = ()  # text frames that every connection sends when it is open
    ready: str | None = None  # a connection listens when a frame has contained this; None: when it is open
    beside: int | None = None  # root of processes that share the work but not the core: PostgreSQL


class Peer(Protocol):
    """
    A server that we measure. To add one: write benchmarks/peers/<name>.py and put it into the tuple of
    benchmarks/peers/__init__.py.
    """

    name: str
    workloads: Sequence[str]  # names of those it can run
    is_ours: bool

    def missing(self) -> str | None:
        """Why it cannot run on this machine; None when it can."""

    def serve(self, workload: Workload, cores: Cores, folder: Path) -> AbstractContextManager[Serving]:
        """A fresh server on cores.server; ended with the context. `folder` is empty and its own."""


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def post(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A complete keep-alive HTTP request with a JSON body."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def server(
    command: Sequence[str | Path],
    *,
    core: int,
    port: int,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """
    The command, pinned to one core, once it accepts connections on the port. Its output goes to a file, and of our
    own environment it sees only what programs need to be found: settings of ours would change what is measured.

    Raises RuntimeError with the end of that output when it stops early or does not listen within 60 s.
    """
    log = folder / "server.log"
    with log.open("wb") as output, pinned(core):
        process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env={name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
            | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await_port(process, port, log)
        yield process
    finally:
        _end(process)


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}: {_tail(log)}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the server does not listen: {_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks, then insists; the whole process group, which is our own child's."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        pass  # a drain that takes longer than a benchmark waits
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended, and so have its children
    process.wait()


def python(*arguments: str) -> list[str]:
    """A command line of the interpreter that runs the benchmark."""
    return [sys.executable, *arguments]
