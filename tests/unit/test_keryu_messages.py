"""The four places of Keryu's template (KER-10), as WhatsApp's template of that name is filled in."""

from __future__ import annotations

from typing import Any

from delivery.channels.whatsapp import Template, parameters
from tests.outgoing import message

FOUR = {
    "subject_name": "Ada",
    "alert_type": "Fever",
    "content": "38.9 °C\nat 14:05",
    "action_required": "Please call back.",
}


def places(**changes: Any) -> list[str]:
    given = {"title": "", "text": "Ada: Fever", "notification_type": "notification_alert", **changes}
    return list(parameters(Template(name="notification_alert"), message("whatsapp", **given)))


def test_each_place_says_what_its_client_gave_for_it():
    assert places(metadata=FOUR, recipient_name="Ada Lovelace") == [
        "Ada",
        "Fever",
        "38.9 °C at 14:05",
        "Please call back.",
    ]


def test_a_text_without_variables_is_the_content():
    assert places(recipient_name="Ada", metadata={"message_template": "x"}) == [
        "Ada",
        "notification_alert",
        "Ada: Fever",
        "-",
    ]


def test_the_metadata_of_others_is_not_taken_for_what_is_said():
    assert places(title="Disk", text="full", notification_type="disk", metadata=FOUR)[2] == "Disk: full"
