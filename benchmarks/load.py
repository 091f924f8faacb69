"""The load generator: C programs that receive and publish, compiled at first use, and one measured run."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import Cores, Ticks, core_wait_seconds, cpu_seconds, pinned, settle
from benchmarks.peer import ROOT, Serving
from benchmarks.workload import Workload

SOURCES = Path(__file__).parent
COMPILED = ROOT / ".cache" / "bench"
COMPILERS = ("cc", "gcc", "clang")

Histogram = Mapping[int, int]
"""Latencies: upper bound in microseconds -> how many."""


class LoadError(Exception):
    """The run says nothing about the server; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run of one peer has shown. Times in seconds unless the name says otherwise."""

    cpu: float  # of the server's process tree, between the first publication and the last delivery
    beside_cpu: float  # of the processes beside it (PostgreSQL), same span
    expected: int
    deliveries: int
    duplicates: int
    failed: int  # publications without a 2xx answer
    first_failure: str
    duration: float  # first publication written to last delivery
    latency_us: Histogram  # publication written to delivery read
    answer_us: Histogram  # publication written to its answer read
    reads: int
    received_bytes: int
    closed: Mapping[str, int]  # close code -> connections that the server ended; negative: never opened
    connecting: float  # all handshakes
    connecting_cpu: float  # of the server, for all handshakes
    waited: float  # the server was ready and another process had its core
    stolen: float  # share of all cores, 0 to 1


def compiler() -> str | None:
    """The first C compiler of this machine."""
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)


def program(name: str) -> Path:
    """
    benchmarks/<name>.c, compiled into .cache/bench when its source is newer.

    Raises LoadError without a compiler or when it does not compile.
    """
    source, target = SOURCES / f"{name}.c", COMPILED / name
    newest = max(path.stat().st_mtime for path in (source, SOURCES / "wire.h"))
    if target.exists() and target.stat().st_mtime > newest:
        return target
    found = compiler()
    if not found:
        raise LoadError(f"no C compiler ({', '.join(COMPILERS)}) for the load generator")
    COMPILED.mkdir(parents=True, exist_ok=True)
    built = subprocess.run(
        [found, "-O2", "-Wall", "-Wextra", "-o", target.with_suffix(".new"), source],
        check=False,
        capture_output=True,
        text=True,
    )
    if built.returncode:
        raise LoadError(f"{source.name} does not compile: {built.stderr}")
    target.with_suffix(".new").rename(target)
    return target


class Generator:
    """One process of the load generator; it speaks one JSON object per line and is told `go` or `end`."""

    def __init__(self, process: subprocess.Popen[str], name: str) -> None:
        self._process = process
        self._name = name

    def read(self) -> dict[str, Any]:
        """The next line. Raises LoadError with its last words when the process has ended instead."""
        assert self._process.stdout
        assert self._process.stderr
        line = self._process.stdout.readline()
        if not line:
            raise LoadError(f"{self._name}: {self._process.stderr.read().strip()}")
        said: dict[str, Any] = json.loads(line)
        return said

    def tell(self, word: str) -> None:
        """Sends one word; a process that has already said everything needs none."""
        assert self._process.stdin
        try:
            os.write(self._process.stdin.fileno(), f"{word}\n".encode())
        except BrokenPipeError:
            pass  # it had everything it waited for and has ended


@contextmanager
def generator(name: str, core: int, *arguments: str | Path) -> Iterator[Generator]:
    """One of the C programs on one core; killed with the context."""
    with pinned(core):
        process = subprocess.Popen(
            [program(name), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    with process:
        try:
            yield Generator(process, name)
        finally:
            process.kill()


def measure(
    serving: Serving,
    workload: Workload,
    cores: Cores,
    folder: Path,
    *,
    polling: bool = False,
    quiet: float = 0.02,
) -> Run:
    """
    One run: connect everybody, let the server come to rest, publish, count.

    polling: the receivers never sleep, so that the server's sends have nobody to wake up.
    quiet: what the server's processes may use of a core and still count as resting.

    Raises LoadError when not everybody could connect or a generator gave up.
    """
    targets, requests = folder / "targets", folder / "requests"
    targets.write_text("\n".join(serving.targets) + "\n")
    requests.write_bytes(b"".join(b"%d\n%b" % (len(request), request) for request in serving.requests))

    with ExitStack() as stack:
        cpu_at_start, connecting_since = cpu_seconds(serving.pid), time.monotonic()
        receivers = [
            stack.enter_context(generator("receiver", core, "--port", str(serving.port), *arguments))
            for core, arguments in zip(
                cores.receivers,
                _receiver_arguments(serving, workload, targets, len(cores.receivers), polling=polling),
                strict=True,
            )
        ]
        for receiver in receivers:
            receiver.read()
        connecting = time.monotonic() - connecting_since
        publisher = stack.enter_context(
            generator(
                "publisher", cores.others, "--port", str(serving.port), "--requests", requests,
                "--messages", str(workload.messages), "--publishers", str(workload.publishers),
                "--interval-ms", str(workload.interval_ms),
            )
        )  # fmt: skip
        publisher.read()
        settle(serving.pid, quiet=quiet)

        ticks, waited, cpu = Ticks.now(), core_wait_seconds(serving.pid), cpu_seconds(serving.pid)
        beside = cpu_seconds(serving.beside) if serving.beside else 0.0
        publisher.tell("go")
        published = publisher.read()
        for receiver in receivers:
            receiver.tell("end")
        received = [receiver.read() for receiver in receivers]
        return Run(
            cpu=cpu_seconds(serving.pid) - cpu,
            beside_cpu=(cpu_seconds(serving.beside) if serving.beside else 0.0) - beside,
            expected=workload.deliveries,
            deliveries=_sum(received, "deliveries"),
            duplicates=_sum(received, "duplicates"),
            failed=published["failed"],
            first_failure=published["first_failure"],
            duration=(max(one["last_delivery_ns"] for one in received) - published["first_sent_ns"]) / 1e9,
            latency_us=merged([one["latency_us"] for one in received]),
            answer_us=merged([published["answer_us"]]),
            reads=_sum(received, "reads"),
            received_bytes=_sum(received, "bytes"),
            closed=_closed(received),
            connecting=connecting,
            connecting_cpu=cpu - cpu_at_start,
            waited=core_wait_seconds(serving.pid) - waited,
            stolen=Ticks.now().stolen_share_since(ticks),
        )


def _receiver_arguments(
    serving: Serving, workload: Workload, targets: Path, count: int, *, polling: bool
) -> Iterator[list[str | Path]]:
    """The connections shared out among `count` receivers."""
    first = 0
    for index in range(count):
        connections = workload.connections // count + (index < workload.connections % count)
        arguments: list[str | Path] = [
            "--targets", targets, "--first", str(first), "--connections", str(connections),
            "--messages", str(workload.messages), "--expect", str(connections * workload.messages),
            "--in-flight", str(max(1, workload.in_flight // count)), "--quiet-ms", str(workload.quiet_ms),
        ]  # fmt: skip
        for hello in serving.hellos:
            arguments += ["--hello", hello]
        if serving.ready:
            arguments += ["--ready", serving.ready]
        if polling:
            arguments.append("--polling")
        yield arguments
        first += connections


def merged(histograms: Sequence[Sequence[tuple[int, int]]]) -> Histogram:
    """Histograms of several generators as one."""
    total: dict[int, int] = {}
    for histogram in histograms:
        for upper, count in histogram:
            total[upper] = total.get(upper, 0) + count
    return total


def percentile(histogram: Histogram, share: float) -> float:
    """The latency in milliseconds that `share` (0 to 1) of all stayed within; NaN when there were none."""
    left = share * sum(histogram.values())
    for upper in sorted(histogram):
        left -= histogram[upper]
        if left <= 0:
            return upper / 1000
    return float("nan")


def _sum(received: Sequence[Mapping[str, Any]], member: str) -> int:
    return sum(one[member] for one in received)


def _closed(received: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    codes: dict[str, int] = {}
    for one in received:
        for code, count in one["close_codes"].items():
            codes[code] = codes.get(code, 0) + count
    return codes
