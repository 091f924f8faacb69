"""The OpenAPI 3.1 document, made from the table of routes and the models its lines name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.api import problems
from app.api.models import TOPIC_SCHEMA, Problem
from app.api.operation import Operation
from core.errors import CODES

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_COMPONENT = "#/components/schemas/{model}"

Schema = dict[str, Any]

#: What may stand in a path.
PATH_PARAMETERS: Mapping[str, Schema] = {
    "notification_id": {"type": "string", "format": "uuid"},
    "topic": TOPIC_SCHEMA,
    "channel": TOPIC_SCHEMA,
    "key_id": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
    "token": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,3000}$"},
    "user_id": {"type": "string", "maxLength": 255, "pattern": r"^[^\p{C}\p{Z}/]+( +[^\p{C}\p{Z}/]+)*$"},
    "address_id": {"type": "string", "format": "uuid"},
    "subject_id": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[A-Za-z0-9._@:-]+$"},
    "delivery_id": {"type": "string", "format": "uuid"},
    "webhook_id": {"type": "string", "format": "uuid"},
    "message_id": {"type": "string", "format": "uuid"},
    "subscription_id": {"type": "string", "format": "uuid"},
    "hook": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "asset": {"type": "string", "pattern": "^[a-z]+\\.(js|css)$"},
}

SECURITY_SCHEMES: Schema = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A JWT with `sub` and `exp`, or an API key (`ck_…`).",
    },
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key (`ck_…`)."},
}

_HEADERS: Schema = {
    "RequestId": {
        "description": "Names this request in our logs.",
        "schema": {"type": "string", "format": "uuid"},
    },
    "RetryAfter": {"description": "Seconds to wait.", "schema": {"type": "string", "pattern": "^[0-9]+$"}},
    "Authenticate": {"description": "How to present a token (RFC 6750).", "schema": {"type": "string"}},
    "Replayed": {
        "description": "`true`: the first answer again, to a request with the same Idempotency-Key.",
        "schema": {"type": "string", "enum": ["true"]},
    },
}


def path_of(operation: Operation) -> str:
    """The path as OpenAPI writes it: without the convertors."""
    return _PARAMETER.sub(r"{\1}", operation.path)


def document(operations: Sequence[Operation], *, version: str) -> Schema:
    """The whole description. version: of the service."""
    schemas = _schemas(operations)
    queries = {
        operation.query: schemas[operation.query.__name__] for operation in operations if operation.query
    }
    components = {
        name: schema for name, schema in schemas.items() if name not in {query.__name__ for query in queries}
    }
    paths: Schema = {}
    for operation in operations:
        paths.setdefault(path_of(operation), {})[operation.method.lower()] = _operation(operation, queries)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Carillon",
            "version": version,
            "description": "One POST reaches every open socket: stored first, shown at once, resumable. "
            "The WebSocket protocol is described in /asyncapi.json.",
        },
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": SECURITY_SCHEMES,
            "headers": _HEADERS,
            "responses": {code: _problem(code) for code in CODES},
        },
    }


def _schemas(operations: Sequence[Operation]) -> Schema:
    """The JSON Schema of every model, by its name."""
    models: dict[tuple[type[BaseModel], str], None] = {(Problem, "serialization"): None}
    for operation in operations:
        for read in (operation.body, operation.query):
            if read is not None:
                models[read, "validation"] = None
        for written in operation.answers.values():
            if written is not None and not isinstance(written, str):
                models[written, "serialization"] = None
    _, definitions = models_json_schema(list(models), ref_template=_COMPONENT)  # type: ignore[arg-type] # the mode is one of two words
    found: Schema = _closed(definitions["$defs"])
    return found


def _closed(schema: Any) -> Any:
    """A map whose keys have a pattern has no others; pydantic says so by refusing them."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _closed(value) for name, value in schema.items()}
    return {"additionalProperties": False, **found} if "patternProperties" in found else found


def _operation(operation: Operation, queries: Mapping[type[BaseModel], Schema]) -> Schema:
    described: Schema = {
        "operationId": operation_id(operation),
        "summary": operation.summary,
        "tags": [operation.tag],
        "security": _security(operation),
        "parameters": list(_parameters(operation, queries)),
        "responses": dict(_responses(operation)),
    }
    doc = (operation.handler.__doc__ or "").strip()
    if doc:
        described["description"] = re.sub(r"\n[ \t]+", "\n", doc)
    if operation.body is not None:
        media: Schema = {"schema": {"$ref": _COMPONENT.format(model=operation.body.__name__)}}
        if operation.examples:
            media["examples"] = {name: {"value": value} for name, value in operation.examples.items()}
        described["requestBody"] = {"required": True, "content": {"application/json": media}}
    return described


def _security(operation: Operation) -> list[Schema]:
    presented: list[Schema] = [{name: list(operation.scopes or ())} for name in SECURITY_SCHEMES]
    if operation.optional_token:
        return [{}, *presented]
    return [] if operation.scopes is None else presented


def operation_id(operation: Operation) -> str:
    """The handler and its module: unique, as OpenAPI wants it, and what generated clients call their methods."""
    return f"{operation.handler.__module__.rpartition('.')[2]}_{operation.handler.__name__}"


def _parameters(operation: Operation, queries: Mapping[type[BaseModel], Schema]) -> Iterator[Schema]:
    for name in _PARAMETER.findall(operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": PATH_PARAMETERS[name]}
    for name, schema in operation.headers.items():
        yield {"name": name, "in": "header", "required": False, "schema": schema}
    if operation.query is not None:
        described = queries[operation.query]
        for name, schema in described.get("properties", {}).items():
            yield {
                "name": name,
                "in": "query",
                "required": name in described.get("required", ()),
                "schema": _bounded(_without_null(schema)),
            }


def _without_null(schema: Schema) -> Schema:
    """A query string cannot say null: what may be null is left away."""
    arms = [arm for arm in schema.get("anyOf", ()) if arm != {"type": "null"}]
    if len(arms) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name not in {"anyOf", "default"}}
    return {**rest, **arms[0]}


#: What pydantic calls the bounds of a number that is read from text, and JSON Schema does.
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _bounded(schema: Schema) -> Schema:
    return {_BOUNDS.get(name, name): value for name, value in schema.items()}


def problems_of(operation: Operation) -> list[str]:
    """Every code that this operation may answer with: its own, and those that follow from what it is."""
    codes = {"bad_request", "internal"}
    if operation.optional_token:
        codes |= {"unauthorized"}
    if operation.scopes is not None:
        codes |= {"unauthorized", "forbidden", "unavailable", "overloaded", "rate_limited"}
    if operation.body is not None:
        codes |= {"payload_too_large", "unsupported_media_type", "invalid"}
    if operation.query is not None:
        codes |= {"invalid"}
    if _PARAMETER.search(operation.path):
        codes |= {"not_found"}
    return sorted(codes | set(operation.problems), key=lambda code: (CODES[code].status, code))


def _responses(operation: Operation) -> Iterator[tuple[str, Schema]]:
    for status, body in operation.answers.items():
        headers: Schema = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
        if "Idempotency-Key" in operation.headers:
            headers["Idempotent-Replayed"] = {"$ref": "#/components/headers/Replayed"}
        response: Schema = {"description": operation.summary, "headers": headers}
        if isinstance(body, str):
            response["content"] = {body: {"schema": {} if body.endswith("json") else {"type": "string"}}}
        elif body is not None:
            schema = {"$ref": _COMPONENT.format(model=body.__name__)}
            response["content"] = {"application/json": {"schema": schema}}
        if operation.also is not None:
            response["content"][operation.also] = {"schema": {"type": "string"}}
        yield str(status), response
    by_status: dict[int, list[str]] = {}
    for code in problems_of(operation):
        by_status.setdefault(CODES[code].status, []).append(code)
    for status, codes in by_status.items():
        if status in operation.answers:
            continue
        if len(codes) == 1:
            yield str(status), {"$ref": f"#/components/responses/{codes[0]}"}
        else:
            first = _problem(codes[0])
            yield str(status), {**first, "description": " ".join(CODES[code].title for code in codes)}


def _problem(code: str) -> Schema:
    headers: Schema = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    if CODES[code].temporary:
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    if code == "unauthorized":
        headers["WWW-Authenticate"] = {"$ref": "#/components/headers/Authenticate"}
    return {
        "description": CODES[code].title,
        "headers": headers,
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": _COMPONENT.format(model="Problem")}}},
    }
