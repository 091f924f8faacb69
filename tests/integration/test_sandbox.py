"""A sandbox reaches nobody: what would go out is captured, or goes to an address that is allowed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from core.outcome import Fail, Fallback, Halt, Outcome, Retry, Sent, Suppress
from core.vault import Vault
from delivery.channel import PROVIDER_CHANNELS, Address, Channel, Message
from delivery.sandbox import SandboxMessages, SandboxSettings, may_start, sandboxed
from tests.postgres import PostgresServer
from tests.stores import Stores, open_stores
from tests.submissions import TENANT_ID

VAULT = Vault({"test": b"v" * 32})
REAL, ALLOWED = "ada@real.example.org", "dev@example.org"


@dataclass
class Recording:
    """A real provider, as far as the sandbox knows."""

    outcome: Outcome = Sent(provider_ref="m1")
    got: list[Message] = field(default_factory=list)
    name: str = "smtp"
    concurrency: int = 3
    rate: float | None = 2.0

    def account_of(self, address: Address) -> str:
        return address.value.rpartition("@")[2]

    async def send(self, message: Message) -> Outcome:
        self.got.append(message)
        return self.outcome


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    async with open_stores(database) as opened:
        yield opened


def boxed(stores: Stores, *providers: Recording, allowed: Sequence[str] = ()) -> Any:
    channels = {"email": Channel(name="email", providers=providers, unknown="repeat")}
    settings = SandboxSettings(mode="sandbox", sandbox_addresses=frozenset(allowed))
    return sandboxed(channels, stores.database, VAULT, settings)


def message(channel: str = "email", **members: Any) -> Message:
    given: dict[str, Any] = {
        "tenant_id": TENANT_ID,
        "delivery_id": uuid4(),
        "attempt": 1,
        "reference": "r",
        "address": Address(id=uuid4(), channel=channel, value=REAL, hint="a***@r***.org"),
        "title": "Secret title",
        "text": "Secret text",
        "notification_id": uuid4(),
        "notification_type": "iep_update",
        "priority": "normal",
        "created_at": datetime.now(UTC),
    }
    return Message(**given | members)


async def test_every_channel_is_captured_and_none_of_the_providers_hears_of_it(stores: Stores) -> None:
    real = Recording()
    channels = boxed(stores, real)

    assert set(channels) == set(PROVIDER_CHANNELS)
    for name, channel in channels.items():
        [provider] = channel.providers
        assert await provider.send(message(name)) == Sent(is_final=True)

    captured = await SandboxMessages(stores.database, VAULT).list(TENANT_ID)
    assert sorted(one.channel for one in captured) == sorted(PROVIDER_CHANNELS)
    assert {one.hint for one in captured} == {"a***@r***.org"}
    assert {one.says["title"] for one in captured} == {"Secret title"}
    assert real.got == []


async def test_what_was_captured_is_sealed_and_shown_to_its_tenant_alone(stores: Stores) -> None:
    [provider] = boxed(stores)["email"].providers
    await provider.send(message(metadata={"otp": "Secret code"}))
    kept = SandboxMessages(stores.database, VAULT)

    [row] = await stores.query("SELECT s.*::text AS text, s.sealed FROM sandbox_messages s")
    assert "Secret" not in row["text"]
    assert b"Secret" not in row["sealed"]
    assert REAL not in row["text"]
    assert await kept.list("hospital") == []
    assert await kept.clear("hospital") == 0
    assert await kept.clear(TENANT_ID) == 1
    assert await kept.list(TENANT_ID) == []


async def test_an_allowed_address_gets_what_was_meant_for_everybody(stores: Stores) -> None:
    real = Recording()
    channels = boxed(stores, real, allowed=[f"email:{ALLOWED}", "sms:+14155550100"])
    [provider] = channels["email"].providers

    outcome = await provider.send(message())
    by_sms = await channels["sms"].providers[0].send(message("sms"))

    assert outcome == Sent(provider_ref="m1")
    [got] = real.got
    assert (got.address.value, got.address.id, got.title) == (ALLOWED, None, "Secret title")
    assert (provider.name, provider.concurrency, provider.rate) == ("smtp", 3, 2.0)
    assert provider.account_of(message().address) == "example.org"
    assert by_sms == Sent(is_final=True)  # allowed, and nobody there to send it


async def test_there_is_no_way_from_a_sandbox_to_a_real_address(stores: Stores) -> None:
    first, second = Recording(outcome=Fail(reason="no")), Recording()
    channels = boxed(stores, first, second, allowed=[f"email:{ALLOWED}"])

    for channel in channels.values():
        for provider in channel.providers:
            await provider.send(message(channel.name))

    assert {one.address.value for one in first.got + second.got} == {ALLOWED}


@pytest.mark.parametrize(
    ("answered", "told"),
    [
        (Suppress(reason="stopped", code="21610"), Fail(reason="stopped", code="21610")),
        (Fail(reason="gone", address_is_dead=True), Fail(reason="gone")),
        (Fallback(reason="gone", address_is_dead=True), Fallback(reason="gone")),
        (Retry(reason="busy"), Retry(reason="busy")),
    ],
)
async def test_what_the_allowed_address_answers_says_nothing_of_the_persons_own(
    stores: Stores, answered: Outcome, told: Outcome
) -> None:
    [provider] = boxed(stores, Recording(outcome=answered), allowed=[f"email:{ALLOWED}"])["email"].providers

    assert await provider.send(message()) == told


@pytest.mark.parametrize("allowed", [[], [f"email:{ALLOWED}"]])
async def test_where_production_has_started_nothing_is_captured_or_sent_any_more(
    stores: Stores, allowed: list[str]
) -> None:
    real = Recording()
    [provider] = boxed(stores, real, allowed=allowed)["email"].providers
    assert isinstance(await provider.send(message()), Sent)

    await may_start(stores.database, sandbox=False, production=True)
    outcome = await provider.send(message())

    assert isinstance(outcome, Halt)
    assert len(real.got) + len(await SandboxMessages(stores.database, VAULT).list(TENANT_ID)) == 1


async def test_a_sandbox_does_not_start_where_production_has(stores: Stores) -> None:
    assert await may_start(stores.database, sandbox=True, production=False)
    assert await may_start(stores.database, sandbox=False, production=False)
    assert await may_start(stores.database, sandbox=True, production=True)  # staging, run like production
    assert await may_start(stores.database, sandbox=True, production=False)

    assert await may_start(stores.database, sandbox=False, production=True)

    assert not await may_start(stores.database, sandbox=True, production=False)
    assert await may_start(stores.database, sandbox=False, production=True)


async def test_without_a_database_a_message_waits(own_postgres: PostgresServer) -> None:
    await own_postgres.create_template()
    async with own_postgres.database(template="migrated") as dsn, open_stores(dsn) as stores:
        providers = [
            boxed(stores, Recording(), allowed=allowed)["email"].providers[0]
            for allowed in ([], [f"email:{ALLOWED}"])
        ]
        own_postgres.stop("immediate")
        outcomes = [await provider.send(message()) for provider in providers]
        own_postgres.start()

    assert all(isinstance(outcome, Retry) for outcome in outcomes)


@pytest.mark.parametrize(
    "pairs",
    [["dev@example.org"], ["pigeon:x"], ["email:nobody"], ["email:a@example.org", "email:b@example.org"]],
)
def test_an_allowed_address_that_is_none_stops_the_start_and_is_not_repeated(pairs: list[str]) -> None:
    with pytest.raises(ValueError, match="must be channel:address") as refused:
        SandboxSettings(mode="sandbox", sandbox_addresses=frozenset(pairs))

    assert "@" not in str(refused.value)
    assert ALLOWED not in repr(SandboxSettings(sandbox_addresses=frozenset([f"email:{ALLOWED}"])))
