"""The events without a WebSocket keep their reader's place, whatever happens while they are asked for."""

from __future__ import annotations

from typing import Any

import httpx

from hub import positions
from hub.positions import Vector
from tests.api import Edge, person


async def poll(edge: Edge, since: str | None = None, wait: float = 0) -> httpx.Response:
    """One long poll of Ada's."""
    asked: dict[str, Any] = {"wait": wait} if since is None else {"wait": wait, "since": since}
    return await edge.client(person()).get(
        "/api/v1/events", params=asked, headers={"Accept": "application/json"}
    )


async def test_a_poll_that_does_not_wait_answers_with_what_has_come(edge: Edge) -> None:
    began = (await poll(edge)).json()
    for title in ("first", "second"):
        await edge.submit(title=title)

    answer = (await poll(edge, began["since"])).json()

    assert began["events"] == []
    assert [event["data"]["title"] for event in answer["events"]] == ["first", "second"]
    assert (await poll(edge, answer["since"])).json() == {"events": [], "since": answer["since"]}


async def test_a_poll_while_the_database_is_away_is_refused_and_moves_nobody(edge: Edge) -> None:
    since = (await poll(edge)).json()["since"]
    await edge.database.close()

    for answer in (await poll(edge, since), await poll(edge, since, wait=5), await poll(edge)):
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1


async def test_an_event_stream_that_cannot_begin_leaves_its_reader_where_they_stood(edge: Edge) -> None:
    epoch = positions.decode((await poll(edge)).json()["since"]).epoch
    stood = positions.encode(Vector(epoch, {"user": 3, "tenant": 7}))
    await edge.database.close()

    answer = await edge.client(person()).get("/api/v1/events", headers={"Last-Event-ID": stood})

    [id_] = [line.removeprefix("id: ") for line in answer.text.splitlines() if line.startswith("id: ")]
    assert "event: error" in answer.text
    assert positions.decode(id_) == positions.decode(stood)
