"""What the edge refuses, how it says so, and that nothing of it is stored."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.api import Edge, person, service

GOOD: dict[str, Any] = {"title": "Hello", "message": "There is news.", "user_id": "ada"}
JSON = {"Content-Type": "application/json"}


def text(**changed: Any) -> bytes:
    return json.dumps(GOOD | changed).encode()


async def post(edge: Edge, content: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    client = edge.client(service())
    return await client.post("/api/v1/notifications", content=content, headers=headers or JSON)


async def refused(edge: Edge, answer: httpx.Response, status: int, error: str) -> dict[str, Any]:
    """The problem, once it is certain that it is one and that nothing was stored."""
    assert (answer.status_code, answer.json().get("error")) == (status, error), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert told["status"] == status
    assert told["instance"] == f"urn:uuid:{answer.headers['x-request-id']}"
    assert await edge.rows("SELECT FROM notifications") == []
    assert await edge.rows("SELECT FROM stream_events") == []
    assert await edge.rows("SELECT FROM idempotency_keys") == []
    return told


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"title": NaN}',
        b'{"title": "a", "title": "b"}',
        b'{"title": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"metadata":' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}",
        b'{"metadata":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        rb'{"title": "\ud800", "message": "b", "user_id": "ada"}',
        rb'{"metadata": {"\udfff": 1}}',
    ],
    ids=lambda content: repr(content[:24]),
)
async def test_a_body_that_is_no_proper_json_object_is_a_bad_request(edge: Edge, content: bytes) -> None:
    await refused(edge, await post(edge, content), 400, "bad_request")


@pytest.mark.parametrize(
    "media_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/xml"]
)
async def test_a_body_is_json_by_its_media_type(edge: Edge, media_type: str | None) -> None:
    headers = {"Content-Type": media_type} if media_type else {"Content-Type": ""}

    await refused(edge, await post(edge, text(), headers), 415, "unsupported_media_type")


async def test_a_charset_beside_the_media_type_is_no_harm(edge: Edge) -> None:
    served = await post(edge, text(), {"Content-Type": "Application/JSON; charset=utf-8"})

    assert served.status_code == 201


async def test_a_body_over_the_limit_is_refused_by_its_declared_length(edge: Edge) -> None:
    told = await refused(edge, await post(edge, text(message="x" * 256 * 1024)), 413, "payload_too_large")

    assert "256 KiB" in told["detail"]


async def test_a_body_over_the_limit_is_refused_while_it_is_read(edge: Edge) -> None:
    sent = 0

    async def much() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 1
            yield b" " * 64 * 1024

    answer = await edge.client(service()).post("/api/v1/notifications", content=much(), headers=JSON)

    await refused(edge, answer, 413, "payload_too_large")
    assert sent <= 6


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"title": ""}, "title"),
        ({"title": "  "}, "title"),
        ({"title": "x" * 256}, "title"),
        ({"title": 5}, "title"),
        ({"title": None}, "title"),
        ({"title": "a\0b"}, "title"),
        ({"message": "x" * 8001}, "message"),
        ({"message": ["x"]}, "message"),
        ({"notification_type": "no spaces"}, "notification_type"),
        ({"priority": "highest"}, "priority"),
        ({"channels": []}, "channels"),
        ({"channels": ["pigeon"]}, "channels.0"),
        ({"channels": ["push", "push"]}, "channels"),
        ({"channels": "push"}, "channels"),
        ({"metadata": {str(number): 1 for number in range(21)}}, "metadata"),
        ({"metadata": [1]}, "metadata"),
        ({"metadata": {"a": "b\0"}}, "metadata.a"),
        ({"metadata": {"a": "x" * 16_384}}, ""),
        ({"action_url": "javascript:alert(1)"}, "action_url"),
        ({"action_url": "//evil.example/"}, "action_url"),
        ({"action_url": "/\\evil.example/"}, "action_url"),
        ({"action_url": "https://evil.example/"}, "action_url"),
        ({"action_url": "http://localhost/"}, "action_url"),
        ({"action_url": ""}, "action_url"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2099-01-01"}, "expires_at"),
        ({"expires_at": "2099-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": 4070908800}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-23:00"}, "expires_at"),
        ({"expires_at": "2099-02-30T00:00:00Z"}, "expires_at"),
        ({"scheduled_for": "2099-01-01T00:00:00Z"}, "scheduled_for"),
        ({"collapse_key": ""}, "collapse_key"),
        ({"group_key": "x" * 256}, "group_key"),
        ({"user_id": "x" * 256}, "user_id"),
        ({"user_id": " ada"}, "user_id"),
        ({"user_id": "a\u202eb"}, "user_id"),
        ({"recipients": []}, "recipients"),
        ({"recipients": [{"user_id": "ada", "role": "admin"}]}, "recipients.0.role"),
        ({"recipients": ["ada", 5]}, "recipients.1"),
        ({"recipients": [f"u{number}" for number in range(1001)]}, "recipients"),
        ({"topic": "no spaces"}, "topic"),
        ({"topic": "/news"}, "topic"),
        ({"broadcast_to_tenant": "true"}, "broadcast_to_tenant"),
        ({"send_at": "2099-01-01T00:00:00Z"}, "send_at"),
    ],
    ids=lambda value: json.dumps(value)[:48] if isinstance(value, dict) else "",
)
async def test_a_faulty_member_is_named_by_its_path(edge: Edge, changed: dict[str, Any], path: str) -> None:
    told = await refused(edge, await post(edge, text(**changed)), 422, "invalid")

    assert path in [fault["path"] for fault in told["details"]]


async def test_all_faults_are_told_at_once_and_none_quotes_what_was_sent(edge: Edge) -> None:
    answer = await post(
        edge, text(title=4_711_471_147, priority="loud-4711", secret="s-4711", user_id="\n4711")
    )

    told = await refused(edge, answer, 422, "invalid")
    assert [fault["path"] for fault in told["details"]] == ["title", "priority", "user_id", "secret"]
    assert "4711" not in answer.text


async def test_two_audiences_are_one_too_many(edge: Edge) -> None:
    told = await refused(edge, await post(edge, text(topic="news")), 422, "invalid")

    assert "user_id and topic" in told["detail"]


async def test_a_broadcast_for_nobody_is_refused_with_the_ways_to_say_for_whom(edge: Edge) -> None:
    body = {"title": "Hello", "message": "There is news."}
    answer = await edge.client(service()).post("/internal/broadcast", json=body)

    told = await refused(edge, answer, 422, "invalid")
    assert "user_id, user_ids, topic, or broadcast_to_tenant" in told["detail"]


@pytest.mark.parametrize("key", ["", "x" * 256, "with\ttab", "two words", "ключ"])
async def test_an_idempotency_key_is_visible_ascii(edge: Edge, key: str) -> None:
    headers = {b"Content-Type": b"application/json", b"Idempotency-Key": key.encode()}
    answer = await edge.client(service()).post("/api/v1/notifications", content=text(), headers=headers)

    await refused(edge, answer, 422, "invalid")


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=ten", "limit"),
        ("limit=1_0", "limit"),
        ("limit=10&limit=20", "limit"),
        ("offset=5", "offset"),
        ("cursor=x", "cursor"),
        ("cursor=!", "cursor"),
        ("state=lost", "state"),
        ("type=no%20spaces", "type.0"),
        ("min_priority=5", "min_priority"),
        ("stream=user:bob", "stream.0"),
    ],
)
async def test_a_faulty_parameter_is_named(edge: Edge, query: str, path: str) -> None:
    answer = await edge.client(person()).get(f"/api/v1/notifications?{query}")

    told = await refused(edge, answer, 422, "invalid")
    assert [fault["path"] for fault in told["details"]] == [path]


@pytest.mark.parametrize(
    "path", ["/api/v1/notifications/7", "/api/v2/notifications", "/docs/../x", "/api/v1/", "//"]
)
async def test_a_path_that_is_not_there_is_not_found(edge: Edge, path: str) -> None:
    answer = await edge.client(person()).get(path)

    await refused(edge, answer, 404, "not_found")


async def test_an_origin_on_the_list_is_told_so_and_no_other(edge: Edge) -> None:
    served = edge.with_settings(cors_origins=frozenset({"https://app.example"})).client()
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}

    allowed = await served.options(
        "/api/v1/notifications", headers={"Origin": "https://app.example", **preflight}
    )
    others = [
        await served.options("/api/v1/notifications", headers={"Origin": origin, **preflight})
        for origin in ("https://app.example.evil.example", "null", "http://app.example")
    ]

    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    for answer in [allowed, *others]:
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["vary"] == "Origin"
    assert all("access-control-allow-origin" not in answer.headers for answer in others)


async def test_a_refusal_is_readable_for_an_origin_on_the_list(edge: Edge) -> None:
    served = edge.with_settings(cors_origins=frozenset({"https://app.example"})).client()

    answer = await served.get("/api/v1/notifications", headers={"Origin": "https://app.example"})

    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "retry-after" in answer.headers["access-control-expose-headers"].lower()


async def test_a_host_that_is_not_ours_is_refused_except_by_whoever_watches(edge: Edge) -> None:
    served = edge.with_settings(trusted_hosts=frozenset({"carillon.test"})).client()

    assert (await served.get("/ws/status", headers={"Host": "carillon.test:8003"})).status_code == 200
    assert (await served.get("/ws/status", headers={"Host": "rebound.example"})).status_code == 400
    assert (await served.get("/livez", headers={"Host": "10.0.0.7:8003"})).status_code == 200


async def test_two_ways_of_saying_who_one_is_are_one_too_many(edge: Edge) -> None:
    answer = await edge.client(person()).get("/api/v1/notifications", headers={"X-API-Key": "ck_1"})

    assert answer.status_code == 401


async def test_an_unexpected_error_tells_the_caller_nothing_and_the_log_its_place_once(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = str(uuid4())  # not in any line of source, which a traceback shows

    async def broken(*_: Any) -> None:
        raise RuntimeError(f"token={canary}") from ValueError(canary)

    monkeypatch.setattr(edge.services.inbox, "topics", broken)
    answer = await edge.client(person()).get("/api/v1/topics")

    assert (answer.status_code, answer.json()["error"]) == (500, "internal")
    logged = capsys.readouterr().out
    assert logged.count("request_failed") == 1
    assert answer.headers["x-request-id"] in logged
    assert "RuntimeError from builtins.ValueError" in logged
    assert canary not in logged + answer.text
