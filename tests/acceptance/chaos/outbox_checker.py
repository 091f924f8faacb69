"""What the outbox was given, what it says it did, and what its providers have really taken (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A row of notification_deliveries. name: as the providers know it."""

    name: str
    state: str
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A row of delivery_attempts."""

    name: str  # of its delivery
    attempt: int
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    code: str | None
    is_late: bool

    @property
    def is_unknown(self) -> bool:
        """Nobody knew how it had ended when it was decided what comes next."""
        return self.outcome == "unknown" or self.is_late


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What went wrong, each by its name, and what was counted."""

    lost: Sequence[str]  # accepted by us, by no provider, and no dead letter says why
    stuck: Sequence[str]  # not finished
    invented: Sequence[str]  # sent, as we say; no provider has it
    doubled: Sequence[str]  # more repetitions at a provider than unknown outcomes
    reopened: Sequence[str]  # attempted again after an attempt that was on time and succeeded
    repetitions: int  # at providers, of all deliveries
    unknown: int  # attempts of which nobody knew the end
    late: int  # of those: ended by a worker whose lease was over
    dead: int  # dead letters
    takeover: timedelta  # the longest from the beginning of an attempt without an end to the next one's
    slowest: str  # the delivery that this was

    @property
    def clean(self) -> bool:
        return not (self.lost or self.stuck or self.invented or self.doubled or self.reopened)


def judge(
    accepted: Iterable[str],
    deliveries: Sequence[Delivery],
    attempts: Sequence[Attempt],
    taken: Mapping[str, int],
) -> Verdict:
    """
    accepted: the names of what was answered with 201. taken: how often providers took each.
    """
    found = {one.name: one for one in deliveries}
    tries: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in sorted(attempts, key=lambda one: one.attempt):
        tries[attempt.name].append(attempt)
    lost, invented, stuck = [], [], []
    for name in accepted:
        delivery = found.get(name)
        if delivery is None or (not taken.get(name) and delivery.state == "failed" and not delivery.reason):
            lost.append(name)
        elif delivery.state in ("queued", "processing", "deferred", "unknown"):
            stuck.append(f"{name}: {delivery.state}")
        elif delivery.state != "failed" and not taken.get(name):
            (invented if delivery.state == "sent" else lost).append(f"{name}: {delivery.state}")
    doubled, reopened, takeover, slowest = [], [], timedelta(0), ""
    for name, made in tries.items():
        unknown = sum(one.is_unknown for one in made)
        if taken.get(name, 0) > 1 + unknown:
            doubled.append(f"{name}: taken {taken[name]} times, {unknown} unknown")
        for one, following in pairwise(made):
            if one.outcome == "sent" and not one.is_late:
                reopened.append(f"{name}: {one.attempt} was sent, and {following.attempt} began")
            if one.is_late or one.code == "worker_lost":
                took = following.started_at - one.started_at
                takeover, slowest = max((takeover, slowest), (took, f"{name}, attempt {one.attempt}"))
    return Verdict(
        lost=lost,
        stuck=stuck,
        invented=invented,
        doubled=doubled,
        reopened=reopened,
        repetitions=sum(count - 1 for count in taken.values() if count > 1),
        unknown=sum(one.is_unknown for one in attempts),
        late=sum(one.is_late for one in attempts),
        dead=sum(one.state == "failed" for one in deliveries),
        takeover=takeover,
        slowest=slowest,
    )
