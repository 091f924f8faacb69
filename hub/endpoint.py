"""The ASGI edge of the hub: origin, limits, who it is; then the connection takes over."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import QueryParams
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket

from core.errors import ServiceError
from core.identity import Identity, InvalidToken
from hub import disconnect, positions, protocol
from hub.connection import Connection, refusal
from hub.fallback import AsgiWire
from hub.limits import TooManyConnections
from hub.node import Node
from hub.positions import Vector
from hub.transport import EXTENSION, Wire

#: The subprotocol of docs/protocol.md; a token may come beside it as `bearer.<token>`.
SUBPROTOCOL = "carillon.v1"
_BEARER = "bearer."


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """Who may shake hands. From HUB_*."""

    origins: Collection[str] = ()  # exact, as browsers send them; the server's own is always allowed
    any_origin: bool = False  # development only
    query_token: bool = True  # `?token=`: ordered by the AIVO document, off for hardened installations


class Endpoint:
    """`GET /ws/notify`."""

    def __init__(self, node: Node, settings: EndpointSettings) -> None:
        self._node = node
        self._settings = settings

    async def __call__(self, socket: WebSocket) -> None:
        """
        Upgrade, then say who is who: a refusal before the upgrade would reach no browser (X-11).
        Only a foreign origin and a full node are refused before.
        """
        if not self._origin_allowed(socket):
            await socket.send_denial_response(PlainTextResponse("Origin not allowed.\n", 403))
            return
        address = socket.client.host if socket.client is not None else ""
        try:
            self._node.room()
            place = self._node.counts.arrive(address)
        except ServiceError as error:
            status = 429 if isinstance(error, TooManyConnections) else 503
            retry = {"Retry-After": str(max(1, round(error.retry_after or 1)))}
            await socket.send_denial_response(PlainTextResponse(f"{error.message}\n", status, retry))
            return
        try:
            token, subprotocol = _subprotocols(socket.scope.get("subprotocols", []))
            resume, problem = _resume(socket.query_params, self._node.hub.epoch)
            await socket.accept(subprotocol)
            native: Wire | None = socket.scope.get("extensions", {}).get(EXTENSION)
            wire = native or AsgiWire(socket, max_message_bytes=self._node.limits.frame_bytes)
            connection = Connection(self._node, wire, place, prepared=native is not None, resume=resume)
        except BaseException:
            place.leave()
            raise
        self._node.arrived(connection)
        await self._welcome(connection, socket.query_params, token, problem)
        wire.attach(connection)
        if isinstance(wire, AsgiWire):
            await wire.run()

    async def _welcome(
        self, connection: Connection, query: QueryParams, token: str | None, problem: ServiceError | None
    ) -> None:
        if problem is not None:
            connection.refuse(problem, disconnect.BAD_REQUEST)
            return
        try:
            identity = await self._identify(query, token)
        except ServiceError as error:
            connection.refuse(error, refusal(error))
            return
        if identity is not None:
            connection.admit(identity)

    async def _identify(self, query: QueryParams, token: str | None) -> Identity | None:
        """Who the handshake says it is; None when it leaves that to the first frame."""
        if "ticket" in query:
            return await self._node.redeem(query["ticket"])
        if token is None and "token" in query:
            if not self._settings.query_token:
                raise InvalidToken("form", "Tokens are not accepted in the URL here.")
            token = query["token"]
        return await self._node.authenticate(token) if token is not None else None

    def _origin_allowed(self, socket: WebSocket) -> bool:
        """Exact match (OWASP ASVS 4.4.2). Programs send no Origin; browsers always do."""
        origins = socket.headers.getlist("origin")
        if not origins:
            return True
        if len(origins) > 1:
            return False
        origin = origins[0]
        if self._settings.any_origin or origin in self._settings.origins:
            return True
        scheme = "https" if socket.url.scheme == "wss" else "http"
        return origin == f"{scheme}://{socket.headers.get('host', '')}"


def _subprotocols(offered: list[str]) -> tuple[str | None, str | None]:
    """The token among the offered subprotocols, and the one to answer with."""
    token = next((name[len(_BEARER) :] for name in offered if name.startswith(_BEARER)), None)
    return token, SUBPROTOCOL if SUBPROTOCOL in offered else None


def _resume(query: QueryParams, epoch: str) -> tuple[Vector | None, ServiceError | None]:
    """Where the client stood: `positions=` for all its streams, or `epoch=&since=` for its own; epoch: where it names none."""
    try:
        if "positions" in query:
            return positions.decode(query["positions"]), None
        if "since" in query:
            if not query["since"].isdecimal() or len(query["since"]) > 19:
                raise ValueError("not a position")
            since = min(int(query["since"]), protocol.MAX_POSITION)
            return Vector(query.get("epoch", epoch), {"user": since}), None
    except ValueError:
        return None, ServiceError("bad_request", "The positions in the URL cannot be read.")
    return None, None
