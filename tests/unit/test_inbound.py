"""What people send back, as the providers tell it, and the words that stop and start."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.inbound import Inbound, keyword, kind
from delivery.reports import meta, sendgrid, telegram, twilio

KEYWORDS = json.loads((Path(__file__).parents[2] / "delivery/keywords.json").read_text())
LANGUAGES = {"en", "de", "fr", "es", "pt", "it", "nl", "rw", "sw"}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
FIELDS = [
    "object", "entry", "changes", "value", "statuses", "messages", "id", "status", "errors", "code", "from", "type",
    "text", "body", "timestamp", "interactive", "button_reply", "update_id", "message", "chat", "date", "message_id",
    "callback_query", "data", "my_chat_member", "new_chat_member", "event", "sg_event_id", "sg_message_id", "reason",
    "context", "user_preferences", "wa_id", "reply_to_message",
]  # fmt: skip
provider_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["whatsapp_business_account", "private"]) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=20,
)  # fmt: skip


def message(text, told="words", **members):
    return Inbound(
        provider="twilio", provider_id="1", channel="sms", address="+1", told=told, text=text, **members
    )


@pytest.mark.parametrize("meaning", ["stop", "start", "help"])
def test_every_language_has_its_words(meaning):
    assert set(KEYWORDS[meaning]) == LANGUAGES
    for words in KEYWORDS[meaning].values():
        assert {keyword(word) for word in words} == {meaning}


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("STOP", "stop"),
        (" Stop. ", "stop"),
        ("ＳＴＯＰ", "stop"),
        ("Arrêt!", "stop"),
        ("ARRE\u0302T", "stop"),
        ("Aufhören", "stop"),
        ("stop all", "stop"),
        ("Hagarika", "stop"),
        ("ACHA", "stop"),
        ("start", "start"),
        ("HILFE?", "help"),
        ("stop sending the bill to my old address", None),
        ("don't stop", None),
        ("", None),
        ("🛑", None),
        ("stop" * 100, None),
    ],
)
def test_a_keyword_is_the_whole_of_a_message(text, meaning):
    assert keyword(text) == meaning


def test_a_tap_on_a_button_that_says_stop_stops():
    assert kind(message("Stop", "tap", payload="x")) == "stop"
    assert kind(message("Accept", "tap", payload="STOP")) == "stop"
    assert kind(message("Accept", "tap", payload="accept")) == "tap"
    assert kind(message("Thank you")) == "reply"
    assert kind(message("", "blocked")) == "stop"
    assert kind(message("", "unblocked")) == "start"


def test_what_somebody_wrote_stays_out_of_repr():
    shown = repr(message("my diagnosis", payload="secret", link="token"))

    assert not any(word in shown for word in ("diagnosis", "secret", "token", "+1"))


# --- Twilio ---


@pytest.mark.parametrize(
    ("form", "status", "state"),
    [
        ({"MessageStatus": "sent"}, "sent", "sent"),
        ({"MessageStatus": "delivered"}, "delivered", "delivered"),
        ({"MessageStatus": "read"}, "read", "read"),
        ({"MessageStatus": "delivered", "EventType": "READ"}, "read", "read"),
        ({"MessageStatus": "undelivered", "ErrorCode": "30003"}, "undelivered", "undelivered"),
        ({"MessageStatus": "failed", "ErrorCode": "30008"}, "failed", "failed"),
        ({"SmsStatus": "queued"}, "queued", None),
    ],
)
def test_twilios_statuses(form, status, state):
    report = twilio.status({"MessageSid": "SM1", **form}, None)

    [receipt] = report.receipts
    assert (receipt.event_id, receipt.ref, receipt.status, receipt.state) == ("SM1", "SM1", status, state)
    assert receipt.code == form.get("ErrorCode")


def test_twilios_messages():
    base = {
        "MessageSid": "SM1",
        "From": "whatsapp:+14155552671",
        "To": "whatsapp:+14155238886",
        "Body": "Yes",
    }
    [reply] = twilio.inbound(base).inbound
    [tap] = twilio.inbound({**base, "ButtonPayload": "accept", "OriginalRepliedMessageSid": "SM0"}).inbound
    [sms] = twilio.inbound({**base, "From": "+14155552671", "OptOutType": "STOP", "Body": "LEAVE"}).inbound

    assert (reply.channel, reply.address, reply.told, reply.text) == (
        "whatsapp",
        "+14155552671",
        "words",
        "Yes",
    )
    assert (tap.told, tap.payload, tap.answers) == ("tap", "accept", "SM0")
    assert (sms.channel, kind(sms)) == ("sms", "stop")


@pytest.mark.parametrize(
    "form", [{}, {"MessageSid": "SM1"}, {"MessageSid": "SM1", "From": "12345"}, {"From": "+14155552671"}]
)
def test_twilio_forms_that_say_too_little_are_nobodys(form):
    assert not twilio.inbound(form).inbound
    assert not twilio.status(form, None).receipts


# --- Meta ---


def of_meta(**value):
    return {
        "object": "whatsapp_business_account",
        "entry": [
            {
                "id": "1",
                "changes": [{"field": "messages", "value": {"messaging_product": "whatsapp", **value}}],
            }
        ],
    }


def test_metas_statuses():
    statuses = [
        {"id": "wamid.1", "status": "delivered", "timestamp": "1750000000", "recipient_id": "14155552671"},
        {
            "id": "wamid.2",
            "status": "failed",
            "timestamp": "1750000001",
            "biz_opaque_callback_data": "token",
            "errors": [{"code": 131026, "title": "Message undeliverable", "error_data": {"details": "…"}}],
        },
        {"id": "wamid.3", "status": "deleted"},
    ]
    delivery = ("school", UUID(int=1))

    delivered, failed, deleted = meta.read(of_meta(statuses=statuses), {"token": delivery}.get).receipts

    assert (delivered.state, delivered.delivery, delivered.ref) == ("delivered", None, "wamid.1")
    assert delivered.occurred_at is not None
    assert delivered.occurred_at.timestamp() == 1750000000
    assert (failed.state, failed.code, failed.delivery) == ("failed", "131026", delivery)
    assert (deleted.status, deleted.state) == ("deleted", None)


@pytest.mark.parametrize(
    ("content", "told", "text", "payload"),
    [
        ({"type": "text", "text": {"body": "Hi 😀"}}, "words", "Hi 😀", None),
        ({"type": "button", "button": {"text": "Yes", "payload": "accept"}}, "tap", "Yes", "accept"),
        (
            {
                "type": "interactive",
                "interactive": {"type": "button_reply", "button_reply": {"id": "b1", "title": "Yes"}},
            },
            "tap",
            "Yes",
            "b1",
        ),
        (
            {
                "type": "interactive",
                "interactive": {"type": "list_reply", "list_reply": {"id": "l1", "title": "Two"}},
            },
            "tap",
            "Two",
            "l1",
        ),
        ({"type": "image", "image": {"id": "9", "caption": "look"}}, "words", "look", None),
        ({"type": "sticker", "sticker": {"id": "9"}}, "words", "", None),
        ({"type": "unsupported"}, "words", "", None),
    ],
)
def test_metas_messages(content, told, text, payload):
    sent = {
        "id": "wamid.9",
        "from": "14155552671",
        "timestamp": "1750000000",
        "context": {"id": "wamid.1"},
        **content,
    }

    [one] = meta.read(of_meta(messages=[sent]), {}.get).inbound

    assert (one.told, one.text, one.payload) == (told, text, payload)
    assert (one.address, one.answers, one.channel) == ("+14155552671", "wamid.1", "whatsapp")


def test_somebody_who_stops_the_sender_in_the_app_is_heard():
    said = [
        {"wa_id": "14155552671", "category": "marketing_messages", "value": "stop", "timestamp": 1750000000}
    ]

    [one] = meta.read(of_meta(user_preferences=said), {}.get).inbound

    assert kind(one) == "stop"


# --- Telegram ---

CHAT = {"id": 42, "type": "private", "first_name": "Ada"}


@pytest.mark.parametrize(
    ("update", "told", "text", "link"),
    [
        ({"message": {"message_id": 1, "chat": CHAT, "text": "Hello"}}, "words", "Hello", None),
        ({"message": {"message_id": 1, "chat": CHAT, "text": "/stop"}}, "words", "stop", None),
        ({"message": {"message_id": 1, "chat": CHAT, "text": "/start"}}, "words", "start", None),
        (
            {"message": {"message_id": 1, "chat": CHAT, "text": "/start abc-_9"}},
            "words",
            "start abc-_9",
            "abc-_9",
        ),
        (
            {"callback_query": {"id": "1", "data": "accept", "message": {"message_id": 7, "chat": CHAT}}},
            "tap",
            "",
            None,
        ),
        (
            {"my_chat_member": {"chat": CHAT, "date": 1, "new_chat_member": {"status": "kicked"}}},
            "blocked",
            "",
            None,
        ),
        (
            {"my_chat_member": {"chat": CHAT, "date": 1, "new_chat_member": {"status": "member"}}},
            "unblocked",
            "",
            None,
        ),
    ],
)
def test_telegrams_updates(update, told, text, link):
    [one] = telegram.read({"update_id": 5, **update}).inbound

    assert (one.address, one.told, one.text, one.link) == ("42", told, text, link)
    assert one.provider_id == "5"


@pytest.mark.parametrize(
    "update",
    [
        {"message": {"message_id": 1, "chat": {"id": -100, "type": "group"}, "text": "stop"}},
        {"message": {"message_id": 1, "chat": {"id": True, "type": "private"}, "text": "stop"}},
        {"edited_message": {"message_id": 1, "chat": CHAT, "text": "stop"}},
        {"my_chat_member": {"chat": CHAT, "new_chat_member": {"status": "restricted"}}},
    ],
)
def test_what_is_not_from_one_person_is_nobodys(update):
    assert not telegram.read({"update_id": 5, **update}).inbound


# --- SendGrid ---


@pytest.mark.parametrize(
    ("event", "state", "effect"),
    [
        ({"event": "processed"}, "sent", None),
        ({"event": "deferred", "response": "400 try again"}, None, None),
        ({"event": "delivered"}, "delivered", None),
        ({"event": "open"}, "read", None),
        ({"event": "click", "url": "https://x"}, "read", None),
        ({"event": "bounce", "type": "bounce", "status": "5.1.1"}, "undelivered", "bounced"),
        ({"event": "bounce", "type": "blocked", "status": "4.7.1"}, "undelivered", None),
        ({"event": "dropped", "reason": "Bounced Address"}, "failed", "bounced"),
        ({"event": "dropped", "reason": "Unsubscribed Address"}, "failed", "unsubscribed"),
        ({"event": "dropped", "reason": "Spam Content"}, "failed", None),
        ({"event": "spamreport"}, None, "complained"),
        ({"event": "group_unsubscribe"}, None, "unsubscribed"),
        ({"event": "invented later"}, None, None),
    ],
)
def test_sendgrids_events(event, state, effect):
    body = [
        {
            "email": "ada@example.com",
            "timestamp": 1750000000,
            "sg_event_id": "e1",
            "sg_message_id": "m1.filter-2.0",
            **event,
        }
    ]

    [receipt] = sendgrid.read(body).receipts

    assert (receipt.state, receipt.effect, receipt.ref, receipt.event_id) == (state, effect, "m1", "e1")
    assert "ada" not in repr(receipt)


# --- anything ---


@given(anything | provider_like)
def test_no_json_breaks_a_reader(value):
    meta.read(value, {}.get)
    telegram.read(value)
    sendgrid.read(value)


@given(provider_like)
def test_no_status_of_metas_breaks_its_reader(value):
    for name in ("statuses", "messages", "user_preferences"):
        meta.read(of_meta(**{name: [value]}), {}.get)


@given(
    st.dictionaries(
        st.sampled_from(["MessageSid", "From", "Body", "MessageStatus", "ButtonPayload"]), st.text()
    )
)
def test_no_form_breaks_twilios_readers(form):
    twilio.inbound(form)
    twilio.status(form, None)
