"""
The AIVO document's examples of the hub as they stand in it, against the service on its port: the WebSocket
script in a real browser, its messages, the curl command and the integrations.

What is put in is what the document leaves open (`your-jwt-token`), left out (a service's token, and in the IEP
example the `user_id`) or names (its hosts, which are this machine here; another port where 8003 is taken).
"""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.acceptance.browsers import chromium
from tests.client import Client
from tests.machine import program
from tests.process import ROOMY, SECRET, Node, StartRefused, service, token

SCRIPT = """
const token = "your-jwt-token";
const ws = new WebSocket(`ws://localhost:8003/ws/notify?token=${token}`);

ws.onopen = () => {
  console.log("Connected to notification service");

  // Send ping to keep connection alive
  ws.send(
    JSON.stringify({
      type: "ping",
      timestamp: new Date().toISOString(),
    }),
  );
};

ws.onmessage = (event) => {
  const data = JSON.parse(event.data);

  if (data.type === "notification") {
    // Handle new notification
    displayNotification(data.data);
  } else if (data.type === "pong") {
    // Handle ping response
    console.log("Ping response received");
  }
};
"""

CURL = """
curl -X POST "http://localhost:8003/api/v1/notifications" \\
  -H "Authorization: Bearer your-jwt-token" \\
  -H "Content-Type: application/json" \\
  -d '{
    "title": "IEP Document Updated",
    "message": "The IEP document for John Doe requires your review.",
    "notification_type": "iep_update",
    "priority": "high",
    "channels": ["websocket", "push", "in_app"],
    "action_url": "/iep/12345/review",
    "metadata": {
      "iep_id": "12345",
      "student_name": "John Doe"
    }
  }'
"""


IEP = """
# Send IEP update notification
async def notify_iep_update(iep_id: str, student_name: str, user_id: str):
    notification_data = {
        "title": f"IEP Updated: {student_name}",
        "message": f"The IEP document for {student_name} has been updated and requires your review.",
        "notification_type": "iep_update",
        "priority": "high",
        "channels": ["websocket", "push", "in_app"],
        "action_url": f"/iep/{iep_id}/review",
        "metadata": {
            "iep_id": iep_id,
            "student_name": student_name
        }
    }

    # Send via notification service API
    async with httpx.AsyncClient() as client:
        response = await client.post(
            "http://notification-svc:8003/internal/broadcast",
            json=notification_data
        )
"""

ASSESSMENT = """
# Broadcast assessment completion
async def notify_assessment_complete(assessment_id: str, tenant_id: str):
    broadcast_data = {
        "title": "Assessment Complete",
        "message": "A new assessment has been completed and is ready for review.",
        "notification_type": "assessment_complete",
        "tenant_id": tenant_id,
        "broadcast_to_tenant": True,
        "metadata": {
            "assessment_id": assessment_id
        }
    }

    # Broadcast to entire tenant
    async with httpx.AsyncClient() as client:
        response = await client.post(
            "http://notification-svc:8003/internal/broadcast",
            json=broadcast_data
        )
"""


PORT = 8003


@asynccontextmanager
async def serving(database: str) -> AsyncIterator[Node]:
    """On the document's port, or on a free one where somebody else has it."""

    def on(port: int) -> Node:
        settings = {"DATABASE_URL": database, "JWT_SECRET_KEY": SECRET, **ROOMY}
        return Node(settings=settings, entry=("-m", "app", "serve", "--port", str(port)))

    async with AsyncExitStack() as stack:
        try:
            node = await stack.enter_async_context(on(PORT))
        except StartRefused as refused:
            if "in use" not in refused.log:
                raise
            node = await stack.enter_async_context(on(0))
        yield node


@pytest.fixture
async def hub(database, monkeypatch):
    async with serving(database) as node:
        resolve = socket.getaddrinfo

        def here(host: Any, *more: Any, **named: Any) -> Any:
            return resolve(
                "127.0.0.1" if host in ("notification-svc", b"notification-svc") else host, *more, **named
            )

        monkeypatch.setattr(socket, "getaddrinfo", here)
        monkeypatch.setenv("NO_PROXY", "notification-svc")
        yield node
        assert node.faults() == []


def filled_in(example: str, node: Node, shown: str = "") -> str:
    """The example with a token, and another port where there must be one."""
    return example.replace("your-jwt-token", shown).replace(f":{PORT}/", f":{node.port}/")


def integration(example: str, node: Node, *, added: str = "") -> Any:
    """The function of an example, with a service's token and what else was left out of its data."""
    source = filled_in(example, node)
    source = source.replace("httpx.AsyncClient()", "httpx.AsyncClient(headers=SERVICE, timeout=30)")
    source = source.replace('        "metadata": {', f'        {added}"metadata": {{')
    names: dict[str, Any] = {"httpx": httpx, "SERVICE": {"Authorization": f"Bearer {service()}"}}
    exec(source + "    return response.status_code", names)
    return next(value for name, value in names.items() if name.startswith("notify_"))


async def test_the_websocket_script_shows_what_the_curl_command_sends(hub: Node):
    program("curl")
    async with chromium() as browser:
        page = await (await browser.new_context(bypass_csp=True)).new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        ponged = page.expect_console_message(lambda message: message.text == "Ping response received")
        await page.goto(f"http://localhost:{hub.port}/livez")
        shown: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        await page.expose_function("displayNotification", shown.put_nowait)

        async with ponged:
            await page.add_script_tag(content=filled_in(SCRIPT, hub, token("teacher-7")))
        command = shlex.split(filled_in(CURL, hub, token("teacher-7")).replace("\\\n", ""))
        curl = await asyncio.create_subprocess_exec(*command, "-sS", stdout=asyncio.subprocess.PIPE)
        printed, _ = await curl.communicate()
        async with asyncio.timeout(60):
            first = await shown.get()
        notify_iep_update = integration(IEP, hub, added='"user_id": user_id, ')
        notify_assessment_complete = integration(ASSESSMENT, hub)
        assert await notify_iep_update("12345", "John Doe", "teacher-7") == 201
        assert await notify_assessment_complete("a-1", "default") == 201
        async with asyncio.timeout(60):
            others = {one["title"]: one for one in (await shown.get(), await shown.get())}

    assert "Connected to notification service" in said
    assert first == json.loads(printed)
    assert {
        name: first[name] for name in ("title", "message", "notification_type", "action_url", "priority")
    } == {
        "title": "IEP Document Updated",
        "message": "The IEP document for John Doe requires your review.",
        "notification_type": "iep_update",
        "action_url": "/iep/12345/review",
        "priority": "high",
    }
    assert first["metadata"] == {"iep_id": "12345", "student_name": "John Doe"}
    assert set(others) == {"IEP Updated: John Doe", "Assessment Complete"}
    assert others["Assessment Complete"]["metadata"] == {"assessment_id": "a-1"}


async def test_the_messages_of_the_document_are_understood_and_answered_as_it_says(hub: Node):
    async with await Client("teacher-7").connect(hub, by="token") as teacher:
        await teacher.socket.send('{"type": "ping", "timestamp": "2025-01-15T14:30:00Z"}')
        assert await teacher.heard("pong") == {"type": "pong", "timestamp": "2025-01-15T14:30:00Z"}

        await teacher.socket.send('{"type": "subscribe_channel", "channel": "iep_updates"}')
        assert (await teacher.heard("subscribed"))["channel"] == "iep_updates"

        await hub.broadcast("New Notification", topic="iep_updates", notification_type="system")
        shown = await teacher.heard("notification")
        assert {"type", "data", "timestamp"} <= shown.keys()
        assert {"id", "title", "message", "notification_type", "action_url"} <= shown["data"].keys()

        created = (await hub.notify("New Notification", user_id="teacher-7")).json()
        await teacher.until(lambda: len(teacher.titles()) == 2)
        await teacher.socket.send(json.dumps({"type": "mark_read", "notification_id": created["id"]}))
        assert (await teacher.heard("read"))["notification_id"] == created["id"]


async def test_the_addresses_of_the_document_answer(hub: Node):
    assert (await hub.ask("GET", "/docs")).headers["content-type"].startswith("text/html")
    assert (await hub.ask("GET", "/health")).json()["status"] == "ok"
    assert (await hub.ask("GET", "/ws/status")).json()["status"] == "ok"
    metrics = (await hub.ask("GET", "/metrics", as_=token("an-admin", roles=["admin"]))).text
    assert "notifications_delivered_total" in metrics
    assert "websocket_connections_active" in metrics
