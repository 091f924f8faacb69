"""
The examples of the AIVO document that concern the REST API, as they stand in it, against a real socket.

What differs is what its document left out: the token of the caller, and in the IEP example the user.
Port and host are those of the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.api import Edge, listening, person, service, serving

NOTIFICATION_CURL = """
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


@pytest.fixture
async def edge(database: str) -> AsyncIterator[Edge]:
    async with serving(database) as served:
        yield served


@pytest.fixture
async def address(edge: Edge) -> AsyncIterator[str]:
    async with listening(edge) as bound:
        yield bound


# Send IEP update notification
async def notify_iep_update(iep_id: str, student_name: str, user_id: str, *, address: str, token: str) -> Any:
    notification_data = {
        "title": f"IEP Updated: {student_name}",
        "message": f"The IEP document for {student_name} has been updated and requires your review.",
        "notification_type": "iep_update",
        "priority": "high",
        "channels": ["websocket", "push", "in_app"],
        "action_url": f"/iep/{iep_id}/review",
        "metadata": {"iep_id": iep_id, "student_name": student_name},
        "user_id": user_id,  # which the document takes as an argument and forgets to send
    }

    # Send via notification service API
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
        return await client.post(f"{address}/internal/broadcast", json=notification_data)


# Broadcast assessment completion
async def notify_assessment_complete(assessment_id: str, tenant_id: str, *, address: str, token: str) -> Any:
    broadcast_data = {
        "title": "Assessment Complete",
        "message": "A new assessment has been completed and is ready for review.",
        "notification_type": "assessment_complete",
        "tenant_id": tenant_id,
        "broadcast_to_tenant": True,
        "metadata": {"assessment_id": assessment_id},
    }

    # Broadcast to entire tenant
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
        return await client.post(f"{address}/internal/broadcast", json=broadcast_data)


async def listed(address: str, token: str) -> Any:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
        return (await client.get(f"{address}/api/v1/notifications")).json()["notifications"]


async def test_the_curl_command_sends_a_notification_to_whoever_holds_the_token(address: str) -> None:
    command = NOTIFICATION_CURL.replace("http://localhost:8003", address).replace("your-jwt-token", person())

    shell = await asyncio.create_subprocess_shell(
        f"{command.strip()} --silent --fail", stdout=asyncio.subprocess.PIPE
    )
    made, _ = await shell.communicate()

    assert shell.returncode == 0
    [one] = await listed(address, person())
    assert one["id"].encode() in made
    assert one["title"] == "IEP Document Updated"
    assert one["priority"] == "high"
    assert one["channels"] == ["websocket", "push", "in_app"]
    assert one["action_url"] == "/iep/12345/review"
    assert one["metadata"] == {"iep_id": "12345", "student_name": "John Doe"}


async def test_the_iep_integration_reaches_the_user(address: str) -> None:
    answer = await notify_iep_update("12345", "John Doe", "teacher-7", address=address, token=service())

    assert answer.status_code == 201
    [one] = await listed(address, person("teacher-7"))
    assert (one["title"], one["notification_type"]) == ("IEP Updated: John Doe", "iep_update")
    assert await listed(address, person("teacher-8")) == []


async def test_the_assessment_integration_reaches_everybody_of_the_tenant(address: str) -> None:
    for name in ("teacher-7", "teacher-8"):
        await listed(address, person(name))  # both have been here before: the broadcast is after that

    answer = await notify_assessment_complete("a-1", "school", address=address, token=service())

    assert answer.status_code == 201
    for name in ("teacher-7", "teacher-8"):
        [one] = await listed(address, person(name))
        assert (one["title"], one["metadata"]) == ("Assessment Complete", {"assessment_id": "a-1"})
    assert await listed(address, person("nurse-1", "hospital")) == []


async def test_the_integrations_need_a_token_and_a_user(address: str) -> None:
    without_token = await notify_assessment_complete("a-1", "school", address=address, token="none")
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {service()}"}, timeout=30) as client:
        without_user = await client.post(
            f"{address}/internal/broadcast", json={"title": "IEP Updated", "message": "Please review."}
        )

    assert without_token.status_code == 401
    assert without_user.status_code == 422
    assert "user_id" in without_user.json()["detail"]


async def test_the_paths_of_the_document_are_there(address: str) -> None:
    async with httpx.AsyncClient(base_url=address, timeout=30) as client:
        assert (await client.get("/docs")).status_code == 200
        assert (await client.get("/health")).json()["status"] == "ok"
        assert (await client.get("/ws/status")).json() == {"status": "ok"}
