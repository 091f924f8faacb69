"""What the edge and the worker need of delivery, made in one place from what build has opened."""

from __future__ import annotations

from dataclasses import dataclass

from core.clock import Clock
from core.database import Database
from core.vault import Vault
from hub.publisher import Publisher


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivering:
    """The stores of delivery, by what they keep."""

    vault: Vault


def delivering(database: Database, publisher: Publisher, vault: Vault, clock: Clock) -> Delivering:
    """The stores over one database."""
    return Delivering(vault=vault)
