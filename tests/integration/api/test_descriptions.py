"""What the service says of itself is true: OpenAPI, AsyncAPI and the docs page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import jsonschema_rs
import pytest

from app.api import asyncapi, docs, keys
from app.api.openapi import PATH_PARAMETERS, document, operation_id, path_of, problems_of
from app.api.operation import Operation
from app.api.routes import everything
from core.errors import CODES, ServiceError
from core.identity import SCOPES
from core.streams import StreamKey
from hub import disconnect, frames, protocol
from hub.history import Entry
from tests.api import Edge, admin, person, service
from tests.furnished import furnish

DOCUMENT = document(everything(), version="test")
EXAMPLES = [
    pytest.param(operation, example, id=f"{operation_id(operation)}: {name}")
    for operation in everything()
    for name, example in operation.examples.items()
]


def test_every_operation_is_described_with_its_problems() -> None:
    for operation in everything():
        described = DOCUMENT["paths"][path_of(operation)][operation.method.lower()]

        wanted = {str(status) for status in operation.answers}
        wanted |= {str(CODES[code].status) for code in problems_of(operation)}
        assert set(described["responses"]) == wanted
        assert described["description"], "every handler says what it does"


def test_every_operation_has_an_id_of_its_own() -> None:
    ids = [operation_id(operation) for operation in everything()]

    assert [one for one in ids if ids.count(one) > 1] == []


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    text = json.dumps(DOCUMENT)
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', text)):
        found: Any = DOCUMENT
        for part in reference.split("/"):
            found = found[part]
    for name in DOCUMENT["components"]["schemas"]:
        assert f"#/components/schemas/{name}" in text, name


def test_bodies_are_closed() -> None:
    for operation in everything():
        if operation.body is not None:
            assert DOCUMENT["components"]["schemas"][operation.body.__name__]["additionalProperties"] is False


def test_the_bounds_of_every_number_in_a_query_string_are_told() -> None:
    numbers = {
        (path, one["name"]): one["schema"]
        for path, methods in DOCUMENT["paths"].items()
        for described in methods.values()
        for one in described["parameters"]
        if one["in"] == "query" and one["schema"].get("type") == "integer"
    }
    pages = {path for path, name in numbers if name == "limit"}
    paged = [one for one in everything() if one.query is not None and "limit" in one.query.model_fields]

    assert pages == {path_of(one) for one in paged}
    assert numbers["/api/v1/notifications", "limit"] == {
        "title": "Limit",
        "type": "integer",
        "default": 50,
        "minimum": 1,
        "maximum": 500,
    }
    for schema in numbers.values():
        assert "minimum" in schema
        assert {"maximum", "exclusiveMaximum"} & schema.keys()


def test_a_map_whose_keys_have_a_form_has_no_others() -> None:
    maps = [one for one in _objects(DOCUMENT["components"]["schemas"]) if "patternProperties" in one]

    assert maps
    assert all(one["additionalProperties"] is False for one in maps)


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value."""
    if isinstance(schema, dict):
        yield schema
    if isinstance(schema, dict | list):
        for one in schema.values() if isinstance(schema, dict) else schema:
            yield from _objects(one)


def test_every_path_parameter_is_used() -> None:
    used = {name for operation in everything() for name in re.findall(r"\{(\w+)", operation.path)}

    assert set(PATH_PARAMETERS) == used


def test_the_closed_sets_of_the_models_are_those_of_the_rules() -> None:
    assert set(get_args(keys.Scope)) == SCOPES


@pytest.mark.parametrize(("operation", "example"), EXAMPLES)
async def test_every_example_works(edge: Edge, operation: Operation, example: Any) -> None:
    there = await furnish(edge, operation)
    is_oneself = "oneself" in str(operation.examples.keys()) and "recipients" not in example
    is_person = operation.tag == "inbox" or (is_oneself and not operation.scopes)

    answer = await there.edge.client(person() if is_person else admin()).request(
        operation.method, there.path(), json=there.body(example)
    )

    assert answer.status_code in operation.answers, answer.text


def test_every_body_has_an_example() -> None:
    assert [operation_id(one) for one in everything() if one.body is not None and not one.examples] == []


async def test_the_descriptions_and_the_docs_page_are_served(edge: Edge) -> None:
    client = edge.client()

    assert (await client.get("/openapi.json")).json()["openapi"] == "3.1.0"
    assert (await client.get("/asyncapi.json")).json()["asyncapi"] == "3.0.0"
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"] == docs.POLICY
    for asset in re.findall(r'(?:src|href)="(/docs/[^"]+)"', page.text):
        assert (await client.get(asset)).status_code == 200
    assert (await client.get("/docs/other.js")).status_code == 404


async def test_the_docs_page_takes_nothing_from_elsewhere_and_nothing_inline(edge: Edge) -> None:
    page = (await edge.client().get("/docs")).text
    assets = [(await edge.client().get(f"/docs/{name}")).text for name in docs.ASSETS]

    assert "unsafe" not in docs.POLICY
    assert not re.search(r"https?://(?!www\.w3\.org)", "".join([page, *assets]))
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page)
    assert "innerHTML" not in "".join(assets)


async def test_the_type_of_every_problem_is_a_place_on_the_docs_page(edge: Edge) -> None:
    page = (await edge.client().get("/docs")).text
    told = (await edge.client().get("/api/v1/notifications")).json()

    assert f'id="{told["type"].partition("#")[2]}"' in page
    for code in CODES:
        assert f'id="error-{code.replace("_", "-")}"' in page


# -- AsyncAPI


def heard(name: str) -> jsonschema_rs.Validator:
    """The schema of one thing the server says, with what it refers to."""
    described = asyncapi.document("test")
    return jsonschema_rs.validator_for(
        asyncapi.payload(name) | {"components": described["components"]}, validate_formats=True
    )


def test_every_command_that_the_hub_reads_is_described_and_none_besides() -> None:
    described = asyncapi.document("test")["components"]["messages"]

    commands = {str(command.__struct_config__.tag) for command in protocol.COMMANDS}
    assert {name.removeprefix("client.") for name in described if name.startswith("client.")} == commands
    codes = asyncapi.document("test")["channels"]["notify"]["x-close-codes"]
    assert [one["code"] for one in codes] == [one.code for one in disconnect.TABLE]


async def test_entries_are_said_as_described(edge: Edge) -> None:
    said: list[Entry] = []

    class Heard:
        def publish(self, entries: list[Entry]) -> None:
            said.extend(entries)

    for collaborator in (edge.services.ingest, edge.services.inbox, edge.services.notifications):
        setattr(collaborator, "_publisher", Heard())  # noqa: B010 - keeps what would be fanned out
    one = await edge.submit("ada")
    client, producer = edge.client(person()), edge.client(service())
    for verb in ("seen", "read", "unread", "archive", "unarchive"):
        await client.post(f"/api/v1/notifications/{one}/{verb}")
    await client.post(f"/api/v1/notifications/{one}/snooze", json={"until": "2100-01-01T00:00:00Z"})
    await client.post("/api/v1/notifications/read-all", json={})
    for method, part in (("PUT", "follow"), ("PUT", "mute"), ("DELETE", "mute"), ("DELETE", "follow")):
        await client.request(method, f"/api/v1/topics/news/{part}")
    await producer.patch(f"/api/v1/notifications/{one}", json={"title": "Else"})
    await producer.delete(f"/api/v1/notifications/{one}")

    for entry in said:
        heard(entry.kind).validate(json.loads(entry.payload))
    kinds = {entry.kind for entry in said}
    assert kinds == {
        "notification", "updated", "recalled", "read", "unread", "seen", "archived", "unarchived", "snoozed",
        "read_all", "followed", "muted", "unmuted", "unfollowed",
    }  # fmt: skip


def test_replies_are_said_as_described() -> None:
    key = StreamKey("school", "user:ada")
    for payload in (
        protocol.welcome(
            connection_id="c",
            user_id="ada",
            tenant_id="school",
            epoch="e",
            positions={"user": 1},
            unread_count=1,
            heartbeat_ms=1,
        ),
        protocol.pong(protocol.Ping(id=1)),
        protocol.error("a", ServiceError("rate_limited", retry_after=1)),
        protocol.resync("e", {"user": 1}, 1, []),
        protocol.reconnect(5),
        frames.message("room:1", b"{}"),
        frames.recalled(key, 1, "01a20144-c019-749f-9600-350f4399ba1d", "expired"),
    ):
        frame = json.loads(payload)
        heard(frame["type"]).validate(frame)
