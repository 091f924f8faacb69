"""Each gate of the policy, and their order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations, product
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.notification import Content
from delivery.channel import Address
from delivery.outbox import Claimed
from delivery.policy import (
    ADDRESS_VERIFICATION,
    GATES,
    SYSTEM_RULE,
    Decision,
    Defer,
    Drop,
    Facts,
    OptOut,
    Rule,
    Send,
    StoredAddress,
    StoredRecipient,
    decide,
    resolve,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SOON = NOW + timedelta(seconds=1)
VALUE = "ada.canary@example.org"


def claimed(**members: Any) -> Claimed:
    given_: dict[str, Any] = {
        "tenant_id": "school",
        "id": UUID(int=1),
        "kind": "notification",
        "notification_id": UUID(int=2),
        "user_id": "ada",
        "endpoint_id": None,
        "event": None,
        "channel": "email",
        "lane": 2,
        "attempt": 1,
        "retries": 0,
        "deferrals": 0,
        "unknowns": 0,
        "is_orphan": False,
        "was_unknown": False,
        "expires_at": None,
        "created_at": NOW,
        "queued_at": NOW,
        "edited": None,
        "fallback_of": None,
    }
    return Claimed(**given_ | members)


def says(**members: Any) -> Content:
    given_: dict[str, Any] = {
        "id": UUID(int=2),
        "title": "IEP Document Updated",
        "message": "Please review.",
        "notification_type": "iep_update",
        "action_url": None,
        "priority": "normal",
        "channels": ["email"],
        "metadata": {},
        "created_at": NOW,
    }
    return Content(**given_ | members)


def address(number: int = 1, **members: Any) -> StoredAddress:
    given_: dict[str, Any] = {"is_verified": True} | members
    return StoredAddress(
        address=Address(
            id=UUID(int=100 + number), channel="email", value=VALUE, hint=f"a{number}***@example.org"
        ),
        **given_,
    )


def facts(**members: Any) -> Facts:
    """Of a delivery against which nothing stands."""
    given_: dict[str, Any] = {
        "now": NOW,
        "claimed": claimed(),
        "is_configured": True,
        "content": says(),
        "status": "published",
        "recipient": StoredRecipient(user_id="ada", name="Ada"),
        "addresses": (address(is_primary=True),),
    }
    return Facts(**given_ | members)


def ends(decision: Decision) -> tuple[str, str]:
    """The gate that stopped it, and the state of the drop."""
    assert isinstance(decision.verdict, Drop)
    assert not decision.gates[-1].passed
    assert decision.gates[-1].saw == decision.verdict.reason
    return decision.gates[-1].gate, decision.verdict.state


def sent_to(decision: Decision) -> UUID | None:
    assert isinstance(decision.verdict, Send), decision
    return decision.verdict.address.id


#: For each gate, facts that it alone objects to, and the state that follows.
OBJECTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "published": ({"status": "recalled"}, "cancelled"),
    "readable": ({"is_readable": False}, "failed"),
    "in_time": ({"claimed": claimed(expires_at=NOW)}, "expired"),
    "recipient_active": ({"recipient": None}, "failed"),
    "address_usable": ({"addresses": ()}, "failed"),
    "channel_configured": ({"is_configured": False}, "suppressed"),
    "switched_on": ({"rule": Rule(is_enabled=False, level="user")}, "suppressed"),
    "not_opted_out": ({"opt_outs": (OptOut("all", "", "keyword"),)}, "suppressed"),
    "unread": ({"is_read": True}, "suppressed"),
}


def test_what_nothing_stands_against_is_sent_and_every_gate_is_on_record() -> None:
    decision = decide(facts())

    assert sent_to(decision) == UUID(int=101)
    assert [record.gate for record in decision.gates] == [gate.__name__ for gate in GATES]
    assert all(record.passed and record.saw for record in decision.gates)


def test_every_gate_has_an_objection_here() -> None:
    assert [*OBJECTIONS, "not_looking"] == [gate.__name__ for gate in GATES], "the last one only puts off"


@pytest.mark.parametrize(
    ("priority", "age_s", "wait_s"),
    [
        ("normal", 0, 15),
        ("normal", 60, 30),
        ("normal", 890, 10),
        ("normal", 900, None),
        ("urgent", 0, 15),
        ("urgent", 50, 10),
        ("urgent", 60, None),
    ],
)
def test_a_push_waits_for_who_is_looking_but_not_for_ever(
    priority: str, age_s: int, wait_s: int | None
) -> None:
    long_ago = NOW - timedelta(days=1)  # it was for another time
    held = claimed(channel="push", created_at=long_ago, queued_at=NOW - timedelta(seconds=age_s))

    verdict = decide(facts(claimed=held, content=says(priority=priority), is_looking=True)).verdict

    if wait_s is None:
        assert isinstance(verdict, Send)
    else:
        assert isinstance(verdict, Defer)
        assert verdict.until == NOW + timedelta(seconds=wait_s)


def test_only_a_push_waits_for_who_is_looking() -> None:
    assert isinstance(decide(facts(is_looking=True)).verdict, Send)


def test_a_browser_is_enough_to_be_pushed_to() -> None:
    assert isinstance(decide(facts(claimed=claimed(channel="push"), recipient=None)).verdict, Send)


@pytest.mark.parametrize("name", OBJECTIONS)
def test_a_gate_that_objects_stops_the_delivery_and_the_gates_behind_it_are_not_asked(name: str) -> None:
    objection, state = OBJECTIONS[name]

    decision = decide(facts(**objection))

    assert ends(decision) == (name, state)
    assert [record.gate for record in decision.gates] == list(OBJECTIONS)[: list(OBJECTIONS).index(name) + 1]
    assert all(record.passed for record in decision.gates[:-1])


@pytest.mark.parametrize(("first", "second"), list(permutations(OBJECTIONS, 2)))
def test_of_two_gates_that_object_the_one_in_front_decides(first: str, second: str) -> None:
    in_order = sorted((first, second), key=list(OBJECTIONS).index)

    decision = decide(facts(**OBJECTIONS[first][0], **OBJECTIONS[second][0]))

    assert ends(decision)[0] == in_order[0]


def test_a_gate_more_is_one_function_in_the_tuple() -> None:
    def not_at_noon(facts: Facts) -> str | Defer:
        return Defer(SOON, "it is noon") if facts.now.hour == 12 else "not noon"

    decision = decide(facts(), (*GATES, not_at_noon))

    assert decision.verdict == Defer(SOON, "it is noon")
    assert (decision.gates[-1].gate, decision.gates[-1].until) == ("not_at_noon", SOON)


# --- published, readable, in time ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["recalled", "cancelled"])
def test_what_was_taken_back_is_cancelled(status: str) -> None:
    assert ends(decide(facts(status=status))) == ("published", "cancelled")


def test_what_retention_has_taken_is_cancelled() -> None:
    assert ends(decide(facts(content=None, status="cancelled"))) == ("published", "cancelled")


def test_what_is_not_published_yet_waits() -> None:
    decision = decide(facts(status="scheduled"))

    assert isinstance(decision.verdict, Defer)
    assert decision.verdict.until > NOW


@pytest.mark.parametrize("of", ["content", "claimed"])
def test_it_expires_at_the_moment_that_is_named_and_not_before(of: str) -> None:
    def ending(moment: datetime) -> Facts:
        made = {"content": says, "claimed": claimed}[of](expires_at=moment)
        return facts(**{of: made})

    assert ends(decide(ending(NOW))) == ("in_time", "expired")
    assert sent_to(decide(ending(SOON)))


def test_the_earlier_of_two_ends_counts() -> None:
    both = facts(content=says(expires_at=SOON), claimed=claimed(expires_at=NOW))

    assert ends(decide(both)) == ("in_time", "expired")


# --- recipient and address -------------------------------------------------------------------------------------------


def test_somebody_who_is_switched_off_is_sent_nothing() -> None:
    recipient = StoredRecipient(user_id="ada", name=None, is_active=False)

    assert ends(decide(facts(recipient=recipient))) == ("recipient_active", "suppressed")


PAUSED = {"paused_at": NOW, "pause_reason": "bounced"}


@pytest.mark.parametrize(
    ("addresses", "chosen"),
    [
        ([address(1), address(2, is_primary=True)], 102),
        ([address(1), address(2)], 101),
        ([address(1), address(2, is_primary=True, **PAUSED)], 101),
        ([address(1), address(2, is_primary=True, is_verified=False)], 101),
        ([address(1, is_verified=False), address(2, **PAUSED), address(3)], 103),
    ],
)
def test_the_primary_address_goes_first_and_else_the_oldest_that_is_verified_and_not_paused(
    addresses: list[StoredAddress], chosen: int
) -> None:
    assert sent_to(decide(facts(addresses=tuple(addresses)))) == UUID(int=chosen)


def test_an_unverified_address_is_for_finding_out_whether_it_is_right_and_nothing_else() -> None:
    unverified = (address(1, is_verified=False, is_primary=True),)

    assert ends(decide(facts(addresses=unverified))) == ("address_usable", "suppressed")
    verification = says(notification_type=ADDRESS_VERIFICATION)
    assert sent_to(decide(facts(addresses=unverified, content=verification))) == UUID(int=101)


def test_a_paused_address_is_not_used_and_the_reason_is_told() -> None:
    decision = decide(facts(addresses=(address(1, **PAUSED),)))

    assert ends(decision) == ("address_usable", "suppressed")
    assert "bounced" in decision.gates[-1].saw


def test_an_operators_choice_goes_before_the_primary_address() -> None:
    both = (address(1), address(2, is_primary=True))

    assert sent_to(decide(facts(addresses=both, address_id=UUID(int=101)))) == UUID(int=101)


def test_an_operators_choice_is_not_used_against_the_rules_and_nothing_else_is_used_for_it() -> None:
    paused = (address(1, **PAUSED), address(2, is_primary=True))

    assert ends(decide(facts(addresses=paused, address_id=UUID(int=101)))) == ("address_usable", "suppressed")
    assert ends(decide(facts(address_id=UUID(int=9)))) == ("address_usable", "failed")


# --- what the person wants -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "value", "stops"),
    [
        ("all", "", True),
        ("channel", "email", True),
        ("channel", "sms", False),
        ("topic", "news", True),
        ("topic", "email", False),
        ("type", "iep_update", True),
        ("type", "iep", False),
        ("channel_type", "email:iep_update", True),
        ("channel_type", "sms:iep_update", False),
        ("channel_type", "email:iep", False),
        ("type", "email", False),
    ],
)
def test_an_opt_out_stops_what_it_names_and_nothing_else(scope: str, value: str, stops: bool) -> None:
    decision = decide(facts(opt_outs=(OptOut(scope, value, "api"),), topic="news"))

    if stops:
        assert ends(decision) == ("not_opted_out", "suppressed")
    else:
        assert sent_to(decision)


def test_an_opt_out_from_a_topic_says_nothing_of_what_has_no_topic() -> None:
    assert sent_to(decide(facts(opt_outs=(OptOut("topic", "news", "api"),), topic=None)))


def test_what_a_person_has_asked_for_by_doing_something_passes_switches_and_opt_outs() -> None:
    decision = decide(
        facts(
            content=says(notification_type=ADDRESS_VERIFICATION),
            rule=Rule(is_enabled=False, level="user"),
            opt_outs=(OptOut("all", "", "keyword"),),
        )
    )

    assert sent_to(decision)


LEVELS = ("user", "tenant")
KINDS = ("iep_update", "*")
CHANNELS = ("email", "*")


def test_the_most_particular_rule_decides_and_the_persons_before_the_tenants() -> None:
    in_order = [
        Rule(is_enabled=False, level=level, notification_type=kind, channel=channel)  # type: ignore[arg-type] # one of its words
        for level, kind, channel in product(LEVELS, KINDS, CHANNELS)
    ]

    for start in range(len(in_order)):
        assert resolve(reversed(in_order[start:]), "iep_update", "email") == in_order[start]
    assert resolve([], "iep_update", "email") == SYSTEM_RULE


@given(
    st.lists(
        st.builds(
            Rule,
            is_enabled=st.booleans(),
            level=st.sampled_from(LEVELS),
            notification_type=st.sampled_from([*KINDS, "other"]),
            channel=st.sampled_from([*CHANNELS, "sms"]),
        )
    )
)
def test_a_rule_for_something_else_never_decides(rules: list[Rule]) -> None:
    rule = resolve(rules, "iep_update", "email")

    assert rule.notification_type in KINDS
    assert rule.channel in CHANNELS


# --- what is told ----------------------------------------------------------------------------------------------------


_FACTS = st.builds(
    lambda members: facts(**{name: value for one in members for name, value in one.items()}),
    st.lists(
        st.sampled_from(
            [
                *(objection for objection, _ in OBJECTIONS.values()),
                {"addresses": (address(1, **PAUSED), address(2, is_verified=False))},
                {"addresses": (address(1), address(2))},
                {"address_id": UUID(int=102)},
                {"status": "scheduled"},
                {"content": says(expires_at=SOON)},
                {"content": None},
            ]
        ),
        max_size=4,
    ),
)


@given(_FACTS)
def test_every_decision_is_one_of_three_with_its_gates_in_order_and_no_address_in_them(given_: Facts) -> None:
    decision = decide(given_)

    names = [gate.__name__ for gate in GATES]
    assert [record.gate for record in decision.gates] == names[: len(decision.gates)]
    assert all(record.passed for record in decision.gates[:-1])
    assert decision.gates[-1].passed is isinstance(decision.verdict, Send)
    assert VALUE not in repr(decision)
    assert VALUE not in repr(given_)
    assert decide(given_) == decision


def test_facts_show_neither_names_nor_words_when_they_are_printed() -> None:
    shown = repr(facts())

    assert "Ada" not in shown
    assert "Please review." not in shown
    assert "a1***@example.org" in shown
