"""The providers' codes mean what our table says, whatever the documents we were given said."""

from __future__ import annotations

from datetime import timedelta

import pytest

from core.outcome import Defer, Fail, Fallback, Halt, Retry, Suppress
from delivery.channels.codes import CODES, by_status, find, outcome

#: Our table of Meta's codes, word for word.
META = {
    Retry: [1, 2, 131000, 131016, 131057, 133004],
    Defer: [4, 80007, 130429, 131048, 131056, 131049, 132015, 133016],
    Fallback: [131026, 131047, 130472, 131051, 132001, 132016],
    Suppress: [131050],
    Halt: [0, 3, 10, 190, *range(200, 300), 368, 131031, 131042, 131005],
    Fail: [100, 131008, 131009, 131021, 132000, 132005, 132007, 132012, 135000],
}


@pytest.mark.parametrize(("code", "kind"), [(code, kind) for kind, codes in META.items() for code in codes])
def test_a_code_of_metas_has_the_class_of_our_table(code, kind):
    # The status says nothing: Meta sends 500 with codes that never heal, and 400 with some that do.
    for status in (200, 400, 401, 500):
        assert type(outcome("meta", code, status=status)) is kind


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_5xx_without_a_known_code_may_go_better_later(status):
    assert isinstance(outcome("meta", None, status=status), Retry)
    assert isinstance(outcome("twilio", 99_999, status=status), Retry)


@pytest.mark.parametrize("status", [400, 403, 404, 409, 410, 413, 422])
def test_a_4xx_without_a_known_code_will_not(status):
    assert isinstance(outcome("meta", 999_999, status=status), Fail)


def test_credentials_that_are_refused_stop_the_account_and_not_the_message():
    assert isinstance(by_status(401), Halt)
    assert isinstance(outcome("twilio", 20003, status=401), Halt)
    assert isinstance(outcome("telegram", 401, status=401), Halt)


def test_what_is_not_for_this_message_throttles_the_account():
    assert outcome("twilio", 20429, status=429, after=timedelta(seconds=7)) == Retry(
        reason="too many requests at once", code="20429", after=timedelta(seconds=7), throttled=True
    )
    assert isinstance(by_status(429), Retry)


def test_waits_of_the_table_are_kept_whatever_the_attempt():
    def wait(code, attempt, after=None):
        return outcome("meta", code, attempt=attempt, after=after).after

    assert [wait(131056, attempt) for attempt in (1, 2, 3, 4)] == [timedelta(seconds=4**n) for n in range(4)]
    assert wait(131056, 100) == timedelta(seconds=1024)
    assert wait(131049, 1) == timedelta(hours=24)
    assert [wait(132015, attempt) for attempt in (1, 2, 3)] == [timedelta(hours=n) for n in (3, 6, 6)]
    assert wait(131049, 1, timedelta(hours=30)) == timedelta(hours=30)


@pytest.mark.parametrize(
    ("code", "kind", "dead"),
    [
        (21211, Fail, True),
        (21408, Fallback, False),
        (21610, Suppress, False),
        (21611, Retry, False),
        (21612, Fallback, False),
        (21614, Fallback, True),
        (21617, Fail, False),
        (30005, Fallback, True),
        (30034, Halt, False),
        (63016, Fallback, False),
        (63024, Fallback, True),
    ],
)
def test_a_code_of_twilios_says_what_to_do(code, kind, dead):
    found = outcome("twilio", str(code))

    assert type(found) is kind
    assert getattr(found, "address_is_dead", False) is dead


def test_telegrams_codes_are_told_apart_by_its_words():
    gone = outcome("telegram", 400, status=400, said="Bad Request: chat not found")
    other = outcome("telegram", 400, status=400, said="Bad Request: message is not modified")

    assert isinstance(gone, Fail)
    assert gone.address_is_dead
    assert isinstance(other, Fail)
    assert not other.address_is_dead
    assert isinstance(outcome("telegram", 403, status=403, said="Forbidden: user is deactivated"), Suppress)


@pytest.mark.parametrize(
    "code", [None, True, "", "1.5", "abc", -1, 14_155_550_199, "14155550199", 10**30, "٣", [], {}]
)
def test_what_is_no_code_is_not_repeated(code):
    found = outcome("meta", code, status=400)

    assert found == Fail(reason="answered 400", code="400")
    assert find("meta", code) is None


def test_a_receipt_with_a_code_nobody_knows_is_a_failure():
    assert outcome("twilio", "39999") == Fail(reason="a code that is not in the table", code="39999")


def test_the_table_is_in_order():
    assert len({(line.provider, line.code, line.says) for line in CODES}) == len(CODES)
    for line in CODES:
        assert line.source.startswith("https://"), line
        assert line.meaning, line
        assert line.outcome in ("retry", "defer") or not (line.wait_s or line.throttled), line
        assert line.outcome in ("fail", "fallback") or not line.address_is_dead, line
