"""What was acknowledged against what was received, in the way of Jepsen's set checker (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: A notification as it came over the wire: stream, seq, id.
Heard = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What went wrong, each named; nothing is well."""

    lost: Sequence[str]  # acknowledged, and never received by one whom it concerns
    doubled: Sequence[str]  # received twice by one client
    out_of_order: Sequence[str]  # a seq of a stream that did not follow the one before it

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.out_of_order)


def judge(acknowledged: Iterable[tuple[str, str]], received: dict[str, Sequence[Sequence[Heard]]]) -> Verdict:
    """
    acknowledged: (id, person) of every create that was answered 201. received: by person, what each of their
    devices heard, over all its connections, in the order of its coming.
    """
    owed: dict[str, set[str]] = {person: set() for person in received}
    for notification_id, person in acknowledged:
        owed[person].add(notification_id)
    lost, doubled, disorder = [], [], []
    for person, devices in received.items():
        for number, heard in enumerate(devices):
            name = f"{person}/{number}"
            counts = Counter(notification_id for _, _, notification_id in heard)
            lost += [f"{name}: {missing}" for missing in sorted(owed[person] - counts.keys())]
            doubled += [f"{name}: {one}" for one, count in counts.items() if count > 1]
            last: dict[str, int] = {}
            for stream, seq, _ in heard:
                if stream in last and seq != last[stream] + 1:
                    disorder.append(f"{name}: {stream} {seq} after {last[stream]}")
                last[stream] = max(seq, last.get(stream, 0))
    return Verdict(lost, doubled, disorder)
