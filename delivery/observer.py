"""Who is told what workers do: events of the log, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from delivery.conclusion import Conclusion
from delivery.outbox import Claimed
from delivery.policy import Facts


class Observer(Protocol):
    """Who is told what a worker does: events of the log, metrics."""

    def started(self, worker: str) -> None: ...
    def claimed(self, claimed: Sequence[Claimed]) -> None: ...
    def concluded(
        self,
        claimed: Claimed,
        facts: Facts | None,
        provider: str | None,
        conclusion: Conclusion,
        seconds: float,
    ) -> None:
        """seconds: from the moment it was due to be sent to its end, the provider's time included."""
        ...

    def failed(self, error: str) -> None: ...
    def stopped(self, attempted: int) -> None: ...


class Unobserved:
    """An observer that tells nobody."""

    def started(self, worker: str) -> None: ...
    def claimed(self, claimed: Sequence[Claimed]) -> None: ...
    def concluded(
        self,
        claimed: Claimed,
        facts: Facts | None,
        provider: str | None,
        conclusion: Conclusion,
        seconds: float,
    ) -> None: ...
    def failed(self, error: str) -> None: ...
    def stopped(self, attempted: int) -> None: ...
