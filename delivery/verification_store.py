"""
Whether the owner of an address answers: a code is sent there, and has to come back.

The code stands in the sealed part of its delivery and nowhere else; what is kept to compare it with is a keyed hash.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import structlog

from core.database import Connection, Database
from core.errors import ServiceError, invalid
from core.identity import Identity
from core.notification import Priority
from core.sql import load
from core.vault import Vault
from delivery import addresses, audit_store, ingest
from delivery.draft import Submission, Users
from delivery.policy import ADDRESS_VERIFICATION
from delivery.recipients_store import RecipientAddress, Recipients
from hub.publisher import Publisher

SQL = load("delivery", "verification.sql")

log = structlog.stdlib.get_logger("delivery.verification")

_DIGITS = 6

#: Codes of others, long useless, that go with each new one: so there are never many.
_FORGOTTEN = 10

_TITLE = "Confirm your address"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationSettings:
    """Codes that are sent to addresses. From DELIVERY_CODE_*."""

    life: timedelta = timedelta(minutes=10)  # a code is good for so long
    tries: int = 5  # wrong answers included; then another code is needed
    interval: timedelta = timedelta(minutes=1)  # between two codes to one address
    per_day: int = 10  # codes to one person, whatever the address: each costs, and may ring a stranger
    tenant_per_day: int = 1000  # codes of one tenant; then none goes out until some are a day old
    countries: frozenset[str] = (
        frozenset()
    )  # whose phone numbers get codes (ISO 3166), beside the tenant's region; both empty: any


class Verifications:
    """Sends codes, which are work for the workers, and takes them back."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        recipients: Recipients,
        publisher: Publisher,
        settings: VerificationSettings | None = None,
    ) -> None:
        self._database = database
        self._vault = vault
        self._recipients = recipients
        self._publisher = publisher
        self._settings = settings or VerificationSettings()

    async def send(self, sender: Identity, user_id: str, address_id: UUID) -> datetime:
        """
        Send a new code to an address of a person of the caller's tenant; until when it is good.

        Raises ServiceError: not_found; conflict when the address is verified, paused, or a phone number of a country to
        which no codes go; rate_limited.
        """
        tenant_id = sender.tenant_id
        async with self._database.transaction() as connection:
            await connection.execute(SQL["forget"], _FORGOTTEN)
            await connection.execute(SQL["one_at_a_time"], tenant_id)
            address = await self._recipients.lock_address(connection, tenant_id, user_id, address_id)
            await self._admit(connection, tenant_id, address)
            code = f"{secrets.randbelow(10**_DIGITS):0{_DIGITS}}"
            expires_at: datetime = await connection.fetchval(
                SQL["begin"],
                tenant_id,
                address_id,
                self._hash(tenant_id, address_id, code),
                self._settings.life,
            )
            written = await ingest.submit(connection, _notification(tenant_id, address, expires_at), sender)
            await self._put_code(connection, written.accepted.notification_ids[0], tenant_id, address, code)
            details = {"address_id": str(address_id), "channel": address.channel}
            actor, subject = audit_store.actor_of(sender), f"recipient:{user_id}"
            await audit_store.append(connection, tenant_id, actor, "address.code_sent", subject, details)
        if written.entries:
            self._publisher.publish(written.entries)
        return expires_at

    async def confirm(self, sender: Identity, user_id: str, address_id: UUID, code: str) -> RecipientAddress:
        """
        The address is verified, since its code came back. Raises ServiceError: not_found; invalid for a code
        that is wrong, too old, used or tried too often: which of these is not said.
        """
        tenant_id = sender.tenant_id
        async with self._database.transaction() as connection:
            address = await self._recipients.lock_address(connection, tenant_id, user_id, address_id)
            wanted = await connection.fetchval(SQL["try"], tenant_id, address_id, self._settings.tries)
            is_right = wanted is not None and hmac.compare_digest(
                wanted, self._hash(tenant_id, address_id, code)
            )
            if is_right:
                await connection.execute(SQL["end"], tenant_id, address_id)
                actor = audit_store.actor_of(sender)
                await self._recipients.mark_verified(connection, tenant_id, address_id, actor)
                address = await self._recipients.lock_address(connection, tenant_id, user_id, address_id)
        if not is_right:  # after the commit: the try counts
            raise invalid("code", "is not the code that was sent last, or is no longer good")
        return address

    async def _admit(self, connection: Connection, tenant_id: str, address: RecipientAddress) -> None:
        """Raises ServiceError where no code may go to an address now."""
        if address.verified_at is not None:
            raise ServiceError("conflict", "The address is verified.")
        if address.paused_at is not None:
            raise ServiceError("conflict", "The address is paused.")
        settings = self._settings
        standing = await connection.fetchrow(
            SQL["standing"],
            tenant_id,
            address.id,
            _least_id(datetime.now(UTC) - timedelta(days=1)),
            ADDRESS_VERIFICATION,
            settings.life,
        )
        assert standing is not None, "it is locked"
        age: timedelta | None = standing["age"]
        if age is not None and age < settings.interval:
            wait = (settings.interval - age).total_seconds()
            raise ServiceError("rate_limited", "A code was sent there a moment ago.", retry_after=wait)
        if standing["of_person"] >= settings.per_day:
            raise ServiceError("rate_limited", "Too many codes were sent to this person.", retry_after=3600)
        if standing["of_tenant"] >= settings.tenant_per_day:
            log.warning("address_codes_exhausted", tenant_id=tenant_id, per_day=settings.tenant_per_day)
            raise ServiceError("rate_limited", "Too many codes were sent today.", retry_after=3600)
        allowed = settings.countries | ({standing["region"]} - {None})
        if allowed and address.channel in {"sms", "whatsapp"}:
            value = self._vault.open(standing["sealed"], "address", tenant_id, str(address.id))
            if addresses.country(value) not in allowed:
                raise ServiceError("conflict", "No codes are sent to phone numbers of that country.")

    async def _put_code(
        self,
        connection: Connection,
        notification_id: UUID,
        tenant_id: str,
        address: RecipientAddress,
        code: str,
    ) -> None:
        """The code and where it goes, into the sealed part of the delivery."""
        said = {
            "title": _TITLE,
            "text": f"Your code is {code}. If you did not ask for it, do nothing.",
            "address_id": str(address.id),
        }
        rows = await connection.fetch(
            SQL["deliveries_of"], tenant_id, notification_id, address.user_id, address.channel
        )
        assert len(rows) == 1, "a notification has one delivery per person and channel"
        [delivery_id] = rows[0]
        sealed = self._vault.seal(
            msgspec.json.encode(said).decode(), "delivery-edit", tenant_id, str(delivery_id)
        )
        await connection.execute(SQL["redirect"], tenant_id, delivery_id, sealed)

    def _hash(self, tenant_id: str, address_id: UUID, code: str) -> bytes:
        return self._vault.lookup("address-code", tenant_id, str(address_id), code)


def _notification(tenant_id: str, address: RecipientAddress, expires_at: datetime) -> Submission:
    """What stands in the store, and says nothing. Another code takes the place of one that is still on its way."""
    return Submission(
        tenant_id=tenant_id,
        audience=Users.of(address.user_id),
        title=_TITLE,
        message="A code is on its way to an address of yours.",
        notification_type=ADDRESS_VERIFICATION,
        priority=Priority.HIGH,
        channels=(address.channel,),
        collapse_key=f"{ADDRESS_VERIFICATION}:{address.id}",
        expires_at=expires_at,
    )


def _least_id(moment: datetime) -> UUID:
    """No UUID of version 7 that was made since then is less."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
