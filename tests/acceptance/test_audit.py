"""`carillon audit verify`: whole chains are printed, a broken one is named and fails the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from delivery import audit_store
from tests.process import ENCRYPTION_KEYS, ROOT, SECRET
from tests.stores import Stores, open_stores


@pytest.fixture
async def stores(database: str) -> AsyncIterator[Stores]:
    """Two tenants with a chain of three rows each."""
    async with open_stores(database) as opened:
        for _ in range(3):
            async with opened.database.transaction() as connection:
                for tenant_id in ("hospital", "school"):
                    await audit_store.append(connection, tenant_id, "worker", "x", "delivery:1", {})
        yield opened


def verify(dsn: str, *arguments: str) -> tuple[int, list[str], str]:
    """The exit code, the lines that were printed, and what was complained of."""
    done = subprocess.run(
        [sys.executable, "-m", "app", "audit", "verify", *arguments],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "DATABASE_URL": dsn,
            "JWT_SECRET_KEY": SECRET,
            "DELIVERY_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


async def cut_off(stores: Stores, *statements: str) -> None:
    await stores.query("ALTER TABLE audit_log DISABLE TRIGGER audit_log_is_append_only")
    for statement in statements:
        await stores.query(statement)


async def test_whole_chains_are_printed_with_their_heads(stores: Stores, database: str) -> None:
    code, printed, _ = verify(database)
    alone = verify(database, "--tenant", "school")

    assert code == 0
    assert [line.split(":")[0] for line in printed] == ["hospital 3", "school 3"]
    assert alone[:2] == (0, printed[1:])


async def test_a_broken_chain_is_named_and_fails_the_command(stores: Stores, database: str) -> None:
    await cut_off(stores, "UPDATE audit_log SET actor = 'nobody' WHERE tenant_id = 'school' AND seq = 2")

    code, printed, complaint = verify(database)

    assert code == 1
    assert [line.split(":")[0] for line in printed] == ["hospital 3"]
    assert "school: row 2 is not what was written" in complaint


async def test_heads_that_were_kept_show_a_chain_that_was_rewritten_as_a_whole(
    stores: Stores, database: str, tmp_path: Path
) -> None:
    kept = tmp_path / "heads"
    kept.write_text("\n".join(verify(database)[1]))
    await cut_off(
        stores,
        "DELETE FROM audit_log WHERE tenant_id = 'school'",
        "DELETE FROM audit_heads WHERE tenant_id = 'school'",
    )

    assert verify(database)[0] == 0
    code, _, complaint = verify(database, "--against", str(kept))

    assert code == 1
    assert "school: row 1 is not what was written" in complaint


async def test_heads_that_cannot_be_read_are_refused(database: str, tmp_path: Path) -> None:
    kept = tmp_path / "heads"
    kept.write_text("something else")

    assert verify(database, "--against", str(kept))[0] == 2
    assert verify(database, "--against", str(tmp_path / "missing"))[0] == 2
