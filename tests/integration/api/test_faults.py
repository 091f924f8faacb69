"""What callers and watchers are told when a part is away, and when an answer breaks off."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from uuid import uuid4

import pytest

from app.api.application import BrokenOff
from app.api.application import Edge as Layer
from app.api.checks import Check, Health
from core.clock import SystemClock
from hub.limits import Rate
from tests.api import Edge, person, service


async def test_a_database_that_is_away_is_said_with_the_time_to_come_back(edge: Edge) -> None:
    await edge.database.close()

    for answer in (
        await edge.client(person()).get("/api/v1/notifications"),
        await edge.client(service()).post(
            "/internal/broadcast", json={"title": "a", "message": "b", "user_id": "ada"}
        ),
        await edge.client("ck_0123456789abcdef_" + "x" * 43).get("/api/v1/notifications"),
    ):
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1


async def test_health_is_unavailable_without_the_database_and_the_process_still_lives(edge: Edge) -> None:
    await edge.database.close()

    told = await edge.client().get("/health")

    assert (told.status_code, told.json()["status"]) == (503, "unavailable")
    assert told.json()["checks"]["database"] == "unavailable"
    assert (await edge.client().get("/livez")).status_code == 200


async def test_health_is_degraded_without_what_only_makes_things_fast(edge: Edge) -> None:
    async def no_beat() -> str:
        return "no_beat"

    async def broken() -> str:
        raise RuntimeError("a word that nobody should read")

    health = Health([Check("broker", False, no_beat), Check("epoch", False, broken)], SystemClock())
    told = await edge.with_services(health=health).client().get("/health")

    assert (told.status_code, told.json()["status"]) == (200, "degraded")
    assert told.json()["checks"] == {"broker": "no_beat", "epoch": "failed"}


async def test_many_who_ask_at_once_ask_the_database_once(edge: Edge) -> None:
    asked = 0

    async def count() -> None:
        nonlocal asked
        asked += 1

    served = edge.with_services(health=Health([Check("database", True, count)], SystemClock())).client()
    for _ in range(5):
        await served.get("/health")

    assert asked == 1


async def test_an_answer_that_breaks_off_is_logged_by_its_place_and_ends_the_connection(
    edge: Edge, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = str(uuid4())

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError(canary)

    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with pytest.raises(BrokenOff) as raised:
        await Layer(broken, edge.services)(scope, receive, send)

    assert [message["type"] for message in sent] == ["http.response.start"]
    assert raised.value.__suppress_context__
    logged = capsys.readouterr().out
    assert logged.count("request_failed") == 1
    assert canary not in logged


async def test_a_head_is_the_headers_of_its_get(edge: Edge) -> None:
    client = edge.client(person())
    got = await client.get("/api/v1/notifications")
    head = await client.head("/api/v1/notifications")

    assert head.status_code == 200
    assert head.headers["content-length"] == got.headers["content-length"]
    assert (await client.head("/api/v1/events")).status_code == 405  # of a stream there is none


async def test_a_person_who_asks_too_much_is_told_when_to_come_back_and_others_are_served(edge: Edge) -> None:
    served = edge.with_settings(request_rate=Rate(0.001, burst=3))
    ada = served.client(person("ada"))

    answers = [await ada.get("/api/v1/topics") for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].json()["error"] == "rate_limited"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 1000
    assert (await served.client(person("bob")).get("/api/v1/topics")).status_code == 200
    by_service = [await served.client(service()).get("/api/v1/topics") for _ in range(5)]
    assert {answer.status_code for answer in by_service} == {200}
