"""One web process: sockets, uvicorn with our protocol classes, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable, Generator, Sequence

import structlog
import uvicorn
from starlette.types import ASGIApp

from app.http_protocol import http_protocol
from app.settings import Settings
from hub.transport import websocket_protocol

log = structlog.stdlib.get_logger("app.server")

BACKLOG = 4096


class Server(uvicorn.Server):
    """uvicorn, except that signals are not its business: it would cut every socket at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    def refuse_newcomers(self) -> None:
        """Stop accepting; what is open stays."""
        for server in self.servers:
            server.close()


def bind(host: str, port: int, *, send_buffer_bytes: int, shared: bool = False) -> socket.socket:
    """
    A listening address. shared: several processes may bind it, the kernel spreads newcomers over them.

    send_buffer_bytes: what the kernel may hold for each connection that does not read; without it, megabytes.

    Raises OSError when the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes
        )  # its connections inherit it
        listener.bind((host, port))
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def server(application: ASGIApp, settings: Settings) -> Server:
    """A server for one listener."""
    config = uvicorn.Config(
        application,
        loop="none",
        http=http_protocol(settings.http),
        ws=websocket_protocol(settings.wire),
        lifespan="off",
        log_config=None,
        access_log=False,  # a line per request costs more than the request; metrics count them
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=settings.process.forwarded_from,
        backlog=BACKLOG,
        timeout_graceful_shutdown=round(settings.process.shutdown.total_seconds()),
    )
    return Server(config)


async def run(
    servers: Sequence[tuple[Server, socket.socket]],
    *,
    on_ready: Callable[[], None],
    drain: Callable[[], Awaitable[None]],
) -> None:
    """
    Serve until SIGTERM or SIGINT, then drain, then stop. A second signal stops at once.

    on_ready: called when connections are accepted. drain: sends the clients elsewhere.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def on_signal() -> None:
        if stop.is_set():
            for one, _ in servers:
                one.should_exit = one.force_exit = True
        stop.set()

    for number in signals:
        loop.add_signal_handler(number, on_signal)
    tasks = [asyncio.create_task(one.serve(sockets=[listener])) for one, listener in servers]
    try:
        while not all(one.started for one, _ in servers) and not any(task.done() for task in tasks):
            await asyncio.sleep(0.01)
        if not any(task.done() for task in tasks):
            on_ready()
            await asyncio.wait(
                [asyncio.create_task(stop.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED
            )
            log.info("draining")
            for one, _ in servers:
                one.refuse_newcomers()
            draining = asyncio.ensure_future(drain())
            while not draining.done() and not any(one.force_exit for one, _ in servers):
                await asyncio.wait([draining], timeout=0.1)
            draining.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await draining
    finally:
        for one, _ in servers:
            one.should_exit = True
        await asyncio.gather(*tasks)
        for number in signals:
            loop.remove_signal_handler(number)
