"""Where reports take a delivery: upwards, whatever their order."""

from __future__ import annotations

from itertools import permutations
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.vault import Vault
from delivery.callbacks import callback_url, delivery_token, read_delivery_token, token_in
from delivery.receipts import FAILURES, RANKS, Receipt, advanced, consequence

REPORTED = ("sent", "delivered", "read", "undelivered", "failed")
vault = Vault({"test": b"v" * 32})


def after(start, reports):
    for report in reports:
        start = advanced(start, report)
    return start


@pytest.mark.parametrize("start", ["processing", "unknown", "sent", "cancelled", "expired"])
def test_the_same_reports_lead_to_the_same_end_in_every_order(start):
    ends = {after(start, order) for order in permutations(REPORTED)}

    assert ends == {"failed"}


@given(st.sampled_from(sorted(RANKS)), st.lists(st.sampled_from(REPORTED)))
def test_a_delivery_never_goes_back(start, reports):
    assert RANKS[after(start, reports)] >= RANKS[start]


@pytest.mark.parametrize(
    ("state", "reported", "then"),
    [
        ("unknown", "sent", "sent"),
        ("unknown", "failed", "failed"),
        ("processing", "delivered", "delivered"),
        ("sent", "delivered", "delivered"),
        ("read", "delivered", "read"),
        ("delivered", "undelivered", "undelivered"),  # a mail server that bounced what it had taken
        ("failed", "delivered", "failed"),
        ("undelivered", "read", "undelivered"),
        ("cancelled", "delivered", "delivered"),  # it went out all the same
        ("suppressed", "failed", "suppressed"),
        ("queued", "failed", "queued"),  # it is tried again anyway
        ("deferred", "delivered", "delivered"),
    ],
)
def test_what_a_report_makes_of_a_state(state, reported, then):
    assert advanced(state, reported) == then


@pytest.mark.parametrize("state", ["failed", "undelivered", "suppressed", "expired", "cancelled", "queued"])
def test_what_the_device_itself_reports_has_happened(state):
    assert advanced(state, "delivered", is_first_hand=True) == "delivered"
    assert advanced("read", "delivered", is_first_hand=True) == "read"


@pytest.mark.parametrize("failure", sorted(FAILURES))
def test_that_a_message_of_an_older_attempt_failed_says_nothing_any_more(failure):
    assert advanced("sent", failure, is_of_last_attempt=False) == "sent"
    assert advanced("processing", "delivered", is_of_last_attempt=False) == "delivered"


def receipt(**members):
    return Receipt(provider="twilio", event_id="1", status="failed", **members)


@pytest.mark.parametrize(
    ("report", "falls_back", "pause", "opt_out"),
    [
        (receipt(state="undelivered", code="30003"), True, None, None),
        (receipt(state="failed", code="21610"), False, None, "provider"),
        (receipt(state="failed", code="21211"), False, "gone", None),
        (receipt(state="undelivered", effect="bounced"), False, "bounced", None),
        (receipt(state=None, effect="complained"), False, "complained", "complaint"),
        (receipt(state=None, effect="unsubscribed"), False, None, "provider"),
        (receipt(state="delivered", code="21610"), False, None, None),
        (receipt(state="failed", code="from a later version"), False, None, None),
    ],
)
def test_what_follows_from_a_report(report, falls_back, pause, opt_out):
    follows = consequence(report)

    assert (follows.falls_back, follows.pause, follows.opt_out) == (falls_back, pause, opt_out)


@pytest.mark.parametrize("code", ["131026", "131047", "131051"])
def test_what_meta_reports_of_a_person_who_is_not_there_takes_another_way(code):
    report = Receipt(provider="meta", event_id="1", status="failed", state="failed", code=code)

    assert consequence(report).falls_back


def test_a_callback_names_its_delivery_to_us_alone():
    delivery_id = uuid4()
    url = callback_url("https://notify.example/base/", vault, "twilio", "school", delivery_id)

    assert url.startswith("https://notify.example/base/webhooks/twilio/status?d=")
    assert "school" not in url
    assert str(delivery_id) not in url
    token = token_in(url)
    assert token is not None
    assert read_delivery_token(vault, "twilio", token) == ("school", delivery_id)


def test_a_token_is_good_for_its_provider_and_as_it_was_made():
    token = delivery_token(vault, "twilio", "school", UUID(int=7))

    assert read_delivery_token(vault, "meta", token) is None
    assert read_delivery_token(Vault({"other": b"w" * 32}), "twilio", token) is None
    for place in range(len(token)):
        other = "A" if token[place] != "A" else "B"
        assert read_delivery_token(vault, "twilio", token[:place] + other + token[place + 1 :]) is None


@given(st.text())
def test_no_text_is_a_token(text):
    assert read_delivery_token(vault, "twilio", text) is None


def test_a_token_fits_into_what_meta_returns():
    longest = delivery_token(Vault({"k" * 63: b"v" * 32}), "meta", "t" * 63, uuid4())

    assert len(longest) <= 512  # biz_opaque_callback_data
