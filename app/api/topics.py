"""Topics that a person follows: on all their devices, now and later."""

from __future__ import annotations

from datetime import datetime

from starlette.responses import Response

from app.api.models import Answer
from app.api.operation import Call, answer, nothing
from hub.inbox import TopicChange


class Followed(Answer):
    """One topic."""

    topic: str
    muted: bool
    followed_at: datetime


class Topics(Answer):
    """By name."""

    topics: list[Followed]


async def topics(call: Call) -> Response:
    """What the caller follows."""
    followed = await call.services.inbox.topics(call.identity)
    return answer({"topics": [topic._asdict() for topic in followed]})


async def follow(call: Call) -> Response:
    """Receive what is sent to the topic from now on."""
    return await _change(call, "followed")


async def unfollow(call: Call) -> Response:
    """Receive it no longer."""
    return await _change(call, "unfollowed")


async def mute(call: Call) -> Response:
    """Keep following, without live notifications and without counting as unread."""
    return await _change(call, "muted")


async def unmute(call: Call) -> Response:
    """Hear it again; what came meanwhile is read."""
    return await _change(call, "unmuted")


async def _change(call: Call, change: TopicChange) -> Response:
    await call.services.inbox.change_topic(call.identity, call.path_params["topic"], change)
    return nothing()
