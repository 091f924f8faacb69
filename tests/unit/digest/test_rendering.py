"""A digest in words: in three languages as it is kept, and whatever stands in it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any
from zoneinfo import available_timezones

import msgspec
import pytest
from babel import Locale
from hypothesis import given
from hypothesis import strategies as st

from app.working import digest_mail
from core.notification import Content
from digest.rendering import LANGUAGES, is_document, words
from digest.rendering import mail as render
from tests.unit.digest.samples import HOSTILE, NOW, VECTORS, digest, kept, mail

UUID_ZERO = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize("name", list(kept()))
def test_what_is_kept_is_what_is_made(name: str) -> None:
    made = kept()[name]

    assert made == (VECTORS / name).read_text(encoding="utf-8"), "python -m tests.unit.digest.samples"


def test_the_document_is_that_of_aivo_with_ours_behind() -> None:
    document = json.loads((VECTORS / "digest.json").read_text(encoding="utf-8"))

    assert list(document) == [
        *("date", "summary", "notifications_by_type", "top_notifications"),
        *("groups", "overflow_count", "window", "timezone", "next_run_at"),
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

    assert texts.keys() == english.keys()
    for name, said in texts.items():
        if isinstance(said, dict):
            assert forms >= said.keys() >= {"other"}, name
        else:
            assert re.findall(r"{\w+}", said) == re.findall(r"{\w+}", english[name])


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, "إشعار واحد"), (2, "إشعاران"), (3, "3 إشعارات"), (11, "11 إشعارًا"), (100, "100 إشعار")],
)
def test_arabic_counts_in_six_ways(count: int, said: str) -> None:
    told = tuple(("ا", "ب", "x", "normal", None, None, 1, False) for _ in range(count))

    _, line = words(digest(told, "Africa/Cairo"), "ar")

    assert line.startswith(said)


@pytest.mark.parametrize(
    ("locale", "title"),
    [
        (None, "Your day: Friday, March 27, 2026"),
        ("en-GB", "Your day: Friday, 27 March 2026"),
        ("de-AT", "Ihr Tag: Freitag, 27. März 2026"),
        ("fr", "Votre journée"),
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


def test_every_zone_has_a_name_in_every_language() -> None:
    for zone in sorted(available_timezones()):
        for language in ("en", "ar"):
            document: dict[str, Any] = {**digest(HOSTILE, "UTC").document, "timezone": zone}
            assert "UTC" in render(json.loads(msgspec.json.encode(document)), language).text


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
