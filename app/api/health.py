"""Is it well, does it live, who is connected, and the numbers (AIVO-24, AIVO-25)."""

from __future__ import annotations

from typing import Literal

from msgspec import structs
from pydantic import Field
from starlette.responses import Response

from app.api.auth import InsufficientScope
from app.api.models import Answer
from app.api.operation import Call, answer
from delivery.sandbox import BANNER


class Alive(Answer):
    """The process answers."""

    status: Literal["ok"]


class HealthAnswer(Answer):
    """What this node depends on."""

    status: Literal["ok", "degraded", "unavailable"]
    checks: dict[str, str] = Field(description="By name: ok, or a word that says what is wrong.")
    version: str
    notice: str | None = Field(description="Of a sandbox: that it is one.")


class NodeAnswer(Answer):
    """One node, counted."""

    node: str
    connections: int
    users: int
    streams: int
    in_doubt: int = Field(description="Streams that are being compared with the store.")
    live: bool = Field(description="Publications of other nodes arrive at once.")


class WebSocketStatus(Answer):
    """The state of live delivery; the figures only for a token with the scope admin (X-16)."""

    status: Literal["ok", "degraded"]
    connections: int | None = None
    users: int | None = Field(default=None, description="One with connections to two nodes counts twice.")
    streams: int | None = None
    in_doubt: int | None = None
    nodes: list[NodeAnswer] | None = None


async def health(call: Call) -> Response:
    """200 when requests can be served, 503 when not. `degraded`: everything arrives, later than promised."""
    report = await call.services.health.report()
    services = call.services
    found = HealthAnswer(
        status=report.status,
        checks=dict(report.findings),
        version=services.settings.version,
        notice=BANNER if services.delivery.is_sandbox else None,
    )
    return answer(found, 503 if report.status == "unavailable" else 200)


async def livez(call: Call) -> Response:
    """The event loop of this process turns. Asks nobody else."""
    return answer(Alive(status="ok"))


async def websocket_status(call: Call) -> Response:
    """Everybody learns whether live delivery works; with the scope admin also the figures of every node."""
    peers = call.services.peers
    status: Literal["ok", "degraded"] = "ok" if peers.status().live else "degraded"
    if call.known is None or not call.known.has("admin"):
        return answer({"status": status})
    counted = [NodeAnswer(**structs.asdict(node)) for node in peers.nodes()]
    return answer(
        WebSocketStatus(
            status=status,
            connections=sum(node.connections for node in counted),
            users=sum(node.users for node in counted),
            streams=sum(node.streams for node in counted),
            in_doubt=sum(node.in_doubt for node in counted),
            nodes=counted,
        )
    )


async def metrics(call: Call) -> Response:
    """Prometheus' text format. Needs the scope admin, unless HUB_OPEN_METRICS is set."""
    if not call.services.settings.open_metrics and not call.identity.has("admin"):
        raise InsufficientScope(["admin"])
    return Response(call.services.metrics.text(), media_type="text/plain; version=0.0.4")
