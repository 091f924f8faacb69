"""
What everybody writes first: Starlette, a list of connections, one awaited send per recipient.

No token, no channel, no storage, no limit. The connection manager is the one of FastAPI's chapter on WebSockets.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from benchmarks.machine import Cores
from benchmarks.peer import Serving, free_port, post, python, server
from benchmarks.workload import Workload, compact

connections: list[WebSocket] = []


async def listen(websocket: WebSocket) -> None:
    """One client, until it leaves."""
    await websocket.accept()
    connections.append(websocket)
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        connections.remove(websocket)


async def publish(request: Request) -> Response:
    """The body to everybody, one after the other."""
    message = (await request.body()).decode()
    for connection in connections.copy():
        await connection.send_text(message)
    return Response(status_code=204)


app = Starlette(routes=[WebSocketRoute("/ws", listen), Route("/publish", publish, methods=["POST"])])


class NaiveStarlette:
    """The application above on uvicorn (uvloop, httptools) with one of its WebSocket implementations."""

    workloads: Sequence[str] = ("w1",)
    is_ours = False

    def __init__(self, ws: str) -> None:
        self.name = f"starlette-{ws.removeprefix('websockets-')}"
        self._ws = ws

    def missing(self) -> str | None:
        return None

    @contextmanager
    def serve(self, workload: Workload, cores: Cores, folder: Path) -> Iterator[Serving]:
        port = free_port()
        command = python(
            "-m", "uvicorn", f"{__name__}:app", "--port", str(port), "--ws", self._ws,
            "--loop", "uvloop", "--http", "httptools", "--log-level", "warning",
        )  # fmt: skip
        with server(command, core=cores.server, port=port, folder=folder) as process:
            yield Serving(
                port=port,
                pid=process.pid,
                targets=["/ws"],
                requests=[post("/publish", compact(workload.payload()))],
            )
