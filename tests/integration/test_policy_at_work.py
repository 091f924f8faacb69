"""What people want, between the outbox and the providers: asked at every attempt, and kept with it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from core.clock import SystemClock
from core.outcome import Outcome, Sent
from delivery.channel import Address, Channel, Message
from delivery.composing import LinkSettings
from delivery.policy import GATES
from delivery.preferences_link import PreferencesLinks, Visitor
from delivery.preferences_store import Preferences
from delivery.unsubscribe import Unsubscribing
from tests.stores import Stores, open_stores
from tests.submissions import TENANT_ID, person
from tests.workers import VAULT, a_worker, channel, introduce, simulated

ACTOR = "person:ada"
LINKS = LinkSettings(public_url="https://notify.example.test")


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        await introduce(opened.database, "ada", channels=("email", "sms"))
        yield opened


class Mailbox:
    """A provider that keeps what it is given."""

    name, concurrency, rate = "mailbox", 8, None

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def account_of(self, address: Address) -> str:
        return "one"

    async def send(self, message: Message) -> Outcome:
        self.messages.append(message)
        return Sent(provider_ref=f"ref-{len(self.messages)}")


async def work(stores: Stores, channels: dict[str, Channel]) -> None:
    """Everything that there is, as if it were due now."""
    await stores.query("UPDATE notification_deliveries SET due_at = now() WHERE finished_at IS NULL")
    await a_worker(stores.database, channels, links=LINKS).run_once()


async def ends(stores: Stores) -> dict[str, tuple[str, str | None]]:
    """The state of each delivery and the reason, by its channel."""
    rows = await stores.query("SELECT channel, state, reason FROM notification_deliveries")
    return {row["channel"]: (row["state"], row["reason"]) for row in rows}


async def gates(stores: Stores) -> list[list[dict[str, Any]]]:
    """What the gates saw at each attempt."""
    rows = await stores.query("SELECT gates FROM delivery_attempts ORDER BY started_at")
    return [json.loads(row["gates"]) for row in rows]


async def test_what_is_switched_off_by_a_channel_goes_out_by_the_other(stores: Stores) -> None:
    await Preferences(stores.database).replace_of_person(
        TENANT_ID, "ada", {"iep_update": {"sms": False}}, ACTOR
    )
    await stores.send("ada", channels=("email", "sms"))

    await work(stores, simulated())

    assert await ends(stores) == {
        "email": ("sent", None),
        "sms": ("suppressed", "switched off by the user for type iep_update, channel sms"),
    }


async def test_a_retry_is_stopped_by_what_was_said_meanwhile(stores: Stores) -> None:
    await stores.send("ada", channels=("sms",))
    channels = simulated("503", "ok")
    await work(stores, channels)
    assert (await ends(stores))["sms"][0] == "queued"

    await Preferences(stores.database).opt_out(
        TENANT_ID, "ada", "channel", "sms", reason="keyword", actor=ACTOR
    )
    await work(stores, channels)

    assert await ends(stores) == {"sms": ("suppressed", "opted out of channel sms (keyword)")}
    first, second = await gates(stores)
    assert [gate["gate"] for gate in first] == [gate.__name__ for gate in GATES]
    assert all(gate["passed"] for gate in first)
    assert second[-1]["gate"] == "not_opted_out"
    assert not second[-1]["passed"]


async def test_the_link_in_a_message_ends_its_type_by_its_channel_and_nothing_else(stores: Stores) -> None:
    mailbox = Mailbox()
    channels = {"email": channel("email", mailbox), "sms": channel("sms", mailbox)}
    await stores.send("ada", channels=("email",))
    await work(stores, channels)
    [mail] = mailbox.messages
    assert mail.unsubscribe_url is not None
    assert mail.unsubscribe_url.startswith("https://notify.example.test/u/")

    assert mail.preferences_url is not None
    visitor = await PreferencesLinks(stores.database, VAULT, SystemClock()).visitor(
        mail.preferences_url.removeprefix("https://notify.example.test/p/")
    )
    assert isinstance(visitor, Visitor)
    assert visitor.user_id == "ada"

    await Unsubscribing(stores.database, VAULT).act(mail.unsubscribe_url.rpartition("/")[2])
    await stores.send("ada", channels=("email", "sms"))
    await stores.send("ada", channels=("email",), notification_type="billing.due")
    await work(stores, channels)

    went_out = [(one.address.channel, one.notification_type) for one in mailbox.messages[1:]]
    assert sorted(went_out) == [("email", "billing.due"), ("sms", "iep_update")]


async def test_neither_addresses_nor_words_are_kept_with_attempts_or_in_the_audit_log(stores: Stores) -> None:
    preferences = Preferences(stores.database)
    await stores.send("ada", channels=("email", "sms"), title="CANARY-8f14", message="CANARY-8f14")
    await preferences.opt_out(TENANT_ID, "ada", "channel", "sms", reason="api", actor=ACTOR)
    await preferences.replace_of_person(TENANT_ID, "ada", {"*": {"sms": False}}, ACTOR)
    await preferences.lift(TENANT_ID, "ada", "channel", "sms", actor=ACTOR)
    await work(stores, simulated())

    kept = await stores.query(
        "SELECT a::text AS said FROM delivery_attempts a UNION ALL SELECT l::text FROM audit_log l"
        " UNION ALL SELECT d::text FROM notification_deliveries d"
    )
    said = "\n".join(row["said"] for row in kept)
    assert '"gate":"address_usable"' in said.replace('\\"', '"').replace('""', '"')
    for secret in ("ada@example.test", "+447700900000", "447700900", "CANARY-8f14"):
        assert secret not in said


async def test_what_is_read_while_it_waits_for_its_retry_goes_out_no_more(stores: Stores) -> None:
    sent = await stores.send("ada", channels=("in_app", "email"))
    channels = simulated("503", "ok")
    await work(stores, channels)

    await stores.inbox.membership(person("ada"))
    await stores.inbox.change(person("ada"), "read", [sent])
    await work(stores, channels)

    assert await ends(stores) == {"email": ("suppressed", "read already")}
