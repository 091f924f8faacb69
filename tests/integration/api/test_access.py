"""Every line of the table of routes, by everybody who may and may not: made from the table itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from app.api.operation import Operation
from app.api.routes import everything, internal, public, watching
from tests.api import OTHER_TENANT, Edge, admin, person, service, token
from tests.furnished import Furnished, absent, furnish, path

OPERATIONS = [operation for operation in everything() if operation.path != "/api/v1/events"]
PROTECTED = [operation for operation in OPERATIONS if operation.scopes is not None]
SCOPED = [operation for operation in PROTECTED if operation.scopes]
WITH_BODY = [operation for operation in OPERATIONS if operation.body is not None]
OF_A_NOTIFICATION = [
    operation for operation in PROTECTED if not operation.scopes and "{notification_id" in operation.path
]
OF_ONE_THING = [operation for operation in PROTECTED if ":uuid}" in operation.path]
HOOKS = [operation for operation in OPERATIONS if operation.tag == "provider webhooks"]
#: What ends with us: the others take a provider, and are tried with one in test_provider_hooks and test_webhooks.
OURS = [
    operation
    for operation in OPERATIONS
    if operation not in HOOKS and operation.path != "/api/v1/channels/telegram/webhook"
]

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


#: What has to stand in the query string.
QUERIES = {
    "GET /api/v1/presence": {"user_id": "ada"},
    "DELETE /api/v1/preferences/opt-outs": {"scope": "all"},
}


async def call(
    client: httpx.AsyncClient,
    furnished: Furnished,
    changed: Mapping[str, Any] | None = None,
    *,
    to: Mapping[str, str] | None = None,
) -> httpx.Response:
    """The operation as its description has it. changed: members of its body. to: what else its path names."""
    operation, body = furnished.operation, furnished.body()
    return await client.request(
        operation.method,
        furnished.path(to),
        params=QUERIES.get(name(operation)) or (furnished.said if operation.body is None else None),
        json=body if changed is None else {**body, **changed},
    )


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
    there = Furnished(edge, operation, {})
    for presented in (None, "nonsense", "ck_0123456789abcdef_" + "x" * 43, token("ada") + "x"):
        refused = await call(edge.client(presented), there)

        assert refused.status_code == 401
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["www-authenticate"].startswith('Bearer realm="carillon"')
        assert refused.json()["detail"] == "A valid token is required."


@pytest.mark.parametrize("operation", SCOPED, ids=name)
async def test_a_person_and_a_service_without_the_scope_stay_outside(
    edge: Edge, operation: Operation
) -> None:
    there = Furnished(edge, operation, {})
    others = {"notifications:write", "broadcast", "publish", "deliveries:read"} - set(operation.scopes or ())
    for presented in (person(), token("svc", scopes=sorted(others))):
        refused = await call(edge.client(presented), there)

        assert (refused.status_code, refused.json()["error"]) == (403, "forbidden")
        assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]


@pytest.mark.parametrize("operation", OURS, ids=name)
async def test_whoever_may_is_served_as_the_description_says(edge: Edge, operation: Operation) -> None:
    there = await furnish(edge, operation)
    caller = person() if operation.tag in ("inbox", "topics") or "self" in operation.summary else admin()
    targets = {"user_id": "ada"} if name(operation) == "POST /api/v1/notifications" else None

    served = await call(there.edge.client(caller), there, targets)

    assert served.status_code in operation.answers, served.text
    assert served.headers["x-request-id"]
    assert served.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("operation", HOOKS, ids=name)
async def test_a_provider_is_believed_by_its_signature_and_not_at_all_where_it_is_not_set_up(
    edge: Edge, operation: Operation
) -> None:
    there = await furnish(edge, operation)
    before = await contents(edge)

    unsigned = await call(there.edge.client(admin()), there)
    not_set_up = await call(edge.client(admin()), there)

    is_set_up = "sendgrid" not in operation.path  # whose key no test but its own has
    assert unsigned.status_code == (404 if not is_set_up else 401 if operation.method == "POST" else 403)
    assert not_set_up.status_code == 404
    assert await contents(edge) == before


@pytest.mark.parametrize("operation", OF_A_NOTIFICATION, ids=name)
async def test_what_is_somebody_elses_is_answered_as_what_is_not_there(
    edge: Edge, operation: Operation
) -> None:
    there = await furnish(edge, operation)
    for presented in (person("bob"), token("svc", scopes=["publish"])):
        foreign = await call(there.edge.client(presented), there)
        not_there = await call(there.edge.client(presented), there, to=absent(there.values))

        assert foreign.status_code == 404
        assert told(foreign) == told(not_there)


@pytest.mark.parametrize("operation", OF_ONE_THING, ids=name)
async def test_what_is_another_tenants_is_answered_as_what_is_not_there_and_stays_as_it_is(
    edge: Edge, operation: Operation
) -> None:
    there = await furnish(edge, operation)
    before = await contents(edge)
    strangers = [admin(OTHER_TENANT), service(OTHER_TENANT), person("ada", OTHER_TENANT)]
    for presented in strangers:
        foreign = await call(there.edge.client(presented), there)
        not_there = await call(there.edge.client(presented), there, to=absent(there.values))

        assert foreign.status_code == 404 or (operation.scopes and foreign.status_code == 403)
        assert foreign.status_code == 404 or presented != admin(OTHER_TENANT)
        assert told(foreign) == told(not_there)
    assert await contents(edge) == before


async def contents(edge: Edge) -> Mapping[str, str]:
    """What stands in every table, as a digest; but who follows their own tenant's streams, which asking is enough for."""
    tables = await edge.rows(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'stream_members' ORDER BY 1"
    )
    digests = " UNION ALL ".join(
        f"SELECT '{table}', md5(coalesce(string_agg(row::text, '' ORDER BY row::text), '')) FROM {table} AS row"
        for (table,) in tables
    )
    return dict(await edge.rows(digests))


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
    there = await furnish(edge, operation)
    before = await contents(edge)
    assert operation.body is not None
    for member in FORBIDDEN:
        if member in operation.body.model_fields:
            continue
        refused = await call(there.edge.client(admin()), there, {member: "x"})

        assert refused.status_code == 422, (member, refused.text)
        assert {"path": member, "message": "There is no such member."} in refused.json()["details"]
    assert await contents(edge) == before


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
