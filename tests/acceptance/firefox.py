"""A real Firefox, driven by WebDriver BiDi, which it speaks itself (w3c.github.io/webdriver-bidi)."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.machine import program
from tests.servers import free_port

#: A profile that talks to nobody but the test. Automation would switch push off, so its own preferences stay away.
_PREFERENCES: dict[str, Any] = {
    "remote.prefs.recommended": False,
    "alerts.useSystemBackend": False,
    "app.normandy.enabled": False,
    "app.update.enabled": False,
    "browser.aboutwelcome.enabled": False,
    "browser.safebrowsing.downloads.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "datareporting.healthreport.uploadEnabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "dom.push.connection.enabled": True,
    "dom.push.enabled": True,
    "dom.push.testing.allowInsecureServerURL": True,
    "dom.push.testing.ignorePermission": True,
    "dom.webnotifications.disable_open_click_delay": 60_000,  # ms in which who was clicked may come to the front
    "extensions.getAddons.cache.enabled": False,
    "extensions.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.manage-offline-status": False,
    "permissions.default.desktop-notification": 1,
    "services.settings.server": "data:,#remote-settings-dummy/v1",
    "toolkit.telemetry.enabled": False,
}


class Failed(Exception):
    """A script threw, or the browser refused a command."""


class Firefox:
    """One window. `page` runs scripts in it, `chrome` in the browser's own rooms, where notifications hang."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read())
        self._window = ""
        self._chrome = ""

    async def begin(self) -> None:
        await self.call("session.new", capabilities={})
        self._window = (await self.windows())[0]["context"]
        chrome = await self.call("browsingContext.getTree", **{"moz:scope": "chrome"})
        self._chrome = chrome["contexts"][0]["context"]

    async def windows(self) -> list[dict[str, Any]]:
        """The tabs: each its `context` and `url`."""
        tree = await self.call("browsingContext.getTree")
        found: list[dict[str, Any]] = tree["contexts"]
        return found

    async def go(self, url: str) -> None:
        await self.call("browsingContext.navigate", context=self._window, url=url, wait="complete")

    async def reload(self) -> None:
        await self.call("browsingContext.reload", context=self._window, wait="complete")

    async def open_tab(self, url: str) -> str:
        """Another one, in front of those that are there; its context. The one before is where scripts go on to run."""
        made = await self.call("browsingContext.create", type="tab", background=False)
        await self.call("browsingContext.navigate", context=made["context"], url=url, wait="complete")
        return str(made["context"])

    async def close_tabs(self) -> None:
        """All but the first."""
        for one in await self.windows():
            if one["context"] != self._window:
                await self.call("browsingContext.close", context=one["context"])

    async def click(self, element: str) -> None:
        """A real click in the middle of what the expression comes to, once it is there and can be clicked."""
        where = f"""(() => {{
            const one = {element};
            one?.scrollIntoView({{ block: "center" }});
            const {{ x, y, width, height }} = one?.getBoundingClientRect() ?? {{}};
            return width && !one.disabled ? [x + width / 2, y + height / 2] : null;
        }})()"""
        x, y = await self.see(where)
        move = {"type": "pointerMove", "x": round(x), "y": round(y)}
        press = [{"type": f"pointer{what}", "button": 0} for what in ("Down", "Up")]
        await self._perform({"type": "pointer", "id": "mouse", "actions": [move, *press]})

    async def press(self, *keys: str) -> None:
        """Keys by what they type, or by their code in WebDriver (section 17.4.2)."""
        actions = [{"type": f"key{what}", "value": key} for key in keys for what in ("Down", "Up")]
        await self._perform({"type": "key", "id": "keyboard", "actions": actions})

    async def _perform(self, device: dict[str, Any]) -> None:
        await self.call("input.performActions", context=self._window, actions=[device])

    async def page(self, script: str) -> Any:
        """What the expression comes to, as JSON; a promise is awaited; it counts as a person's click."""
        return await self._run(script, {"context": self._window}, userActivation=True)

    async def load(self, script: str) -> None:
        """Run statements in the page, whatever its policy."""
        target = {"context": self._window}
        result = await self.call("script.evaluate", expression=script, target=target, awaitPromise=False)
        if result["type"] == "exception":
            raise Failed(result["exceptionDetails"]["text"])

    async def chrome(self, script: str) -> Any:
        return await self._run(script, {"context": self._chrome})

    async def see(self, condition: str, seconds: float = 60) -> Any:
        """Until the expression is true in the page; what it came to."""
        found = f"""new Promise((resolve) => {{
            const look = async () => {{
                const found = await ({condition});
                if (found) resolve(found); else setTimeout(look, 20);
            }};
            look();
        }})"""
        async with asyncio.timeout(seconds):
            return await self.page(found)

    async def _run(self, script: str, target: dict[str, Any], **options: Any) -> Any:
        expression = f"(async () => JSON.stringify((await ({script})) ?? null))()"
        result = await self.call(
            "script.evaluate", expression=expression, target=target, awaitPromise=True, **options
        )
        if result["type"] == "exception":
            raise Failed(result["exceptionDetails"]["text"])
        return json.loads(result["result"]["value"])

    async def call(self, method: str, **parameters: Any) -> Any:
        number = next(self._ids)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        async with asyncio.timeout(90):
            return await reply

    async def _read(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            reply = self._replies.pop(message.get("id"), None)
            if reply is None or reply.done():
                continue
            if message["type"] == "error":
                reply.set_exception(Failed(f"{message['error']}: {message['message']}"))
            else:
                reply.set_result(message["result"])

    async def end(self) -> None:
        with suppress(Exception):  # it may be gone already
            await self.call("browser.close")
        self._reading.cancel()
        await self._socket.close()


@asynccontextmanager
async def firefox(profile: Path, **preferences: Any) -> AsyncIterator[Firefox]:
    """The machine's Firefox, without a window. Where there is none the test is skipped."""
    path = program("firefox-esr", "firefox")
    lines = [
        f"user_pref({json.dumps(name)}, {json.dumps(value)});\n"
        for name, value in {**_PREFERENCES, **preferences}.items()
    ]
    (profile / "user.js").write_text("".join(lines))
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        path,
        "--headless",
        "--no-remote",
        "--remote-allow-system-access",
        "--profile",
        str(profile),
        "--remote-debugging-port",
        str(port),
        env={"PATH": os.environ["PATH"], "HOME": str(profile), "MOZ_CRASHREPORTER_DISABLE": "1"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    talking: asyncio.Task[bytes] | None = None
    try:
        assert process.stderr is not None
        async with asyncio.timeout(120):
            await process.stderr.readuntil(b"BiDi listening on ")
        talking = asyncio.create_task(process.stderr.read())
        browser = Firefox(await connect(f"ws://127.0.0.1:{port}/session", max_size=None))
        await browser.begin()
        try:
            yield browser
        finally:
            await browser.end()
    finally:
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if talking is not None:
            await talking
