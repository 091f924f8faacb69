"""
The command `carillon audit verify`: the record of who did what, held against its hashes.

It prints the head of every chain. Kept where nobody who can write to this database can change them, they show
also a chain that was rewritten as a whole: `--against` takes the lines of an earlier run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from app.first_run import prepared
from app.settings import Settings
from core.database import open_database
from delivery.audit_store import Audit, Head


async def verify(settings: Settings, *, tenant: str | None, against: Path | None) -> int:
    """The exit code: 0 when every chain is whole, 1 when one is not, 2 when `against` cannot be read."""
    try:
        anchors = {} if against is None else read_heads(against.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no lines of `carillon audit verify`"
        print(f"carillon: --against: {reason}", file=sys.stderr)
        return 2
    async with prepared(settings) as (settings, _):
        database = await open_database(settings.database)
        try:
            return await _verify(Audit(database), tenant, anchors)
        finally:
            await database.close()


async def _verify(audit: Audit, tenant: str | None, anchors: Mapping[str, Head]) -> int:
    broken = 0
    tenants = [tenant] if tenant is not None else sorted({*await audit.tenants(), *anchors})
    for name in tenants:
        head = await audit.head(name) or Head(0, b"")  # before, so that what is printed was looked at
        bad = await audit.verify(name, anchors.get(name))
        if bad is None:
            print(f"{name} {head}")
        else:
            broken += 1
            print(f"carillon: {name}: row {bad} is not what was written", file=sys.stderr)
    return 1 if broken else 0


def read_heads(text: str) -> dict[str, Head]:
    """The heads that an earlier run has printed, by tenant. Raises ValueError."""
    heads = {}
    for line in text.splitlines():
        if line.strip():
            name, head = line.split()
            heads[name] = Head.read(head)
    return heads
