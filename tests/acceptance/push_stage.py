"""The hub behind the tests of Web Push with a real browser, and what is asked of it."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.postgres import TEMPLATE, PostgresServer
from tests.process import ENCRYPTION_KEYS, ROOT, SECRET, Node, admin, nodes, token
from tests.servers import free_port

#: The keys of the subscription that the browser has at a page of the hub.
KEYS = """navigator.serviceWorker.getRegistration("/carillon-push/")
    .then((one) => one.pushManager.getSubscription())
    .then((one) => one.toJSON().keys)"""

#: What a browser has stored at a hub, and its subscriptions.
FORGET = """navigator.serviceWorker.getRegistrations().then(async (all) => {
    for (const one of all) await (await one.pushManager.getSubscription())?.unsubscribe();
    localStorage.clear();
})"""

#: A page of the hub that is no page of the application.
NOBODY_LOOKS = "/static/client.js"

#: How often a page that is open may be asked in vain: it has 400 ms to answer, and a busy machine may need longer.
TIMES = 5

UNSUBSCRIBE = """navigator.serviceWorker.getRegistration("/carillon-push/")
    .then((one) => one.pushManager.getSubscription())
    .then((one) => one.unsubscribe())"""


class Hub:
    """One process with a database of its own, for several tests."""

    def __init__(self, node: Node, dsn: str) -> None:
        self.node = node
        self._dsn = dsn
        self._people = itertools.count(1)

    def somebody(self) -> str:
        """A person whom no other test knows."""
        return f"person-{next(self._people)}"

    async def rotate_key(self) -> None:
        """`carillon vapid rotate` beside it, and a restart."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app", "vapid", "rotate"),
            cwd=ROOT,
            env={
                "DATABASE_URL": self._dsn,
                "JWT_SECRET_KEY": SECRET,
                "DELIVERY_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
            },
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert await process.wait() == 0
        await self.node.stop()
        await self.node.start()


@asynccontextmanager
async def running_hub(postgres: PostgresServer, settings: Mapping[str, Any]) -> AsyncIterator[Hub]:
    serve = ("-m", "app", "serve", "--port", str(free_port()))  # the same page after a restart
    async with postgres.database(template=TEMPLATE) as dsn, nodes(dsn, entry=serve, **settings) as [node]:
        yield Hub(node, dsn)


class PushStage:
    """One person at one hub."""

    def __init__(self, hub: Hub, user_id: str) -> None:
        self.hub = hub
        self.node = hub.node
        self.user_id = user_id

    @property
    def demo(self) -> str:
        """The demo page as that person."""
        return f"{self.node.url}/?user={self.user_id}"

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON that the person is answered."""
        answer = await self.node.ask(method, path, body, as_=token(self.user_id))
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def devices(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.ask("GET", "/api/v1/push/subscriptions"))["subscriptions"]
        return found

    async def notify(self, title: str, **members: Any) -> str:
        said = {"channels": ["in_app", "push"], "priority": "urgent", **members}
        answer = await self.node.notify(title, user_id=self.user_id, **said)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def read(self, notification_id: str) -> None:
        """On some other device."""
        await self.ask("POST", f"/api/v1/notifications/{notification_id}/read")

    async def keep_private(self, notification_type: str) -> None:
        types = {"types": {notification_type: "private"}}
        answer = await self.node.ask("PUT", "/api/v1/push/privacy", types, as_=admin())
        assert answer.is_success, answer.text

    async def delivery(self, notification_id: str, state: str) -> dict[str, Any]:
        """Everything that is known of the delivery, once it is in that state."""
        path = f"/api/v1/notifications/{notification_id}/deliveries"

        async def found() -> dict[str, Any] | None:
            [one] = (await self.node.ask("GET", path, as_=admin())).json()["deliveries"]
            return dict(one) if one["state"] == state else None

        one = await self.until(found)
        answer = await self.node.ask("GET", f"/api/v1/deliveries/{one['id']}", as_=admin())
        timeline: dict[str, Any] = answer.json()
        return timeline

    async def until(self, condition: Callable[[], Awaitable[Any]]) -> Any:
        """Ask another process until it is so: there is no event to await."""
        async with asyncio.timeout(90):
            while not (found := await condition()):
                await asyncio.sleep(0.05)
            return found

    async def device_is(self, **wanted: Any) -> dict[str, Any]:
        """The person's only browser, once the hub says this of it."""

        async def found() -> dict[str, Any] | None:
            devices = await self.devices()
            is_it = len(devices) == 1 and wanted.items() <= devices[0].items()
            return devices[0] if is_it else None

        one: dict[str, Any] = await self.until(found)
        return one

    async def pruned(self) -> None:
        """The hub knows no browser of the person any more."""

        async def is_alone() -> bool:
            return await self.devices() == []

        await self.until(is_alone)


#: An application of another origin, with a worker of its own that imports ours.
PWA_PAGE = """<!doctype html><title>PWA</title><script type="module">
import { createHub } from "HUB/static/client.js";
const registration = await navigator.serviceWorker.register("/worker.js");
window.hub = createHub({ url: "HUB", getToken: () => "TOKEN", push: { worker: "/worker.js" } });
window.isReady = true;
</script>"""
PWA_WORKER = """
self.carillon = { url: "HUB" };
importScripts("HUB/sw.js");
addEventListener("fetch", (event) => {
    if (event.request.url.endsWith("/offline")) event.respondWith(new Response("from the worker"));
});
"""


class PwaServer:
    """Serves the application."""

    def __init__(self) -> None:
        self.hub = ""  # where it is
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[PwaServer]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        yield self
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        is_worker = request.path == "/worker.js"
        text, kind = (PWA_WORKER, "text/javascript") if is_worker else (PWA_PAGE, "text/html")
        content = text.replace("HUB", self.hub).replace("TOKEN", token(request.query.get("user", "nobody")))
        return web.Response(text=content, content_type=kind)
