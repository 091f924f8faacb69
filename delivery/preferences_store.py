"""What people and tenants want by which channel: the matrix type x channel, and opt-outs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from core.database import Connection, Database
from core.errors import ServiceError, not_found
from core.sql import load
from delivery.audit_store import append
from delivery.channel import PROVIDER_CHANNELS
from delivery.endpoints_store import emit
from delivery.events import Event, EventType
from delivery.policy import ANY, Level, Rule, resolve

SQL = load("delivery", "preferences.sql")

#: A type, or `*`, in; by channel, or `*`, whether it is on.
Matrix = Mapping[str, Mapping[str, bool]]

#: Lines of one matrix.
MAX_RULES = 1400

#: Of one person. What a provider or a link reports is taken beyond that.
MAX_OPT_OUTS = 1000

#: The user id under which the rules of a tenant stand.
_TENANT = ""

#: Opt-outs for this reason came by a link that may come back: mail is kept, forwarded and repeated.
UNSUBSCRIBE_LINK = "unsubscribe_link"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is switched on for a person. effective: the rule that decides, by type and channel; `*`: any other type."""

    own: Matrix
    tenant: Matrix
    effective: Mapping[str, Mapping[str, Rule]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOptOut:
    """One thing that a person wants no more of. value: see delivery.policy.OptOut."""

    scope: str
    value: str
    reason: str
    created_at: datetime


class Preferences:
    """Those of all tenants. Who may see and change whose is judged where the caller is known."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_person(self, tenant_id: str, user_id: str) -> Wishes:
        async with self._database.connection() as connection:
            rules = await _rules(connection, tenant_id, user_id)
        return _wishes(rules)

    async def of_tenant(self, tenant_id: str) -> Matrix:
        """What holds where a person has said nothing."""
        async with self._database.connection() as connection:
            return _matrix(await _rules(connection, tenant_id, _TENANT), "tenant")

    async def replace_of_person(self, tenant_id: str, user_id: str, matrix: Matrix, actor: str) -> Wishes:
        """In place of what was. Raises ServiceError (conflict) beyond MAX_RULES."""
        async with self._database.transaction() as connection:
            subject = f"recipient:{user_id}"
            return _wishes(await _replace(connection, tenant_id, user_id, matrix, "user", subject, actor))

    async def replace_of_tenant(self, tenant_id: str, matrix: Matrix, actor: str) -> Matrix:
        """As replace_of_person()."""
        async with self._database.transaction() as connection:
            subject = f"tenant:{tenant_id}"
            rules = await _replace(connection, tenant_id, _TENANT, matrix, "tenant", subject, actor)
            return _matrix(rules, "tenant")

    async def opt_outs(self, tenant_id: str, user_id: str) -> list[StoredOptOut]:
        """The newest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["opt_outs"], tenant_id, user_id)
        return [_opt_out(row) for row in rows]

    async def opt_out(
        self, tenant_id: str, user_id: str, scope: str, value: str, *, reason: str, actor: str
    ) -> tuple[StoredOptOut, bool]:
        """
        The opt-out, and whether it is new; see opt_out() for one inside another transaction.

        Raises ServiceError (conflict) beyond MAX_OPT_OUTS.
        """
        async with self._database.transaction() as connection:
            await connection.execute(SQL["lock_preferences"], tenant_id, user_id)
            standing = await connection.fetchrow(SQL["one_opt_out"], tenant_id, user_id, scope, value)
            if standing is not None:
                return _opt_out(standing), False
            if await connection.fetchval(SQL["count_opt_outs"], tenant_id, user_id) >= MAX_OPT_OUTS:
                raise ServiceError("conflict", f"Nobody has more than {MAX_OPT_OUTS} opt-outs.")
            await opt_out(connection, tenant_id, user_id, scope, value, reason=reason, actor=actor)
            row = await connection.fetchrow(SQL["one_opt_out"], tenant_id, user_id, scope, value)
            assert row is not None, "it was written in this transaction"
            return _opt_out(row), True

    async def lift(self, tenant_id: str, user_id: str, scope: str, value: str, *, actor: str) -> None:
        """As lift(), in a transaction of its own. Raises ServiceError (not_found) where there is none."""
        async with self._database.transaction() as connection:
            if not await lift(connection, tenant_id, user_id, scope, value, actor=actor):
                raise not_found("opt-out")


async def opt_out(
    connection: Connection, tenant_id: str, user_id: str, scope: str, value: str, *, reason: str, actor: str
) -> bool:
    """
    Send a person no more of something, in the caller's transaction; False: they were opted out of it already.

    scope and value: as delivery.policy.OptOut has them. reason: a word: unsubscribe_link, keyword, provider,
    complaint, api. actor: as the audit log names them. Locks the tenant's audit log until the transaction ends.
    """
    created_at = await connection.fetchval(SQL["opt_out"], tenant_id, user_id, scope, value, reason)
    if created_at is None:
        return False
    details = {"scope": scope, "value": value, "reason": reason}
    await _tell(connection, tenant_id, user_id, "opt_out.added", created_at, details, actor)
    return True


async def lift(
    connection: Connection, tenant_id: str, user_id: str, scope: str, value: str, *, actor: str
) -> bool:
    """
    End an opt-out, in the caller's transaction; False: there is none.

    Where it came by an unsubscribe link, the links sent so far are refused from now on: a client that repeats
    its one-click request, or a forwarded mail, does not undo what the person has just said.
    """
    await connection.execute(SQL["lock_preferences"], tenant_id, user_id)
    row = await connection.fetchrow(SQL["one_opt_out"], tenant_id, user_id, scope, value)
    if row is None:
        return False
    if row["reason"] == UNSUBSCRIBE_LINK:
        await connection.execute(SQL["renew_links"], tenant_id, user_id)
    details = {"scope": scope, "value": value, "reason": row["reason"]}
    await _tell(connection, tenant_id, user_id, "opt_out.lifted", row["now"], details, actor)
    # Only now: who waits for this row to be gone may have appended to the audit log before.
    await connection.execute(SQL["lift"], tenant_id, user_id, scope, value)
    return True


async def _tell(
    connection: Connection,
    tenant_id: str,
    user_id: str,
    what: EventType,
    when: datetime,
    details: Mapping[str, str],
    actor: str,
) -> None:
    """The tenant's webhooks and the audit log."""
    event = Event(tenant_id=tenant_id, type=what, occurred_at=when, data={"user_id": user_id, **details})
    await emit(connection, [event])
    await append(connection, tenant_id, actor, what, f"recipient:{user_id}", details)


async def _replace(
    connection: Connection,
    tenant_id: str,
    user_id: str,
    matrix: Matrix,
    level: Level,
    subject: str,
    actor: str,
) -> list[Rule]:
    """All rules that concern the person, or the tenant, afterwards. What stands already is not written anew."""
    wanted = [(kind, channel, on) for kind, row in matrix.items() for channel, on in row.items()]
    if len(wanted) > MAX_RULES:
        raise ServiceError("conflict", f"A matrix has at most {MAX_RULES} lines.")
    await connection.execute(SQL["lock_preferences"], tenant_id, user_id)
    rules = await _rules(connection, tenant_id, user_id)
    before = {
        (rule.notification_type, rule.channel, rule.is_enabled) for rule in rules if rule.level == level
    }
    if before == set(wanted):
        return rules
    await connection.execute(SQL["clear_rules"], tenant_id, user_id)
    await connection.execute(
        SQL["put_rules"],
        tenant_id,
        user_id,
        [kind for kind, _, _ in wanted],
        [channel for _, channel, _ in wanted],
        [on for _, _, on in wanted],
    )
    details = {"set": _told(set(wanted) - before), "was": _told(before - set(wanted))}
    await append(connection, tenant_id, actor, "preferences.changed", subject, details)
    return await _rules(connection, tenant_id, user_id)


def _told(lines: Iterable[tuple[str, str, bool]]) -> list[str]:
    return [f"{kind}/{channel} {'on' if on else 'off'}" for kind, channel, on in sorted(lines)]


async def _rules(connection: Connection, tenant_id: str, user_id: str) -> list[Rule]:
    rows = await connection.fetch(SQL["rules"], tenant_id, user_id)
    return [
        Rule(
            is_enabled=row["is_enabled"],
            level="user" if row["user_id"] else "tenant",
            notification_type=row["notification_type"],
            channel=row["channel"],
        )
        for row in rows
    ]


def _wishes(rules: Sequence[Rule]) -> Wishes:
    types = {ANY: None} | dict.fromkeys(rule.notification_type for rule in rules)
    return Wishes(
        own=_matrix(rules, "user"),
        tenant=_matrix(rules, "tenant"),
        effective={
            kind: {channel: resolve(rules, kind, channel) for channel in PROVIDER_CHANNELS} for kind in types
        },
    )


def _matrix(rules: Iterable[Rule], level: Level) -> Matrix:
    matrix: dict[str, dict[str, bool]] = {}
    for rule in rules:
        if rule.level == level:
            matrix.setdefault(rule.notification_type, {})[rule.channel] = rule.is_enabled
    return matrix


def _opt_out(row: asyncpg.Record) -> StoredOptOut:
    return StoredOptOut(
        scope=row["scope"], value=row["value"], reason=row["reason"], created_at=row["created_at"]
    )
