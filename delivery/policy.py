"""
(pure) Whether a delivery goes out: what is known of it in; Send, Defer or Drop out, with what each gate saw.

The gates are asked in their order, anew at every attempt, until one stops the delivery; the gates behind it are
not asked. To add one, write a function from Facts to what it saw, or to a verdict, and put it into GATES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ClassVar, Literal, TypeAlias
from uuid import UUID

from core.notification import Content
from delivery.channel import Address
from delivery.outbox import Claimed

#: Sent to an address in order to find out whether its owner answers.
ADDRESS_VERIFICATION = "address_verification"

#: Types that a person has asked for by doing something: switches and opt-outs do not hold them.
MANDATORY = frozenset({ADDRESS_VERIFICATION})

#: Stands for every type, and for every channel.
ANY = "*"

#: A push waits so long for a person who is looking at the application to read what is there already (G-87), looked at
#: anew after each: but a screen that nobody sits at must not hold it for ever, and what is urgent not for long.
_LOOKING_WAIT = timedelta(seconds=15)
LOOKING_LIMIT = timedelta(minutes=15)
LOOKING_LIMIT_URGENT = timedelta(seconds=60)

#: How long a delivery waits that is looked at before its notification is published.
_UNPUBLISHED_WAIT = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecipient:
    """
    A person as the providers' channels know them.

    unsubscribe_version: part of every unsubscribe link to them; links of an older one are refused.
    """

    user_id: str
    name: str | None = field(repr=False)
    locale: str | None = None  # BCP 47
    timezone: str | None = None  # IANA
    is_active: bool = True
    unsubscribe_version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAddress:
    """
    An address of a person and whether it may be used.

    pause_reason: bounced, complained, blocked, gone; `sealed` for one that does not open with the keys of
    this process.
    """

    address: Address
    is_primary: bool = False
    is_verified: bool = False
    paused_at: datetime | None = None
    pause_reason: str | None = None


#: Who has switched something on or off: nobody, the tenant for all its people, the person.
Level: TypeAlias = Literal["system", "tenant", "user"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """
    The one line of the matrix type x channel that decides for a person.

    notification_type and channel: as the line names them; `*` is every one.
    """

    is_enabled: bool = True
    level: Level = "system"
    notification_type: str = ANY
    channel: str = ANY


SYSTEM_RULE = Rule()


def resolve(rules: Iterable[Rule], notification_type: str, channel: str) -> Rule:
    """
    The rule that decides: the person's before the tenant's, and of each (type, channel) before (type, *) before
    (*, channel) before (*, *). Where none fits, everything is on.
    """
    fitting = [
        rule
        for rule in rules
        if rule.notification_type in (ANY, notification_type) and rule.channel in (ANY, channel)
    ]
    return min(
        fitting,
        key=lambda rule: (rule.level != "user", rule.notification_type == ANY, rule.channel == ANY),
        default=SYSTEM_RULE,
    )


@dataclass(frozen=True, slots=True)
class OptOut:
    """What a person wants no more of. value: a channel, a topic, a type, `channel:type`; empty for all."""

    scope: str  # all, channel, topic, type, channel_type
    value: str
    reason: str  # unsubscribe_link, keyword, provider, complaint, api, …


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """
    Everything the gates may ask.

    now: of the database, aware. content: with an operator's changes applied; None: the notification is gone.
    address_id: the address that an operator has chosen. is_readable: False when the operator's changes do not
    open any more. addresses: of this channel, in the order in which they came to be.

    Of push alone: is_looking: the person has the application before their eyes. privacy: how much may be seen of it.
    reads: notifications pushed lately that were read since. unread: how many are not, for a badge; None: not counted.
    """

    now: datetime
    claimed: Claimed
    is_configured: bool
    content: Content | None = field(repr=False)
    status: str  # published, recalled, cancelled, scheduled
    is_read: bool = False
    recipient: StoredRecipient | None = None
    addresses: tuple[StoredAddress, ...] = ()
    rule: Rule = SYSTEM_RULE
    opt_outs: tuple[OptOut, ...] = ()
    topic: str | None = None
    address_id: UUID | None = None
    is_readable: bool = True
    is_looking: bool = False
    privacy: Literal["full", "title_only", "private"] = "full"
    reads: tuple[UUID, ...] = ()
    unread: int | None = None

    @property
    def notification_type(self) -> str:
        return self.content.notification_type if self.content is not None else ""

    @property
    def is_mandatory(self) -> bool:
        return self.notification_type in MANDATORY


@dataclass(frozen=True, slots=True)
class Send:
    """It goes out, to this address."""

    name: ClassVar[str] = "send"
    address: Address


@dataclass(frozen=True, slots=True)
class Defer:
    """Not now. until: aware, on the clock that `Facts.now` was read from."""

    name: ClassVar[str] = "defer"
    until: datetime
    reason: str


#: How a dropped delivery ends. `failed` is for what somebody can mend, and is a dead letter.
DroppedState: TypeAlias = Literal["cancelled", "expired", "suppressed", "failed"]


@dataclass(frozen=True, slots=True)
class Drop:
    """Never. reason: for people; without addresses."""

    name: ClassVar[str] = "drop"
    reason: str
    state: DroppedState = "suppressed"


Verdict: TypeAlias = Send | Defer | Drop


@dataclass(frozen=True, slots=True)
class GateRecord:
    """What one gate saw, in words without addresses; kept with the attempt. until: of a Defer."""

    gate: str
    passed: bool
    saw: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict, and the gates that were asked, in order."""

    verdict: Verdict
    gates: tuple[GateRecord, ...]


#: What it saw when nothing stands against sending, or the verdict when something does.
Gate: TypeAlias = Callable[[Facts], str | Defer | Drop]


def published(facts: Facts) -> str | Defer | Drop:
    """Recalled, cancelled and forgotten notifications do not go out."""
    if facts.content is None:
        return Drop("the notification is gone", "cancelled")
    if facts.status == "published":
        return "published"
    if facts.status == "scheduled":
        return Defer(facts.now + _UNPUBLISHED_WAIT, "not published yet")
    return Drop(f"the notification is {facts.status}", "cancelled")


def readable(facts: Facts) -> str | Drop:
    """What an operator has changed about a dead letter must be known before it goes out again."""
    if not facts.is_readable:
        return Drop("what was edited does not open: its encryption key is not here", "failed")
    return "edited" if facts.claimed.edited is not None else "as submitted"


def in_time(facts: Facts) -> str | Drop:
    """Neither the notification nor the delivery has expired."""
    ends = [facts.content.expires_at if facts.content else None, facts.claimed.expires_at]
    end = min((moment for moment in ends if moment is not None), default=None)
    if end is None:
        return "does not expire"
    if end <= facts.now:
        return Drop(f"expired at {_moment(end)}", "expired")
    return f"expires at {_moment(end)}"


def recipient_active(facts: Facts) -> str | Drop:
    """The person is known and has not been switched off."""
    if facts.recipient is None:
        if facts.claimed.channel == "push":
            return "not introduced; a browser is enough"
        return Drop("the recipient is not known", "failed")
    return "active" if facts.recipient.is_active else Drop("the recipient is not active")


def address_usable(facts: Facts) -> str | Drop:
    """There is a verified address that is not paused; the primary one comes first."""
    chosen = _choose(facts)
    if isinstance(chosen, Drop):
        return chosen
    which = "chosen by an operator" if facts.address_id else "primary" if chosen.is_primary else "not primary"
    return f"{chosen.address.hint}, {which}"


def channel_configured(facts: Facts) -> str | Drop:
    """This installation has a provider for the channel."""
    return "configured" if facts.is_configured else Drop("channel not configured")


def switched_on(facts: Facts) -> str | Drop:
    """The person, else the tenant, wants this type by this channel."""
    if facts.is_mandatory:
        return "not asked for this type"
    rule = facts.rule
    said = "on" if rule.is_enabled else "off"
    saw = f"switched {said} by the {rule.level} for type {rule.notification_type}, channel {rule.channel}"
    return saw if rule.is_enabled else Drop(saw)


def not_opted_out(facts: Facts) -> str | Drop:
    """The person has not said that they want no more of this."""
    if facts.is_mandatory:
        return "not asked for this type"
    stopping = {
        ("all", ""),
        ("channel", facts.claimed.channel),
        ("topic", facts.topic),
        ("type", facts.notification_type),
        ("channel_type", channel_type(facts.claimed.channel, facts.notification_type)),
    }
    for opt_out in facts.opt_outs:
        if (opt_out.scope, opt_out.value) in stopping:
            of = f"{opt_out.scope} {opt_out.value}".rstrip()
            return Drop(f"opted out of {of} ({opt_out.reason})")
    return "no opt-out"


def unread(facts: Facts) -> str | Drop:
    """Read anywhere, gone everywhere: what has not gone out yet does not go out any more."""
    return Drop("read already") if facts.is_read else "not read yet"


def not_looking(facts: Facts) -> str | Defer:
    """Nobody is pushed what they have before their eyes: they read it there, or stop looking."""
    if facts.claimed.channel != "push":
        return "not asked for this channel"
    if not facts.is_looking:
        return "not looking"
    is_urgent = facts.content is not None and facts.content.priority == "urgent"
    end = facts.claimed.queued_at + (LOOKING_LIMIT_URGENT if is_urgent else LOOKING_LIMIT)
    if facts.now >= end:
        return "looking, and has not read it"
    until = min(facts.now + max(_LOOKING_WAIT, (facts.now - facts.claimed.queued_at) / 2), end)
    return Defer(until, "the person is looking at the application")


#: In the order in which they are asked. Their names are stored and shown, so they are never changed.
GATES: tuple[Gate, ...] = (
    published,
    readable,
    in_time,
    recipient_active,
    address_usable,
    channel_configured,
    switched_on,
    not_opted_out,
    unread,
    not_looking,
)


def decide(facts: Facts, gates: Sequence[Gate] = GATES) -> Decision:
    """What becomes of a delivery now. gates: others than GATES only in tests."""
    records: list[GateRecord] = []
    for gate in gates:
        saw = gate(facts)
        match saw:
            case str():
                records.append(GateRecord(gate.__name__, True, saw))
            case Defer(until, reason):
                records.append(GateRecord(gate.__name__, False, reason, until))
                return Decision(saw, tuple(records))
            case Drop(reason):
                records.append(GateRecord(gate.__name__, False, reason))
                return Decision(saw, tuple(records))
    chosen = _choose(facts)
    verdict = chosen if isinstance(chosen, Drop) else Send(chosen.address)
    return Decision(verdict, tuple(records))


def channel_type(channel: str, notification_type: str) -> str:
    """The value of an opt-out from one type by one channel."""
    return f"{channel}:{notification_type}"


def _choose(facts: Facts) -> StoredAddress | Drop:
    """Where it goes: to the operator's choice, else to the primary address, else to the oldest other one."""
    of_channel = facts.addresses
    if facts.address_id is not None:
        of_channel = tuple(one for one in of_channel if one.address.id == facts.address_id)
        if not of_channel:
            return Drop("the chosen address is gone", "failed")
    if not of_channel:
        return Drop(f"no address for {facts.claimed.channel}", "failed")
    verified = [
        one for one in of_channel if one.is_verified or facts.notification_type == ADDRESS_VERIFICATION
    ]
    if not verified:
        return Drop(f"no verified address: {_hints(of_channel)}")
    usable = [one for one in verified if one.paused_at is None]
    if not usable:
        return Drop("every address is paused: " + _hints(verified))
    return next((one for one in usable if one.is_primary), usable[0])


def _hints(addresses: Sequence[StoredAddress]) -> str:
    return ", ".join(
        one.address.hint + (f" ({one.pause_reason})" if one.pause_reason else "") for one in addresses
    )


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
