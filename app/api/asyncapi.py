"""The AsyncAPI 3.0 document of the WebSocket protocol: its commands are those that hub/protocol.py reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from core.notification import Content
from hub import disconnect
from hub.protocol import COMMANDS

Schema = dict[str, Any]

_ANY: Schema = {}
_TEXT: Schema = {"type": "string"}
_ID: Schema = {"type": "string", "format": "uuid"}
_MOMENT: Schema = {"type": "string", "format": "date-time"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_POSITIONS: Schema = {"type": "object", "additionalProperties": _COUNT}
_REFERENCE: Schema = {"anyOf": [{"type": "string", "maxLength": 64}, {"type": "integer"}]}
_CONTENT: Schema = {"$ref": "#/components/schemas/Content"}
_IDS: Schema = {"type": "array", "items": _ID, "minItems": 1}

#: Where an event stands: on every frame that a stream is made of.
_PLACE: Mapping[str, Schema] = {"stream": _TEXT, "seq": _COUNT}
_STATE: Mapping[str, Schema] = {"notification_ids": _IDS, "notification_id?": _ID, **_PLACE}

#: What the server says: type -> (meaning, members). A `?` ends the name of a member that may be absent.
SAYS: Mapping[str, tuple[str, Mapping[str, Schema]]] = {
    "welcome": (
        "The token was accepted. Everything after `positions` follows.",
        {
            "connection_id": _TEXT,
            "user_id": _TEXT,
            "tenant_id": _TEXT,
            "epoch": _TEXT,
            "positions": _POSITIONS,
            "unread_count": _COUNT,
            "heartbeat_ms": _COUNT,
        },
    ),
    "notification": ("A new entry of a stream.", {"data": _CONTENT, "timestamp": _MOMENT, **_PLACE}),
    "updated": ("A notification says something else now.", {"data": _CONTENT, **_PLACE}),
    "recalled": (
        "A notification is gone.",
        {"notification_id": _ID, "reason": {"enum": ["recalled", "expired"]}, **_PLACE},
    ),
    "read": ("Read on some device.", _STATE),
    "unread": ("Unread again.", _STATE),
    "read_all": ("Read up to these positions.", {"positions": _POSITIONS, **_PLACE}),
    "seen": ("Noticed in a list.", _STATE),
    "archived": ("Out of the list, and not counted.", _STATE),
    "unarchived": ("Back in the list.", _STATE),
    "snoozed": ("Out of the list until a moment.", {**_STATE, "until": _MOMENT}),
    "followed": (
        "A topic is followed from `joined_seq` on.",
        {"topic": _TEXT, "joined_seq": _COUNT, **_PLACE},
    ),
    "unfollowed": ("A topic is followed no longer.", {"topic": _TEXT, **_PLACE}),
    "muted": ("A topic is followed in silence.", {"topic": _TEXT, **_PLACE}),
    "unmuted": ("A topic is heard again.", {"topic": _TEXT, "joined_seq": _COUNT, **_PLACE}),
    "message": ("An ephemeral message.", {"channel": _TEXT, "data": _ANY}),
    "position": ("A filtered stream has moved on by entries that were not for this client.", _PLACE),
    "resync": (
        "Continuity is lost: this is how things stand at `positions`.",
        {
            "epoch": _TEXT,
            "positions": _POSITIONS,
            "unread_count": _COUNT,
            "newest": {"type": "array", "items": {"type": "object"}},
        },
    ),
    "token_expiring": ("The token runs out: send `refresh`.", {"expires_at": _MOMENT}),
    "reconnect": ("This node goes away: come back after so long.", {"after_ms": _COUNT}),
    "pong": ("The answer to `ping`.", {"timestamp": _ANY, "id?": _REFERENCE}),
    "resumed": (
        "Everything after the asked positions has been handed over.",
        {"positions": _POSITIONS, "recovered": {"type": "boolean"}, "id?": _REFERENCE},
    ),
    "subscribed": (
        "The channel is listened to from `seq` on.",
        {
            "channel": _TEXT,
            "epoch": _TEXT,
            "seq": _COUNT,
            "recovered": {"type": "boolean"},
            "id?": _REFERENCE,
        },
    ),
    "unsubscribed": ("The channel is listened to no longer.", {"channel": _TEXT, "id?": _REFERENCE}),
    "ack": ("The command was carried out.", {"unread_count?": _COUNT, "id?": _REFERENCE}),
    "refreshed": ("The newer token counts.", {"expires_at": _MOMENT, "id?": _REFERENCE}),
    "error": (
        "A command was not carried out; the connection stays.",
        {"code": _TEXT, "message": _TEXT, "retry_after_ms?": _COUNT, "id?": _REFERENCE},
    ),
}


def document(version: str) -> Schema:
    """The whole description. version: of the service."""
    described = [Content, *map(_describable, COMMANDS)]
    _, schemas = msgspec.json.schema_components(described, ref_template="#/components/schemas/{name}")
    heard = {_name(command): command for command in COMMANDS}
    messages = {
        f"client.{name}": {
            "name": name,
            "summary": (command.__doc__ or "").strip(),
            "payload": {"$ref": f"#/components/schemas/{command.__name__}"},
        }
        for name, command in heard.items()
    } | {
        f"server.{name}": {"name": name, "summary": meaning, "payload": payload(name)}
        for name, (meaning, _) in SAYS.items()
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Carillon",
            "version": version,
            "description": "JSON text frames over one WebSocket. Every command may carry an `id`, echoed in its "
            "reply. Unknown types are an error, unknown members are ignored.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "notify": {
                "address": "/ws/notify",
                "description": "One of `?token=`, `?ticket=`, the subprotocols `carillon.v1, bearer.<token>`, or a "
                "first command `auth` says who connects.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "bindings": {
                    "ws": {
                        "method": "GET",
                        "query": {
                            "type": "object",
                            "properties": {"token": _TEXT, "ticket": _TEXT, "epoch": _TEXT, "since": _TEXT},
                        },
                    }
                },
                "x-close-codes": [
                    {
                        "code": one.code,
                        "reason": one.reason,
                        "reconnect": one.comes_back,
                        "meaning": one.meaning,
                    }
                    for one in disconnect.TABLE
                ],
            }
        },
        "operations": {
            "hear": _operation("receive", [name for name in messages if name.startswith("client.")]),
            "say": _operation("send", [name for name in messages if name.startswith("server.")]),
        },
        "components": {"schemas": schemas, "messages": messages},
    }


def payload(name: str) -> Schema:
    """The JSON Schema of one thing the server says."""
    _, members = SAYS[name]
    properties = {member.removesuffix("?"): schema for member, schema in members.items()}
    return {
        "type": "object",
        "properties": {"type": {"const": name}, **properties},
        "required": ["type", *(member for member in members if not member.endswith("?"))],
        "additionalProperties": False,
    }


def _describable(command: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The same command, with what is handed on unread described as anything."""
    fields = [
        (field.name, Any if field.type is msgspec.Raw else field.type, _default(field))
        for field in msgspec.structs.fields(command)
    ]
    made = msgspec.defstruct(command.__name__, fields, tag_field="type", tag=_name(command), kw_only=True)
    made.__doc__ = command.__doc__
    return made


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return None if isinstance(field.default, msgspec.Raw) else field.default


def _name(command: type[msgspec.Struct]) -> str:
    return str(command.__struct_config__.tag)


def _operation(action: str, messages: list[str]) -> Schema:
    """action: seen from the server, as AsyncAPI 3 wants it."""
    return {
        "action": action,
        "channel": {"$ref": "#/channels/notify"},
        "messages": [{"$ref": f"#/channels/notify/messages/{name}"} for name in messages],
    }
