"""Every line of the table of routes, by everybody who may and may not: made from the table itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.api.operation import Operation
from app.api.routes import everything, internal, public, watching
from core.ids import uuid7
from delivery.unsubscribe import Subscription, make_token
from tests.api import OTHER_TENANT, TENANT, Edge, admin, person, service, token

OPERATIONS = [operation for operation in everything() if operation.path != "/api/v1/events"]
PROTECTED = [operation for operation in OPERATIONS if operation.scopes is not None]
SCOPED = [operation for operation in PROTECTED if operation.scopes]
WITH_BODY = [operation for operation in OPERATIONS if operation.body is not None]
OF_A_NOTIFICATION = [operation for operation in OPERATIONS if "{notification_id" in operation.path]

#: Members that callers have no say in, wherever they try.
FORBIDDEN = (
    "tenant_id",
    "user_id",
    "role",
    "roles",
    "seq",
    "read_at",
    "id",
    "created_by",
    "status",
    "scopes",
)


def name(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def path(operation: Operation, **values: str) -> str:
    """The path with something in the place of each parameter."""
    filled = operation.path
    for part, value in {
        "{notification_id:uuid}": values.get("notification_id", str(uuid7())),
        "{topic:path}": "news",
        "{channel:path}": "news",
        "{key_id}": values.get("key_id", "0123456789abcdef"),
        "{asset}": "docs.js",
        "{token}": values.get("token", "AAAA"),
    }.items():
        filled = filled.replace(part, value)
    return re.sub(r"\{\w+:uuid\}", str(uuid7()), filled)


def body(operation: Operation) -> Any:
    return next(iter(operation.examples.values())) if operation.body is not None else None


async def call(
    client: httpx.AsyncClient, operation: Operation, changed: Mapping[str, Any] | None = None, **values: str
) -> httpx.Response:
    given = body(operation)
    if changed is not None:
        given = {**given, **changed}
    if operation.path == "/api/v1/presence":
        return await client.request(operation.method, path(operation), params={"user_id": "ada"})
    if name(operation) == "DELETE /api/v1/preferences/opt-outs":
        return await client.delete(path(operation), params={"scope": "all"})
    return await client.request(operation.method, path(operation, **values), json=given)


async def unsubscribe_token(edge: Edge) -> str:
    """Of the link in a mail that somebody got."""
    await edge.rows("INSERT INTO recipients (tenant_id, user_id) VALUES ($1, 'ada')", TENANT)
    subscription = Subscription(
        tenant_id=TENANT, user_id="ada", channel="email", notification_type="iep_update", version=1
    )
    return make_token(edge.services.delivery.vault, subscription)


def told(answer: httpx.Response) -> dict[str, Any]:
    """What a problem says, but for the name of the occurrence."""
    return {member: value for member, value in answer.json().items() if member != "instance"}


def test_every_operation_is_named_once_and_on_one_listener_or_the_other() -> None:
    names = [name(operation) for operation in everything()]

    assert len(set(names)) == len(names)
    assert sorted(names) == sorted([name(operation) for operation in [*public(), *internal()]])
    assert {operation.path for operation in internal()} == {
        "/internal/broadcast",
        "/internal/publish",
        "/metrics",
    }
    assert {operation.path for operation in watching()} == {"/health", "/livez", "/metrics"}


@pytest.mark.parametrize("operation", PROTECTED, ids=name)
async def test_nobody_enters_without_a_token_or_with_a_wrong_one(edge: Edge, operation: Operation) -> None:
    for presented in (None, "nonsense", "ck_0123456789abcdef_" + "x" * 43, token("ada") + "x"):
        refused = await call(edge.client(presented), operation)

        assert refused.status_code == 401
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["www-authenticate"].startswith('Bearer realm="carillon"')
        assert refused.json()["detail"] == "A valid token is required."


@pytest.mark.parametrize("operation", SCOPED, ids=name)
async def test_a_person_and_a_service_without_the_scope_stay_outside(
    edge: Edge, operation: Operation
) -> None:
    others = {"notifications:write", "broadcast", "publish", "deliveries:read"} - set(operation.scopes or ())
    for presented in (person(), token("svc", scopes=sorted(others))):
        refused = await call(edge.client(presented), operation)

        assert (refused.status_code, refused.json()["error"]) == (403, "forbidden")
        assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]


@pytest.mark.parametrize("operation", OPERATIONS, ids=name)
async def test_whoever_may_is_served_as_the_description_says(edge: Edge, operation: Operation) -> None:
    scheduled = operation.path.endswith("/cancel")
    when = {"scheduled_for": "2026-12-31T00:00:00Z"} if scheduled else {}
    one = await edge.submit("ada", **when)
    made = await edge.client(admin()).post("/api/v1/api-keys", json={"name": "k", "scopes": ["publish"]})
    caller = person() if operation.tag in ("inbox", "topics") or "self" in operation.summary else admin()
    if operation.path.endswith("/mute"):
        await edge.client(caller).put("/api/v1/topics/news/follow")
    if operation.path == "/api/v1/preferences/opt-outs":
        await edge.client(caller).post(operation.path, json={"scope": "all"})
    targets = {"user_id": "ada"} if name(operation) == "POST /api/v1/notifications" else None

    served = await call(
        edge.client(caller),
        operation,
        targets,
        notification_id=one,
        key_id=made.json()["id"],
        token=await unsubscribe_token(edge) if "{token}" in operation.path else "",
    )

    assert served.status_code in operation.answers, served.text
    assert served.headers["x-request-id"]
    assert served.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("operation", OF_A_NOTIFICATION, ids=name)
async def test_what_is_somebody_elses_is_answered_as_what_is_not_there(
    edge: Edge, operation: Operation
) -> None:
    one = await edge.submit("ada")
    strangers = [
        person("bob"),
        person("ada", OTHER_TENANT),
        service(OTHER_TENANT),
        admin(OTHER_TENANT),
        token("svc", scopes=["publish"]),
    ]
    for presented in strangers:
        foreign = await call(edge.client(presented), operation, notification_id=one)
        absent = await call(edge.client(presented), operation, notification_id=str(uuid4()))

        assert foreign.status_code == 404
        assert told(foreign) == told(absent)
    assert (await edge.client(person("ada")).get("/api/v1/notifications")).json()["unread_count"] == 1


async def test_an_api_key_of_another_tenant_is_not_there(edge: Edge) -> None:
    made = await edge.client(admin()).post("/api/v1/api-keys", json={"name": "k", "scopes": ["publish"]})
    other = edge.client(admin(OTHER_TENANT))

    foreign = await other.delete(f"/api/v1/api-keys/{made.json()['id']}")
    absent = await other.delete("/api/v1/api-keys/0123456789abcdef")
    formless = await other.delete("/api/v1/api-keys/x%00")

    assert (foreign.status_code, told(foreign)) == (404, told(absent))
    assert formless.status_code == 400
    assert (await other.get("/api/v1/api-keys")).json() == {"api_keys": []}


@pytest.mark.parametrize("operation", WITH_BODY, ids=name)
async def test_no_body_sets_what_is_not_its_to_set(edge: Edge, operation: Operation) -> None:
    one = await edge.submit("ada")
    before = await edge.rows("SELECT count(*) FROM stream_events")
    assert operation.body is not None
    for member in FORBIDDEN:
        if member in operation.body.model_fields:
            continue
        refused = await call(edge.client(admin()), operation, {member: "x"}, notification_id=one)

        assert refused.status_code == 422, (member, refused.text)
        assert {"path": member, "message": "There is no such member."} in refused.json()["details"]
    assert await edge.rows("SELECT count(*) FROM stream_events") == before


@pytest.mark.parametrize("where", ["/internal/broadcast", "/internal/publish", "/api/v1/tokens/revoke"])
async def test_nobody_acts_outside_their_tenant_but_with_the_scope_for_all(edge: Edge, where: str) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/internal/broadcast": {"title": "a", "message": "b", "user_id": "ada"},
        "/internal/publish": {"channel": "a", "data": 1},
        "/api/v1/tokens/revoke": {"user_id": "ada"},
    }
    given = bodies[where] | {"tenant_id": OTHER_TENANT}

    refused = await edge.client(admin()).post(where, json=given)
    served = await edge.client(token("root", scopes=["admin", "tenants:all"])).post(where, json=given)

    assert (refused.status_code, refused.json()["detail"]) == (404, "There is no such tenant.")
    assert served.status_code in (201, 202, 204)
    tenants = await edge.rows("SELECT DISTINCT tenant_id FROM notifications")
    assert [row["tenant_id"] for row in tenants] == ([OTHER_TENANT] if where == "/internal/broadcast" else [])


@pytest.mark.parametrize("path_", sorted({operation.path for operation in OPERATIONS}))
async def test_a_method_that_a_path_does_not_know_is_answered_with_those_it_knows(
    edge: Edge, path_: str
) -> None:
    there = [operation for operation in OPERATIONS if operation.path == path_]
    known = {operation.method for operation in there} | {"OPTIONS"}
    known |= {"HEAD"} if "GET" in known else set()

    refused = await edge.client(admin()).request("TRACE", path(there[0]))
    options = await edge.client().options(path(there[0]))

    assert (refused.status_code, refused.json()["error"]) == (405, "method_not_allowed")
    assert set(refused.headers["allow"].split(", ")) == known
    assert (options.status_code, set(options.headers["allow"].split(", "))) == (204, known)
