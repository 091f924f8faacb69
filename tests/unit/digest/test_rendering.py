"""A digest in words: in four languages as it is kept, and whatever stands in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import msgspec
import pytest
from babel import Locale
from hypothesis import given
from hypothesis import strategies as st

from app.working import digest_mail
from core.locale import is_timezone
from core.notification import Content
from digest.rendering import LANGUAGES, is_document, words
from digest.rendering import mail as render
from tests.unit.digest.samples import HOSTILE, NOW, SITE, VECTORS, digest, kept, mail

UUID_ZERO = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize("name", list(kept()))
def test_what_is_kept_is_what_is_made(name: str) -> None:
    made = kept()[name]

    assert made == (VECTORS / name).read_text(encoding="utf-8"), "python -m tests.unit.digest.samples"


def test_the_document_is_that_of_aivo_with_ours_behind() -> None:
    document = json.loads((VECTORS / "digest.json").read_text(encoding="utf-8"))

    assert list(document) == [
        *("date", "summary", "notifications_by_type", "top_notifications"),
        *("groups", "overflow_count", "window", "timezone", "next_run_at", "frequency"),
    ]
    assert list(document["summary"]) == ["total_notifications", "unread_notifications", "priority_breakdown"]
    assert all(list(one) == ["count", "notifications"] for one in document["notifications_by_type"].values())


class Page(HTMLParser):
    """What a mail program finds in a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "elements end in their order"

    def handle_data(self, data: str) -> None:
        self.text += data


TAGS = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "div",
    "h1",
    "h2",
    "p",
    "a",
    "strong",
    "span",
    "bdi",
}


@pytest.mark.parametrize("locale", ["en", "ar", "de"])
def test_nothing_of_a_notification_becomes_html_or_a_dangerous_link(locale: str) -> None:
    made = mail(HOSTILE, "Africa/Cairo", locale)
    page = Page(made.html)

    assert page.tags <= TAGS
    assert page.attributes <= {"lang", "charset", "name", "content", "dir", "style", "href", "rel", "class"}
    assert page.open == []
    assert all(link.startswith("https://") for link in page.links)
    assert "javascript:" not in made.html
    assert "evil.example" not in "".join(page.links)
    for told in (
        "<script>alert(1)</script>",
        "</div><img src=x onerror=alert(2)>",
        "<b>type</b>",
        "{date} {n} %s",
    ):
        assert told in page.text
        assert told in made.text


@given(title=st.text(max_size=300), message=st.text(max_size=300), kind=st.text(min_size=1, max_size=50))
def test_any_words_stay_words(title: str, message: str, kind: str) -> None:
    told = ((title, message, kind, "normal", None, None, 1, False),)
    document = json.loads(msgspec.json.encode(digest(told, "UTC").document))

    html = Page(render(document, "en").html)

    assert html.tags <= {"div", "p", "h2", "strong", "span", "bdi"}
    assert html.open == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_says_everything_in_all_of_its_plural_forms(language: str) -> None:
    texts = json.loads(files("digest").joinpath("texts", f"{language}.json").read_bytes())
    english = json.loads(files("digest").joinpath("texts", "en.json").read_bytes())
    forms = set(Locale(language).plural_form.tags) | {"other"}

    assert texts.keys() - {"dates"} == english.keys()
    assert texts["types"].keys() == english["types"].keys()
    for name in ("total", "unread", "urgent", "more"):
        assert forms >= texts[name].keys() >= {"other"}, name
    for name, said in texts.items():
        if isinstance(said, str):
            assert re.findall(r"{\w+}", said) == re.findall(r"{\w+}", english[name])
            assert said.strip()


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, "إشعار واحد"), (2, "إشعاران"), (3, "3 إشعارات"), (11, "11 إشعارًا"), (100, "100 إشعار")],
)
def test_arabic_counts_in_six_ways(count: int, said: str) -> None:
    told = tuple(("ا", "ب", "x", "normal", None, None, 1, False) for _ in range(count))

    _, line = words(digest(told, "Africa/Cairo"), "ar")

    assert line.startswith(said)


@pytest.mark.parametrize(
    ("locale", "said"),
    [
        ("en", "3+ notifications · 3+ unread"),
        ("de", "3+ Benachrichtigungen · 3+ ungelesen"),
        ("ar", "3+ إشعار"),
    ],
)
def test_counts_that_leave_something_out_have_a_plus(locale: str, said: str) -> None:
    told = tuple(("x", "y", "type", "normal", None, None, 1, False) for _ in range(3))
    one = digest(told, "UTC")
    document = {**one.document, "is_at_least": True}

    _, line = words(replace(one, document=document), locale)

    assert line.startswith(said)
    assert "\n* Type: 3+\n" in render(document, locale).text
    assert "+" not in words(one, locale)[1]


@pytest.mark.parametrize(
    ("locale", "title"),
    [
        (None, "Your day: Friday, March 27, 2026"),
        ("en-GB", "Your day: Friday, 27 March 2026"),
        ("de-AT", "Ihr Tag: Freitag, 27. März 2026"),
        ("fr", "Votre journée"),
        ("rw-RW", "Umunsi wawe: Kuwa gatanu, 27 Werurwe 2026"),
        ("ja", "Your day: Friday, March 27, 2026"),
        ("zz-ZZ-x-nonsense", "Your day: Friday, March 27, 2026"),
        ("", "Your day: Friday, March 27, 2026"),
    ],
)
def test_a_language_is_found_or_english_is_read(locale: str | None, title: str) -> None:
    said, _ = words(digest(HOSTILE, "UTC"), locale)

    assert said.startswith(title)


def test_a_link_without_a_host_belongs_to_the_site_or_is_left_out() -> None:
    told = (("A", "B", "x", "normal", "/iep/7", None, 1, False),)

    assert "https://app.example.test/iep/7" in mail(told, "UTC", "en").text
    assert "/iep/7" not in mail(told, "UTC", "en", site=None).text


def closing(zone: str, locale: str, at: str) -> list[str]:
    """The lines of a mail that say when the next one comes."""
    given = digest(HOSTILE, "UTC").document
    document: dict[str, Any] = {**given, "timezone": zone, "next_run_at": at}
    text = render(json.loads(msgspec.json.encode(document)), locale).text
    return text.rpartition("\n\n")[2].splitlines()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_zone_has_a_name_in_every_language(language: str) -> None:
    for zone in sorted(filter(is_timezone, available_timezones())):
        assert "UTC" in closing(zone, language, "2026-03-29T06:00:00Z")[-1], zone


@pytest.mark.parametrize(
    ("zone", "locale", "at", "clock", "named"),
    [
        # The digest of the 27th comes in winter time, the next one in summer time.
        (
            "Europe/Berlin",
            "de",
            "2026-03-29T05:00:00Z",
            "29. März 2026 um 07:00",
            "Berlin (UTC+02:00)",
        ),
        ("Europe/Berlin", "en-GB", "2026-03-28T06:00:00Z", "28 March 2026 at 07:00", "(UTC+01:00)"),
        (
            "Europe/Berlin",
            "en-US",
            "2026-03-28T18:30:00Z",
            "March 28, 2026 at 7:30\u202fPM",
            "Berlin (UTC+01:00)",
        ),
        ("Asia/Kathmandu", "en", "2026-03-29T01:15:00Z", "7:00", "Kathmandu (UTC+05:45)"),
        ("Asia/Kolkata", "en", "2026-03-29T01:30:00Z", "7:00", "Kolkata (UTC+05:30)"),
        ("Australia/Lord_Howe", "en", "2026-04-03T20:00:00Z", "7:00", "(UTC+11:00)"),
        ("Australia/Lord_Howe", "en", "2026-04-04T20:30:00Z", "7:00", "(UTC+10:30)"),
        ("America/St_Johns", "en", "2026-03-29T09:30:00Z", "7:00", "(UTC-02:30)"),
        ("Pacific/Chatham", "en", "2026-03-28T17:15:00Z", "7:00", "(UTC+13:45)"),
        ("Europe/Dublin", "en", "2026-07-01T06:00:00Z", "7:00", "Dublin (UTC+01:00)"),
        ("America/Argentina/Jujuy", "en", "2026-03-29T10:00:00Z", "7:00", "Argentina, Jujuy (UTC-03:00)"),
        ("Africa/Kigali", "rw", "2026-03-29T05:00:00Z", "29 Werurwe 2026, saa 07:00", "Kigali (UTC+02:00)"),
        ("Etc/GMT-14", "en", "2026-03-28T17:00:00Z", "7:00", "those of UTC+14:00."),
        ("UTC", "en", "2026-03-29T07:00:00Z", "7:00", "those of UTC+00:00."),
    ],
)
def test_the_zone_is_named_as_it_is_when_the_next_one_comes(
    zone: str, locale: str, at: str, clock: str, named: str
) -> None:
    comes, zoned = closing(zone, locale, at)

    assert clock in comes
    assert named in zoned


def test_a_mail_that_shows_no_time_names_no_zone() -> None:
    document: dict[str, Any] = {**digest(HOSTILE, "UTC").document, "next_run_at": None}

    assert "UTC" not in render(json.loads(msgspec.json.encode(document)), "en").text


@pytest.mark.parametrize(
    ("kind", "locale", "named"),
    [
        ("notification_alert", "en", "Alerts"),
        ("notification_alert", "rw", "Imiburo"),
        ("signature_request", "ja", "Signature requests"),
        ("bus_delay", "de", "Bus delay"),
        ("order.shipped-late", "en", "Order shipped late"),
        ("HTTP_500", "en", "HTTP 500"),
        ("___", "en", "___"),
    ],
)
def test_types_are_called_what_people_call_them(kind: str, locale: str, named: str) -> None:
    told = (("A", "B", kind, "normal", None, None, 1, False),)

    made = mail(told, "UTC", locale)

    assert f"* {named}: 1\n" in made.text
    assert f"<bdi>{named}</bdi>: 1" in made.html


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_weekly_digest_is_of_a_week_and_an_empty_one_says_so(language: str) -> None:
    document: dict[str, Any] = {**digest((), "UTC").document, "frequency": "weekly"}
    texts = json.loads(files("digest").joinpath("texts", f"{language}.json").read_bytes())

    made = render(json.loads(msgspec.json.encode(document)), language)

    assert made.subject.startswith(texts["title_week"].partition("{")[0])
    assert made.text.splitlines()[0] == texts["quiet"]
    assert texts["by_type"] not in made.text
    assert "<h2" not in made.html


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"date": "2026-03-27"},
        {"date": "yesterday", "summary": {}, "notifications_by_type": {}, "top_notifications": []},
    ],
)
def test_what_somebody_else_calls_a_digest_is_shown_as_any_other_notification(
    document: dict[str, Any],
) -> None:
    content = Content(
        id=UUID_ZERO,  # type: ignore[arg-type]  # nobody looks at it
        title="Mine",
        message="Hello",
        notification_type="digest",
        action_url=None,
        priority="normal",
        channels=["email"],
        metadata={"digest": document},
        created_at=NOW,
    )

    assert not is_document(document)
    assert digest_mail(content, "en", None) == ("Mine", "Hello", None)


def as_metadata(**members: Any) -> dict[str, Any]:
    """A document as a worker finds it, with other members."""
    document: dict[str, Any] = json.loads(msgspec.json.encode(digest(HOSTILE, "Europe/Berlin").document))
    return {**document, **members}


@pytest.mark.parametrize(
    "members",
    [
        *(
            {"timezone": zone}
            for zone in ("../../etc/passwd", "", "Europe", "UTC\x00", "x" * 5000, "Factory", "Mars/Phobos")
        ),
        {"next_run_at": "0001-01-01T00:00:00Z"},
        {"next_run_at": "9999-12-31T23:59:59Z", "timezone": "Asia/Tokyo"},
        {"next_run_at": "2026-03-29T06:00:00z"},
        {"date": "0001-01-01"},
        {"date": "9999-12-31"},
        {"notifications_by_type": {"": {"count": 2**53, "notifications": []}}},
    ],
)
def test_whatever_somebody_else_puts_into_a_digest_it_is_a_mail(
    members: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose zone is gone from the data is still sent, as is one that another producer calls a digest."""
    opened: list[str] = []

    def look(name: str) -> Any:
        opened.append(name)
        return ZoneInfo(name)

    monkeypatch.setattr("digest.rendering.get_timezone", look)
    document = as_metadata(**members)

    made = render(document, "en")

    assert is_document(document)
    assert "* Link" in made.text
    assert all(is_timezone(name) for name in opened), "no path is made of what is no name of a zone"


@pytest.mark.parametrize(
    "members",
    [
        *({"next_run_at": at} for at in ("2026-03-29T06:00:00", "soon", 7)),
        *({"overflow_count": count} for count in (-1, 10**30, 1.5, "1")),
    ],
)
def test_what_names_no_instant_or_counts_nothing_is_no_digest(members: dict[str, Any]) -> None:
    assert not is_document(as_metadata(**members))


@pytest.mark.parametrize(
    "end", ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\0\n"]
)
def test_a_title_or_a_message_does_not_make_another_item_of_a_text(end: str) -> None:
    forged = f"{end}* Forged{end}https://evil.example/{end}{end}-- {end}Unsubscribe"
    told = (("Real" + forged, "Message" + forged, "kind", "urgent", None, None, 1, False),)

    text = render(json.loads(msgspec.json.encode(digest(told, "UTC").document)), "en").text

    items = [line for line in text.splitlines() if not line.startswith("  ")]
    assert [line for line in items if "Forged" in line] == [
        "* Real * Forged https://evil.example/ -- Unsubscribe"
    ]
    assert "  * Forged" in text.splitlines(), "a message keeps its lines"


@pytest.mark.parametrize(
    "link", ["https://example.test/a\n* Forged", "https://example.test/a b", "/a\r\n* Forged"]
)
def test_a_link_with_a_break_in_it_is_none(link: str) -> None:
    item = {"title": "A", "message": "", "action_url": link}

    made = render(as_metadata(top_notifications=[item]), "en", site_url=SITE)

    assert "example.test" not in made.text
    assert "example.test" not in made.html


def test_a_mail_says_how_many_unread_it_does_not_list() -> None:
    told = tuple((f"n{n}", "m", f"kind_{n % 3}", "normal", None, None, n, n == 11) for n in range(12))

    text = render(json.loads(msgspec.json.encode(digest(told, "UTC").document)), "en").text

    assert sum(line.startswith("* n") for line in text.splitlines()) == 5
    assert "and 6 more" in text.splitlines(), "11 are unread"
