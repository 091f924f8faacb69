"""What was to reach which browser, what became of it as we say, and what its push service has really taken (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Pair(NamedTuple):
    """One notification in one browser."""

    notification: str
    browser: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of push_sends, with what its delivery is."""

    pair: Pair
    outcome: str
    unknowns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A row of notification_deliveries. unknown: attempts of which nobody knew the end when the next began."""

    notification: str
    state: str
    reason: str | None
    unknown: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What a push service has taken: the topics of a pair, one for each time; and how often it lost an answer to it."""

    taken: Mapping[Pair, Sequence[str | None]]
    lost_answers: Mapping[Pair, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What went wrong, each by its name, and what was counted."""

    lost: Sequence[Pair]  # nobody has it, and neither a dead letter nor a browser's own record says why
    stuck: Sequence[str]  # not finished
    invented: Sequence[Pair]  # sent, as we say; its push service has never taken it
    doubled: Sequence[str]  # more repetitions than tries of which nobody knew the end
    beside: Sequence[Pair]  # a repetition that would stand beside the first: it has no topic, or another
    repetitions: int
    unknown: int  # tries of which nobody knew the end: by us, or by the push service that lost an answer
    dead: int  # dead letters

    @property
    def clean(self) -> bool:
        return not (self.lost or self.stuck or self.invented or self.doubled or self.beside)


def judge(
    wanted: Iterable[Pair], deliveries: Sequence[Delivery], rows: Sequence[Row], witness: Witness
) -> Verdict:
    """wanted: every browser of every person that a notification was accepted for."""
    of, known = {one.notification: one for one in deliveries}, {row.pair: row for row in rows}
    lost, invented, doubled, beside = [], [], [], []
    unknowns = 0
    for pair in wanted:
        delivery, row = of.get(pair.notification), known.get(pair)
        taken = witness.taken.get(pair, ())
        if not taken:
            is_told = row is not None and row.outcome != "sent" and delivery is not None and delivery.reason
            if row is not None and row.outcome == "sent":
                invented.append(pair)
            elif not is_told:
                lost.append(pair)
            continue
        unknown = witness.lost_answers.get(pair, 0) + (row.unknowns if row is not None else 0)
        unknown += delivery.unknown if delivery is not None else 0
        unknowns += unknown
        if len(taken) - 1 > unknown:
            doubled.append(f"{pair}: taken {len(taken)} times, {unknown} unknown")
        if len(taken) > 1 and (None in taken or len(set(taken)) > 1):
            beside.append(pair)
    return Verdict(
        lost=lost,
        stuck=[
            f"{one.notification}: {one.state}"
            for one in deliveries
            if one.state in ("queued", "processing", "deferred", "unknown")
        ],
        invented=invented,
        doubled=doubled,
        beside=beside,
        repetitions=sum(len(taken) - 1 for taken in witness.taken.values()),
        unknown=unknowns,
        dead=sum(one.state == "failed" for one in deliveries),
    )
