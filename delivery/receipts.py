"""
What providers report about a delivery, and where that takes it. Pure.

Reports come late, several times and in any order. They form a chain of ranks, and a delivery only ever climbs: so the
same reports lead to the same end in whatever order they come (X-56).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from delivery.callbacks import callback_url
from delivery.channels import codes

__all__ = [
    "FAILURES",
    "RANKS",
    "Consequence",
    "Effect",
    "Receipt",
    "ReportedState",
    "advanced",
    "callback_url",
    "consequence",
]

ReportedState = Literal["sent", "delivered", "read", "undelivered", "failed"]

#: What a report says about the person rather than the message. `bounced`: the address does not exist. `complained`:
#: it was called spam. `unsubscribed`: they want no more of this channel.
Effect = Literal["bounced", "complained", "unsubscribed"]

#: A delivery takes the state of the higher rank. A failure ends it: `delivered` after it is the report of something
#: older (a mail server that took the message before it bounced). What was called off and went out all the same is what
#: the report says it is.
RANKS: Mapping[str, int] = {
    "queued": 0,
    "deferred": 0,
    "processing": 0,
    "unknown": 0,
    "cancelled": 0,
    "expired": 0,
    "sent": 1,
    "delivered": 2,
    "read": 3,
    "undelivered": 4,
    "failed": 5,
    "suppressed": 6,
}

FAILURES = frozenset({"undelivered", "failed"})

#: Where a failure that is reported is about an attempt before: the next one is still to come.
_TRIED_AGAIN = frozenset({"queued", "deferred"})


#: What a delivery is that did not arrive, as far as anybody here knew.
_THOUGHT_UNSENT = FAILURES | {"suppressed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """
    One thing that a provider reports.

    event_id, status: by which it is known when it comes again. state: what it says about the delivery; None: nothing
    that moves it. ref: how the provider calls the message. delivery: (tenant id, delivery id), where the report
    carries them. occurred_at: by the provider's clock. is_first_hand: the device itself says so, so it has happened,
    whatever was thought of it.
    """

    provider: str
    event_id: str
    status: str
    state: ReportedState | None
    ref: str | None = None
    delivery: tuple[str, UUID] | None = None
    code: str | None = None
    effect: Effect | None = None
    occurred_at: datetime | None = None
    is_first_hand: bool = False


def advanced(
    state: str,
    reported: ReportedState,
    *,
    is_of_last_attempt: bool = True,
    is_known_as_sent: bool = False,
    is_first_hand: bool = False,
) -> str:
    """
    The state of a delivery after a report.

    is_of_last_attempt: of the message that the last attempt has sent. A message of an attempt before it that did
    arrive has arrived; that it did not says nothing any more. is_known_as_sent: an attempt has said so when it
    ended; a delivery that was replayed since is not at its end because that is said again. is_first_hand: somebody
    has seen it, so that it was given up, or held back, says nothing any more.
    """
    if is_first_hand and state in _THOUGHT_UNSENT:
        return reported
    if reported in FAILURES and (state in _TRIED_AGAIN or not is_of_last_attempt):
        return state
    if reported == "sent" and is_known_as_sent:
        return state
    return reported if RANKS[reported] > RANKS[state] else state


@dataclass(frozen=True, slots=True, kw_only=True)
class Consequence:
    """
    What follows from a report besides the state: why, for people; whether another channel takes over; for what reason
    the address is paused, or the channel is opted out of.
    """

    reason: str | None = None
    falls_back: bool = False
    pause: str | None = None
    opt_out: str | None = None

    def __bool__(self) -> bool:
        """Whether anything but the delivery is touched."""
        return self.falls_back or self.pause is not None or self.opt_out is not None


#: (why, for what reason the address is paused, for what reason the channel is opted out of)
_OF_EFFECT: Mapping[Effect, Consequence] = {
    "bounced": Consequence(reason="the address does not exist, says its mail server", pause="bounced"),
    "complained": Consequence(reason="the person called it spam", pause="complained", opt_out="complaint"),
    "unsubscribed": Consequence(reason="the person has unsubscribed with the provider", opt_out="provider"),
}


def consequence(receipt: Receipt) -> Consequence:
    """
    What a failure means that is reported late is judged by the table that judges one which is answered at once.

    Only what leads nowhere is followed up: what might go better later (RETRY, DEFER) has failed by now, and is a dead
    letter that can be replayed.
    """
    if receipt.effect is not None:
        return _OF_EFFECT[receipt.effect]
    if receipt.state not in FAILURES:
        return Consequence()
    line = codes.find(receipt.provider, receipt.code)
    if line is None:
        return Consequence(reason="the provider could not deliver it")
    return Consequence(
        reason=line.meaning,
        falls_back=line.outcome == "fallback",
        pause="gone" if line.address_is_dead else None,
        opt_out="provider" if line.outcome == "suppress" else None,
    )
