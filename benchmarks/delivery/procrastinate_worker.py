"""
procrastinate's asynchronous worker, whose task is the HTTP request that a delivery of ours is.

    python -m benchmarks.delivery.procrastinate_worker DSN URL CONCURRENCY PORT

PORT: listened on when it is ready; nothing is answered there.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import procrastinate
import uvloop

TASK = "send"


async def main(dsn: str, url: str, concurrency: int, port: int) -> None:
    """Until SIGTERM."""
    # A connection for each job that ends at the same time waits for nobody; the pool's own default is 4.
    connector = procrastinate.PsycopgConnector(conninfo=dsn, min_size=4, max_size=16)
    app = procrastinate.App(connector=connector)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, app.open_async():

        @app.task(name=TASK, queue="whatsapp", retry=procrastinate.RetryStrategy(max_attempts=5, wait=30))
        async def send(phone: str, message: str) -> None:
            async with http.post(url, json={"phone": phone, "message": message}) as response:
                response.raise_for_status()
                await response.read()

        await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
        # Finished jobs are deleted: with those that it keeps by default it was half as fast.
        await app.run_worker_async(
            queues=["whatsapp"], concurrency=concurrency, wait=True, delete_jobs="successful"
        )


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
