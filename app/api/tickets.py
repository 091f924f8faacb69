"""One-time tickets for WebSockets, so that no token stands in a URL."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field
from starlette.responses import Response

from app.api.models import Answer
from app.api.operation import Call, answer


class TicketAnswer(Answer):
    """Good for one connection as the caller."""

    ticket: str = Field(description="For `/ws/notify?ticket=`.")
    expires_at: datetime


async def ticket(call: Call) -> Response:
    """A ticket that opens one WebSocket within 30 s, as whoever asks for it."""
    issued = await call.services.tickets.issue(call.identity)
    return answer(TicketAnswer(ticket=issued.text, expires_at=issued.expires_at), 201)
