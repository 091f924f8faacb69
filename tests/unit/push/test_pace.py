"""How fast a push service is sent to, by what it answers."""

from __future__ import annotations

from datetime import timedelta

import pytest

from push.origin import Origin, Pace, Pause, Wait
from push.outcome import Kind, PushResult

SENT = PushResult(kind="sent", status=201)
GONE = PushResult(kind="gone", status=410)
ENOUGH = PushResult(kind="throttled", status=429)
BROKEN = PushResult(kind="retry", status=500)


def full(origin: Origin, now: float) -> int:
    """How many are admitted at once."""
    count = 0
    while origin.admit(now) is None:
        count += 1
    return count


def drain(origin: Origin, result: PushResult, now: float) -> int:
    count = full(origin, now)
    for _ in range(count):
        origin.ended(result, now)
    return count


def test_concurrency_grows_while_all_goes_well_up_to_its_bound() -> None:
    origin = Origin(Pace(concurrency=100))

    seen = [drain(origin, SENT, float(second)) for second in range(10)]

    assert seen[0] == 16
    assert seen == sorted(seen)
    assert seen[-1] == 100


def test_concurrency_is_halved_when_the_push_service_has_had_enough_and_grows_slowly_then() -> None:
    origin = Origin(Pace(concurrency=64))
    for second in range(5):
        drain(origin, SENT, float(second))

    assert origin.admit(10) is None
    origin.ended(ENOUGH, 10)
    halved = drain(origin, SENT, 10)
    later = drain(origin, SENT, 11)

    assert halved == 32
    assert 32 <= later <= 34


def test_refusals_of_one_moment_halve_once() -> None:
    origin = Origin(Pace(concurrency=64), limit=64)
    for _ in range(2):
        assert origin.admit(5) is None
    origin.ended(ENOUGH, 5)
    origin.ended(ENOUGH, 5.5)

    assert origin.limit == 32


def test_one_person_who_has_had_enough_stops_nobody_else_and_three_in_a_row_stop_all() -> None:
    origin = Origin(Pace())
    one, two, three = ("school", "ada"), ("school", "bob"), ("clinic", "ada")
    for person in (one, one, one, one, two):
        assert origin.admit(0) is None
        origin.ended(ENOUGH, 0, person)
    assert origin.admit(0) is None
    origin.ended(ENOUGH, 0, three)
    assert isinstance(origin.admit(0), Pause)
    assert origin.admit(2) is None


def test_a_browser_that_has_had_enough_for_an_hour_stops_nobody_else_at_a_quiet_time() -> None:
    origin = Origin(Pace())
    assert origin.admit(0) is None
    origin.ended(PushResult(kind="throttled", status=429, retry_after=timedelta(hours=1)), 0)

    assert origin.admit(1) is None


def test_a_pause_that_is_asked_for_is_kept() -> None:
    origin = Origin(Pace())
    assert origin.admit(0) is None
    origin.ended(PushResult(kind="retry", status=503, retry_after=timedelta(seconds=90)), 0)

    assert origin.admit(89) == Pause(1, "throttled")
    assert origin.admit(90) is None


@pytest.mark.parametrize(("kind", "status"), [("throttled", 429), ("retry", 503)])
def test_nobody_stops_a_push_service_for_an_hour_and_one_looks_when_the_pause_is_over(
    kind: Kind, status: int
) -> None:
    origin = Origin(Pace())
    asked = PushResult(kind=kind, status=status, retry_after=timedelta(hours=1))
    admitted = [origin.admit(0) for _ in range(3)]
    for user_id in ("ada", "bob", "eve"):
        origin.ended(asked, 0, ("school", user_id))

    assert admitted == [None] * 3
    assert origin.admit(299) == Pause(1, "throttled")
    assert origin.admit(300) is None
    assert origin.admit(300) == Wait(None)
    assert origin.holds_back(300)
    origin.ended(asked, 300, ("school", "dan"))
    assert origin.admit(599) == Pause(1, "throttled")
    assert origin.admit(600) is None
    origin.ended(SENT, 600)
    assert not origin.holds_back(600)
    assert full(origin, 600) > 1


def test_failures_in_a_row_open_the_breaker_and_one_at_a_time_looks_again() -> None:
    origin = Origin(Pace())
    for _ in range(5):
        assert origin.admit(0) is None
        origin.ended(BROKEN, 0)

    assert origin.admit(0.5) == Pause(0.5, "retry")
    assert origin.admit(1) is None
    assert origin.admit(1) == Wait(None)
    origin.ended(BROKEN, 1)
    assert origin.admit(2) == Pause(1, "retry"), "twice as long"
    assert origin.admit(3) is None
    origin.ended(SENT, 3)
    assert not origin.is_open
    assert full(origin, 3) > 1


def test_a_refusal_of_one_push_is_no_failure_of_the_push_service() -> None:
    origin = Origin(Pace())
    for status in (400, 401, 403, 404, 410, 413) * 5:
        assert origin.admit(0) is None
        origin.ended(PushResult(kind="refused", status=status), 0)

    assert not origin.is_open


def test_a_rate_lets_so_many_through_in_a_second() -> None:
    origin = Origin(Pace(rate=10))
    admitted, now = 0, 100.0
    while now < 102:
        verdict = origin.admit(now)
        if verdict is None:
            admitted += 1
            origin.ended(SENT, now)
        else:
            assert isinstance(verdict, Wait)
            assert verdict.seconds is not None
            now += verdict.seconds + 1e-9

    assert 20 <= admitted <= 21


def test_a_cancelled_push_says_nothing_about_the_push_service() -> None:
    origin = Origin(Pace(failures=1))
    assert origin.admit(0) is None
    origin.ended(None, 0)

    assert (origin.in_flight, origin.is_open) == (0, False)


def test_ends_are_doubted_only_when_nearly_all_have_ended() -> None:
    some, most = Origin(Pace()), Origin(Pace())
    for number in range(200):
        for origin, share in ((some, 2), (most, 20)):
            assert origin.admit(0) is None
            origin.ended(SENT if number % share == 0 else GONE, 0)

    assert (some.doubts_ends, most.doubts_ends) == (False, True)
