"""
An echo server for the cases, on a free port that it prints: our class, the library's, or a broken one.

    python tests/conformance/autobahn/echo_server.py ours | library | broken
"""

import asyncio
import base64
import hashlib
import logging
import socket
import sys
from typing import Any

import uvicorn

from hub.transport import WireSettings, websocket_protocol

# The cases send up to 16 MiB, and text of one byte per frame.
GENEROUS = WireSettings(max_message_bytes=16 * 1024 * 1024, max_fragments=100_000)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        try:
            await send({**event, "type": "websocket.send"})
        except OSError:
            return  # the case has hung up


async def echo_anything(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The negative control: no UTF-8, no reserved bit, no control frame, no fragment is ever looked at."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().partition(b": ")[::2] for line in head.split(b"\r\n"))
        start = head.lower().index(fields[b"sec-websocket-key"])
        key = head[start : start + 24]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        while True:
            first, size = await reader.readexactly(2)
            size &= 127
            length = {126: 2, 127: 8}.get(size, 0)
            if length:
                size = int.from_bytes(await reader.readexactly(length), "big")
            mask = await reader.readexactly(4)
            payload = bytes(c ^ mask[i % 4] for i, c in enumerate(await reader.readexactly(size)))
            opcode = first & 15
            extended = size.to_bytes(length, "big") if length else b""
            short = {2: 126, 8: 127}.get(length, size)
            writer.write(bytes([0x80 | (10 if opcode == 9 else opcode), short]) + extended + payload)
            if opcode == 8:
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the case has hung up
    writer.close()


async def serve_broken(listener: socket.socket) -> None:
    async with await asyncio.start_server(echo_anything, sock=listener) as server:
        await server.serve_forever()


def main(kind: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    logging.disable()  # the library logs a traceback for each text that is not UTF-8
    if kind == "broken":
        asyncio.run(serve_broken(listener))
    else:
        ws = websocket_protocol(GENEROUS) if kind == "ours" else "websockets-sansio"
        config = uvicorn.Config(
            echo,
            ws=ws,  # type: ignore[arg-type]  # uvicorn's Literal names its own; any string is one to it
            loop="uvloop",
            lifespan="off",
            log_config=None,
            ws_per_message_deflate=False,
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])
