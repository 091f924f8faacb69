"""What tests hand in, whom they act for, and what they hear of commits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.identity import ACTING, Identity
from delivery.draft import Audience, Everyone, Submission, Topic, Users
from hub.history import Entry

TENANT_ID = "school"


def person(user_id: str = "ada", tenant_id: str = TENANT_ID) -> Identity:
    """Somebody who acts for themselves."""
    return Identity(tenant_id=tenant_id, user_id=user_id)


def service(user_id: str = "iep-svc", tenant_id: str = TENANT_ID) -> Identity:
    """A program that may submit for others."""
    return Identity(tenant_id=tenant_id, user_id=user_id, scopes=ACTING, kind="service")


def submission(audience: Audience | str = "ada", /, **members: Any) -> Submission:
    """A notification for one person by name, "*" for everyone, "#name" for a topic, or any audience."""
    if isinstance(audience, str):
        if audience == "*":
            audience = Everyone()
        elif audience.startswith("#"):
            audience = Topic(audience[1:])
        else:
            audience = Users.of(audience)
    given: dict[str, Any] = {
        "tenant_id": TENANT_ID,
        "audience": audience,
        "title": "IEP Document Updated",
        "message": "Please review the changes.",
        "notification_type": "iep_update",
    }
    return Submission(**given | members)


class Heard:
    """A publisher that keeps what it is told."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.messages: list[tuple[str, str, bytes]] = []

    def publish(self, entries: Sequence[Entry]) -> None:
        self.entries.extend(entries)

    def publish_message(self, tenant_id: str, channel: str, data: bytes) -> None:
        self.messages.append((tenant_id, channel, data))
