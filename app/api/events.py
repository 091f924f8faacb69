"""The events of the WebSocket without one: Server-Sent Events, and with `Accept: application/json` a long poll."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from app.api.operation import Call, answer
from app.api.reading import query
from core.errors import ServiceError, invalid
from hub import positions
from hub.feed import Event, Feed, feed
from hub.positions import Vector

#: A comment goes out when nothing else has for so long: proxies cut silent answers.
KEEPALIVE_S = 15.0
MAX_WAIT_S = 55.0

#: The greeting of a poll is awaited for so long at least, however short its own wait.
GREETING_S = 5.0

#: Frames that are about the connection, not about the streams.
_NO_NEWS = frozenset({"welcome", "resumed", "error"})


class EventsQuery(BaseModel):
    """From where, and for how long."""

    model_config = ConfigDict(extra="forbid")

    since: str | None = Field(
        default=None,
        max_length=positions.MAX_LENGTH,
        pattern=r"^[A-Za-z0-9_-]*$",
        description="Where the client stands: the `since` of the answer before, or an event's id.",
    )
    wait: float = Field(default=25, ge=0, le=MAX_WAIT_S, description="Of a long poll, in seconds.")


class EventsPage(BaseModel):
    """What a long poll answers."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})

    events: list[dict[str, object]] = Field(description="Frames as the WebSocket sends them, in order.")
    since: str = Field(description="Where the client stands now: give it back with the next poll.")


async def events(call: Call) -> Response:
    """
    Every frame that a WebSocket would get, in order. A client that was away says where it stood, with
    `Last-Event-ID` or `since`, and gets what it missed; one that stays away too long gets `resync`.
    """
    wanted = query(call, EventsQuery)
    resume = _resume(call.headers.get("last-event-id"), "Last-Event-ID") or _resume(wanted.since, "since")
    accepted = call.headers.get("accept", "")
    if "application/json" in accepted and "text/event-stream" not in accepted:
        return await _poll(call, resume, wanted.wait)
    return StreamingResponse(_stream(call, resume), media_type="text/event-stream")


async def _poll(call: Call, resume: Vector | None, wait: float) -> Response:
    async with feed(
        call.services.node, call.identity, address=_address(call), transport="long_poll", resume=resume
    ) as reader:
        gathered, greeted = await _gather(reader, resume is not None, wait)
        since = positions.encode(reader.vector)
    if not gathered and not greeted:  # an answer without a word would look as if nothing had come
        raise reader.failure or ServiceError("unavailable", retry_after=1)
    listed = b",".join(event.payload for event in gathered)
    return answer(b'{"events":[%b],"since":"%b"}' % (listed, since.encode()))


async def _gather(reader: Feed, resuming: bool, wait: float) -> tuple[list[Event], bool]:
    """
    What there is: at once, or as soon as something comes; and whether the greeting came to its end.

    resuming: everything that was missed stands between `welcome` and `resumed`, so only then there is nothing.
    """
    last_word = "resumed" if resuming else "welcome"
    news: list[Event] = []
    greeted = False
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + (wait if resuming else 0)
    try:
        async with asyncio.timeout_at(max(ends_at, loop.time() + GREETING_S)) as limit:
            while not news and reader.ended is None and not (greeted and loop.time() >= ends_at):
                taken = await reader.events()
                news += (event for event in taken if event.type not in _NO_NEWS)
                if not greeted and any(event.type == last_word for event in taken):
                    greeted = True
                    limit.reschedule(ends_at)
    except TimeoutError:
        pass  # nothing came in time
    return news, greeted


async def _stream(call: Call, resume: Vector | None) -> AsyncIterator[bytes]:
    async with feed(
        call.services.node, call.identity, address=_address(call), transport="sse", resume=resume
    ) as reader:
        while True:
            try:
                async with asyncio.timeout(KEEPALIVE_S):
                    taken = await reader.events()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            if taken:
                yield b"".join(map(_sse, taken))
            if reader.ended is not None:
                return


def _sse(event: Event) -> bytes:
    """One event (WHATWG HTML section 9.2.6); its id is the whole position, so any node can go on from it."""
    word = positions.encode(event.vector)
    return b"event: %b\nid: %b\ndata: %b\n\n" % (event.type.encode(), word.encode(), event.payload)


def _resume(word: str | None, path: str) -> Vector | None:
    if not word:
        return None
    try:
        return positions.decode(word)
    except ValueError:
        raise invalid(path, "is not a position that this service has given") from None


def _address(call: Call) -> str:
    return call.client.host if call.client is not None else ""
