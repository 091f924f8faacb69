"""The limit of one core: sender.c, which does nothing but fan out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load import compiler, program
from benchmarks.machine import Cores
from benchmarks.peer import Serving, free_port, post, server
from benchmarks.workload import Workload, compact


class CLimit:
    """One write per socket and turn of the loop ("c-batch"), or per socket and message ("c-send")."""

    workloads: Sequence[str] = ("w1",)
    is_ours = False

    def __init__(self, name: str, *, each: bool = False) -> None:
        self.name = name
        self._arguments = ("--each",) if each else ()

    def missing(self) -> str | None:
        return None if compiler() else "no C compiler"

    @contextmanager
    def serve(self, workload: Workload, cores: Cores, folder: Path) -> Iterator[Serving]:
        port = free_port()
        command = [program("sender"), "--port", str(port), *self._arguments]
        with server(command, core=cores.server, port=port, folder=folder) as process:
            yield Serving(
                port=port,
                pid=process.pid,
                targets=["/"],
                requests=[post("/publish", compact(workload.payload()))],
            )
