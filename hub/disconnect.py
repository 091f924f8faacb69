"""
Close codes of the WebSocket protocol: one table. The range says whether a client comes back.

4400-4407: do not reconnect. 4408-4499 and the 1xxx codes: reconnect, as the table says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Return = Literal["never", "with_new_token", "after_hint", "at_once"]


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Why a connection ends, and what its client does next."""

    code: int
    reason: str  # sent in the close frame: at most 123 bytes of UTF-8 (RFC 6455 section 5.5)
    comes_back: Return
    meaning: str  # for docs/protocol.md


BAD_REQUEST = Disconnect(4400, "bad request", "never", "The positions in the URL cannot be read.")
BAD_TOKEN = Disconnect(4401, "unauthorized", "never", "The token is missing, wrong or revoked.")
FORBIDDEN = Disconnect(4403, "forbidden", "never", "This person may not connect here.")
NO_CHANNEL = Disconnect(
    4404,
    "no such channel",
    "never",
    "The connection was for a channel that does not exist. Not sent by this version.",
)
AUTH_TIMEOUT = Disconnect(4408, "authentication timeout", "with_new_token", "No token came in time.")
TOO_MANY = Disconnect(
    4409,
    "too many connections",
    "with_new_token",
    "This person, address or tenant has as many connections as it may.",
)
TOKEN_EXPIRED = Disconnect(
    4410,
    "token expired",
    "with_new_token",
    "The token ran out and was not refreshed, or the ticket is used up or too old.",
)
SLOW_DOWN = Disconnect(4429, "slow down", "after_hint", "More commands than the limit allows, for too long.")
GOING_AWAY = Disconnect(1012, "restart", "after_hint", "This node is going down or being replaced.")
OVERLOADED = Disconnect(
    1013, "overloaded", "after_hint", "This node has too much to do, or the client reads too slowly."
)
NORMAL = Disconnect(1000, "", "at_once", "The client said goodbye.")
UNSUPPORTED = Disconnect(1003, "text frames only", "never", "A binary message was sent.")
TOO_BIG = Disconnect(1009, "message too big", "at_once", "A message over the frame limit was sent.")
INTERNAL = Disconnect(1011, "internal error", "after_hint", "A fault of ours.")

TABLE = (
    NORMAL,
    UNSUPPORTED,
    TOO_BIG,
    INTERNAL,
    GOING_AWAY,
    OVERLOADED,
    BAD_REQUEST,
    BAD_TOKEN,
    FORBIDDEN,
    NO_CHANNEL,
    AUTH_TIMEOUT,
    TOO_MANY,
    TOKEN_EXPIRED,
    SLOW_DOWN,
)
