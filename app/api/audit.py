"""Who did what in a tenant, and whether the record of it is whole."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from pydantic import Field, StringConstraints
from starlette.responses import Response

from app.api.models import Answer, Parameters, Whole
from app.api.operation import Call, Operation, answer
from app.api.reading import query
from delivery.audit_store import Row


class AuditQuery(Parameters):
    """Which rows, and which page of them."""

    limit: Annotated[Whole, Field(ge=1, le=500)] = 50
    before: Annotated[Whole, Field(ge=1, lt=2**53)] | None = Field(
        default=None, description="The next_before of the page before."
    )
    subject: Annotated[str, StringConstraints(max_length=300, pattern=r"^[a-z_]+:.+$")] | None = Field(
        default=None, description="What it was done to: `delivery:<id>`, `recipient:<id>`, …"
    )


class AuditRow(Answer):
    """Something that was done."""

    seq: int = Field(description="Its place in the tenant's chain.")
    at: datetime
    actor: str = Field(description="`person:<id>`, `provider:<name>`, `worker`, or the name of a program.")
    action: str
    subject: str
    notification_id: UUID | None
    details: dict[str, Any]
    hash: str = Field(description="SHA-256 over the hash before it and this row, hexadecimal.")


class AuditPage(Answer):
    """The newest first."""

    rows: list[AuditRow]
    next_before: int | None = Field(description="null: nothing older.")


class Verified(Answer):
    """Whether the chain is as it was written."""

    intact: bool
    first_bad_seq: int | None
    head: str | None = Field(description="`seq:hash` of the last row: keep it where nobody can change it.")


async def rows(call: Call) -> Response:
    """What was done in the caller's tenant: opt-outs, replays, edits, cancellations, changed addresses."""
    wanted = query(call, AuditQuery)
    found = await call.services.delivery.audit.list(
        call.identity.tenant_id, before=wanted.before, subject=wanted.subject, limit=wanted.limit
    )
    following = found[-1].seq if len(found) == wanted.limit and found[-1].seq > 1 else None
    return answer(AuditPage(rows=[_shown(row) for row in found], next_before=following))


async def verify(call: Call) -> Response:
    """
    Hold the whole chain of the caller's tenant against its hashes. A long one takes seconds; `carillon audit
    verify` does the same for all tenants.
    """
    audit, tenant_id = call.services.delivery.audit, call.identity.tenant_id
    head, bad = await audit.head(tenant_id), await audit.verify(tenant_id)
    return answer(Verified(intact=bad is None, first_bad_seq=bad, head=None if head is None else str(head)))


def _shown(row: Row) -> AuditRow:
    return AuditRow(
        seq=row.seq,
        at=row.at,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        notification_id=row.notification_id,
        details=msgspec.json.decode(row.details),
        hash=row.hash.hex(),
    )


def operations() -> tuple[Operation, ...]:
    return (
        Operation(
            method="GET",
            path="/api/v1/audit",
            handler=rows,
            summary="Who did what",
            tag="operations",
            scopes=("admin",),
            query=AuditQuery,
            answers={200: AuditPage},
        ),
        Operation(
            method="GET",
            path="/api/v1/audit/verify",
            handler=verify,
            summary="Verify the audit log",
            tag="operations",
            scopes=("admin",),
            answers={200: Verified},
        ),
    )
