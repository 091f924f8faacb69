"""
Every request of Keryu's document (KER-8, KER-9), as it stands in it but for the token, against a running service:
what it answers, and what arrives at Twilio. The document names paths and no bodies; those are its tables' columns.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import pytest

from tests.process import Node, nodes, service
from tests.providers import twilio as providers
from tests.providers.twilio import TwilioServer

PHONE, SENDER = "+14155552671", "+14155238886"
CONTENT_SID = "HX" + "0123456789abcdef" * 2
FOUR = ["Ada", "Fever", "38.9 °C at 14:05", "Please call back."]


class Keryu(NamedTuple):
    """A client of Keryu's, and the Twilio behind it."""

    node: Node
    twilio: TwilioServer
    dsn: str

    async def ask(self, method: str, path: str, body: Any = None, *, status: int) -> Any:
        answer = await self.node.ask(method, path, body, as_=service())
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    async def subject(self) -> str:
        body = {"name": "Ada", "phone_number": PHONE, "is_active": True, "preferences": {"language": "en"}}
        return str((await self.ask("POST", "/api/subjects/create/", body, status=201))["id"])

    async def notification(self, subject_id: str, text: str = "Come back, please.", **members: Any) -> Any:
        body = {"subject_id": subject_id, "message_template": text, **members}
        return await self.ask("POST", "/api/notifications/create/", body, status=202)

    async def becomes(self, notification_id: str, wanted: Callable[[Any], bool]) -> Any:
        """Wait until its status is as wanted; another process changes it, so there is nothing to await."""
        async with asyncio.timeout(90):
            while not wanted(
                found := await self.ask("GET", f"/api/notifications/{notification_id}/status/", status=200)
            ):
                await asyncio.sleep(0.02)
        return found

    async def come_due(self) -> datetime:
        """What is scheduled is due in half a second; when that is."""
        connection = await asyncpg.connect(self.dsn)
        try:
            due: datetime = await connection.fetchval(
                "UPDATE notifications SET scheduled_for = now() + interval '0.5 seconds'"
                " WHERE status = 'scheduled' RETURNING scheduled_for"
            )
        finally:
            await connection.close()
        return due

    async def has_written(self) -> None:
        """The person has written to us, so that WhatsApp takes free text for a day."""
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute("UPDATE recipient_addresses SET window_until = now() + interval '1 day'")
        finally:
            await connection.close()


@pytest.fixture
async def keryu(database: str) -> AsyncIterator[Keryu]:
    async with TwilioServer() as twilio:
        twilio.templates[CONTENT_SID] = 4
        async with nodes(
            database,
            TWILIO_ACCOUNT_SID=twilio.account_sid,
            TWILIO_AUTH_TOKEN=twilio.auth_token,
            TWILIO_BASE_URL=twilio.url,
            WHATSAPP_FROM=SENDER,
            WHATSAPP_TEMPLATES=json.dumps({"notification_alert": {"content_sid": CONTENT_SID}}),
            HUB_SCHEDULER_TICK="0.1",
        ) as [node]:
            yield Keryu(node, twilio, database)


async def test_every_request_of_the_document_works_as_written(keryu: Keryu) -> None:
    made = await keryu.ask(
        "POST", "/api/subjects/create/", {"name": "Ada", "phone_number": PHONE}, status=201
    )
    subject = f"/api/subjects/{made['id']}"
    assert (await keryu.ask("GET", "/api/subjects/list/", status=200))["subjects"] == [made]

    created = await keryu.ask(
        "POST",
        "/api/notifications/create/",
        {"subject_id": made["id"], "template_id": "notification_alert", "variables": FOUR},
        status=202,
    )
    notification = f"/api/notifications/{created['id']}"
    await keryu.twilio.wait_for(1, accepted=True)
    sent = await keryu.becomes(created["id"], lambda found: found["status"] == "sent")

    assert sent["sent_at"] is not None
    listed = await keryu.ask("GET", "/api/notifications/list/", status=200)
    assert (listed["notifications"], listed["total"]) == ([sent], 1)
    refused = await keryu.ask("POST", f"{notification}/retry/", status=409)
    assert refused["error"] == "conflict"
    changed = await keryu.ask("PUT", f"{subject}/update/", {"name": "Ada Lovelace"}, status=200)
    assert changed == {**made, "name": "Ada Lovelace"}
    await keryu.ask("DELETE", f"{subject}/delete/", status=204)
    assert (await keryu.ask("GET", "/api/subjects/list/", status=200))["subjects"] == []


async def test_the_template_arrives_at_twilio_with_its_four_variables(keryu: Keryu) -> None:
    await keryu.notification(
        await keryu.subject(), "{{1}}, this is about {{2}}: {{3}}. {{4}}", variables=FOUR
    )

    await keryu.twilio.wait_for(1, accepted=True)

    [taken] = keryu.twilio.accepted
    assert (taken.to, taken.sender) == (f"whatsapp:{PHONE}", f"whatsapp:{SENDER}")
    assert taken.fields["ContentSid"] == CONTENT_SID
    assert json.loads(taken.fields["ContentVariables"]) == dict(zip("1234", FOUR, strict=True))


async def test_who_has_written_is_sent_the_text_itself(keryu: Keryu) -> None:
    subject_id = await keryu.subject()
    await keryu.has_written()

    await keryu.notification(
        subject_id, "{{1}} is late.\nIt comes at {{2}}.", variables={"1": "Bus 7", "2": "9:12"}
    )
    await keryu.twilio.wait_for(1, accepted=True)

    [taken] = keryu.twilio.accepted
    assert taken.fields["Body"] == "Bus 7 is late.\nIt comes at 9:12."


async def test_what_is_scheduled_goes_out_then_and_not_before(keryu: Keryu) -> None:
    subject_id = await keryu.subject()
    when = datetime.now(UTC) + timedelta(hours=1)
    later = await keryu.notification(subject_id, "Later", scheduled_for=when.isoformat())
    at_once = await keryu.notification(subject_id, "At once")

    await keryu.becomes(at_once["id"], lambda found: found["status"] == "sent")
    waiting = await keryu.becomes(later["id"], lambda found: True)
    when = await keryu.come_due()
    await keryu.twilio.wait_for(2, accepted=True)
    sent = await keryu.becomes(later["id"], lambda found: found["status"] == "sent")

    assert waiting["status"] == "queued"
    assert datetime.fromisoformat(sent["sent_at"]) >= when
    variables = [json.loads(taken.fields["ContentVariables"])["3"] for taken in keryu.twilio.accepted]
    assert variables == ["At once", "Later"]


async def test_what_has_failed_is_sent_by_a_retry(keryu: Keryu) -> None:
    keryu.twilio.faults.append(providers.error(400, 21656, "The Content Variables Parameter is Invalid"))
    created = await keryu.notification(await keryu.subject())
    failed = await keryu.becomes(created["id"], lambda found: found["status"] == "failed")
    in_list = await keryu.ask("GET", "/api/notifications/list/?status=failed", status=200)

    retried = await keryu.ask("POST", f"/api/notifications/{created['id']}/retry/", status=202)
    sent = await keryu.becomes(created["id"], lambda found: found["status"] == "sent")

    assert in_list["notifications"] == [failed]
    assert (failed["retry_count"], failed["sent_at"]) == (0, None)
    assert retried["status"] in ("queued", "processing", "sent")
    assert sent["retry_count"] == 1
    assert len(keryu.twilio.accepted) == 1


async def test_an_inactive_subject_is_sent_nothing(keryu: Keryu) -> None:
    subject_id = await keryu.subject()
    await keryu.ask("PUT", f"/api/subjects/{subject_id}/update/", {"is_active": False}, status=200)

    created = await keryu.notification(subject_id)
    await keryu.becomes(created["id"], lambda found: found["status"] == "suppressed")

    assert keryu.twilio.received == []
