"""
How one try to send something ended. Ends we expect are values; an exception is a bug.

    Sent       the provider took it
    Retry      try the same again soon (30 s to 15 min)
    Defer      try the same again later (5 to 60 min)
    Fallback   this way does not lead to this person: take another channel
    Suppress   the person does not want to be sent this here
    Halt       the provider refuses the sender: nothing goes out by this account until somebody acts
    Fail       it will never be taken as it is
    Unknown    it was handed over and the answer was lost: it may have been sent

`code` is the provider's own, `reason` a sentence for the operator. Neither carries an address, a secret or
what a message says.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Literal, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """
    The provider took it.

    provider_ref: how the provider calls it, for receipts. is_final: no receipt will follow, so nothing is
    known beyond this. reached: receipts were quicker than the answer, and say that it has come so far.
    """

    name: ClassVar[str] = "sent"
    provider_ref: str | None = None
    is_final: bool = False
    reached: Literal["delivered", "read"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    reason: str
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(_Ended):
    """
    Nothing was sent, and trying again soon may help.

    after: not before this is over (Retry-After), where the provider says so. throttled: the provider has
    had enough of the whole account, not of this message: nobody sends through it until `after` is over.
    elsewhere: the trouble is one receiver's of many, and says nothing about the account. partly: some of it was
    sent; when trying again has an end, it counts as sent. is_held_back: the receiver as a whole can not be sent to
    for now, which is not counted against the message. untried: some of the receivers had no turn this time, and will
    when this is over, so that it does not end before.
    """

    name: ClassVar[str] = "retry"
    after: timedelta | None = None
    throttled: bool = False
    elsewhere: bool = False
    partly: bool = False
    is_held_back: bool = False
    untried: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Defer(_Ended):
    """Nothing was sent, and trying again makes sense only later. after: as for Retry."""

    name: ClassVar[str] = "defer"
    after: timedelta | None = None
    throttled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback(_Ended):
    """This channel does not reach this person with this message; another may."""

    name: ClassVar[str] = "fallback"
    address_is_dead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppress(_Ended):
    """The person has stopped this sender: remember it, send nothing more to this address."""

    name: ClassVar[str] = "suppress"


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt(_Ended):
    """The account is blocked, unpaid or has no valid credentials. The delivery waits; the operator acts."""

    name: ClassVar[str] = "halt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail(_Ended):
    """It will never be taken as it is. address_is_dead: pause the address (hard bounce, 410 Gone)."""

    name: ClassVar[str] = "fail"
    address_is_dead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown(_Ended):
    """It was handed over and no answer came: sent or not, nobody here knows. elsewhere, partly: as for Retry."""

    name: ClassVar[str] = "unknown"
    elsewhere: bool = False
    partly: bool = False


Outcome: TypeAlias = Sent | Retry | Defer | Fallback | Suppress | Halt | Fail | Unknown
