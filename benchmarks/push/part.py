"""One part of the benchmark, and what parts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Part:
    """A claim and its measurement."""

    name: str
    title: str
    run: Callable[[int], str]  # rounds in, Markdown out


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio shall be at least; figures of a busy machine lie below those of a quiet one."""

    claim: str
    least: float

    def line(self, ratio: float) -> str:
        verdict = "met" if ratio >= self.least else "MISSED"
        return f"- {self.claim}: {ratio:.2f}, target ≥ {self.least}: {verdict}"


def ratio(costs: Mapping[str, Sequence[float]], variant: str, reference: str) -> float:
    """How many times cheaper: the median over the rounds, each compared within itself."""
    return median(theirs / ours for ours, theirs in zip(costs[variant], costs[reference], strict=True))


def microseconds(seconds: Sequence[float]) -> str:
    """Median (smallest-largest)."""
    return f"{median(seconds) * 1e6:,.0f} ({min(seconds) * 1e6:,.0f}-{max(seconds) * 1e6:,.0f})"
