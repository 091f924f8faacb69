"""What an answer of a push service means, whatever stands in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from push.outcome import LONGEST_WAIT, result_of
from push.transport import Answer

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)

DATE = "Mon, 04 May 2026 12:01:30 GMT"
IMPOSSIBLE = [
    f"Mon, 04 May {'9' * 20} 12:00:00 GMT",
    f"Mon, 04 May 2026 12:00:00 +{'9' * 20}",
    f"Mon, 04 May 2026 {'9' * 20}:00:00 GMT",
    f"Mon, 04 May 2026 12:00:00 +{'9' * 5000}",
]


@pytest.mark.parametrize("text", IMPOSSIBLE)
def test_a_time_that_no_clock_shows_counts_as_not_said(text: str) -> None:
    asked = result_of(Answer(503, {"retry-after": text}), "other", NOW)
    dated = result_of(Answer(503, {"retry-after": DATE, "date": text}), "other", NOW)

    assert (asked.kind, asked.retry_after) == ("retry", None)
    assert dated.retry_after == timedelta(seconds=90), "by our own clock"


_NUMBER = st.integers(-(10**25), 10**25).map(str)


@given(
    st.text(max_size=100)
    | st.builds("Mon, {} May {} {}:{}:00 {}".format, _NUMBER, _NUMBER, _NUMBER, _NUMBER, _NUMBER),
    st.text(max_size=100),
)
def test_no_text_brings_the_reader_of_answers_down(asked: str, date: str) -> None:
    result = result_of(Answer(429, {"retry-after": asked, "date": date}), "other", NOW)

    assert result.retry_after is None or timedelta(0) <= result.retry_after <= LONGEST_WAIT
