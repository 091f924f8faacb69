"""A mail has the header lines that were meant and no others, whatever its words are."""

from __future__ import annotations

import email
import email.policy
import re
from dataclasses import replace
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.mail import BadMail, Mail, Sender, compose, header_faults, wire
from tests.messages import message

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MESSAGE = message("email", "ada@example.com")
SENDER = Sender(address="hub@example.org", name="Carillon")

HEADERS = [
    "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "List-Id", "Feedback-ID", "List-Unsubscribe",
    "List-Unsubscribe-Post", "MIME-Version", "Content-Type",
]  # fmt: skip

#: RELIABILITY 1.3 and threat 23: CVE-2024-6923, CVE-2026-1299, and the separators that Python takes for line ends.
CORPUS = [
    "a\nBcc: eve@example.com",
    "a\rBcc: eve@example.com",
    "a\r\nBcc: eve@example.com",
    "a\r\n\r\nbody",
    "a\r\n Bcc: eve@example.com",
    "\nBcc: eve@example.com",
    "a\r",
    "a\n",
    "a\x00b",
    "a\x0bBcc: x",
    "a\x0cBcc: x",
    "a\x1cBcc: x",
    "a\x1dBcc: x",
    "a\x1eBcc: x",
    "a\x7fb",
    "a\x85Bcc: x",
    "a\u2028Bcc: x",
    "a\u2029Bcc: x",
    "a\tb",
    "=?utf-8?q?a=0d=0aBcc:_x?=",
    "=?utf-8?b?YQ0KQmNjOiB4?=",
    "=?utf-8?q?=0aBcc:_eve=40example.com?= =?utf-8?q?x?=",
    "=?UTF-8?Q?=0D=0ABcc=3A_x?=",
    "before =?us-ascii?q?=0d=0a?= after",
    "\ud800",
]


def mail(sender: Sender = SENDER, **changed: Any) -> Mail:
    return compose(message("email", "ada@example.com", **changed), sender)


def header_lines(made: bytes) -> list[bytes]:
    return made.partition(b"\r\n\r\n")[0].split(b"\r\n")


def read(made: bytes) -> EmailMessage:
    parsed = email.message_from_bytes(made, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


@pytest.mark.parametrize("words", CORPUS)
@pytest.mark.parametrize("where", ["title", "recipient_name"])
def test_words_that_could_begin_a_header_are_refused(where: str, words: str) -> None:
    changed: Any = {where: words}
    assert header_faults(words) is not None

    with pytest.raises(BadMail) as refused:
        compose(replace(MESSAGE, **changed), SENDER)

    assert "Bcc" not in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        "Grüße",
        "a" * 2000,
        "a = ? b",
        "=",
        "?",
        "😀" * 100,
        "שלום",
        "👩‍👩‍👧",
        "Bcc: eve@example.com",
        "a: b",
        "  a  ",
    ],
)
def test_other_words_are_not(words: str) -> None:
    assert header_faults(words) is None


def test_a_plain_mail_has_one_line_for_each_of_its_headers() -> None:
    made = wire(mail(title="The plan is ready"), NOW)

    lines = header_lines(made)
    assert [line.partition(b":")[0].decode() for line in lines if not line.startswith(b" ")] == HEADERS
    assert [line for line in lines if line.startswith(b" ")] == [lines[-1]]  # the boundary
    assert lines[:10] == [
        b"From: Carillon <hub@example.org>",
        b"To: Ada Lovelace <ada@example.com>",
        b"Subject: The plan is ready",
        b"Date: Fri, 02 Jan 2026 03:04:05 +0000",
        b"Message-ID: <018f-7@example.org>",
        b"Auto-Submitted: auto-generated",
        b"List-Id: <plan-ready.school.example.org>",
        b"Feedback-ID: plan-ready:school:normal:carillon",
        b"List-Unsubscribe: <https://hub.example/u/token>",
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click",
    ]


def test_every_attempt_has_the_same_message_id() -> None:
    first, second = mail(attempt=1), mail(attempt=2)

    assert first.headers["Message-ID"] == second.headers["Message-ID"] == "<018f-7@example.org>"


def test_without_a_link_to_leave_by_nothing_is_promised() -> None:
    assert {"List-Unsubscribe", "List-Unsubscribe-Post"}.isdisjoint(mail(unsubscribe_url=None).headers)
    assert "List-Unsubscribe-Post" not in mail(unsubscribe_url="http://127.0.0.1:8003/u/x").headers


def test_who_unsubscribes_by_a_mail_writes_the_token_of_the_link() -> None:
    sender = replace(SENDER, unsubscribe="leave+list@example.org")

    made = mail(sender)

    assert made.headers["List-Unsubscribe"] == (
        "<https://hub.example/u/token>, <mailto:leave%2Blist@example.org?subject=token>"
    )
    assert made.headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert "List-Unsubscribe" not in mail(sender, unsubscribe_url=None).headers
    long = f"https://hub.example/u/{'x' * 800}"
    assert mail(sender, unsubscribe_url=long).headers["List-Unsubscribe"] == f"<{long}>", "a line has an end"


def test_what_is_urgent_says_so() -> None:
    assert {"Importance": "high", "X-Priority": "1"}.items() <= mail(priority="urgent").headers.items()
    assert "Importance" not in mail(priority="high").headers


def test_a_long_unsubscribe_link_stays_whole() -> None:
    url = "https://hub.example/u/" + "x" * 800

    lines = header_lines(wire(mail(unsubscribe_url=url), NOW))

    assert f"List-Unsubscribe: <{url}>".encode() in lines


NAMES = [
    'Smith, "J" (x); ' + "long name " * 9,  # Python 3.11 drops the quotes where it folds this
    "Müller, Jürg, " * 8 + "x",
    "eve@example.com, Ada",
    "<eve@example.com>",
    'a" <eve@example.com>, "b',
    "group: eve@example.com;",
    "O'Brien",
    "Ada (Bcc: x)",
    "a\\",
    "ﾅ" * 200,
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_becomes_an_address(name: str) -> None:
    made = wire(mail(Sender(address="hub@example.org", name=name), recipient_name=name), NOW)

    parsed = read(made)
    for header, address in (("from", "hub@example.org"), ("to", "ada@example.com")):
        [one] = parsed[header].addresses
        assert one.addr_spec == address
        assert _packed(one.display_name) == _packed(
            name
        )  # Python puts spaces between encoded words of a name
    lines = header_lines(made)
    assert [line.partition(b":")[0].decode() for line in lines if not line.startswith(b" ")] == HEADERS
    assert max(map(len, lines)) <= 998


def _packed(text: str) -> str:
    return "".join(text.split())


@given(st.text(max_size=300), st.text(max_size=100), st.text(max_size=2000))
def test_whatever_the_words_the_wire_has_the_headers_that_were_meant(
    title: str, name: str, text: str
) -> None:
    try:
        made = wire(mail(title=title, recipient_name=name, text=text), NOW)
    except BadMail:
        assert header_faults(title) or header_faults(name) or not _is_unicode(title + text)
        return

    lines = header_lines(made)
    assert [line.partition(b":")[0].decode() for line in lines if not line.startswith(b" ")] == HEADERS
    assert made.isascii()
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", made)
    parsed = read(made)
    assert [one.addr_spec for one in parsed["to"].addresses] == ["ada@example.com"]
    assert parsed["bcc"] is None
    assert parsed["subject"].split() == title.split()


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


@pytest.mark.parametrize(
    "address",
    [
        "", "ada", "ada@", "@example.com", "ada@example.com\r\nRCPT TO:<eve@example.com>", "ada@example.com, eve@example.com",
        "Ada <ada@example.com>", "ada@exämple.com", "=?utf-8?q?a?=@example.com", '"a b"@example.com,x', "ada@example.com\x00",
        "ada @example.com",
    ],
)  # fmt: skip
def test_what_is_no_single_address_is_refused(address: str) -> None:
    with pytest.raises(BadMail) as refused:
        compose(message("email", address), SENDER)

    assert len(address) < 5 or address not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "vbscript:x", "//evil.example/x", "/relative",
        "https:/evil.example", "https://a.example/\r\nBcc: x", 'https://a.example/"onmouseover="x', "https://a.example/<script>",
        "https://a.example/>, <mailto:x", "https:// a.example", "ftp://a.example/", "https://", "https://a.example/ü",
        "https://a.example/" + "x" * 2000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["action_url", "unsubscribe_url"])
def test_what_is_no_absolute_link_is_refused(where: str, url: str) -> None:
    changed: Any = {where: url}

    with pytest.raises(BadMail):
        compose(replace(MESSAGE, **changed), SENDER)


@pytest.mark.parametrize("reference", ["", "a b", "a>b", "a@b", "a\r\nb", "x" * 201])
def test_a_reference_that_is_no_part_of_a_message_id_is_refused(reference: str) -> None:
    with pytest.raises(BadMail):
        mail(reference=reference)


@pytest.mark.parametrize(
    "words", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{url}", "{0}", "&lt;b&gt;", "'"]
)
def test_words_stay_words_in_html(words: str) -> None:
    page = mail(title=words, text=words).html

    assert "<script" not in page
    assert "<img" not in page
    assert page.count("<a ") == 2
    body = page.partition("<body>")[2]
    shown = re.sub(r"<[^>]*>", "", body).strip()
    assert shown.count(_escaped(words)) == 2


def _escaped(words: str) -> str:
    table = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"}
    return "".join(table.get(character, character) for character in words)


def test_html_loads_nothing_and_keeps_paragraphs() -> None:
    page = mail(text="one\ntwo\r\n\r\nthree", locale="de_AT").html

    assert '<p dir="auto">one<br>two</p><p dir="auto">three</p>' in page
    assert '<html lang="de-AT">' in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"src=|url\(|@import|<link", page)
    assert 'lang="en"' in mail(locale='x" onload="').html


def test_the_text_part_says_all_of_it() -> None:
    assert mail().text == (
        "Grüße an Ada\n\nThe plan\n.is <ready> & waits.\n\nhttps://app.example/plans/7?a=1&b=2\n\n"
        "-- \nUnsubscribe: https://hub.example/u/token\n"
    )


def test_the_way_to_ones_settings_stands_below_in_the_language_of_the_mail() -> None:
    url = "https://hub.example/p/token"

    shown = mail(preferences_url=url, locale="de")

    assert shown.text.endswith(f"https://hub.example/u/token\n\nWas Sie bekommen: {url}\n")
    assert f'<a href="{url}" rel="noopener noreferrer">Was Sie bekommen</a>' in shown.html
    assert url not in "".join(shown.headers.values()), "one-click must never lead there"
    with pytest.raises(BadMail):
        mail(preferences_url="javascript:x")


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_what_is_no_unicode_is_refused(text: str) -> None:
    with pytest.raises(BadMail):
        mail(text=text)


def test_headers_that_were_not_meant_never_reach_the_wire() -> None:
    """The check of the output stands on its own: here the words get past every other."""
    for words in ("x\r\nBcc: eve@example.com", "x\r\n\r\nbody", "x\nBcc: y", "ü"):
        crooked = replace(mail(), headers={**mail().headers, "Feedback-ID": words})
        with pytest.raises(BadMail):
            wire(crooked, NOW)
