"""A submission is refused for what one of its channels could never say."""

from __future__ import annotations

import pytest

from core.errors import ServiceError
from delivery.draft import Submission, Users
from tests.unit.test_mail import CORPUS


def submission(title: str, *channels: str) -> Submission:
    return Submission(
        tenant_id="school",
        audience=Users.of("ada"),
        title=title,
        message="The plan is ready.",
        notification_type="plan_ready",
        channels=channels,
    )


@pytest.mark.parametrize("title", CORPUS)
def test_a_title_that_no_mail_header_can_hold_is_refused_where_a_mail_is_asked_for(title: str) -> None:
    with pytest.raises(ServiceError) as refused:
        submission(title, "in_app", "email")

    assert "title" in {fault.path for fault in refused.value.faults}


@pytest.mark.parametrize("title", ["a\nb", "a =?utf-8?q?b?=", "a\u2028b"])
def test_other_channels_take_such_a_title(title: str) -> None:
    assert submission(title, "in_app", "sms").title == title
