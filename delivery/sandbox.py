"""
The sandbox (W-12): everything that would go out is captured, or goes to an address that is allowed.

No provider is handed a message with the address of a person: the channels of a sandboxed process have no other
providers than these. It refuses a database on which a production process has started, at the start and again
with every message: production may have come later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple
from uuid import UUID

from core.database import Database
from core.errors import ServiceError
from core.ids import uuid7
from core.outcome import Fail, Fallback, Halt, Outcome, Retry, Sent, Suppress
from core.sql import load
from core.vault import Vault
from delivery.addresses import hint, normalise
from delivery.channel import PROVIDER_CHANNELS, Address, Channel, Message, Provider

SQL = load("delivery", "sandbox.sql")

#: Shown wherever somebody might take a sandbox for the real thing.
BANNER = "SANDBOX: nothing reaches anybody; messages are captured, or go to the allowed addresses."

_NAME = "sandbox"
_CONCURRENCY = 64
_CLEARED = 5000  # rows in one transaction
_BATCH_DEADLINE = timedelta(seconds=10)
_LAST = UUID(int=(1 << 128) - 1)

_IS_PRODUCTION = Halt(
    reason="this process is a sandbox, and a production process has started on its database",
    code="sandbox_on_production",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """Whether messages go out. From DELIVERY_MODE and DELIVERY_SANDBOX_ADDRESSES."""

    mode: Literal["live", "sandbox"] = (
        "live"  # sandbox: every message is captured (GET /api/v1/sandbox/messages), or goes to an allowed address
    )
    sandbox_addresses: frozenset[str] = field(
        default=frozenset(), repr=False
    )  # channel:address, as in email:dev@example.test: in a sandbox, messages of the channel go there

    def __post_init__(self) -> None:
        self.allowed()

    @property
    def is_on(self) -> bool:
        return self.mode == "sandbox"

    def allowed(self) -> dict[str, Address]:
        """Where the messages of a channel go instead. Raises ValueError that repeats no address."""
        found: dict[str, Address] = {}
        for pair in self.sandbox_addresses:
            channel, _, text = pair.partition(":")
            try:
                if channel not in PROVIDER_CHANNELS or channel in found:
                    raise ValueError
                value = normalise(channel, text, None)
            except ValueError:
                raise ValueError("must be channel:address, comma-separated, one for a channel") from None
            found[channel] = Address(id=None, channel=channel, value=value, hint=hint(channel, value))
        return found


class Captured(NamedTuple):
    """A message that did not go out. says: its words and whatever else a provider would have been given."""

    id: UUID
    delivery_id: UUID
    channel: str
    hint: str
    captured_at: datetime
    says: dict[str, Any]


def sandboxed(
    channels: Mapping[str, Channel], database: Database, vault: Vault, settings: SandboxSettings
) -> Mapping[str, Channel]:
    """
    Every channel, also those that are not configured, with providers that reach nobody but allowed addresses.
    """
    allowed, messages = settings.allowed(), SandboxMessages(database, vault)

    def behind(name: str) -> Provider:
        real = channels[name].providers if name in channels else ()
        if name in allowed and real:
            return _Swapping(real[0], allowed[name], messages)
        return _Capturing(messages)

    return {
        name: Channel(
            name=name,
            providers=[behind(name)],
            unknown=channels[name].unknown if name in channels else "repeat",
        )
        for name in PROVIDER_CHANNELS
    }


async def may_start(database: Database, *, sandbox: bool, production: bool) -> bool:
    """
    Whether this process may work on this database: a sandbox may not where production has started. A
    production process that sends marks the database.
    """
    async with database.connection() as connection:
        if sandbox:
            return not await connection.fetchval(SQL["is_production"])
        if production:
            await connection.execute(SQL["mark_production"])
    return True


class SandboxMessages:
    """What has been captured, sealed."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def capture(self, message: Message) -> bool:
        """Keep a message; False, and nothing is kept, where a production process has started."""
        captured_id = uuid7()
        says = {
            "title": message.title,
            "text": message.text,
            "notification_type": message.notification_type,
            "priority": message.priority,
            "action_url": message.action_url,
            "metadata": message.metadata,
            "recipient_id": message.recipient_id,
            "locale": message.locale,
            "attempt": message.attempt,
            "event": message.event,
        }
        context = "sandbox", message.tenant_id, str(captured_id)
        sealed = self._vault.seal(json.dumps(says, default=dict), *context)
        async with self._database.connection() as connection:
            kept = await connection.fetchval(
                SQL["capture"],
                message.tenant_id,
                captured_id,
                message.delivery_id,
                message.address.channel,
                message.address.hint,
                sealed,
            )
        return kept is not None

    async def is_production(self) -> bool:
        """Whether a production process has started on this database."""
        async with self._database.connection() as connection:
            return bool(await connection.fetchval(SQL["is_production"]))

    async def list(
        self, tenant_id: str, *, channel: str | None = None, cursor: UUID | None = None, limit: int = 50
    ) -> list[Captured]:
        """The newest first. cursor: only what is older than this one."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["page"], tenant_id, cursor or _LAST, channel, limit)
        return [
            Captured(
                row["id"],
                row["delivery_id"],
                row["channel"],
                row["hint"],
                row["captured_at"],
                json.loads(self._vault.open(row["sealed"], "sandbox", tenant_id, str(row["id"]))),
            )
            for row in rows
        ]

    async def clear(self, tenant_id: str) -> int:
        """Forget what was captured; how many."""
        gone = 0
        while True:
            async with self._database.transaction(deadline=_BATCH_DEADLINE) as connection:
                status = await connection.execute(SQL["clear"], tenant_id, _CLEARED)
            gone += (count := int(status.rpartition(" ")[2]))
            if count < _CLEARED:
                return gone


@dataclass(frozen=True, slots=True)
class _Capturing:
    """Hands messages to nobody."""

    messages: SandboxMessages
    name: str = _NAME
    concurrency: int = _CONCURRENCY
    rate: float | None = None

    def account_of(self, address: Address) -> str:
        return _NAME

    async def send(self, message: Message) -> Outcome:
        try:
            kept = await self.messages.capture(message)
        except ServiceError as error:
            return Retry(reason="the message could not be captured", code=error.code)
        return Sent(is_final=True) if kept else _IS_PRODUCTION


@dataclass(frozen=True, slots=True)
class _Swapping:
    """Hands messages to a real provider, for one allowed address and no other."""

    real: Provider
    allowed: Address
    messages: SandboxMessages

    @property
    def name(self) -> str:
        return self.real.name

    @property
    def concurrency(self) -> int:
        return self.real.concurrency

    @property
    def rate(self) -> float | None:
        return self.real.rate

    def account_of(self, address: Address) -> str:
        return self.real.account_of(self.allowed)

    async def send(self, message: Message) -> Outcome:
        try:
            if await self.messages.is_production():
                return _IS_PRODUCTION
        except ServiceError as error:
            return Retry(reason="whether this is production could not be asked", code=error.code)
        return _of_nobody(await self.real.send(replace(message, address=self.allowed)))


def _of_nobody(outcome: Outcome) -> Outcome:
    """What the allowed address has answered says nothing of the person's own."""
    match outcome:
        case Suppress():
            return Fail(reason=outcome.reason, code=outcome.code)
        case Fail() | Fallback() if outcome.address_is_dead:
            return replace(outcome, address_is_dead=False)
    return outcome
