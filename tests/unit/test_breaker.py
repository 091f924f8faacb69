"""When an account is left alone, and when it is looked at again."""

from datetime import UTC, datetime, timedelta

from core.outcome import Defer, Fail, Halt, Outcome, Retry, Sent, Suppress, Unknown
from delivery.breaker import Account, BreakerSettings

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SETTINGS = BreakerSettings()
DOWN = Retry(reason="502", code="502")


def after(*outcomes: Outcome, known: Account | None = None) -> Account:
    account = known or Account()
    for outcome in outcomes:
        account = account.after(outcome, NOW, SETTINGS)
    return account


def test_five_failures_in_a_row_open_it_and_fewer_do_not() -> None:
    assert after(*[DOWN] * 4).verdict(NOW) == "free"
    assert after(*[DOWN] * 4, Sent(), *[DOWN] * 4).verdict(NOW) == "free"
    assert after(*[DOWN] * 4, Unknown(reason="reset")).verdict(NOW) == "probe"


def test_trouble_of_one_receiver_says_nothing_about_the_account() -> None:
    elsewhere = Retry(reason="503", elsewhere=True)

    assert after(*[elsewhere] * 9, Unknown(reason="reset", elsewhere=True)).verdict(NOW) == "free"
    assert after(*[DOWN] * 4, elsewhere, DOWN).verdict(NOW) == "probe"


def test_one_answer_closes_it_whatever_it_says_about_the_message() -> None:
    opened = after(*[DOWN] * 5)

    for outcome in (Sent(), Fail(reason="bad number"), Suppress(reason="STOP"), Defer(reason="quality")):
        assert after(outcome, known=opened).verdict(NOW) == "free"


def test_nobody_sends_before_the_provider_allows_it() -> None:
    told = after(Retry(reason="429", after=timedelta(seconds=40), throttled=True))

    assert told.verdict(NOW + timedelta(seconds=39.9)) == "blocked"
    assert told.verdict(NOW + timedelta(seconds=40)) == "free"
    later = after(Retry(reason="429", after=timedelta(seconds=1), throttled=True), known=told)
    assert later.verdict(NOW + timedelta(seconds=39)) == "blocked"
    assert after(Retry(reason="429", throttled=True)).verdict(NOW + timedelta(seconds=29)) == "blocked"


def test_a_halted_account_stays_so_until_an_operator_acts() -> None:
    halted = after(Halt(reason="token expired", code="190"))

    assert halted.verdict(NOW + timedelta(days=1)) == "blocked"
    assert after(Sent(), known=halted).verdict(NOW) == "blocked"
    assert (halted.last_code, halted.last_reason) == ("190", "token expired")


def test_the_last_error_stays_to_be_seen_after_it_is_over() -> None:
    account = after(DOWN, Sent())

    assert (account.last_code, account.last_sent_at, account.failures) == ("502", NOW, 0)
