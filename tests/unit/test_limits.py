"""What one client, person, address or tenant may not ask of a node."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.limits import (
    ConnectionCounts,
    LimitSettings,
    Place,
    Rate,
    TokenBucket,
    TooManyConnections,
    network_of,
)


def test_the_defaults_are_those_of_the_design() -> None:
    limits = LimitSettings()

    assert limits.messages == Rate(20, burst=60)
    assert limits.handshakes == Rate(200, burst=400)
    assert (limits.connections_per_user, limits.connections_per_address) == (10, 100)
    assert limits.channels_per_connection == 100
    assert limits.authentication.total_seconds() == 5
    assert limits.frame_bytes == 65_536


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    bucket = TokenBucket(Rate(20, burst=60), now=0.0)

    at_once = sum(bucket.take(0.0) == 0.0 for _ in range(100))
    in_the_next_second = sum(bucket.take(0.001 * tick) == 0.0 for tick in range(1, 1001))

    assert at_once == 60
    assert in_the_next_second == 20


def test_a_long_pause_fills_no_more_than_the_burst() -> None:
    bucket = TokenBucket(Rate(20, burst=60), now=0.0)
    bucket.take(0.0)

    assert sum(bucket.take(86_400.0) == 0.0 for _ in range(100)) == 60


def test_what_is_refused_costs_nothing() -> None:
    bucket = TokenBucket(Rate(1, burst=1), now=0.0)
    bucket.take(0.0)

    for _ in range(1000):
        assert bucket.take(0.5) == pytest.approx(0.5)

    assert bucket.take(1.0) == 0.0


@given(
    st.floats(0.01, 1000),
    st.integers(1, 100),
    st.lists(st.floats(0, 3), max_size=60),
    st.floats(0, 1e7),
)
def test_who_waits_as_long_as_told_is_served_and_nobody_gets_more_than_the_rate(
    per_second: float, burst: int, pauses: list[float], start: float
) -> None:
    bucket = TokenBucket(Rate(per_second, burst), now=start)
    now, taken = start, 0

    for pause in pauses:
        now += pause
        wait = bucket.take(now)
        if wait:
            now += wait
            assert bucket.take(now) == 0.0
        taken += 1

    assert taken <= burst + (now - start) * per_second + 0.01


@pytest.mark.parametrize(("per_second", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_a_rate_that_lets_nothing_through_is_a_mistake(per_second: float, burst: float) -> None:
    with pytest.raises(ValueError):
        Rate(per_second, burst)


def refused(counts: ConnectionCounts, address: str, user: str = "anna", tenant: str = "acme") -> str | None:
    """Try one more connection; whose limit stood in the way."""
    place: Place | None = None
    try:
        place = counts.arrive(address)
        place.identify(tenant, user)
    except TooManyConnections as error:
        if place is not None:
            place.leave()
        return error.scope
    return None


def test_a_person_has_ten_connections_wherever_they_come_from() -> None:
    counts = ConnectionCounts(LimitSettings())

    answers = [refused(counts, f"192.0.2.{n}") for n in range(11)]

    assert answers == [None] * 10 + ["user"]
    assert refused(counts, "192.0.2.1", tenant="other") is None
    assert counts.of_user("acme", "anna") == 10


def test_an_address_has_a_hundred_connections_whoever_they_are() -> None:
    counts = ConnectionCounts(LimitSettings())

    answers = [refused(counts, "192.0.2.1", f"user-{n}") for n in range(101)]

    assert answers == [None] * 100 + ["address"]
    assert refused(counts, "192.0.2.2") is None


def test_a_tenant_has_its_quota_where_one_is_set() -> None:
    counts = ConnectionCounts(LimitSettings(connections_per_tenant=3))

    answers = [refused(counts, f"192.0.2.{n}", f"user-{n}") for n in range(4)]

    assert answers == [None] * 3 + ["tenant"]
    assert refused(counts, "192.0.2.9", tenant="other") is None


def test_silent_connections_of_an_address_are_few_and_make_room_when_they_speak() -> None:
    counts = ConnectionCounts(LimitSettings(silent_per_address=2))
    first = counts.arrive("192.0.2.1")
    counts.arrive("192.0.2.1")

    with pytest.raises(TooManyConnections) as error:
        counts.arrive("192.0.2.1")
    assert (error.value.scope, error.value.code) == ("silent", "rate_limited")

    first.identify("acme", "anna")

    assert counts.silent == 1
    counts.arrive("192.0.2.1")
    assert len(counts) == 3


def test_a_place_left_twice_is_left_once() -> None:
    counts = ConnectionCounts(LimitSettings(connections_per_user=2))
    gone, stays = counts.arrive("192.0.2.1"), counts.arrive("192.0.2.1")
    gone.identify("acme", "anna")
    stays.identify("acme", "anna")

    gone.leave()
    gone.leave()

    assert len(counts) == counts.of_user("acme", "anna") == counts.of_tenant("acme") == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.booleans()), max_size=80))
def test_when_everybody_has_left_nothing_is_counted_or_kept(steps: list[tuple[int, int, bool]]) -> None:
    counts = ConnectionCounts(
        LimitSettings(connections_per_user=2, connections_per_address=6, silent_per_address=3)
    )
    places: list[Place] = []

    for address, user, stays in steps:
        try:
            place = counts.arrive(f"192.0.2.{address}")
        except TooManyConnections:
            continue
        places.append(place)
        try:
            place.identify("acme", f"user-{user}")
        except TooManyConnections:
            continue
        if not stays:
            place.leave()
        assert counts.of_user("acme", f"user-{user}") <= 2
    for place in places:
        place.leave()

    assert len(counts) == counts.silent == counts.of_tenant("acme") == 0
    assert not any((counts._addresses, counts._silent, counts._users, counts._tenants))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("2001:DB8:1:2::1", "2001:db8:0001:0002::9", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("::1", "::2", True),
        ("", "", True),
        ("testclient", "unix:", False),
    ],
)
def test_an_ipv6_customer_is_a_network_of_64_bits(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same
